"""Batches of rows, the longest first, shared by the ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from repro.models import ranks


def longest_first(ids: Tensor, pad: int) -> Tensor:
    """[N, T] padded -> [N] row numbers, those with the most tokens first: batches of like lengths have little padding."""
    return (ids != pad).sum(1).argsort(descending=True, stable=True)


@torch.no_grad()
def map_rows(order: Tensor, batch: int, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """-> [N] on the CPU: what `measure` makes, [B] row numbers -> [B], of rows taken in `order` [N], `batch` at a time.

    Ranks share the rows.
    """
    own, _ = ranks.shard(order)
    measured = torch.cat([measure(rows).cpu() for rows in own.split(batch)])
    (every,) = ranks.merge_shards([measured.numpy()], order)
    return torch.from_numpy(every)
