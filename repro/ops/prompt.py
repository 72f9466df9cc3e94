"""How a prompt ends and is made to fit, how a completion starts and ends, what is held out.

Strings and lists only; what turns one into the other, a tokenizer, is the caller's.
"""

import random
from collections.abc import Iterable, Sequence

CUE = "\n\nTL;DR:"

# ---------------------------------------------------------------------------------------------- how a prompt ends


def end_with_colon(text: str) -> str:
    """The cue for a summary, with no space after its colon (N+ detail 2.3)."""
    return text + CUE


def end_with_space(text: str) -> str:
    """The cue and a space: a token of its own, which in the joint text belongs to the first word of the summary."""
    return text + CUE + " "


# ---------------------------------------------------------------------------------------------- a prompt too long


def first_that_fits(tokens: list[int], limit: int, shorter: Iterable[list[int]]) -> list[list[int]]:
    """The first of ever `shorter` versions within `limit` tokens (N+ detail 2.2); LookupError when none is."""
    for version in shorter:
        if len(version) <= limit:
            return [version]
    raise LookupError(f"no version has {limit} tokens or fewer")


def first_tokens(tokens: list[int], limit: int, shorter: Iterable[list[int]]) -> list[list[int]]:
    """The first `limit` tokens; the cue at the end goes first."""
    return [tokens[:limit]]


def left_out(tokens: list[int], limit: int, shorter: Iterable[list[int]]) -> list[list[int]]:
    """Nothing: the row that it belongs to is not made."""
    return []


# ---------------------------------------------------------------------------------------------- completions


def start_as_given(completion: str) -> str:
    """The completion with the space that it starts with (N+ detail 3)."""
    return completion


def start_without_space(completion: str) -> str:
    """The completion from its first word on."""
    return completion.lstrip()


def end_with_eos(completion: str, eos: str) -> str:
    """The completion and the end-of-text token (N+ detail 3)."""
    return completion + eos


def end_open(completion: str, eos: str) -> str:
    """The completion alone: nothing says that it is over."""
    return completion


def as_long_as_the_row(row: list[int], summary: list[int], limit: int) -> list[int]:
    """The row of a comparison whole: its own length limits it, and not the references' (N+ detail 4)."""
    return row


def summary_up_to(row: list[int], summary: list[int], limit: int) -> list[int]:
    """The row, which ends with `summary`, less what the summary has over `limit` tokens: its end of text goes first."""
    return row[: len(row) - max(0, len(summary) - limit)]


# ---------------------------------------------------------------------------------------------- what is held out


def keep_apart(train: Sequence, validation: Sequence, seed: int) -> tuple[list, list]:
    """Training and validation as they are (N+ detail 6)."""
    return list(train), list(validation)


def mix(train: Sequence, validation: Sequence, seed: int) -> tuple[list, list]:
    """Both pooled, shuffled and cut again, each as long as before."""
    pool = [*train, *validation]
    random.Random(f"mix-{seed}").shuffle(pool)
    return pool[: len(train)], pool[len(train) :]
