"""How an optimizer step of PPO is split into micro-batches, and the weight of each token in its losses."""

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
    """The columns that a micro-batch needs: queries from `query_start` on, and the first `response_tokens` of responses."""

    query_start: int
    response_tokens: int


def micro_batches_by_length(r: Rollout, micro_batch: int, pad: int) -> list[tuple[Tensor, Columns]]:
    """Micro-batches of a rollout: [b] row indices each, and the columns that these rows need.

    Episodes of similar length share a micro-batch, so that little padding is computed. The longest come first, so that
    running out of memory shows at once. The terminal state has a value too: one column more than the tokens.
    """
    padding = (r.query == pad).long().cumprod(1).sum(1)  # [B] columns on the left
    order = (r.last_counted - padding).argsort(descending=True, stable=True)
    extents = torch.stack([padding, r.last_counted + 2])[:, order].cpu()  # one wait for the GPU
    limit = r.response.shape[1]
    parts = zip(order.split(micro_batch), *(extent.split(micro_batch) for extent in extents))
    return [(rows, Columns(int(starts.min()), min(max(int(states.max()), 1), limit))) for rows, starts, states in parts]


def sft_losses(run: Run, texts: Tensor, mix: loss.Mix) -> list[Callable[[], Tensor]]:
    """[N, T] SFT texts -> one function per micro-batch, whose results add up to coefficient * mean next-token loss [nats].

    The list is empty where the recipe mixes no SFT texts into PPO.
    """
    texts, pad = texts[: round(mix.per_episode * len(texts))], run.corpus.pad
    tokens = (texts[:, 1:] != pad).sum()

    def micro_batch_loss(rows: Tensor, real: Tensor) -> Tensor:
        part, real = texts[rows].to(run.accelerator.device), real[:, None].to(run.accelerator.device)
        return mix.coefficient * sft.token_loss(run.networks.policy, part, (part != pad) & real, pad) / tokens

    parts = optimise.local_micro_batches(torch.arange(len(texts)), run.micro_batch) if len(texts) else []
    return [partial(micro_batch_loss, *part) for part in parts]


def loss_weights(r: Rollout, micro_batch: int, pick: Pick, reduce: Reduce = one_rank) -> LossWeights:
    """The weights with which the B episodes of a step, over all ranks, sum to the loss that the arm aggregates."""
    aggregate = partial(pick(d.LOSS_AGGREGATION), micro_batch=micro_batch, reduce=reduce)
    counted = pick(d.TRUNCATED_RESPONSES)(r.has_eos)[:, None]
    return LossWeights(
        policy=aggregate(mask=r.token_mask & counted),
        critic=aggregate(mask=r.value_mask & counted),
        token_mean=loss.token_mean(r.token_mask, reduce),
        state_mean=loss.token_mean(r.value_mask, reduce),
    )
