"""Batches of rows for inference, the longest first, sharded over ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from repro.models import ranks
from repro.ops.places import EVERY


def longest_first(ids: Tensor, pad: int) -> Tensor:
    """[N, T] padded -> [N] row indices, most tokens first: rows of similar length share a batch, which has little padding."""
    return (ids != pad).sum(1).argsort(descending=True, stable=True)


def groups_together(rows: int, responses: int, batch: int) -> tuple[slice | Tensor, slice | Tensor]:
    """An order of `rows` in which the responses to a query follow each other, and the order back from it.

    Rows i and i + rows / responses have the same query, as PPO has them. They keep their order where `batch` has room for all.
    """
    if responses == 1 or rows <= batch or rows % responses:
        return EVERY, EVERY
    order = torch.arange(rows).view(responses, -1).T.flatten()
    return order, order.argsort()


@torch.no_grad()
def map_rows(order: Tensor, batch: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """-> [N] on the CPU: `function`, [B] row indices -> [B], of all rows 0 to N - 1, run `batch` at a time in `order` [N].

    Ranks shard the rows, and each gets the results of all.
    """
    own, _ = ranks.shard(order)
    results = torch.cat([function(rows).cpu() for rows in own.split(batch)])
    (gathered,) = ranks.gather_shards([results.numpy()], order)
    return torch.from_numpy(gathered)
