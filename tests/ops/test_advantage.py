"""Generalised advantage estimation: a short episode by hand, and the published special cases."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.ops.advantage import gae


@st.composite
def episode(draw):
    length = draw(st.integers(1, 6))
    numbers = st.lists(st.floats(-3, 3, width=32), min_size=length, max_size=length)
    return torch.tensor([draw(numbers)]), torch.tensor([draw(numbers)])


def test_an_episode_of_three_tokens_worked_by_hand():
    # gamma 0.9, lambda 0.5, so that gamma * lambda = 0.45.
    # delta_2 = 2 - 1              = 1      A_2 = 1
    # delta_1 = -1 + 0.9 * 1 - 3   = -3.1   A_1 = -3.1 + 0.45 * 1      = -2.65
    # delta_0 = 0 + 0.9 * 3 - 2    = 0.7    A_0 = 0.7 + 0.45 * (-2.65) = -0.4925
    got = gae(torch.tensor([[0.0, -1.0, 2.0]]), torch.tensor([[2.0, 3.0, 1.0]]), gamma=0.9, lam=0.5)
    torch.testing.assert_close(got, torch.tensor([[-0.4925, -2.65, 1.0]]))


@given(episode(), st.sampled_from([1.0, 0.9]))
def test_lambda_1_is_the_monte_carlo_return_less_the_value(case, gamma):
    reward, value = case
    length = reward.shape[1]
    returns = [sum(gamma ** (later - t) * reward[0, later] for later in range(t, length)) for t in range(length)]
    torch.testing.assert_close(gae(reward, value, gamma, 1.0)[0], torch.stack(returns) - value[0], atol=1e-4, rtol=1e-4)


@given(episode(), st.sampled_from([1.0, 0.9]))
def test_lambda_0_is_the_one_step_error(case, gamma):
    reward, value = case
    following = torch.cat([value[:, 1:], torch.zeros(1, 1)], 1)
    torch.testing.assert_close(gae(reward, value, gamma, 0.0), reward + gamma * following - value, atol=1e-5, rtol=1e-5)


@given(episode())
def test_gamma_0_looks_no_further_than_the_token(case):
    reward, value = case
    torch.testing.assert_close(gae(reward, value, 0.0, 0.95), reward - value)


@given(episode(), st.floats(0, 1), st.floats(0, 1))
def test_a_critic_that_knows_the_return_leaves_no_advantage(case, gamma, lam):
    reward, _ = case
    value = gae(reward, torch.zeros_like(reward), gamma, 1.0)
    assert gae(reward, value, gamma, lam).abs().max() < 1e-4


def test_episodes_do_not_touch_each_other():
    reward, value = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    rows = [gae(reward[[row]], value[[row]], 1.0, 0.95) for row in range(3)]
    torch.testing.assert_close(gae(reward, value, 1.0, 0.95), torch.cat(rows))


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_past_the_terminal_state_nothing_is_left(lam):
    reward, value = torch.tensor([[1.0, 2.0, 0.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0, 0.0]])
    padded = gae(reward, value, 0.9, lam)
    assert (padded[:, 2:] == 0).all()
    torch.testing.assert_close(padded[:, :2], gae(reward[:, :2], value[:, :2], 0.9, lam))
