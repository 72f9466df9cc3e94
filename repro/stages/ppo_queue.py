"""Episodes on their way from the policy that sampled them to the update that learns from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from repro.models import ranks
from repro.types import Rollout

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Batch:
    """This rank's shard of the prompts of one update; every rank has b rows, some of them filler."""

    rows: Tensor  # [B] of all ranks: indices of the prompts
    query: Tensor  # [b, Q]
    uniform: Tensor  # [b, R] in [0, 1): the random numbers that sample the responses
    real: Tensor  # [b] bool: false on filler rows
    posts: Dataset  # of the real rows


def sampled_ahead(batches: Iterator[Tensor], delay: int) -> Iterator[list[Tensor]]:
    """For each update the rows that are sampled right before it, so that it learns from those of `delay` updates ago.

    The first update samples 1 + `delay` batches, the last `delay` updates none.
    """
    yield list(islice(batches, 1 + delay))
    yield from ([rows] for rows in batches)
    yield from ([] for _ in range(delay))


class RolloutQueue:
    """Batches that were sampled and that no update has learnt from yet, the oldest first; a checkpoint holds them.

    `batch` makes a `Batch` of its `rows` and `uniform`; `device` is where rollouts are.
    """

    def __init__(self, batch: Callable[[Tensor, Tensor], Batch], device: torch.device) -> None:
        self.batch, self.device = batch, device
        self.waiting: deque[tuple[Batch, Rollout]] = deque()

    def put(self, batch: Batch, rollout: Rollout) -> None:
        """Add the newest: this rank's episodes of a batch."""
        self.waiting.append((batch, rollout))

    def take(self) -> tuple[Batch, Rollout]:
        """Remove the oldest."""
        return self.waiting.popleft()

    def clear(self) -> None:
        """Remove all."""
        self.waiting.clear()

    def all(self) -> Rollout:
        """This rank's episodes of all batches, which stay."""
        columns = zip(*(rollout for _, rollout in self.waiting))
        return Rollout(*(torch.cat(column) for column in columns))

    def state_dict(self) -> dict[str, Any]:
        """Every rank's episodes, since one rank writes the checkpoint of all; every rank has to call it."""
        own = [(batch.rows, batch.uniform, *(column.cpu() for column in rollout)) for batch, rollout in self.waiting]
        return {"ranks": ranks.all_gather(own)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = state["ranks"][ranks.rank()]
        self.waiting = deque(
            (self.batch(rows, uniform), Rollout(*(column.to(self.device) for column in columns)))
            for rows, uniform, *columns in own
        )
