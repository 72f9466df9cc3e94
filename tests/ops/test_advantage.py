"""Generalised advantage estimation: a short episode by hand, and the published special cases."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.details import ADVANTAGE
from repro.ops.advantage import (
    from_gae,
    gae,
    lambda_by_length,
    monte_carlo_returns,
    n_step,
    returns_of_policy,
    reward_to_go,
    same_lambda,
    whole_return,
)


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


# ----------------------------------------------------------------------------- other estimates

REWARD, VALUE = torch.tensor([[1.0, -1.0, 2.0]]), torch.tensor([[2.0, 3.0, 1.0]])


def test_two_steps_and_then_the_critic_worked_by_hand():
    # gamma 0.5.  G_0 = 1 + 0.5 * (-1) + 0.25 * 1 = 0.75;  G_1 = -1 + 0.5 * 2 = 0;  G_2 = 2.  A = G - V.
    got, returns = n_step(REWARD, VALUE, gamma=0.5, steps=2)
    torch.testing.assert_close(returns, torch.tensor([[0.75, 0.0, 2.0]]))
    torch.testing.assert_close(got, torch.tensor([[-1.25, -3.0, 1.0]]))


def test_rewards_without_a_critic_worked_by_hand():
    # gamma 0.5.  G_2 = 2;  G_1 = -1 + 0.5 * 2 = 0;  G_0 = 1 + 0.5 * 0 = 1.
    to_go = torch.tensor([[1.0, 0.0, 2.0]])
    for got in reward_to_go(REWARD, gamma=0.5):
        torch.testing.assert_close(got, to_go)
    got, returns = whole_return(REWARD, gamma=0.5)
    torch.testing.assert_close(got, torch.ones(1, 3))
    torch.testing.assert_close(returns, to_go)


@given(episode(), st.sampled_from([1.0, 0.9]))
def test_one_step_is_lambda_0(case, gamma):
    reward, value = case
    got, returns = n_step(reward, value, gamma, steps=1)
    torch.testing.assert_close(got, gae(reward, value, gamma, 0.0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(returns, got + value, atol=1e-5, rtol=1e-5)


@given(episode(), st.sampled_from([1.0, 0.9]), st.integers(0, 3))
def test_as_many_steps_as_there_are_tokens_or_more_are_lambda_1(case, gamma, more):
    reward, value = case
    got, _ = n_step(reward, value, gamma, steps=reward.shape[1] + more)
    torch.testing.assert_close(got, gae(reward, value, gamma, 1.0), atol=1e-4, rtol=1e-4)


@given(episode(), st.sampled_from([1.0, 0.9]))
def test_without_a_critic_the_reward_to_go_is_lambda_1_of_a_critic_that_says_zero(case, gamma):
    reward, value = case
    got, _ = reward_to_go(reward, gamma)
    torch.testing.assert_close(got, gae(reward, torch.zeros_like(value), gamma, 1.0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got, torch.as_tensor([discounted(reward[0].tolist(), gamma)]), atol=1e-4, rtol=1e-4)


def discounted(rewards, gamma):
    return [sum(gamma**later * r for later, r in enumerate(rewards[t:])) for t in range(len(rewards))]


@given(episode())
def test_what_gae_returns_is_its_advantage_and_the_value(case):
    reward, value = case
    got, returns = from_gae(reward, value, 0.9, 0.95)
    assert torch.equal(got, gae(reward, value, 0.9, 0.95))
    torch.testing.assert_close(returns - value, got, atol=1e-5, rtol=1e-5)


def test_no_estimate_touches_what_it_was_given():
    for variant in ADVANTAGE.variants.values():
        advantage, _ = variant.value(reward=REWARD, value=VALUE, gamma=1.0, lam=0.95)
        advantage += 1.0
    assert (REWARD.tolist(), VALUE.tolist()) == ([[1, -1, 2]], [[2, 3, 1]])


# ----------------------------------------------------------------------------- lambda of each response, and of the critic


def test_lambda_grows_with_the_length_and_is_never_negative():
    # alpha 0.5: 1 - 1 / 1 = 0 at two tokens, 1 - 1 / 2 at four, and below two tokens 0.
    assert lambda_by_length(0.9, torch.tensor([1.0, 2.0, 4.0]), 0.5).tolist() == [0.0, 0.0, 0.5]
    assert same_lambda(0.9, torch.tensor([1.0, 2.0])) == 0.9


@given(episode(), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_a_lambda_for_each_of_two_responses_is_the_lambda_of_both_where_it_is_the_same(case, lam):
    reward, value = (torch.cat([part, 2 * part]) for part in case)
    each = torch.full((2,), lam, dtype=reward.dtype)
    torch.testing.assert_close(gae(reward, value, 0.9, each), gae(reward, value, 0.9, lam))


@given(episode(), st.sampled_from([1.0, 0.9]))
def test_the_critics_own_returns_are_those_that_lambda_1_implies(case, gamma):
    reward, value = case
    _, implied = from_gae(reward, value, gamma, 1.0)
    own = monte_carlo_returns(reward, torch.full_like(reward, torch.nan), gamma)
    torch.testing.assert_close(own, implied, atol=1e-4, rtol=1e-4)
    assert returns_of_policy(reward, implied, gamma) is implied
