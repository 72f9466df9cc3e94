"""Pooling: from a reward model's outputs at the tokens of a text to one score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from repro.models import padding
from repro.ops.masked import keep
from repro.ops.places import EVERY, Places, last, last_true


@dataclass(frozen=True)
class Pooling:
    """Three steps: drop columns that are not needed, choose the positions whose output is computed, pool their outputs."""

    trim: Callable[[Tensor, int], Tensor]  # (ids [B, T], pad) -> ids [B, T']
    places: Callable[[Tensor], Places]  # is_token [B, T'] bool -> K positions of each row
    pool: Callable[[Tensor, Tensor, Tensor], Tensor]  # (outputs [B, K], is_token, response lengths [B]) -> scores [B]


def last_column(is_token: Tensor) -> Places:
    """[B, T] -> the last column, which is padding in most rows."""
    return last(1)


def every_place(is_token: Tensor) -> Places:
    """[B, T] -> all columns."""
    return EVERY


def single_output(output: Tensor, is_token: Tensor, response_tokens: Tensor) -> Tensor:
    """[B, 1] outputs -> [B]."""
    return output[:, 0]


def mean_over_response(output: Tensor, is_token: Tensor, response_tokens: Tensor) -> Tensor:
    """[B, T] outputs, [B, T] bool, [B] -> [B]: the mean output over the response's tokens; 0 where there are none."""
    mask = padding.last_tokens(is_token, response_tokens)
    return keep(output, mask).sum(1) / mask.sum(1).clamp(min=1)


POOLINGS = {
    "eos": Pooling(padding.trim_right, last_true, single_output),  # the last token that is not padding (N+ detail 12)
    "last_position": Pooling(padding.unchanged, last_column, single_output),
    "mean_over_response": Pooling(padding.trim_right, every_place, mean_over_response),
}
