"""How much better than expected each token turned out."""

import torch
from torch import Tensor


def gae(reward: Tensor, value: Tensor, gamma: float, lam: float) -> Tensor:
    """[B, R], [B, R] -> [B, R]: generalised advantage estimation (Schulman et al. 2016, equation 16).

    A_t = sum_l (gamma lam)^l delta_{t+l} with delta_t = r_t + gamma V_{t+1} - V_t. Both inputs are 0 past the terminal
    state, and so is the result; lam 1 is the Monte-Carlo return less the value, lam 0 the one-step error.
    """
    advantage = torch.zeros_like(reward)
    following = torch.zeros_like(reward[:, 0])
    for t in reversed(range(reward.shape[1])):
        next_value = value[:, t + 1] if t + 1 < reward.shape[1] else torch.zeros_like(following)
        following = reward[:, t] + gamma * next_value - value[:, t] + gamma * lam * following
        advantage[:, t] = following
    return advantage


Estimate = tuple[Tensor, Tensor]  # the advantage, and what the critic is drawn towards


def from_gae(reward: Tensor, value: Tensor, gamma: float, lam: float) -> Estimate:
    """`gae`, and the returns that it implies: advantage + value."""
    advantage = gae(reward, value, gamma, lam)
    return advantage, advantage + value


def n_step(reward: Tensor, value: Tensor, gamma: float, lam: float, steps: int) -> Estimate:
    """A_t = sum_{l < n} gamma^l r_{t+l} + gamma^n V_{t+n} - V_t (Mnih et al. 2016, section 4); `lam` is not used.

    One step is GAE with lam 0, as many steps as there are tokens is GAE with lam 1.
    """
    returns = gamma**steps * _later(value, steps)
    for step in range(steps):
        returns = returns + gamma**step * _later(reward, step)
    return returns - value, returns


def reward_to_go(reward: Tensor, value: Tensor, gamma: float, lam: float) -> Estimate:
    """The discounted rewards from t on, without a critic's baseline (REINFORCE); `lam` is not used."""
    returns = gae(reward, torch.zeros_like(value), gamma, 1.0)
    return returns, returns


def whole_return(reward: Tensor, value: Tensor, gamma: float, lam: float) -> Estimate:
    """Every token is credited with the whole episode's discounted return, what came before it included."""
    returns = gae(reward, torch.zeros_like(value), gamma, 1.0)
    return returns[:, :1].expand_as(returns).clone(), returns


def _later(values: Tensor, steps: int) -> Tensor:
    """[B, R] -> [B, R]: what stands `steps` to the right, 0 past the end."""
    shifted = torch.zeros_like(values)
    shifted[:, : max(values.shape[1] - steps, 0)] = values[:, steps:]
    return shifted
