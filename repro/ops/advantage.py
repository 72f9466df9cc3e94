"""The advantage of every token, and the return that the critic is drawn towards.

The terminal state is the place right after a response's last token. All inputs are 0 past it (`masked.keep`); there a NaN would
spread to earlier tokens, and these functions take no mask. Returns are 0 there too. So are advantages, but those of
`whole_return`, which are the same in every column of a response: mask them before use. Baselines without a critic are in
`baseline`.
"""

import torch
from torch import Tensor

from repro.types import PerEpisode, PerToken

Estimate = tuple[PerToken, PerToken]  # the advantage, and the return


def gae(reward: PerToken, value: PerToken, gamma: float, lam: float | PerEpisode) -> PerToken:
    """Generalised advantage estimation.

    A_t = sum_{l >= 0} (gamma lam)^l delta_{t+l},  delta_t = r_t + gamma V_{t+1} - V_t,  V = 0 past the last column

    Args:
        reward: [episodes, tokens] r_t, paid for token t or in the terminal state, the place right after the last token.
        value: [episodes, tokens] V_t, the critic's for the state before token t. The terminal state keeps its own; from two
            places after the last token on values are 0, since what a critic says of padding would reach the response.
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
