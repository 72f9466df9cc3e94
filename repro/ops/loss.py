"""The terms of PPO's objective, one number per token, and the weights with which they are added up.

A term may be NaN where its weight is 0: `weighted` leaves it out of the loss. The gradient of such a term is 0, which goes on
back into what made the term, and 0 times NaN is NaN there. So mask what goes in, as `ppo_loss` in `repro/stages/ppo_step.py`
does: the log-ratio of `clipped` is `masked.keep(log_ratio, mask)`, and the gradient in masked places is then 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repro.ops import masked, text
from repro.ops.masked import Reduce, one_rank
from repro.types import EpisodeMask, PerToken, Scalar, TokenMask

# ---------------------------------------------------------------------------------------------- the policy


def clipped(log_ratio: PerToken, advantage: PerToken, clip_low: float, clip_high: float) -> PerToken:
    """PPO's clipped surrogate objective, as a loss.

    max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)),  r = exp(log p_new - log p_old)

    Args:
        log_ratio: [episodes, tokens] log r, of the probabilities of the sampled token.
        advantage: [episodes, tokens] A, without a gradient.
        clip_low: epsilon below 1: where A < 0 the objective is flat once r < 1 - clip_low.
        clip_high: epsilon above 1: where A > 0 it is flat once r > 1 + clip_high; both infinite, this is `unclipped`.

    Source: Schulman et al. 2017, equation 7; N+ table 7 has 0.2 for both.
    """
    ratio = log_ratio.exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip_low, 1 + clip_high))


def policy_clipped(log_ratio: PerToken, advantage: PerToken, clip_low: float, clip_high: float) -> PerToken:
    """1 where the clip of `clipped` decides the loss and stops the gradient, 0 elsewhere; arguments as there."""
    ratio = log_ratio.exp()
    return (-advantage * ratio.clamp(1 - clip_low, 1 + clip_high) > -advantage * ratio).float()


def clipped_weight(logprob: PerToken, log_ratio: PerToken, advantage: PerToken, clip_high: float) -> PerToken:
    """The policy gradient's loss, each token weighted by its ratio, which is clipped and has no gradient of its own.

    -A min(r, 1 + clip_high) log p_new,  r without a gradient

    A token whose ratio is clipped goes on learning, which the clip of `clipped` stops.

    Args:
        logprob: [episodes, tokens] log p_new of the sampled token, in nats.
        log_ratio: [episodes, tokens] log r.
        advantage: [episodes, tokens] A, without a gradient.
        clip_high: how far above 1 a weight may be; nothing holds it from below.

    Source: CISPO (MiniMax 2025, arXiv 2506.13585).
    """
    return -advantage * log_ratio.detach().exp().clamp(max=1 + clip_high) * logprob


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


# logprob, log_ratio, advantage, clip_low, clip_high, beta, by name: each of the losses above takes some
PolicyLoss = Callable[..., Tensor]


@dataclass(frozen=True)
class Objective:
    """What the policy minimises per token; the coefficient of KL(old, new) in it: at first, and after an update."""

    loss: PolicyLoss
    beta: float = 0.0
    adapt: Callable[[float, float], float] = fixed_beta


# ---------------------------------------------------------------------------------------------- the critic


def value_loss(
    value: PerToken, clipped_value: PerToken, returns: PerToken, penalty: Callable[[PerToken], PerToken]
) -> PerToken:
    """The larger loss of the value and its clipped twin.

    max(l(V - G), l(V_clip - G))

    Args:
        value: [episodes, tokens] V, the critic's as it is now.
        clipped_value: [episodes, tokens] V_clip of `clip_value`; V itself leaves the plain loss.
        returns: [episodes, tokens] G, without a gradient.
        penalty: l, of an error: `half_square` or `huber`.

    Source: N+ code (`vf_losses1`, `vf_losses2`) and OpenAI's baselines; in no equation of Schulman et al. 2017.
    """
    return torch.maximum(penalty(value - returns), penalty(clipped_value - returns))


def half_square(error: PerToken) -> PerToken:
    """Half the squared error.

    x^2 / 2

    Args:
        error: [episodes, tokens] x.

    Source: N+ code.
    """
    return 0.5 * error**2


def huber(error: PerToken, limit: float) -> PerToken:
    """Half the squared error, and from a limit on a straight line: far errors pull no harder than near ones.

    x^2 / 2 where |x| <= d,  d (|x| - d / 2) elsewhere

    Args:
        error: [episodes, tokens] x.
        limit: d, in the unit of the values; infinite, this is `half_square`.

    Source: Andrychowicz et al. 2020, arXiv 2006.05990.
    """
    size = error.abs()
    inside = size.clamp(max=limit)
    return inside * (size - 0.5 * inside)


def value_clipped(value: PerToken, clipped_value: PerToken, returns: PerToken) -> PerToken:
    """1 where the clipped value decides `value_loss`, 0 elsewhere; arguments as there."""
    return ((clipped_value - returns) ** 2 > (value - returns) ** 2).float()


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

    The micro-batches are rows that follow each other, as in the paper's code, in whichever order a stage runs them.

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


def all_responses(has_eos: EpisodeMask) -> EpisodeMask:
    """Every response counts in the loss, whether it ends or not: true, [episodes].

    Stands where `ended_responses` may; of `has_eos` the shape is read.
    """
    return torch.ones_like(has_eos)


def ended_responses(has_eos: EpisodeMask) -> EpisodeMask:
    """Only responses that end count in the loss: one that was cut off is neither good nor bad.

    Args:
        has_eos: [episodes] whether the response has an end of text.

    Source: DAPO (Yu et al. 2025, arXiv 2503.14476: overlong filtering).
    """
    return has_eos


# ---------------------------------------------------------------------------------------------- other terms


def no_imitation(logprob: PerToken, advantage: PerToken, mask: TokenMask) -> PerToken:
    """0 at every token: the policy learns from its advantages alone.

    Stands where `imitate_good_responses` may; of `logprob` the shape is read, `advantage` and `mask` are not read.
    """
    return torch.zeros_like(logprob)


def imitate_good_responses(logprob: PerToken, advantage: PerToken, mask: TokenMask, coefficient: float) -> PerToken:
    """The negative log-likelihood of the policy's own good responses, times a coefficient: to be added to the loss.

    -c log p  where the mean advantage of the response's tokens is positive

    Args:
        logprob: [episodes, tokens] log p of the sampled token, in nats.
        advantage: [episodes, tokens] without a gradient.
        mask: [episodes, tokens] the tokens that count.
        coefficient: c.

    Source: VAPO (Yue et al. 2025, arXiv 2504.05118). Departure: theirs are responses whose answer was verified, and their mean
    is over the tokens of those alone; here it is over all tokens of the step, so that c counts as c times the share of tokens
    in good responses.
    """
    good = masked.keep(advantage, mask).sum(1, keepdim=True) > 0
    return -coefficient * masked.keep(logprob, mask & good)


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
