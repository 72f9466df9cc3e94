"""Networks that are not trained, and what such a policy writes: for evaluations, feedback, and PPO's reward models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro import details as d
from repro.models import generate, mixed_precision, modes, padding, ranks, samplers, wrapping
from repro.stages.corpus import Corpus
from repro.stages.stage import StageContext

GREEDY = 0.01  # temperature: what the paper calls greedy
SAMPLED = 0.7  # temperature at which the paper's PPO samples (N+ table 7)


@dataclass(frozen=True)
class Draw:
    """One response to each query: at which temperature, and from which random numbers."""

    temperature: float
    generator: torch.Generator


def frozen(context: StageContext, network: nn.Module, dtype: str) -> nn.Module:
    """One of the arm's networks that is not trained here: `placed`, with the arm's positions."""
    return placed(context, context.pick(d.POSITION_IDS)(network), dtype)


def placed(context: StageContext, network: nn.Module, dtype: str) -> nn.Module:
    """A network that is not trained: on the stage's device, in this precision."""
    fixed = mixed_precision.cast_weights(modes.freeze(network), dtype)
    return wrapping.place_on_device(fixed, context.accelerator)


def sampler_for(context: StageContext) -> generate.Sampler:
    """What samples outside of PPO's rollouts: vLLM has one policy only, PPO's."""
    name = context.scale.sampler
    return samplers.sampler_named("static" if name == "vllm" else name)


def sample_batches(
    policy: nn.Module,
    queries: Tensor,
    order: Tensor,
    draws: Sequence[Draw],
    corpus: Corpus,
    response_tokens: int,
    batch: int,
    sampler: generate.Sampler,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries, responses and log-probabilities of this rank's share of an `order` of [N, Q] queries, `batch` rows at a time.

    A query has as many rows as there are draws, which follow each other. Log-probabilities are at temperature `SAMPLED`
    however a response was sampled: near 0 they would say only whether a token is the likeliest.
    """
    device = next(policy.parameters()).device
    uniform = torch.cat([torch.rand(len(queries), response_tokens, generator=draw.generator) for draw in draws])
    temperatures = torch.tensor([[draw.temperature] for draw in draws], device=device)
    own, _ = ranks.shard(order)
    for rows in (own[:, None] + len(queries) * torch.arange(len(draws))).flatten().split(batch):
        query = padding.trim_left(queries[rows % len(queries)], corpus.pad).to(device)
        at = temperatures[rows // len(queries)] if len(temperatures.unique()) > 1 else draws[0].temperature
        sampling = generate.Sampling(at, SAMPLED, sampler=sampler, responses=len(draws))
        yield query, *generate.sample(policy, query, uniform[rows].to(device), sampling, corpus.eos, corpus.pad)
