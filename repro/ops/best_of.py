"""The best of n samples by a reward model: its expected value, and its KL to one sample, both from N >= n samples.

The samples of a post are drawn once. Every subset of n of them is a draw of best-of-n, and all subsets are averaged in closed
form: the estimate is unbiased and needs no random numbers of its own.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repro.ops import reward

Samples = Float[Tensor, "posts samples"]
PerPost = Float[Tensor, " posts"]
# Nats: e to this is near the smallest number of float64, and log((1 - (1 - p)^n) / p) is log n long before.
LEAST = -600.0
SMALLEST = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Selection:
    """How many samples the reward model chooses from, and the score at which it takes one that does not end."""

    samples: int
    no_eos_score: float = reward.NO_EOS_SCORE


ONE_SAMPLE = Selection(1)


def rank_weights(samples: int, n: int) -> Float[Tensor, " samples"]:
    """The probability that the best of n samples, drawn without replacement, is the one of each rank.

    w_i = C(i - 1, n - 1) / C(N, n)

    Args:
        samples: N.
        n: samples drawn, from 1 to N.

    Rank 1 has the lowest score: the other n - 1 samples come from the i - 1 below. Source: Nakano et al. 2021 (WebGPT), whose
    estimator Hilton and Gao, "Measuring Goodhart's law" (2022), write out.
    """
    subsets = math.comb(samples, n)
    weights = [math.comb(rank, n - 1) / subsets for rank in range(samples)]
    return torch.tensor(weights, dtype=torch.float64)


def best_of_n(value: Samples, score: Samples, n: int) -> PerPost:
    """The expected value of the sample that scores highest among n.

    sum_i w_i v_(i),  v_(i) the value of the sample whose score has rank i

    Args:
        value: [posts, samples] v: the score itself, or what it stands for, in any unit.
        score: [posts, samples] the reward model's; a NaN of a post makes that post's expectation NaN.
        n: samples drawn, from 1 to the number that there are.

    Samples that tie count alike, as if one of them were taken at random. Source: `rank_weights`.
    """
    ranked, order = score.double().sort(1)
    values = _mean_of_ties(value.double().gather(1, order), ranked)
    return torch.where(score.isnan().any(1), torch.nan, values @ rank_weights(score.shape[1], n))


def _mean_of_ties(values: Samples, ranked: Samples) -> Samples:
    """The values with each one replaced by the mean of those whose scores, in ascending order, equal its own."""
    first = torch.ones_like(ranked[:, :1], dtype=torch.bool)
    group = torch.cat([first, ranked[:, 1:] != ranked[:, :-1]], 1).cumsum(1) - 1
    sums, counts = (torch.zeros_like(values).scatter_add(1, group, each) for each in (values, torch.ones_like(values)))
    return (sums / counts.clamp(min=1)).gather(1, group)


def best_of_n_kl_where_samples_repeat(logprob: Samples, score: Samples, n: int) -> PerPost:
    """No less than KL(best of n samples, one sample), in nats, where the same sample may be drawn again.

    min(log n - (n - 1) / n,  sum_i w_i log((1 - (1 - p_(i))^n) / p_(i)))

    Args:
        logprob: [posts, samples] log p of each sample as a whole under the policy that drew it, in nats.
        score: [posts, samples] the reward model's.
        n: samples drawn, from 1 to the number that there are.

    Best-of-n gives a sample the probability F^n - (F - p)^n, where F is the probability of scoring as high or lower; that
    grows with F, and F is at most 1. So the log-ratio to p is at most log((1 - (1 - p)^n) / p), whichever samples score higher.
    Source: the first term is `reward.best_of_n_kl`, of which Beirami et al. 2024 (arXiv 2401.01879) show that it is a bound
    and no more; the second is derived here.
    """
    exact = logprob.double().clamp(max=0.0)
    drawn = -torch.expm1(n * torch.log1p(-exact.exp()))  # 1 - (1 - p)^n
    bound = torch.where(exact < LEAST, math.log(n), drawn.clamp(min=SMALLEST).log() - exact)
    return best_of_n(bound, score, n).clamp(max=reward.best_of_n_kl(n))
