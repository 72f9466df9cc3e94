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
from repro.types import Rollout


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


@dataclass(frozen=True)
class LossWeights:
    """[B, R] each: the weights of tokens and states in the two losses, and those of a plain mean for the metrics."""

    policy: Tensor
    critic: Tensor
    token_mean: Tensor
    state_mean: Tensor

    def __getitem__(self, rows: Tensor) -> LossWeights:
        return LossWeights(self.policy[rows], self.critic[rows], self.token_mean[rows], self.state_mean[rows])

    def first_tokens(self, count: int) -> LossWeights:
        """The same weights for response columns 0 to `count` - 1 only."""
        return self[:, :count]


def loss_weights(r: Rollout, micro_batch: int, pick: Pick, reduce: Reduce = one_rank) -> LossWeights:
    """The weights with which the B episodes of a step, over all ranks, sum to the loss that the arm aggregates."""
    aggregate = pick(d.LOSS_AGGREGATION)
    return LossWeights(
        policy=aggregate(r.token_mask, micro_batch, reduce),
        critic=aggregate(r.value_mask, micro_batch, reduce),
        token_mean=loss.token_mean(r.token_mask, micro_batch, reduce),
        state_mean=loss.token_mean(r.value_mask, micro_batch, reduce),
    )
