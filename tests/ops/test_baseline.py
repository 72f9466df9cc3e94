"""Baselines without a critic: groups by hand, what has no advantage under any of them, and which are each other."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.ops.advantage import whole_return
from repro.ops.baseline import (
    as_many_as_chosen,
    at_least_two,
    batch_mean,
    critics_advantage,
    every_group,
    greedy_response,
    group_mean,
    group_spreads,
    group_standardised,
    groups_that_differ,
    leave_one_out,
    moving_average,
    next_moving_average,
    no_average,
)
from tests.tiny import Ranks


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
