"""Learning-rate schedules at their ends and in the middle."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.ops.optim import constant, cosine_to_zero, kl_above, linear_to_zero, never_stop


def test_the_linear_schedule_starts_at_one_and_ends_one_step_above_zero():
    assert [linear_to_zero(step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_the_cosine_schedule_passes_one_half_in_the_middle():
    # (1 + cos(pi k / 4)) / 2 for k = 0..3, with cos(pi / 4) = 0.70711.
    assert [cosine_to_zero(step, 4) for step in range(4)] == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_the_constant_schedule_stays():
    assert [constant(step, 4) for step in range(4)] == [1.0] * 4


@pytest.mark.parametrize("schedule", [linear_to_zero, cosine_to_zero, constant])
@given(steps=st.integers(1, 200))
def test_a_schedule_starts_at_the_full_rate_and_never_rises_or_reaches_zero(schedule, steps):
    rates = [schedule(step, steps) for step in range(steps)]
    assert rates[0] == 1.0 and rates[-1] > 0
    assert rates == sorted(rates, reverse=True)


@given(steps=st.integers(1, 200))
def test_the_cosine_is_the_straight_line_at_the_start_in_the_middle_and_at_the_end(steps):
    for step, of in ((0, steps), (steps, 2 * steps), (steps, steps)):
        assert cosine_to_zero(step, of) == pytest.approx(linear_to_zero(step, of), abs=1e-12)


@given(step=st.integers(0, 199), steps=st.integers(1, 200))
def test_the_cosine_is_as_far_above_the_line_as_it_is_below_it_the_same_way_from_the_other_end(step, steps):
    step %= steps
    above = cosine_to_zero(step, steps) - linear_to_zero(step, steps)
    assert above == pytest.approx(linear_to_zero(steps - step, steps) - cosine_to_zero(steps - step, steps), abs=1e-12)


@given(st.floats(0, 10))
def test_a_batch_ends_early_past_the_limit_and_never_where_there_is_none(kl):
    assert kl_above(kl, limit=1.0) == (kl > 1.0)
    assert kl_above(kl, limit=math.inf) == never_stop(kl) is False
