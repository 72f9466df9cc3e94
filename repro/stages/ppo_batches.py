"""How the episodes of an optimizer step are split into micro-batches, and what each of their tokens weighs in the losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from repro import details as d
from repro.detail import Pick
from repro.ops import loss
from repro.ops.masked import Reduce, one_rank
from repro.stages import optimise, sft
from repro.stages.ppo_setup import Run
from repro.types import LossWeights, Rollout


@dataclass(frozen=True)
class Columns:
    """Of a micro-batch: the first column of its queries that is not all padding, and how many of its responses count."""

    query: int
    response: int


def by_length(r: Rollout, micro_batch: int, pad: int) -> list[tuple[Tensor, Columns]]:
    """Micro-batches of row numbers and the columns that they need.

    Episodes of about one length go together, since padding is computed too; the longest first, so that memory is tried at
    once. The state after the last token that counts has a value, which is one column more.
    """
    padded = (r.query == pad).long().cumprod(1).sum(1)
    order = (r.counted - padded).argsort(descending=True, stable=True)
    ends = torch.stack([padded, r.counted + 2])[:, order].cpu()  # a GPU is waited for once
    limit, parts = r.response.shape[1], zip(order.split(micro_batch), *(end.split(micro_batch) for end in ends))
    return [(rows, Columns(int(starts.min()), min(max(int(counts.max()), 1), limit))) for rows, starts, counts in parts]


def sft_losses(run: Run, texts: Tensor, mix: loss.Mix) -> list[Callable[[], Tensor]]:
    """The micro-batches of coefficient times the mean next-token loss of the SFT texts; nothing where none are mixed in."""
    some, pad = texts[: round(mix.per_episode * len(texts))], run.corpus.pad
    counted = (some[:, 1:] != pad).sum()

    def micro_batch_loss(rows: Tensor, real: Tensor) -> Tensor:
        part, where = some[rows].to(run.accelerator.device), real[:, None].to(run.accelerator.device)
        return mix.coefficient * sft.token_loss(run.networks.policy, part, (part != pad) & where, pad) / counted

    parts = optimise.dealt(torch.arange(len(some)), run.micro_batch) if len(some) else []
    return [partial(micro_batch_loss, *part) for part in parts]


def loss_weights(r: Rollout, micro_batch: int, pick: Pick, reduce: Reduce = one_rank) -> LossWeights:
    """The weights of B episodes, whose losses are then sums over tokens."""
    aggregate = partial(pick(d.LOSS_AGGREGATION), micro_batch=micro_batch, reduce=reduce)
    return LossWeights(
        aggregate(mask=r.token_mask),
        aggregate(mask=r.value_mask),
        loss.token_mean(r.token_mask, reduce),
        loss.token_mean(r.value_mask, reduce),
    )
