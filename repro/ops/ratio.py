"""The ratio of a response's probability under the policy to that when it was sampled: of which unit, and how far it may go."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from repro.ops import masked
from repro.types import PerToken, TokenMask

# ---------------------------------------------------------------------------------------------- whose ratio it is


def per_token(log_ratio: PerToken, mask: TokenMask) -> PerToken:
    """Each token's own ratio.

    Args:
        log_ratio: [episodes, tokens] log r_t = log p_new - log p_old of the sampled token.
        mask: [episodes, tokens] the tokens that count.

    `mask` is not read. Source: Schulman et al. 2017, section 3; N+ section 7.
    """
    return log_ratio


def mean_of_response(log_ratio: PerToken, mask: TokenMask) -> PerToken:
    """One ratio for all tokens of a response: the geometric mean of theirs.

    log s = sum_t log r_t / |response|

    Args:
        log_ratio: [episodes, tokens] log r_t; NaN too where the mask is false.
        mask: [episodes, tokens] the tokens that count.

    Of responses of one token it is `per_token`. Its gradient gives every token of a response the mean of the response's
    advantages: what differs between tokens is lost.

    Source: GSPO (Zheng et al. 2025, arXiv 2507.18071). Departure: there a response has one advantage and the loss is a mean
    over responses (`loss.sequence_mean`); its variant for advantages per token, GSPO-token, is not this.
    """
    lengths = mask.sum(1, keepdim=True).clamp(min=1)
    return masked.keep((masked.keep(log_ratio, mask).sum(1, keepdim=True) / lengths).expand_as(log_ratio), mask)


def product_of_response(log_ratio: PerToken, mask: TokenMask) -> PerToken:
    """One ratio for all tokens of a response: that of the whole response's probabilities.

    log s = sum_t log r_t

    Arguments as in `mean_of_response`, and the gradient too, with the sum of the advantages in the place of their mean.

    Source: RLOO (Ahmadian et al. 2024, arXiv 2402.14740: the response as one action).
    """
    return masked.keep(masked.keep(log_ratio, mask).sum(1, keepdim=True).expand_as(log_ratio), mask)


# ---------------------------------------------------------------------------------------------- how far it may go


def same_above(clip_low: float) -> float:
    """The range above 1 is as wide as the range below it.

    Args:
        clip_low: how far below 1 a ratio may go.

    Source: Schulman et al. 2017, equation 7.
    """
    return clip_low


def wider_above(clip_low: float, clip_high: float) -> float:
    """The range above 1 has a width of its own, so that a token that was unlikely may gain more before the clip stops it.

    Args:
        clip_low: how far below 1.
        clip_high: how far above 1 a ratio may go.

    `clip_low` is not read. Source: DAPO (Yu et al. 2025, arXiv 2503.14476: 0.28 above, 0.2 below).
    """
    return clip_high


@dataclass(frozen=True)
class RatioLevel:
    """The unit whose ratio the objective has, and the clip's widths below and above 1 if the recipe's do not fit it."""

    log_ratio: Callable[[PerToken, TokenMask], PerToken]
    clip: tuple[float, float] | None = None


def unbounded(loss: PerToken, advantage: PerToken) -> PerToken:
    """The loss unchanged: where the advantage is negative it grows with the ratio, without bound.

    Stands where `dual_clip` may; `advantage` is not read.
    """
    return loss


def dual_clip(loss: PerToken, advantage: PerToken, limit: float) -> PerToken:
    """The loss, no larger than a limit where the advantage is negative.

    min(loss, -c A) where A < 0

    Args:
        loss: [episodes, tokens] of the clipped objective.
        advantage: [episodes, tokens] A, without a gradient.
        limit: c > 1, the ratio from which on a bad token has no gradient; infinite, this is `unbounded`.

    Source: Ye et al. 2020, arXiv 1912.09729.
    """
    return torch.where(advantage < 0, torch.minimum(loss, -limit * advantage), loss)


# ---------------------------------------------------------------------------------------------- another sampler than trainer


def uncorrected(log_weight: PerToken) -> PerToken:
    """Every token weighs 1, whatever the sampler thought of it.

    Stands where `truncated_weight` may; of `log_weight` the shape is read.
    """
    return torch.ones_like(log_weight)


def truncated_weight(log_weight: PerToken, limit: float) -> PerToken:
    """The importance weight of a token that another policy than the trainer's sampled, at most a limit.

    min(w, c),  w = exp(log p_old - log p_sampler)

    Args:
        log_weight: [episodes, tokens] log w of the sampled token, without a gradient.
        limit: c; w is 1 where sampler and trainer agree.

    Source: truncated importance sampling (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training"); Qi et al. 2025, arXiv 2510.26788.
    """
    return log_weight.exp().clamp(max=limit)


def masked_weight(log_weight: PerToken, limit: float) -> PerToken:
    """The importance weight where trainer and sampler agree to a factor, 0 where they do not.

    w where 1 / c <= w <= c,  0 elsewhere

    Arguments as in `truncated_weight`. Source: IcePop (2025); Qi et al. 2025, arXiv 2510.26788. Departure: one factor for
    both sides, where IcePop's band is from 0.5 to 5.
    """
    return torch.where(log_weight.abs() <= math.log(limit), log_weight.exp(), 0.0)
