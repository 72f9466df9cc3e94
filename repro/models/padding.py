"""Padding: its token, its side, and trimming it.

A network gets padding as token 0 behind an attention mask, as in the paper's code, so that no embedding is added for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from repro.errors import UserError

if TYPE_CHECKING:  # imported where it is used, since the registry is read without these libraries
    from transformers import PreTrainedTokenizerFast


def pad_with_own_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with a padding token that is not its end of text (N+ detail 3)."""
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            f"the tokenizer pads with its end of text {tokenizer.eos_token!r}, and this recipe needs two tokens; "
            "give the tokenizer a [PAD] token of its own"
        )
    return tokenizer


def pad_with_eos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with its end of text as the padding token, which is common elsewhere."""
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def trim_left(query: Tensor, pad: int) -> Tensor:
    """[B, Q] left-padded queries without the columns that are padding in every row."""
    return query[:, int((query != pad).any(0).float().argmax()) :]


def trim_right(ids: Tensor, pad: int) -> Tensor:
    """[B, T] right-padded sequences without the columns that are padding in every row; at least one column remains."""
    used = (ids != pad).any(0).nonzero()
    return ids[:, : int(used[-1]) + 1 if len(used) else 1]


def is_padding(response: Tensor, pad: int, eos: int) -> Tensor:
    """[B, R] -> [B, R] bool; all false where padding and end of text are one token, which may have been sampled."""
    return (response == pad) & (pad != eos)


def count_tokens(response: Tensor, pad: int) -> Tensor:
    """[B, R] -> [B]: the number of tokens per row that are not padding."""
    return (response != pad).sum(1)


def unchanged(ids: Tensor, pad: int) -> Tensor:
    """[B, T] -> the same rows, their padding where it is."""
    return ids


def last_tokens(is_token: Tensor, count: Tensor) -> Tensor:
    """[B, T] bool, [B] -> [B, T] bool: the last `count` tokens of each row, wherever its padding is."""
    from_end = is_token.flip(1).cumsum(1).flip(1)
    return is_token & (from_end <= count[:, None])


@dataclass(frozen=True)
class Padding:
    """The side of padding when the reward model runs, in either stage: (ids [B, T], pad) -> ids [B, T] with padding moved."""

    in_rm: Callable[[Tensor, int], Tensor]
    in_ppo: Callable[[Tensor, int], Tensor]


def pad_left(ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows with all of their padding moved to the left."""
    return ids.gather(1, (ids != pad).long().argsort(dim=1, stable=True))


def pad_right(ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows with all of their padding moved to the right."""
    return ids.gather(1, (ids == pad).long().argsort(dim=1, stable=True))
