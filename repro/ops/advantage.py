"""The advantage of every token, and the return that the critic is drawn towards.

All inputs are 0 past the terminal state (`masked.keep`); there a NaN would spread to earlier tokens, and these functions take
no mask. Returns are 0 there too. So are advantages, but those of `whole_return` and of baselines without a critic, which are
the same in every column of a response: mask them before use.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.ops import masked
from repro.ops.masked import Reduce, one_rank
from repro.types import EpisodeMask, PerEpisode, PerToken, Scalar

Estimate = tuple[PerToken, PerToken]  # the advantage, and the return


def gae(reward: PerToken, value: PerToken, gamma: float, lam: float | PerEpisode) -> PerToken:
    """Generalised advantage estimation.

    A_t = sum_{l >= 0} (gamma lam)^l delta_{t+l},  delta_t = r_t + gamma V_{t+1} - V_t,  V = 0 past the last column

    Args:
        reward: [episodes, tokens] r_t, paid for token t.
        value: [episodes, tokens] V_t, the critic's for the state before token t.
        gamma: discount of a reward that comes one token later.
        lam: 1 is the Monte-Carlo return less the value, 0 the one-step temporal difference; a number, or [episodes].

    Source: Schulman et al. 2016, equation 16; N+ table 7 has gamma 1 and lambda 0.95.
    """
    advantage = torch.zeros_like(reward)
    following = torch.zeros_like(reward[:, 0])
    for t in reversed(range(reward.shape[1])):
        next_value = value[:, t + 1] if t + 1 < reward.shape[1] else torch.zeros_like(following)
        following = reward[:, t] + gamma * next_value - value[:, t] + gamma * lam * following
        advantage[:, t] = following
    return advantage


def from_gae(reward: PerToken, value: PerToken, gamma: float, lam: float | PerEpisode) -> Estimate:
    """The advantage by `gae`, and the return that it implies, the TD(lambda) return.

    G_t = A_t + V_t

    Arguments as in `gae`. Source: N+ code, `returns = advantages + values`.
    """
    advantage = gae(reward, value, gamma, lam)
    return advantage, advantage + value


def n_step(reward: PerToken, value: PerToken, gamma: float, steps: int) -> Estimate:
    """The advantage and return of `steps` rewards, and the critic's value from there on.

    G_t = sum_{l < n} gamma^l r_{t+l} + gamma^n V_{t+n},  A_t = G_t - V_t

    One step is `gae` with lam 0; as many steps as there are tokens, or more, are `gae` with lam 1.

    Args:
        reward: [episodes, tokens] r_t.
        value: [episodes, tokens] V_t.
        gamma: discount per token.
        steps: n, at least 1.

    Source: Mnih et al. 2016, section 4.
    """
    returns = gamma**steps * _shift_left(value, steps)
    for step in range(steps):
        returns = returns + gamma**step * _shift_left(reward, step)
    return returns - value, returns


def reward_to_go(reward: PerToken, gamma: float) -> Estimate:
    """The discounted rewards from each token on, as advantage and as return: no critic's baseline.

    A_t = G_t = sum_{l >= 0} gamma^l r_{t+l}

    Args:
        reward: [episodes, tokens] r_t.
        gamma: discount per token.

    Whitened over the batch it is the advantage of REINFORCE++ (Hu 2025, arXiv 2501.03262).

    Source: Sutton and Barto 2018, section 13.3 (REINFORCE). Departure: without their gamma^t before the gradient.
    """
    returns = gae(reward, torch.zeros_like(reward), gamma, 1.0)
    return returns, returns


def whole_return(reward: PerToken, gamma: float) -> Estimate:
    """Every token is credited with the whole episode's return, what was paid before it included; no baseline.

    A_t = G_0,  G_t = sum_{l >= 0} gamma^l r_{t+l}

    Args:
        reward: [episodes, tokens] r_t.
        gamma: discount per token.

    Source: Williams 1992 (REINFORCE), the whole response as one action, as in Ahmadian et al. 2024 (arXiv 2402.14740).
    Departure: what stands after an episode's end gets G_0 too; the weights of the loss are 0 there.
    """
    returns = gae(reward, torch.zeros_like(reward), gamma, 1.0)
    return returns[:, :1].expand_as(returns).clone(), returns


# ---------------------------------------------------------------------------------------------- baselines without a critic
#
# Each gives every token of a response the same advantage: the response's return less a baseline. Responses to the same query
# are `episodes / responses` rows apart, so row i of the view [responses, queries] has one response to each query.


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
        responses: k, at least 2.

    Source: RLOO (Ahmadian et al. 2024, arXiv 2402.14740).
    """
    total = _totals(reward, gamma, responses)
    others = (total.sum(0) - total) / (responses - 1)
    return _on_every_token(total - others, reward, gamma)


def group_mean(reward: PerToken, gamma: float, responses: int) -> Estimate:
    """The baseline of a response is the mean return of all responses to its query, its own among them.

    A_i = R_i - sum_j R_j / k,  which is (k - 1) / k times `leave_one_out`

    Arguments as in `leave_one_out`. Source: Dr. GRPO (Liu et al. 2025, arXiv 2503.20783).
    """
    total = _totals(reward, gamma, responses)
    return _on_every_token(total - total.mean(0), reward, gamma)


def group_standardised(reward: PerToken, gamma: float, responses: int) -> Estimate:
    """`group_mean` in units of the spread among the responses to the query, so that every query weighs alike.

    A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-4),  std with Bessel's correction

    Arguments as in `leave_one_out`. Source: GRPO (Shao et al. 2024, arXiv 2402.03300). Departure: 1e-4 and the
    correction are TRL's.
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
        responses: to each query, at least 2.
        reduce: sums over ranks, each of which has whole groups.

    Source: the one-way analysis of variance (Fisher 1925). The second holds 1 / responses of the first one's variance, too.
    """
    total = _totals(reward, gamma, responses)
    every = torch.ones_like(total[0], dtype=torch.bool)
    _, between = masked.moments(total.mean(0), every, reduce, correction=1)
    return masked.mean(total.var(0), every, reduce).sqrt(), between.sqrt()


def _totals(reward: PerToken, gamma: float, responses: int) -> Tensor:
    """[responses, queries] R, the discounted sum of each response's rewards."""
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
        responses: to each query.

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


# ---------------------------------------------------------------------------------------------- lambda of each


def same_lambda(lam: float, length: PerEpisode) -> float:
    """One lambda for every response.

    Stands where `lambda_by_length` may; `length` is not read. Source: N+ table 7.
    """
    return lam


def lambda_by_length(lam: float, length: PerEpisode, alpha: float) -> PerEpisode:
    """A lambda for each response: the longer, the nearer to 1, so that the score reaches its first tokens.

    lambda = max(1 - 1 / (alpha length), 0)

    Args:
        lam: of the recipe.
        length: [episodes] tokens of each response, its end of text included.
        alpha: at 1 / alpha tokens and below, lambda is 0.

    `lam` is not read. Source: VAPO (Yue et al. 2025, arXiv 2504.05118: 0.05). Departure: their responses have
    thousands of tokens, and need no bound at 0.
    """
    return (1 - 1 / (alpha * length)).clamp(min=0)


def returns_of_policy(reward: PerToken, returns: PerToken, gamma: float) -> PerToken:
    """The critic is drawn towards the returns that its advantages imply.

    Stands where `monte_carlo_returns` may; `reward` and `gamma` are not read. Source: N+ code, `returns = advantages + values`.
    """
    return returns


def monte_carlo_returns(reward: PerToken, returns: PerToken, gamma: float) -> PerToken:
    """The critic is drawn towards what was paid from each token on, whatever lambda the policy has.

    G_t = sum_{l >= 0} gamma^l r_{t+l}

    Args:
        reward: [episodes, tokens] r_t.
        returns: [episodes, tokens] that the advantages imply.
        gamma: discount per token.

    `returns` is not read. `gae` at lambda 1 implies the same.

    Source: VC-PPO (Yuan et al. 2025, arXiv 2503.01491: decoupled GAE).
    """
    return reward_to_go(reward, gamma)[1]


def _shift_left(values: PerToken, steps: int) -> Tensor:
    """What stands `steps` to the right, 0 past the end."""
    shifted = torch.zeros_like(values)
    shifted[:, : max(values.shape[1] - steps, 0)] = values[:, steps:]
    return shifted
