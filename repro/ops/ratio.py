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

    Of responses of one token it is `per_token`. Source: GSPO (Zheng et al. 2025, arXiv 2507.18071).
    """
    lengths = mask.sum(1, keepdim=True).clamp(min=1)
    return masked.keep((masked.keep(log_ratio, mask).sum(1, keepdim=True) / lengths).expand_as(log_ratio), mask)


def product_of_response(log_ratio: PerToken, mask: TokenMask) -> PerToken:
    """One ratio for all tokens of a response: that of the whole response's probabilities.

    log s = sum_t log r_t

    Arguments as in `mean_of_response`. Of responses of one token it is `per_token`. Source: RLOO (Ahmadian et al. 2024, arXiv
    2402.14740: the response as one action).
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


def as_chosen(clip_low: float, clip_high: float) -> tuple[float, float]:
    """The range that the recipe chose.

    Args:
        clip_low: how far below 1 a ratio may go.
        clip_high: how far above 1.
    """
    return clip_low, clip_high


def of_its_own(clip_low: float, clip_high: float, widths: tuple[float, float]) -> tuple[float, float]:
    """A range for a ratio that moves less than a token's.

    Args:
        clip_low: what the recipe chose.
        clip_high: what the recipe chose.
        widths: how far below and above 1 a ratio may go.

    `clip_low` and `clip_high` are not read.
    """
    return widths


@dataclass(frozen=True)
class Level:
    """Whose ratio the objective has, and the widths of the clip below and above 1 that are in proportion to it."""

    log_ratio: Callable[[PerToken, TokenMask], PerToken]
    clip: Callable[[float, float], tuple[float, float]] = as_chosen


def unbounded(loss: PerToken, advantage: PerToken) -> PerToken:
    """The loss as the objective has it: of a negative advantage it grows with the ratio, without end.

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


def uncorrected(gap: PerToken) -> PerToken:
    """Every token weighs 1, whatever the sampler thought of it.

    Stands where `truncated_weight` may; of `gap` the shape is read.
    """
    return torch.ones_like(gap)


def truncated_weight(gap: PerToken, limit: float) -> PerToken:
    """How much likelier a token was under the trainer's policy than under the sampler's, at most a limit.

    min(exp(log p_old - log p_sampler), c)

    Args:
        gap: [episodes, tokens] log p_old - log p_sampler of the sampled token, without a gradient.
        limit: c; 1 is reached where sampler and trainer agree.

    Source: truncated importance sampling (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training"); Qi et al. 2025, arXiv 2510.26788.
    """
    return gap.exp().clamp(max=limit)


def masked_weight(gap: PerToken, limit: float) -> PerToken:
    """1 where trainer and sampler agree to a factor, 0 where they do not.

    1 where 1 / c <= exp(log p_old - log p_sampler) <= c,  0 elsewhere

    Arguments as in `truncated_weight`. Source: IcePop (2025); Qi et al. 2025, arXiv 2510.26788.
    """
    return (gap.abs() <= math.log(limit)).to(gap.dtype)
