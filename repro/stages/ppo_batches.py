"""How a batch of PPO is split into minibatches and these into micro-batches, and the weight of each token in the losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from repro import details as d
from repro.detail import Pick
from repro.models import ranks
from repro.ops import loss
from repro.ops.masked import Reduce, one_rank
from repro.stages import optimise, ppo_rewards, sft
from repro.stages.ppo_setup import Run, Training, responses_per_query
from repro.types import LossWeights, Rollout, Targets


def minibatches(
    run: Run, training: Training, rollout: Rollout, target: Targets, episodes: int
) -> Iterator[tuple[Rollout, Targets, Tensor]]:
    """This rank's shard of each minibatch of each epoch: episodes, their targets, and SFT texts to mix in.

    `episodes` counts those of all ranks. Where another rank has an episode more, a filler row stands in. Episodes that the
    recipe drops have empty masks.
    """
    score = ppo_rewards.paid_score(rollout, run.pick)
    counted = run.pick(d.UNINFORMATIVE_GROUPS)(score, responses_per_query(run.pick))
    for _ in range(run.pick(d.PPO_EPOCHS)):
        order = torch.randperm(episodes, generator=training.minibatch_rng)
        for minibatch in order.tensor_split(run.pick(d.MINIBATCHES)):
            own, local = local_episodes(rollout, minibatch, counted)
            yield local, target[own], training.sft_texts(len(minibatch))


def local_episodes(rollout: Rollout, minibatch: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Rollout]:
    """[N] episodes of all ranks -> indices into this rank's B episodes, and these.

    A filler row has empty masks, and so have those that are not among the [B] which count.
    """
    own, real = ranks.local_shard(minibatch)
    last_counted = rollout.last_counted[own]
    counts = real.to(last_counted.device)
    counts = counts if counted is None else counts & counted[own]
    nowhere = torch.full_like(last_counted, -2)  # of -1 the terminal state would be the first, which has a value
    return own, replace(rollout[own], last_counted=torch.where(counts, last_counted, nowhere))


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
