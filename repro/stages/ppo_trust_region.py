"""TRPO's step of the policy, for one arm: how it moves the weights in the place of AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from repro import details as d
from repro.models import logprobs
from repro.models.weights import EarlierWeights
from repro.ops import loss, masked, text, trust_region
from repro.stages import optimise
from repro.stages.ppo_batches import micro_batches_by_length
from repro.stages.ppo_setup import Run
from repro.types import Rollout

Parts = Sequence[Callable[[], Tensor]]  # each gives the loss of a micro-batch, as the weights are when it is called


def trpo_step(run: Run, losses: Iterable[Tensor], parts: Parts, r: Rollout, first_on_batch: bool) -> float:
    """One natural-gradient step of the policy on a batch's first pass, and AdamW on the critic in every one.

    `losses` are differentiated and summed over ranks, as in `optimise.step`; `parts` give them again, for the line search.
    On later passes the policy stays as it is, since it has gone as far as the radius by then.

    In memory it has five vectors of the policy's size beside the weights, and no moments of AdamW for the policy. The KL is
    over the whole vocabulary, with the graph of its gradient: several times a micro-batch's tokens times the vocabulary.

    Eleven second derivatives make the four steps of a batch six times as long as AdamW's (on one core of a CPU, at 64 x 4).
    """
    total = optimise.gradients(run.accelerator, run.optimizer, losses, run.pick(d.GRADIENT_CLIP))
    if not math.isfinite(total):
        return math.nan
    weights = [weight for weight in run.networks.policy.parameters() if weight.requires_grad]
    gradient = _flat([torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights])
    for weight in weights:
        weight.grad = None  # AdamW leaves what has no gradient as it is
    if first_on_batch:
        _move(run, weights, gradient, lambda: _total(run, parts) - total, r)
    run.optimizer.step()
    return total


def _move(run: Run, weights: list[Tensor], gradient: Tensor, change: Callable[[], float], r: Rollout) -> None:
    """The natural gradient step, where a fraction of it lowers the loss within the radius; else nothing.

    `change` gives the difference of the loss that the weights make, as they are when it is called.
    """
    region = run.pick(d.CONSTRAINED_STEP).region
    fisher = partial(fisher_vector_product, run, r, weights)
    direction = trust_region.conjugate_gradient(fisher, -gradient, region.damping, region.cg_iterations)
    step = direction * trust_region.step_scale(direction, fisher(direction), region.radius)
    old = EarlierWeights(run.networks.policy, weights)

    def measure(fraction: float) -> tuple[float, float]:
        old.move(fraction * step)
        return change(), mean_kl(run, old, r)

    fraction = trust_region.backtrack(measure, region.radius, region.backtrack_ratio, region.max_backtracks)
    old.move(fraction * step if fraction else torch.zeros_like(step))


def fisher_vector_product(run: Run, r: Rollout, weights: list[Tensor], vector: Tensor) -> Tensor:
    """[weights] v -> F v, the Hessian of the mean KL(old, new) times v, where the new policy is the old one.

    The mean is over the tokens that count, of all ranks; `weights` are those of the policy that are trained.
    """
    product = torch.zeros_like(vector)
    direction = [part.view_as(weight) for part, weight in zip(vector.split(_sizes(weights)), weights)]
    # Other kernels of attention have no second derivative, and hooks of the ranks are for the first one.
    with sdpa_kernel(SDPBackend.MATH), run.accelerator.no_sync(run.networks.learners):
        for part, inputs, token_weights in _micro_batches(run, r):
            kl = logprobs.response_measures(run.networks.policy, *inputs, _kl_to_itself, support=part.support)[1]
            kl = loss.weighted(masked.keep(kl, part.token_mask), token_weights)
            slopes = torch.autograd.grad(kl, weights, create_graph=True, materialize_grads=True)
            slope = sum((one * other).sum() for one, other in zip(slopes, direction))
            product += _flat(torch.autograd.grad(slope, weights, materialize_grads=True))
    return run.accelerator.reduce(product)


@torch.no_grad()
def mean_kl(run: Run, old: EarlierWeights, r: Rollout) -> float:
    """KL(old, new) over the whole vocabulary in nats, averaged over the tokens that count, of all ranks."""
    total = torch.zeros((), dtype=torch.float64, device=run.accelerator.device)
    for part, inputs, token_weights in _micro_batches(run, r):
        kl = logprobs.response_kl(old, run.networks.policy, *inputs, support=part.support)
        total += loss.weighted(masked.keep(kl, part.token_mask), token_weights)
    return run.accelerator.reduce(total).item()


def _kl_to_itself(logits: Tensor, temperature: float) -> Tensor:
    """[..., V] -> [...] zeros: KL(p, p) with a gradient through the second p alone.

    Value and gradient are 0; the Hessian is the Fisher matrix.
    """
    return text.kl_of(logits.detach(), logits, temperature)


def _micro_batches(run: Run, r: Rollout) -> Iterator[tuple[Rollout, tuple[Tensor, Tensor, int, int, float], Tensor]]:
    """Each micro-batch, the arguments of its forward pass after the policy, and its tokens' weights in a mean over all."""
    pad, eos = run.corpus.pad, run.corpus.eos
    weights = loss.token_mean(r.token_mask, run.accelerator.reduce)
    for rows, columns in micro_batches_by_length(r, run.micro_batch, pad):
        part = r[rows].first_tokens(columns.response_tokens)
        inputs = (part.query[:, columns.query_start :], part.response, pad, eos, run.sampling.logprob_temperature)
        yield part, inputs, weights[rows, : columns.response_tokens]


@torch.no_grad()
def _total(run: Run, parts: Parts) -> float:
    """The loss of the step with the weights as they are, over all ranks."""
    total = torch.zeros((), dtype=torch.float64, device=run.accelerator.device)
    for part in parts:
        total += part()
    return run.accelerator.reduce(total).item()


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _sizes(weights: Iterable[Tensor]) -> list[int]:
    return [weight.numel() for weight in weights]
