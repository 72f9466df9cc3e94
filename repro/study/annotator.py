"""What Scale.annotator says: who compares the samples of a round of feedback, and what a language model is paid for it.

Empty, the embedded corpus's own annotators do. `judge:MODEL` is a language model behind an endpoint with OpenAI's protocol;
anything else is the source of a reward model, as Scale.rm_from has it.
"""

import math

from repro.errors import UserError, quoted

JUDGE = "judge:"


def is_judge(annotator: str) -> bool:
    """Whether a language model compares, and no reward model."""
    return annotator.startswith(JUDGE)


def judge_model(annotator: str) -> str:
    """The model's name at its endpoint."""
    return annotator.removeprefix(JUDGE)


def check_judge(annotator: str) -> None:
    """UserError where the judge has no name."""
    model = judge_model(annotator)
    if not model.strip() or model != model.strip() or not model.isprintable():
        raise UserError(f"annotator={quoted(annotator)} names no model; write {JUDGE}MODEL, such as judge:gpt-4o-mini")


def prices(given: str) -> tuple[float, ...]:
    """Prices of a million prompt and completion tokens, out of text as 0.15,0.6; none of an empty text."""
    try:
        found = tuple(float(part) for part in given.split(",")) if given else ()
    except ValueError:
        found = (math.nan,)
    if len(found) not in (0, 2) or not all(0 <= price < math.inf for price in found):
        raise UserError(
            f"judge_prices={quoted(given)} are not the prices of a million prompt tokens and a million completion tokens; "
            "write judge_prices=0.15,0.6"
        )
    return found
