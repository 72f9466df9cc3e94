"""Pooling: how a reward model's outputs at the tokens of a text become one reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from repro.models import padding
from repro.ops.masked import keep
from repro.ops.places import EVERY, Places, last, last_true


@dataclass(frozen=True)
class Pooling:
    """How a reward model's outputs become one reward: `trim` takes the columns that are not needed, and of the others'
    [B, T] bool, which are tokens, `places` says where the output is needed and `pool` makes one number of it.
    """

    trim: Callable[[Tensor, int], Tensor]
    places: Callable[[Tensor], Places]
    pool: Callable[[Tensor, Tensor, Tensor], Tensor]


def last_column(is_token: Tensor) -> Places:
    """[B, T] -> the last column, which is mostly padding."""
    return last(1)


def every_place(is_token: Tensor) -> Places:
    """[B, T] -> all of them."""
    return EVERY


def single_output(output: Tensor, is_token: Tensor, response_tokens: Tensor) -> Tensor:
    """[B, 1] outputs -> [B]: the one that was asked for."""
    return output[:, 0]


def mean_over_response(output: Tensor, is_token: Tensor, response_tokens: Tensor) -> Tensor:
    """[B, T] outputs, [B, T] bool, [B] -> [B]: the mean output over the response's tokens; 0 where it has none."""
    mask = padding.last_tokens(is_token, response_tokens)
    return keep(output, mask).sum(1) / mask.sum(1).clamp(min=1)


POOLINGS = {
    "eos": Pooling(padding.trim_right, last_true, single_output),  # the last token that is not padding (N+ detail 12)
    "last_position": Pooling(padding.unchanged, last_column, single_output),
    "mean_over_response": Pooling(padding.trim_right, every_place, mean_over_response),
}
