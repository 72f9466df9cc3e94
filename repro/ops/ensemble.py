"""One score from those of several reward models, which were trained alike with other random numbers."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from repro.types import PerEpisode

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
