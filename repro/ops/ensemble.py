"""One score from those of several reward models, which were trained alike with other random numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from repro.types import PerEpisode, Scalar

MemberScores = Float[Tensor, "members episodes"]
VARIANCE_WEIGHT = 0.5


@dataclass(frozen=True)
class Ensemble:
    """How many reward models score a response, and how their scores become one."""

    size: int
    combine: Callable[[MemberScores], PerEpisode]


def mean(scores: MemberScores) -> PerEpisode:
    """The members' mean score.

    Args:
        scores: [members, episodes] in each member's own unit, centred alike.

    Source: Coste et al. 2023, arXiv 2310.02743.
    """
    return scores.mean(0)


def lowest(scores: MemberScores) -> PerEpisode:
    """The score of the member that likes the response least: what one of them sees counts.

    Arguments as in `mean`. Source: worst-case optimisation in Coste et al. 2023.
    """
    return scores.amin(0)


def mean_minus_variance(scores: MemberScores, weight: float = VARIANCE_WEIGHT) -> PerEpisode:
    """The mean score, less the members' variance times a weight: where they disagree, none is believed.

    mean_i s_i - weight mean_i (s_i - mean_j s_j)^2

    Args:
        scores: [members, episodes] s.
        weight: per point of score.

    Source: uncertainty-weighted optimisation in Coste et al. 2023.
    """
    return scores.mean(0) - weight * scores.var(0, correction=0)


def spread(scores: MemberScores) -> Scalar:
    """How far apart the members score one response: their standard deviation, each centred on its own mean.

    sqrt(mean_e var_i (s_ie - mean_f s_if)), the variance with Bessel's correction

    Args:
        scores: [members, episodes] s, in points of score; at least 2 members.

    Source: the within-group part of a one-way analysis of variance (Fisher 1925).
    """
    centred = scores.double() - scores.double().mean(1, keepdim=True)
    return centred.var(0).mean().sqrt()


def rank_correlation(scores: MemberScores) -> Scalar:
    """How alike the members rank the episodes: Spearman's correlation of two of them, mean over all pairs.

    Args:
        scores: [members, episodes] s; at least 2 members. Episodes of one score share the mean of their ranks.

    NaN where a member gives every episode the same score.
    """
    ranked = [_ranks(member) for member in scores]
    return torch.stack([correlation(one, other) for one, other in combinations(ranked, 2)]).mean()


def correlation(one: PerEpisode, other: PerEpisode) -> Scalar:
    """Pearson's correlation of two scores of the same episodes.

    sum_e (a_e - mean a)(b_e - mean b) / sqrt(sum_e (a_e - mean a)^2 sum_e (b_e - mean b)^2)

    Args:
        one: [episodes] a.
        other: [episodes] b.

    NaN where either gives every episode the same score.
    """
    return torch.corrcoef(torch.stack([one, other]).double())[0, 1]


def _ranks(values: PerEpisode) -> Tensor:
    """[episodes] places from the lowest value on, the first 1; equal values share the mean of theirs."""
    below, equal = values[:, None] > values, values[:, None] == values
    return below.sum(1) + (equal.sum(1) + 1) / 2
