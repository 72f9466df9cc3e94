"""What PPO measures of itself: of a rollout and its targets, of each optimizer step, of an update's steps together."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from repro.ops import loss, masked
from repro.ops.masked import Reduce
from repro.ops.reward import k1
from repro.types import LossWeights, Metrics, Rollout, Targets


def of_rollout(r: Rollout, score: Tensor, target: Targets, coefficient: float, reduce: Reduce) -> Metrics:
    """The batch's metrics, each a mean over its episodes or over the masked places that it names (`study/metrics.py`)."""
    everyone = torch.ones_like(r.has_eos)
    mean = partial(masked.mean, reduce=reduce)
    kl = masked.keep(k1(r.logprob, r.ref_logprob), r.token_mask).sum(1)
    _, spread = masked.moments(target.returns, r.value_mask, reduce)
    error = mean((target.returns - r.value) ** 2, r.value_mask)
    measured = {
        "objective/score": mean(score, everyone),
        "objective/kl": mean(kl, everyone),
        "objective/rlhf_reward": mean(score - coefficient * kl, everyone),
        "objective/entropy": mean(-masked.keep(r.logprob, r.token_mask).sum(1), everyone),
        "objective/length": mean(r.last + 1.0, everyone),
        "objective/eos_rate": mean(r.has_eos.float(), everyone),
        "value/mean": mean(r.value, r.value_mask),
        "value/explained_variance": 1 - error / spread.clamp(min=masked.EPSILON),
    }
    return {name: value.item() for name, value in measured.items()} | {"objective/kl_coefficient": coefficient}


@torch.no_grad()
def of_micro_batch(
    losses: tuple[Tensor, Tensor],
    log_ratio: Tensor,
    sampler_gap: Tensor,
    is_clipped: tuple[Tensor, Tensor],
    w: LossWeights,
) -> dict[str, Tensor]:
    """[B, R] each, masked: a micro-batch's part of each metric; `losses` and `is_clipped` are of policy and critic."""
    ratio, (policy, critic), (policy_clipped, value_clipped) = log_ratio.exp(), losses, is_clipped
    return {
        "loss/policy": loss.weighted(policy, w.token),
        "loss/value": loss.weighted(critic, w.value),
        "policy/approx_kl": loss.weighted(0.5 * log_ratio**2, w.per_token),
        "policy/clip_fraction": loss.weighted(policy_clipped, w.per_token),
        "policy/ratio": loss.weighted(ratio, w.per_token),
        "policy/ratio_error": loss.weighted((ratio - 1).abs(), w.per_token),
        "policy/sampler_gap": loss.weighted(sampler_gap.abs(), w.per_token),
        "value/clip_fraction": loss.weighted(value_clipped, w.per_value),
    }


def of_steps(steps: Sequence[Metrics]) -> Metrics:
    """The means over an update's optimizer steps, and of the first step what tells whether its ratios start at 1."""
    means = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    return means | {
        "policy/first_ratio_error": steps[0]["policy/ratio_error"],
        "policy/sampler_gap": steps[0]["policy/sampler_gap"],
    }
