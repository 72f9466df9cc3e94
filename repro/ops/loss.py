"""The terms of PPO's objective, one number per token, and the weights with which they are added up."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.ops import masked, text
from repro.ops.masked import Reduce, one_rank


def policy_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """[B, R] -> [B, R]: max(-A r, -A clip(r, 1 - clip, 1 + clip)) (Schulman et al. 2017, equation 7, as a loss)."""
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def policy_clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """[B, R] -> [B, R]: 1 where the clip decides the loss, and stops the gradient."""
    return (-advantage * ratio.clamp(1 - clip, 1 + clip) > -advantage * ratio).float()


def clipped(logprob: Tensor, log_ratio: Tensor, advantage: Tensor, clip: float, price: float) -> Tensor:
    """PPO's clipped surrogate: `policy_loss` of the ratio."""
    return policy_loss(log_ratio.exp(), advantage, clip)


def unclipped(logprob: Tensor, log_ratio: Tensor, advantage: Tensor, clip: float, price: float) -> Tensor:
    """-A r: the surrogate with nothing to hold it (Schulman et al. 2017, equation 6)."""
    return -advantage * log_ratio.exp()


def penalised(logprob: Tensor, log_ratio: Tensor, advantage: Tensor, clip: float, price: float) -> Tensor:
    """-A r + price KL(old, new) (Schulman et al. 2017, equation 8); the KL is estimated by r - 1 - log r, never negative."""
    ratio = log_ratio.exp()
    return -advantage * ratio + price * (ratio - 1 - log_ratio)


def policy_gradient(logprob: Tensor, log_ratio: Tensor, advantage: Tensor, clip: float, price: float) -> Tensor:
    """-A log p: no ratio, so passes after the first do not know that the policy has moved (REINFORCE)."""
    return -advantage * logprob


def fixed_price(price: float, kl: float) -> float:
    """The price of a step's KL never changes."""
    return price


def adaptive_price(price: float, kl: float, target: float) -> float:
    """Doubled where the step's KL is above 1.5 targets, halved below target / 1.5 (Schulman et al. 2017, section 4)."""
    if kl > 1.5 * target:
        return 2 * price
    return price / 2 if kl < target / 1.5 else price


@dataclass(frozen=True)
class Objective:
    """What is minimised per token, and the price of KL(old, new) in it [per nat]: at first, and after an update."""

    loss: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]
    price: float = 0.0
    adapt: Callable[[float, float], float] = fixed_price


def value_loss(value: Tensor, clipped: Tensor, returns: Tensor) -> Tensor:
    """[B, R] -> [B, R]: half the larger squared error of the value and its clipped twin."""
    return 0.5 * torch.maximum((value - returns) ** 2, (clipped - returns) ** 2)


def value_clipped(value: Tensor, clipped: Tensor, returns: Tensor) -> Tensor:
    """[B, R] -> [B, R]: 1 where the clipped value decides the loss."""
    return ((clipped - returns) ** 2 > (value - returns) ** 2).float()


def clip_value(value: Tensor, old_value: Tensor, clip: float) -> Tensor:
    """[B, R] -> [B, R]: the new value, at most `clip` away from the rollout's."""
    return old_value + (value - old_value).clamp(-clip, clip)


def free_value(value: Tensor, old_value: Tensor) -> Tensor:
    """[B, R] -> [B, R]: the new value, wherever it went."""
    return value


Weights = Callable[[Tensor, int, Reduce], Tensor]


def token_mean(mask: Tensor, micro_batch: int, reduce: Reduce = one_rank) -> Tensor:
    """[B, R] weights: every token of the optimizer step counts alike, however it is split over micro-batches or ranks."""
    return mask / reduce(mask.sum().float()).clamp(min=1)


def token_mean_per_micro_batch(mask: Tensor, micro_batch: int, reduce: Reduce = one_rank) -> Tensor:
    """[B, R] weights: a mean over each micro-batch's tokens, then over micro-batches, as the paper's code does."""
    parts = [token_mean(part, micro_batch) for part in mask.split(micro_batch)]
    return torch.cat(parts) / reduce(torch.tensor(float(len(parts)), device=mask.device))


def sequence_mean(mask: Tensor, micro_batch: int, reduce: Reduce = one_rank) -> Tensor:
    """[B, R] weights: a mean over each response's tokens, then over responses (GRPO)."""
    lengths = mask.sum(1, keepdim=True).clamp(min=1)
    return mask / lengths / reduce(mask.any(1).sum().float()).clamp(min=1)


def sum_over_limit(mask: Tensor, micro_batch: int, reduce: Reduce = one_rank) -> Tensor:
    """[B, R] weights: a sum over tokens divided by the response limit and the episodes (Dr. GRPO)."""
    return mask / mask.shape[1] / reduce(mask.any(1).sum().float()).clamp(min=1)


def weighted(terms: Tensor, weights: Tensor) -> Tensor:
    """Sum of terms times weights; a term of weight 0 does not count, NaN or not."""
    return (masked.keep(terms, weights > 0) * weights).sum()


def entropy_bonus(logits: Tensor, temperature: float, coefficient: float) -> Tensor:
    """[B, R, V] -> [B, R]: coefficient times the entropy in nats of what can be drawn (Schulman et al. 2017, eq. 9)."""
    return coefficient * text.entropy_of(logits, temperature)


@dataclass(frozen=True)
class Mix:
    """How much of another loss is mixed in: its coefficient, and how many of its texts stand beside each episode."""

    coefficient: float
    per_episode: float
