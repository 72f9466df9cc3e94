"""What the return of a response is compared with in the place of a critic's values, and which groups of responses count.

Each baseline gives every token of a response the same advantage, the response's return less the baseline: mask it before use,
since what stands after a response's end gets it too. All inputs are 0 past the terminal state, as in `advantage`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.ops import masked
from repro.ops.advantage import Estimate, reward_to_go
from repro.ops.masked import Reduce, one_rank
from repro.types import EpisodeMask, PerEpisode, PerToken, Scalar


def critics_advantage(advantage: PerToken, returns: PerToken) -> Estimate:
    """The advantage stays the one that was estimated with the critic.

    Args:
        advantage: [episodes, tokens].
        returns: [episodes, tokens] that the critic is drawn towards.

    Source: N+ section 7.
    """
    return advantage, returns


def leave_one_out(reward: PerToken, gamma: float, responses: int) -> Estimate:
    """The baseline of a response is the mean return of the other responses to its query.

    A_i = R_i - sum_{j != i} R_j / (k - 1),  R_i = sum_t gamma^t r_t

    Args:
        reward: [episodes, tokens] r_t; the KL penalty in it is summed into R_i.
        gamma: discount per token.
        responses: k to each query, at least 2; episodes i, i + n, i + 2 n, ... answer query i, where n = episodes / k.

    Source: RLOO (Ahmadian et al. 2024, arXiv 2402.14740).
    """
    total = _totals(reward, gamma, responses)
    others = (total.sum(0) - total) / (responses - 1)
    return _on_every_token(total - others, reward, gamma)


def group_mean(reward: PerToken, gamma: float, responses: int) -> Estimate:
    """The baseline of a response is the mean return of all responses to its query, its own among them.

    A_i = R_i - sum_j R_j / k,  which is (k - 1) / k times `leave_one_out`

    Arguments as in `leave_one_out`: episodes i and i + episodes / k answer the same query. Source: Dr. GRPO (Liu et al. 2025,
    arXiv 2503.20783).
    """
    total = _totals(reward, gamma, responses)
    return _on_every_token(total - total.mean(0), reward, gamma)


def group_standardised(reward: PerToken, gamma: float, responses: int) -> Estimate:
    """`group_mean` in units of the spread among the responses to the query, so that every query weighs alike.

    A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-4),  std with Bessel's correction

    Arguments as in `leave_one_out`: episodes i and i + episodes / k answer the same query. Source: GRPO (Shao et al. 2024,
    arXiv 2402.03300). Departure: 1e-4 and the correction are TRL's.
    """
    total = _totals(reward, gamma, responses)
    return _on_every_token((total - total.mean(0)) / (total.std(0) + 1e-4), reward, gamma)


def batch_mean(reward: PerToken, gamma: float, reduce: Reduce = one_rank) -> Estimate:
    """The baseline of a response is the mean return of the batch.

    A_i = R_i - mean_j R_j  over all episodes of all ranks

    Args:
        reward: [episodes, tokens] r_t.
        gamma: discount per token.
        reduce: sums over ranks.

    Source: Williams 1992 (a reinforcement baseline).
    """
    total = _totals(reward, gamma, 1)
    return _on_every_token(total - masked.mean(total, torch.ones_like(total, dtype=torch.bool), reduce), reward, gamma)


def moving_average(reward: PerToken, gamma: float, mean_return: float, reduce: Reduce = one_rank) -> Estimate:
    """The baseline of a response is the average return of the batches before its own, weighted towards recent ones.

    A_i = R_i - b,  b of `next_moving_average`; in the first batch `batch_mean`

    A constant return has no advantage, in any batch.

    Args:
        reward: [episodes, tokens] r_t.
        gamma: discount per token.
        mean_return: b; NaN before the first batch, whose own mean stands in.
        reduce: sums over ranks.

    Source: Williams 1992 (reinforcement comparison); RLOO (Ahmadian et al. 2024, arXiv 2402.14740) has the plain mean of
    all batches so far.
    """
    if math.isnan(mean_return):
        return batch_mean(reward, gamma, reduce)
    total = _totals(reward, gamma, 1)
    return _on_every_token(total - mean_return, reward, gamma)


def greedy_response(reward: PerToken, gamma: float, greedy_return: Callable[[], PerEpisode]) -> Estimate:
    """The baseline of a response is the return of the likeliest response to its query.

    A_i = R_i - R_greedy(i)

    Where the policy is deterministic every response is the greedy one, and no advantage is left.

    Args:
        reward: [episodes, tokens] r_t.
        gamma: discount per token.
        greedy_return: samples the greedy responses and gives their returns, [episodes]; a pass made only where it is asked
            for. Their KL penalty is in them, as it is in R_i.

    Source: ReMax (Li et al. 2023, arXiv 2310.10505, algorithm 1). Departure: its baseline is the greedy response's score,
    without a KL penalty.
    """
    total = _totals(reward, gamma, 1)
    return _on_every_token(total - greedy_return(), reward, gamma)


def group_spreads(reward: PerToken, gamma: float, responses: int, reduce: Reduce = one_rank) -> tuple[Scalar, Scalar]:
    """Standard deviations of the returns: among the responses to a query, and of their means over the queries.

    sqrt(mean_q var_j R_qj),  sqrt(var_q mean_j R_qj),  both variances with Bessel's correction

    Args:
        reward: [episodes, tokens] r_t.
        gamma: discount per token.
        responses: to each query, at least 2; episodes i and i + episodes / responses answer the same one.
        reduce: sums over ranks, each of which has whole groups.

    Source: the one-way analysis of variance (Fisher 1925). The second holds 1 / responses of the first one's variance, too.
    """
    total = _totals(reward, gamma, responses)
    every = torch.ones_like(total[0], dtype=torch.bool)
    _, between = masked.moments(total.mean(0), every, reduce, correction=1)
    return masked.mean(total.var(0), every, reduce).sqrt(), between.sqrt()


def _totals(reward: PerToken, gamma: float, responses: int) -> Tensor:
    """[responses, queries] R, the discounted sum of each response's rewards; a row has one response to each query."""
    return reward_to_go(reward, gamma)[1][:, 0].view(responses, -1)


def _on_every_token(advantage: Tensor, reward: PerToken, gamma: float) -> Estimate:
    """[responses, queries] -> the same advantage on every token of a response, and the returns."""
    return advantage.reshape(-1, 1).expand_as(reward).clone(), reward_to_go(reward, gamma)[1]


def every_group(score: PerEpisode, responses: int) -> EpisodeMask:
    """Every group of responses to a query counts in the policy's loss, whatever their scores: true, [episodes].

    Stands where `groups_that_differ` may; of `score` the shape is read, `responses` is not read.
    """
    return torch.ones_like(score, dtype=torch.bool)


def groups_that_differ(score: PerEpisode, responses: int) -> EpisodeMask:
    """Only queries whose responses differ in score count: from equal ones nothing is learnt about which is better.

    true where s_j != s_i for a response j to the same query as i; for every episode where a query has one response only

    Args:
        score: [episodes] s, after the rule for responses without an end.
        responses: to each query; episodes i and i + episodes / responses answer the same one.

    Source: DAPO (Yu et al. 2025, arXiv 2503.14476: dynamic sampling). Departure: DAPO samples more queries until the batch
    is full of groups that differ; here the sampling budget is fixed, and the update has fewer episodes.
    """
    group = score.view(responses, -1)
    differs = (group != group[:1]).any(0) | (responses == 1)
    return differs.repeat(responses)


def as_many_as_chosen(responses: int) -> int:
    """As many responses to a query as the recipe says: `responses`."""
    return responses


def at_least_two(responses: int, otherwise: int) -> int:
    """As many `responses` to a query as the recipe says, and `otherwise` where it says one: a group has others in it."""
    return responses if responses > 1 else otherwise


def no_average(average: float, of_batch: Callable[[], float]) -> float:
    """The moving average of a baseline that has none, as it was: `average`.

    Stands where `next_moving_average` may; `of_batch` is not read.
    """
    return average


def next_moving_average(average: float, of_batch: Callable[[], float], decay: float) -> float:
    """The moving average of batches' mean returns after one more batch.

    b' = decay b + (1 - decay) m;  m after the first batch

    Args:
        average: b; NaN before the first batch.
        of_batch: computes m, the batch's mean return; called only where it is asked for.
        decay: between 0 and 1: at 0.9 a batch counts half as much seven batches later.

    Source: Williams 1992 (reinforcement comparison).
    """
    mean = of_batch()
    return mean if math.isnan(average) else decay * average + (1 - decay) * mean


@dataclass(frozen=True)
class Baseline:
    """What a return is compared with: the estimate, how many responses to a query it takes, and whose values it needs.

    `estimate` takes advantage, returns, reward, gamma, responses, mean_return, greedy_return and reduce by name, or some of
    them. `critic` maps a function that constructs the critic to the critic. `follow` maps the moving average of returns and a
    function that computes this batch's mean to the next average.
    """

    estimate: Callable[..., Estimate]
    critic: Callable
    responses: Callable[[int], int] = as_many_as_chosen
    follow: Callable[[float, Callable[[], float]], float] = no_average
