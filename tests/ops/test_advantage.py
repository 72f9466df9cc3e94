"""Generalised advantage estimation: a short episode by hand, and the published special cases."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.details import ADVANTAGE
from repro.ops.advantage import (
    as_many_as_chosen,
    at_least_two,
    batch_mean,
    critics_advantage,
    every_group,
    from_gae,
    gae,
    greedy_response,
    group_mean,
    group_spreads,
    group_standardised,
    groups_that_differ,
    lambda_by_length,
    leave_one_out,
    monte_carlo_returns,
    moving_average,
    n_step,
    next_moving_average,
    no_average,
    returns_of_policy,
    reward_to_go,
    same_lambda,
    whole_return,
)
from tests.tiny import Ranks


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


# ----------------------------------------------------------------------------- baselines without a critic


@st.composite
def groups(draw):
    """Rewards of `responses` responses to each of some queries, and `responses`."""
    responses, queries, tokens = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size = responses * queries * tokens
    numbers = draw(st.lists(st.floats(-3, 3, width=32), min_size=size, max_size=size))
    return torch.tensor(numbers).view(responses * queries, tokens), responses


def test_three_responses_to_each_of_two_queries_worked_by_hand():
    # Rows are responses to queries a, b, a, b, a, b. Returns of a: 1, 2, 6; of b: 0, 0, 3.
    # leave_one_out of a: 1 - 4 = -3, 2 - 3.5 = -1.5, 6 - 1.5 = 4.5; of b: 0 - 1.5, 0 - 1.5, 3 - 0.
    reward = torch.tensor([[0.0, 1.0], [0.0, 0.0], [3.0, -1.0], [1.0, -1.0], [0.0, 6.0], [3.0, 0.0]])
    advantage, returns = leave_one_out(reward, 1.0, 3)
    assert advantage[:, 0].tolist() == advantage[:, 1].tolist() == [-3.0, -1.5, -1.5, -1.5, 4.5, 3.0]
    assert returns[:, 0].tolist() == [1.0, 0.0, 2.0, 0.0, 6.0, 3.0]
    assert group_mean(reward, 1.0, 3)[0][:, 0].tolist() == [-2.0, -1.0, -1.0, -1.0, 3.0, 2.0]
    # Variances with Bessel's correction: of a (4 + 1 + 9) / 2 = 7, of b (1 + 1 + 4) / 2 = 3.
    standardised = group_standardised(reward, 1.0, 3)[0][:, 1]
    torch.testing.assert_close(standardised[[0, 1]], torch.tensor([-2 / 7**0.5, -1 / 3**0.5]), atol=1e-3, rtol=0)
    assert batch_mean(reward, 1.0)[0][:, 0].tolist() == [-1.0, -2.0, 0.0, -2.0, 4.0, 1.0]


def test_the_spread_within_and_between_groups_worked_by_hand():
    # Returns of query a: 1 and 3, mean 2, variance 2; of b: 5 and 5, variance 0. Means 2 and 5 have the variance 4.5.
    within, between = group_spreads(torch.tensor([[0.0, 1.0], [5.0, 0.0], [3.0, 0.0], [1.0, 4.0]]), 1.0, 2)
    assert (within.item(), between.item()) == pytest.approx((1.0, 4.5**0.5))


@given(groups())
def test_the_two_spreads_are_parts_of_the_variance_of_all_returns(case):
    reward, k = case
    queries = len(reward) // k
    within, between = (spread.item() ** 2 for spread in group_spreads(reward, 0.9, k))
    whole = whole_return(reward, 0.9)[0][:, 0].var(correction=0).item()
    assert within * (k - 1) / k + between * (queries - 1) / queries == pytest.approx(whole, abs=1e-4)


def test_the_spreads_are_those_of_all_ranks():
    reward = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    shards = [(reward[[0, 1, 4, 5]], 1.0, 2), (reward[[2, 3, 6, 7]], 1.0, 2)]  # whole groups: rows i and i + 4
    expected = [spread.item() for spread in group_spreads(reward, 1.0, 2)]
    for found in Ranks(2).run(group_spreads, shards):
        assert [spread.item() for spread in found] == pytest.approx(expected)


@given(groups(), st.sampled_from([1.0, 0.9]))
def test_the_groups_mean_is_leave_one_out_made_smaller(case, gamma):
    reward, k = case
    expected = leave_one_out(reward, gamma, k)[0] * (k - 1) / k
    torch.testing.assert_close(group_mean(reward, gamma, k)[0], expected, atol=1e-5, rtol=1e-5)


@given(st.floats(-3, 3, width=32), st.floats(-3, 3, width=32))
def test_of_two_responses_leave_one_out_is_their_difference_and_the_groups_mean_half_of_it(one, other):
    reward = torch.tensor([[one], [other]])
    difference = torch.tensor([[one - other], [other - one]])
    torch.testing.assert_close(leave_one_out(reward, 1.0, 2)[0], difference)
    torch.testing.assert_close(group_mean(reward, 1.0, 2)[0], difference / 2)


@given(groups(), st.floats(-3, 3, width=32))
def test_a_constant_return_has_no_advantage_under_any_baseline(case, constant):
    reward, k = case
    reward = torch.zeros_like(reward)
    reward[:, -1] = constant
    for each in (leave_one_out, group_mean, group_standardised):
        # Where the mean of equal numbers is off by its rounding, 3e-7, the spread of 1e-4 in its place makes it 3e-3.
        torch.testing.assert_close(each(reward, 1.0, k)[0], torch.zeros_like(reward), atol=1e-2, rtol=0)
    torch.testing.assert_close(batch_mean(reward, 1.0)[0], torch.zeros_like(reward), atol=1e-5, rtol=0)


def test_returns_less_an_average_of_earlier_batches_worked_by_hand():
    # Returns 1 and 5. Before the first batch there is no average: less their own mean 3. Then 0.9 * 3 + 0.1 * 13 = 4.
    reward = torch.tensor([[0.0, 1.0], [6.0, -1.0]])
    advantage, returns = moving_average(reward, 1.0, math.nan)
    assert (advantage.tolist(), returns[:, 0].tolist()) == ([[-2.0, -2.0], [2.0, 2.0]], [1.0, 5.0])
    average = next_moving_average(math.nan, lambda: 3.0, decay=0.9)
    assert average == 3.0
    average = next_moving_average(average, lambda: 13.0, decay=0.9)
    assert average == pytest.approx(4.0)
    assert moving_average(reward, 1.0, 4.0)[0].tolist() == [[-3.0, -3.0], [1.0, 1.0]]
    assert no_average(2.0, lambda: pytest.fail("nobody asks for the mean")) == 2.0


@given(st.floats(-3, 3, width=32), st.integers(1, 3), st.floats(0, 1))
def test_a_constant_return_has_no_advantage_over_its_moving_average_in_any_batch(constant, batches, decay):
    reward, average = torch.zeros(4, 3), math.nan
    reward[:, -1] = constant
    for _ in range(1 + batches):  # the first too, whose baseline is its own mean
        advantage, _ = moving_average(reward, 1.0, average)
        torch.testing.assert_close(advantage, torch.zeros_like(reward), atol=1e-5, rtol=0)
        average = next_moving_average(average, lambda: constant, decay)


@given(groups())
def test_an_average_that_forgets_at_once_is_the_mean_of_the_last_batch(case):
    reward, _ = case
    assert next_moving_average(7.0, lambda: 2.0, decay=0.0) == 2.0
    mean = reward.sum(1).mean().item()
    expected = batch_mean(reward, 1.0)[0]
    torch.testing.assert_close(moving_average(reward, 1.0, mean)[0], expected, atol=1e-5, rtol=1e-5)


def test_returns_less_the_greedy_responses_worked_by_hand():
    # gamma 0.5: returns 0 + 0.5 * 2 = 1 and 3 - 0.5 * 2 = 2; the greedy ones are 3 and 0.5.
    reward = torch.tensor([[0.0, 2.0], [3.0, -2.0]])
    advantage, returns = greedy_response(reward, 0.5, lambda: torch.tensor([3.0, 0.5]))
    assert advantage.tolist() == [[-2.0, -2.0], [1.5, 1.5]]
    assert returns[:, 0].tolist() == [1.0, 2.0]


@given(groups())
def test_a_response_that_is_the_greedy_one_has_no_advantage(case):
    reward, _ = case
    advantage, _ = greedy_response(reward, 0.9, lambda: whole_return(reward, 0.9)[0][:, 0])
    assert torch.equal(advantage, torch.zeros_like(reward))


@given(groups())
def test_a_group_of_the_whole_batch_has_the_batchs_mean(case):
    reward, _ = case
    whole = group_mean(reward, 1.0, len(reward))[0]
    torch.testing.assert_close(batch_mean(reward, 1.0)[0], whole, atol=1e-5, rtol=1e-5)


def test_a_group_of_equal_scores_counts_for_nothing_worked_by_hand():
    # Rows are responses to queries a, b, c, a, b, c. Of b all have -1, so b is dropped; c differs in one.
    score = torch.tensor([0.5, -1.0, -1.0, 0.5001, -1.0, 2.0])
    assert groups_that_differ(score, 2).tolist() == [True, False, True, True, False, True]
    assert every_group(score, 2).all()
    # Three responses to each of two queries: a has 1, 1, 2 and b has 0, 0, 0.
    assert groups_that_differ(torch.tensor([1.0, 0, 1, 0, 2, 0]), 3).tolist() == [True, False] * 3


@given(groups())
def test_a_group_is_dropped_exactly_where_its_scores_have_no_advantage(case):
    reward, k = case
    score = reward[:, 0].round()  # so that some are equal
    advantage, _ = leave_one_out(score[:, None], 1.0, k)
    none = (advantage.view(k, -1).abs() < 1e-4).all(0).repeat(k)
    assert torch.equal(groups_that_differ(score, k), ~none)
    assert groups_that_differ(score, 1).all()  # a response of its own is not compared, and is kept


def test_a_group_has_others_in_it():
    assert [at_least_two(k, otherwise=4) for k in (1, 2, 8)] == [4, 2, 8]
    assert [as_many_as_chosen(k) for k in (1, 2, 8)] == [1, 2, 8]
    kept = torch.ones(2, 3), torch.zeros(2, 3)
    assert critics_advantage(*kept) == kept
