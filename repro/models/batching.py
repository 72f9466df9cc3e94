"""Batches of rows for inference, the longest first, sharded over ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from repro.models import ranks


def longest_first(ids: Tensor, pad: int) -> Tensor:
    """[N, T] padded -> [N] row indices, most tokens first: rows of similar length share a batch, which has little padding."""
    return (ids != pad).sum(1).argsort(descending=True, stable=True)


@torch.no_grad()
def map_rows(order: Tensor, batch: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """-> [N] on the CPU: `function`, [B] row indices -> [B], of all rows 0 to N - 1, run `batch` at a time in `order` [N].

    Ranks shard the rows, and each gets the results of all.
    """
    own, _ = ranks.shard(order)
    results = torch.cat([function(rows).cpu() for rows in own.split(batch)])
    (gathered,) = ranks.gather_shards([results.numpy()], order)
    return torch.from_numpy(gathered)
