"""The terms of PPO's objective, one number per token, and the weights with which they are added up.

A term may be NaN where its weight is 0: `weighted` leaves it out, and its gradient there is 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repro.ops import masked, text
from repro.ops.masked import Reduce, one_rank
from repro.types import PerToken, Scalar, TokenMask

# ---------------------------------------------------------------------------------------------- the policy


def policy_loss(ratio: PerToken, advantage: PerToken, clip: float) -> PerToken:
    """PPO's clipped surrogate objective, as a loss.

    max(-A r, -A clip(r, 1 - clip, 1 + clip)),  r = p_new / p_old

    Args:
        ratio: [episodes, tokens] r, of the probabilities of the sampled token.
        advantage: [episodes, tokens] A, without a gradient.
        clip: how far from 1 a ratio goes on earning; infinite, the loss is -A r.

    Source: Schulman et al. 2017, equation 7; N+ table 7 has 0.2.
    """
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def clipped(log_ratio: PerToken, advantage: PerToken, clip: float) -> PerToken:
    """`policy_loss` of a log-ratio.

    max(-A r, -A clip(r, 1 - clip, 1 + clip)),  r = exp(log p_new - log p_old)

    Args:
        log_ratio: [episodes, tokens] log r of the sampled token.
        advantage: [episodes, tokens] A, without a gradient.
        clip: as in `policy_loss`; infinite, this is `unclipped`.

    Source: Schulman et al. 2017, equation 7.
    """
    return policy_loss(log_ratio.exp(), advantage, clip)


def policy_clipped(ratio: PerToken, advantage: PerToken, clip: float) -> PerToken:
    """1 where the clip of `policy_loss` decides the loss and stops the gradient, 0 elsewhere; arguments as there."""
    return (-advantage * ratio.clamp(1 - clip, 1 + clip) > -advantage * ratio).float()


def unclipped(log_ratio: PerToken, advantage: PerToken) -> PerToken:
    """The surrogate objective with nothing to hold it, as a loss.

    -A r

    Arguments as in `clipped`. Source: Schulman et al. 2017, equation 6.
    """
    return -advantage * log_ratio.exp()


def kl_penalised(log_ratio: PerToken, advantage: PerToken, beta: float) -> PerToken:
    """The surrogate objective with a penalty on the KL divergence from the policy that sampled, as a loss.

    -A r + beta (r - 1 - log r)

    Args:
        log_ratio: [episodes, tokens] log r = log p_new - log p_old of the sampled token.
        advantage: [episodes, tokens] A, without a gradient.
        beta: what a nat of KL(old, new) costs; 0 leaves `unclipped`.

    Source: Schulman et al. 2017, equation 8. Departure: they sum the KL over all actions; r - 1 - log r is its estimate from
    the sampled one, unbiased and never negative (`reward.k3`).
    """
    ratio = log_ratio.exp()
    return -advantage * ratio + beta * (ratio - 1 - log_ratio)


def policy_gradient(logprob: PerToken, advantage: PerToken) -> PerToken:
    """The policy gradient's loss: no ratio, so passes after the first do not know that the policy has moved.

    -A log p_new

    Args:
        logprob: [episodes, tokens] log p_new of the sampled token, in nats.
        advantage: [episodes, tokens] A, without a gradient.

    Source: Schulman et al. 2017, equation 2 (REINFORCE, Williams 1992).
    """
    return -advantage * logprob


def fixed_beta(beta: float, kl: float) -> float:
    """The coefficient of the KL penalty never changes.

    Stands where `adaptive_beta` may; `kl` is not read.
    """
    return beta


def adaptive_beta(beta: float, kl: float, target: float) -> float:
    """The coefficient of the KL penalty for the next batch: doubled far above the target, halved far below.

    2 beta where KL > 1.5 target,  beta / 2 where KL < target / 1.5,  else beta

    Args:
        beta: of this batch.
        kl: KL(old, new) that its last step started from, in nats per token.
        target: in the same unit.

    Source: Schulman et al. 2017, section 4.
    """
    if kl > 1.5 * target:
        return 2 * beta
    return beta / 2 if kl < target / 1.5 else beta


PolicyLoss = Callable[
    ..., Tensor
]  # logprob, log_ratio, advantage, clip, beta, by name: each of the losses above takes some


@dataclass(frozen=True)
class Objective:
    """What the policy minimises per token; the coefficient of KL(old, new) in it: at first, and after an update."""

    loss: PolicyLoss
    beta: float = 0.0
    adapt: Callable[[float, float], float] = fixed_beta


# ---------------------------------------------------------------------------------------------- the critic


def value_loss(value: PerToken, clipped: PerToken, returns: PerToken) -> PerToken:
    """Half the larger squared error of the value and its clipped twin.

    max((V - G)^2, (V_clip - G)^2) / 2

    Args:
        value: [episodes, tokens] V, the critic's as it is now.
        clipped: [episodes, tokens] V_clip of `clip_value`; V itself leaves the plain squared error.
        returns: [episodes, tokens] G, without a gradient.

    Source: N+ code (`vf_losses1`, `vf_losses2`) and OpenAI's baselines; in no equation of Schulman et al. 2017.
    """
    return 0.5 * torch.maximum((value - returns) ** 2, (clipped - returns) ** 2)


def value_clipped(value: PerToken, clipped: PerToken, returns: PerToken) -> PerToken:
    """1 where the clipped value decides `value_loss`, 0 elsewhere; arguments as there."""
    return ((clipped - returns) ** 2 > (value - returns) ** 2).float()


def clip_value(value: PerToken, old_value: PerToken, clip: float) -> PerToken:
    """The new value, at most `clip` away from the rollout's.

    V_old + clip(V - V_old, -clip, clip)

    Args:
        value: [episodes, tokens] V.
        old_value: [episodes, tokens] V_old, without a gradient.
        clip: in the unit of the values; infinite, V is left as it is.

    Source: N+ table 7 (0.2), and the blog on value clipping.
    """
    return old_value + (value - old_value).clamp(-clip, clip)


def free_value(value: PerToken, old_value: PerToken) -> PerToken:
    """The new value, wherever it went.

    Stands where `clip_value` may; `old_value` is not read.
    """
    return value


# ---------------------------------------------------------------------------------------------- weights of tokens


def token_mean(mask: TokenMask, reduce: Reduce = one_rank) -> PerToken:
    """Weights of a mean over all tokens of the optimizer step, however it is split over micro-batches or ranks.

    w = mask / |mask|

    Args:
        mask: [episodes, tokens] of all of this rank's episodes in the step; so in each of these functions.
        reduce: sums over ranks.

    Departure: the paper's code is `token_mean_per_micro_batch`.
    """
    return mask / reduce(mask.sum().float()).clamp(min=1)


def token_mean_per_micro_batch(mask: TokenMask, micro_batch: int, reduce: Reduce = one_rank) -> PerToken:
    """Weights of a mean over each micro-batch's tokens, then over micro-batches: it depends on the split.

    w = mask / |mask of the micro-batch| / number of micro-batches

    Args:
        mask: [episodes, tokens].
        micro_batch: episodes of each; the last may have fewer, and weighs as much.
        reduce: sums over ranks.

    Source: N+ code, `masked_mean` under gradient accumulation.
    """
    parts = [token_mean(part) for part in mask.split(micro_batch)]
    return torch.cat(parts) / reduce(torch.tensor(float(len(parts)), device=mask.device))


def sequence_mean(mask: TokenMask, reduce: Reduce = one_rank) -> PerToken:
    """Weights of a mean over each response's tokens, then over the responses that have any.

    w = mask / |mask of the response| / responses

    Args:
        mask: [episodes, tokens].
        reduce: sums over ranks.

    Source: GRPO (Shao et al. 2024, equation 3).
    """
    lengths = mask.sum(1, keepdim=True).clamp(min=1)
    return mask / lengths / reduce(mask.any(1).sum().float()).clamp(min=1)


def sum_over_limit(mask: TokenMask, reduce: Reduce = one_rank) -> PerToken:
    """Weights of a sum over tokens divided by a constant, the most tokens that a response can have.

    w = mask / tokens / responses

    Args:
        mask: [episodes, tokens]; its width is the response limit.
        reduce: sums over ranks.

    Source: Dr. GRPO (Liu et al. 2025, arXiv 2503.20783).
    """
    return mask / mask.shape[1] / reduce(mask.any(1).sum().float()).clamp(min=1)


def weighted(terms: PerToken, weights: PerToken) -> Scalar:
    """Sum of terms times weights; a term of weight 0 does not count, NaN or not.

    sum_i w_i x_i

    Args:
        terms: [episodes, tokens] x.
        weights: [episodes, tokens] w, not negative.
    """
    return (masked.keep(terms, weights > 0) * weights).sum()


# ---------------------------------------------------------------------------------------------- other terms


def entropy_bonus(
    logits: Float[Tensor, "*places vocabulary"], temperature: float, coefficient: float
) -> Float[Tensor, "*places"]:
    """The entropy of what can be drawn, times its coefficient: to be subtracted from the loss.

    c H(p)

    Args:
        logits: [*places, vocabulary]; -inf is a token that cannot be drawn.
        temperature: that p is taken at.
        coefficient: c, per nat.

    Source: Schulman et al. 2017, equation 9 (c2); N+ has none.
    """
    return coefficient * text.entropy_of(logits, temperature)


@dataclass(frozen=True)
class Mix:
    """How much of another loss is mixed in: its coefficient, and how many of its texts stand beside each episode."""

    coefficient: float
    per_episode: float
