"""Learning-rate schedules at their ends and in the middle."""

import pytest

from repro.ops.optim import constant, cosine_to_zero, linear_to_zero


def test_the_linear_schedule_starts_at_one_and_ends_one_step_above_zero():
    assert [linear_to_zero(step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_the_cosine_schedule_passes_one_half_in_the_middle():
    # (1 + cos(pi k / 4)) / 2 for k = 0..3, with cos(pi / 4) = 0.70711.
    assert [cosine_to_zero(step, 4) for step in range(4)] == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_the_constant_schedule_stays():
    assert [constant(step, 4) for step in range(4)] == [1.0] * 4
