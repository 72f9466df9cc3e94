"""Networks that are not trained, and what such a policy writes: for evaluations, feedback, and PPO's reward models."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from repro import details as d
from repro.models import generate, mixed_precision, modes, padding, ranks, samplers, wrapping
from repro.stages.corpus import Corpus
from repro.stages.stage import StageContext


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
    sampling: generate.Sampling,
    corpus: Corpus,
    response_tokens: int,
    batch: int,
    *generators: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries, responses and log-probabilities of this rank's rows of an `order`, `batch` at a time.

    Of [N, Q] queries row i + j N is the response to query i with the random numbers of generator j.
    """
    device = next(policy.parameters()).device
    uniform = torch.cat([torch.rand(len(queries), response_tokens, generator=each) for each in generators])
    for rows in ranks.shard(order)[0].split(batch):
        query = padding.trim_left(queries[rows % len(queries)], corpus.pad).to(device)
        yield query, *generate.sample(policy, query, uniform[rows].to(device), sampling, corpus.eos, corpus.pad)
