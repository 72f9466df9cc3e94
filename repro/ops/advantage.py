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
