"""What a comparison costs, who shares a batch with whom, and what margins are worth."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.ops import preference

CLOSE = {"atol": 1e-6, "rtol": 1e-5}
MARGIN = torch.tensor([0.0, math.log(3), -math.log(3), 30.0, -30.0])

# ----------------------------------------------------------------------------- losses


def test_a_comparison_costs_what_its_probability_says():
    # A margin of log 3 is odds of 3 to 1: probability 3/4 for the chosen, 1/4 when it is the other way round.
    expected = torch.tensor([math.log(2), math.log(4 / 3), math.log(4), 0.0, 30.0])
    torch.testing.assert_close(preference.bradley_terry(MARGIN), expected, **CLOSE)


def test_smoothing_mixes_the_costs_of_both_orders():
    expected = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert preference.smoothed(MARGIN, 0.1)[1].item() == pytest.approx(expected, rel=1e-5)


def test_smoothed_labels_are_best_met_by_the_odds_they_state():
    margin = torch.tensor([math.log(9) - 0.1, math.log(9), math.log(9) + 0.1], requires_grad=True)
    preference.smoothed(margin, 0.1).sum().backward()
    assert margin.grad[0] < 0 < margin.grad[2]
    assert margin.grad[1].item() == pytest.approx(0, abs=1e-6)


def test_a_lead_that_is_asked_for_is_taken_off():
    assert preference.with_margin(torch.tensor([1 + math.log(3)]), 1.0).item() == pytest.approx(math.log(4 / 3))
    assert preference.with_margin(torch.tensor([1.0]), 1.0).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    "loss", [lambda m: preference.smoothed(m, 0.0), lambda m: preference.with_margin(m, 0.0)], ids=["smoothed", "lead"]
)
def test_without_smoothing_or_lead_it_is_bradley_terry(loss):
    torch.testing.assert_close(loss(MARGIN), preference.bradley_terry(MARGIN), **CLOSE)


@given(st.floats(-20, 20), st.floats(0, 0.5), st.floats(0, 3))
def test_a_loss_is_never_negative_and_falls_with_the_margin_up_to_the_odds_of_its_labels(size, smoothing, lead):
    margin = torch.tensor([size])
    plain, smooth, led = (
        preference.bradley_terry(margin),
        preference.smoothed(margin, smoothing),
        preference.with_margin(margin, lead),
    )
    assert min(plain.item(), smooth.item(), led.item()) >= 0
    torch.testing.assert_close(led, preference.bradley_terry(margin - lead), **CLOSE)
    # Smoothing costs the share of wrong labels times the margin: log sigmoid(m) - log sigmoid(-m) = m.
    torch.testing.assert_close(smooth, plain + smoothing * margin, atol=1e-4, rtol=1e-4)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=6))
def test_of_two_orders_of_a_comparison_the_likelihoods_sum_to_one_and_so_do_the_accuracies(margins):
    margin = torch.tensor(margins)
    both = preference.bradley_terry(margin).neg().exp() + preference.bradley_terry(-margin).neg().exp()
    torch.testing.assert_close(both, torch.ones_like(both), **CLOSE)
    assert preference.accuracy(margin) + preference.accuracy(-margin) == pytest.approx(1, abs=1e-6)


# ----------------------------------------------------------------------------- batches

POSTS = ["b", "a", "b", "c", "b", "a", "d"]


def batches(group, size, seed=0):
    return [rows.tolist() for rows in preference.batches(group, size, torch.Generator().manual_seed(seed))]


def test_comparisons_of_a_post_are_a_group_and_weigh_as_much_as_any_other_post():
    group = preference.by_post(POSTS)
    assert group.tolist() == [0, 1, 0, 2, 0, 1, 3]
    torch.testing.assert_close(preference.shares(group), torch.tensor([1 / 3, 1 / 2, 1 / 3, 1, 1 / 3, 1 / 2, 1]))


def test_where_each_post_has_one_comparison_grouping_changes_nothing():
    alone, grouped = preference.each_alone("fgabe"), preference.by_post("fgabe")
    assert torch.equal(preference.shares(grouped), torch.ones(5))
    assert batches(grouped, 2) == batches(alone, 2)


def test_groups_of_one_are_cut_into_batches_of_the_size_asked_for():
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0)).tolist()
    assert batches(preference.each_alone(POSTS), 3) == [order[:3], order[3:6]]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.integers(1, 10), st.integers(0, 2**31))
def test_posts_are_never_split_and_only_the_last_incomplete_batch_is_lost(posts, size, seed):
    found = batches(preference.by_post(posts), size, seed)
    used = [row for rows in found for row in rows]
    assert len(used) == len(set(used)) and len(posts) - len(used) < size
    for rows in found:
        assert len(rows) >= size
        names = {posts[row] for row in rows}
        assert sorted(rows) == [row for row, post in enumerate(posts) if post in names]
        # Without the post that came last it was too small.
        last = posts[rows[-1]]
        assert sum(posts[row] != last for row in rows) < size


def test_another_seed_is_another_order():
    group = preference.by_post([str(number // 2) for number in range(40)])
    assert batches(group, 4, seed=1) == batches(group, 4, seed=1) != batches(group, 4, seed=2)


# ----------------------------------------------------------------------------- accuracy and calibration


@pytest.mark.parametrize(
    ("margin", "share"), [([1.0, 1.0], 1), ([-1.0, 3.0], 0.5), ([0.0, 0.0, -1.0, 1.0], 0.5), ([0.0], 0.5)]
)
def test_a_tie_is_half_right(margin, share):
    assert preference.accuracy(torch.tensor(margin)) == share


def test_margins_of_both_signs_share_the_bin_of_their_size():
    bins = preference.calibration(torch.tensor([0.1, -0.4, 0.3, 0.0, 1.2, -1.3]))
    assert [(b.centre, b.count, b.accuracy) for b in bins] == [(0.25, 4, 0.625), (1.25, 2, 0.5)]
    sigmoid = [1 / (1 + math.exp(-size)) for size in (0.1, 0.4, 0.3, 0.0)]
    assert bins[0].promised == pytest.approx(sum(sigmoid) / 4)


def test_the_calibration_error_worked_by_hand():
    # Four margins of log 3 promise 3/4: two right are 1/4 too few. Of two margins of log 9, 9/10, both are right.
    margin = torch.tensor([1, 1, -1, -1, 2, 2]) * math.log(3)
    bins = preference.calibration(margin)
    assert preference.calibration_error(bins) == pytest.approx((4 * 0.25 + 2 * 0.1) / 6, abs=1e-6)


def test_margins_that_come_true_as_often_as_they_promise_have_no_error():
    margin = torch.tensor([1.0, 1.0, 1.0, -1.0]) * math.log(3)
    assert preference.calibration_error(preference.calibration(margin)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("margin", [[math.nan, math.nan], [math.nan, 1.0]])
def test_a_margin_that_is_not_a_number_leaves_no_error_that_is_one(margin):
    assert math.isnan(preference.calibration_error(preference.calibration(torch.tensor(margin))))
