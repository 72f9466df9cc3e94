"""The metrics of PPO: of a rollout, of a micro-batch, and of an update; `repro/study/metrics.py` defines each."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from repro.ops import loss, masked
from repro.ops.baseline import group_spreads
from repro.ops.masked import Reduce
from repro.ops.reward import k1
from repro.types import LossWeights, Metrics, Rollout, Targets


def sample_metrics(r: Rollout, score: Tensor, reduce: Reduce) -> Metrics:
    """What was sampled: means over the B episodes of all ranks; `score` [B] is what is rewarded."""
    all_episodes = torch.ones_like(r.has_eos)
    mean = partial(masked.mean, reduce=reduce)
    measured = {
        "objective/score": mean(score, all_episodes),
        "objective/kl": mean(episode_kl(r), all_episodes),
        "objective/entropy": mean(-masked.keep(r.logprob, r.token_mask).sum(1), all_episodes),
        "objective/length": mean(r.last_token + 1.0, all_episodes),
        "objective/eos_rate": mean(r.has_eos.float(), all_episodes),
    }
    return {name: value.item() for name, value in measured.items()}


def episode_kl(r: Rollout) -> Tensor:
    """[B] log policy - log reference policy in nats, summed over an episode's tokens."""
    return masked.keep(k1(r.logprob, r.ref_logprob), r.token_mask).sum(1)


def rollout_metrics(r: Rollout, score: Tensor, target: Targets, kl_coefficient: float, reduce: Reduce) -> Metrics:
    """Means over the B episodes or over their masked tokens and states, over all ranks; `score` [B] is what was rewarded."""
    all_episodes = torch.ones_like(r.has_eos)
    mean = partial(masked.mean, reduce=reduce)
    _, variance = masked.moments(target.returns, r.value_mask, reduce)
    _, error_variance = masked.moments(target.returns - r.value, r.value_mask, reduce)
    measured = {
        "objective/rlhf_reward": mean(score - kl_coefficient * episode_kl(r), all_episodes),
        "value/mean": mean(r.value, r.value_mask),
        "value/explained_variance": 1 - error_variance / variance.clamp(min=masked.EPSILON),
    }
    found = sample_metrics(r, score, reduce) | {name: value.item() for name, value in measured.items()}
    return found | {"objective/kl_coefficient": kl_coefficient}


def group_metrics(reward: Tensor, gamma: float, responses: int, reduce: Reduce) -> Metrics:
    """Of [B, R] rewards, the spread of returns within and between groups of responses to a query; none of single ones."""
    if responses == 1:
        return {}
    within, between = group_spreads(reward, gamma, responses, reduce)
    return {"objective/spread_within_groups": within.item(), "objective/spread_between_groups": between.item()}


def mean_return(target: Targets, reduce: Reduce) -> float:
    """The return from the first token on; mean over the batch's episodes, over all ranks."""
    first = target.returns[:, 0]
    return masked.mean(first, torch.ones_like(first, dtype=torch.bool), reduce).item()


@torch.no_grad()
def micro_batch_metrics(
    losses: tuple[Tensor, Tensor],
    log_ratio: Tensor,
    sampler_gap: Tensor,
    is_clipped: tuple[Tensor, Tensor],
    weights: LossWeights,
) -> dict[str, Tensor]:
    """A micro-batch's term of each metric of its optimizer step: they add up over micro-batches and ranks.

    All arguments are [B, R] and masked; `losses` and `is_clipped` are pairs of policy and critic. `sampler_gap` is the
    difference in nats between the update's log-probability and the sampler's.
    """
    (policy_loss, critic_loss), (policy_clipped, value_clipped) = losses, is_clipped
    ratio = log_ratio.exp()
    return {
        "loss/policy": loss.weighted(policy_loss, weights.policy),
        "loss/value": loss.weighted(critic_loss, weights.critic),
        "policy/approx_kl": loss.weighted(0.5 * log_ratio**2, weights.token_mean),
        "policy/clip_fraction": loss.weighted(policy_clipped, weights.token_mean),
        "policy/ratio": loss.weighted(ratio, weights.token_mean),
        "policy/ratio_error": loss.weighted((ratio - 1).abs(), weights.token_mean),
        "policy/sampler_gap": loss.weighted(sampler_gap.abs(), weights.token_mean),
        "value/clip_fraction": loss.weighted(value_clipped, weights.state_mean),
    }


def update_metrics(steps: Sequence[Metrics]) -> Metrics:
    """Means over the optimizer steps of an update; the ratio's error and the sampler's gap are those of the first step.

    Before the first step policy and sampler have the same weights, so there the ratio is 1 up to rounding.
    """
    means = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    return means | {
        "policy/first_ratio_error": steps[0]["policy/ratio_error"],
        "policy/sampler_gap": steps[0]["policy/sampler_gap"],
    }
