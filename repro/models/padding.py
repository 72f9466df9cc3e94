"""Padding: which side of a text it is on, how it is trimmed, which token it is, and how many tokens are not it.

A network reads it as token 0 behind an attention mask, as the paper's code does, so that no embedding is added for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from repro.errors import UserError

if TYPE_CHECKING:  # imported where they are used: whoever reads the registry does without
    from transformers import PreTrainedTokenizerFast


def pad_with_own_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with a padding token that is not its end of text (N+ detail 3)."""
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            f"the tokenizer pads with its end of text {tokenizer.eos_token!r}, and the recipe wants them apart; "
            "give it a [PAD] token of its own"
        )
    return tokenizer


def pad_with_eos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with its end of text for padding, as much code has it."""
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def trim_left(query: Tensor, pad: int) -> Tensor:
    """[B, Q] left-padded queries without the columns that are padding in every row."""
    return query[:, int((query != pad).any(0).float().argmax()) :]


def trim_right(ids: Tensor, pad: int) -> Tensor:
    """[B, T] right-padded sequences without the columns that are padding in every row; at least one column is left."""
    used = (ids != pad).any(0).nonzero()
    return ids[:, : int(used[-1]) + 1 if len(used) else 1]


def is_padding(response: Tensor, pad: int, eos: int) -> Tensor:
    """[B, R] -> [B, R] bool; padding that is the end of text cannot be told from one that was drawn."""
    return (response == pad) & (pad != eos)


def count_tokens(response: Tensor, pad: int) -> Tensor:
    """[B, R] -> [B]: how many tokens of each row are not padding."""
    return (response != pad).sum(1)


def unchanged(ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows with their padding where it is."""
    return ids


def last_tokens(is_token: Tensor, count: Tensor) -> Tensor:
    """[B, T] bool, [B] -> [B, T] bool: the last `count` tokens of each row, wherever its padding is."""
    from_the_end = is_token.flip(1).cumsum(1).flip(1)
    return is_token & (from_the_end <= count[:, None])


@dataclass(frozen=True)
class Padding:
    """On which side texts are padded when they are scored: (ids [B, T], pad) -> ids [B, T], one for each stage."""

    in_rm: Callable[[Tensor, int], Tensor]
    in_ppo: Callable[[Tensor, int], Tensor]


def pad_left(ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows with all of their padding moved to the left."""
    return ids.gather(1, (ids != pad).long().argsort(dim=1, stable=True))


def pad_right(ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows with all of their padding moved to the right."""
    return ids.gather(1, (ids == pad).long().argsort(dim=1, stable=True))
