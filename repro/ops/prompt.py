"""How a prompt ends and is made to fit, how a completion starts and ends, what is held out.

Strings and lists only; what turns one into the other, a tokenizer, is the caller's.
"""

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

CUE = "\n\nTL;DR:"
T = TypeVar("T")

# ---------------------------------------------------------------------------------------------- how a prompt ends


def end_with_colon(text: str) -> str:
    """The post's `text` and the cue for a summary, with no space after its colon.

    Source: N+ detail 2.3.
    """
    return text + CUE


def end_with_space(text: str) -> str:
    """The post's `text`, the cue and a space.

    The space is a token of its own, where in the joint text it belongs to the first word of the summary.

    Departure: N+ detail 2.3 warns of it.
    """
    return text + CUE + " "


# ---------------------------------------------------------------------------------------------- a prompt too long


def first_that_fits(tokens: list[int], limit: int, shorter: Iterable[list[int]]) -> list[list[int]]:
    """The first of ever shorter versions of the prompt that fits; LookupError where none does.

    The result is a list of one prompt, since `left_out` makes none.

    Args:
        tokens: ids of the whole prompt, which are too many; `tokens` is not read.
        limit: the most tokens of a prompt.
        shorter: ids of the prompt of ever shorter posts, of which no more are made than are looked at.

    Source: N+ detail 2.2.
    """
    for version in shorter:
        if len(version) <= limit:
            return [version]
    raise LookupError(f"no version has {limit} tokens or fewer")


def first_tokens(tokens: list[int], limit: int, shorter: Iterable[list[int]]) -> list[list[int]]:
    """The prompt's first `limit` tokens; the cue at its end goes first.

    Stands where `first_that_fits` may, with its arguments; `shorter` is not read. Departure: N+ detail 2.2 warns of it.
    """
    return [tokens[:limit]]


def left_out(tokens: list[int], limit: int, shorter: Iterable[list[int]]) -> list[list[int]]:
    """No prompt: the row that it belongs to is not made.

    Stands where `first_that_fits` may; `tokens`, `limit` and `shorter` are not read.
    """
    return []


# ---------------------------------------------------------------------------------------------- completions


def start_as_given(completion: str) -> str:
    """The `completion` with the space that it starts with.

    Source: N+ detail 3.
    """
    return completion


def start_without_space(completion: str) -> str:
    """The `completion` from its first word on.

    Departure: N+ detail 3 keeps the space.
    """
    return completion.lstrip()


def end_with_eos(completion: str, eos: str) -> str:
    """The completion and the end-of-text token.

    Args:
        completion: as it starts in the text.
        eos: the token as a string, which the tokenizer knows for one.

    Source: N+ detail 3.
    """
    return completion + eos


def end_open(completion: str, eos: str) -> str:
    """The completion alone: nothing says that it is over.

    Stands where `end_with_eos` may; `eos` is not read.
    """
    return completion


def as_long_as_the_row(row: list[int], summary: list[int], limit: int) -> list[int]:
    """The row of a comparison whole: its own length limits it, and not the references'.

    Stands where `summary_up_to` may; `summary` and `limit` are not read. Source: N+ detail 4.
    """
    return row


def summary_up_to(row: list[int], summary: list[int], limit: int) -> list[int]:
    """The row less what its summary has over the limit: its end of text goes first.

    Args:
        row: ids that end with those of the summary.
        summary: ids of the summary, of which the number is read.
        limit: the most tokens of a summary.

    Departure: N+ detail 4 has a limit for references and a longer one for comparisons.
    """
    return row[: len(row) - max(0, len(summary) - limit)]


# ---------------------------------------------------------------------------------------------- what is held out


def keep_apart(train: Sequence[T], validation: Sequence[T], seed: int) -> tuple[list[T], list[T]]:
    """Training and validation as they are.

    Stands where `mix` may; `seed` is not read. Source: N+ detail 6.
    """
    return list(train), list(validation)


def mix(train: Sequence[T], validation: Sequence[T], seed: int) -> tuple[list[T], list[T]]:
    """Both pooled, shuffled and cut again, each as long as before.

    Args:
        train: rows of any kind.
        validation: the same.
        seed: of the shuffle.

    Departure: N+ detail 6 validates on summarisers and posts that training has not seen.
    """
    pool = [*train, *validation]
    random.Random(f"mix-{seed}").shuffle(pool)
    return pool[: len(train)], pool[len(train) :]
