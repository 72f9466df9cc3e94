"""A bonus whose coefficient moves: a step by hand, and where it comes to rest."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.ops import loss
from repro.ops.entropy import bonus_at, no_bonus, same_coefficient, towards_level


def test_a_step_of_the_coefficient_worked_by_hand():
    # 2 nats below the level: up by 0.01 * 2; half a nat above it: down by 0.005, and at 0 it ends.
    assert towards_level(0.01, 1.0, level=3.0, rate=0.01) == pytest.approx(0.03)
    assert towards_level(0.01, 3.5, level=3.0, rate=0.01) == pytest.approx(0.005)
    assert towards_level(0.01, 9.0, level=3.0, rate=0.01) == 0.0
    assert same_coefficient(0.01, 9.0) == 0.01


@given(st.floats(0, 1), st.floats(0, 10), st.floats(0, 10), st.floats(0, 1))
def test_the_coefficient_is_never_negative_and_moves_against_the_entropys_error(coefficient, entropy, level, rate):
    following = towards_level(coefficient, entropy, level, rate)
    assert following >= 0
    assert (following - coefficient) * (entropy - level) <= 0
    assert towards_level(coefficient, level, level, rate) == coefficient  # at the level it stays
    assert towards_level(coefficient, entropy, level, 0.0) == coefficient


def test_an_entropy_that_grows_with_its_price_comes_to_rest_at_the_level():
    coefficient = 0.0
    for _ in range(500):
        entropy = 1 + 20 * coefficient  # of a policy that has one nat without a bonus
        coefficient = towards_level(coefficient, entropy, level=3.0, rate=0.01)
    assert (entropy, coefficient) == (pytest.approx(3.0), pytest.approx(0.1))


def test_the_bonus_is_the_entropy_times_the_coefficient():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    (bonus,) = bonus_at(0.2)
    assert torch.equal(bonus(logits, 0.7), loss.entropy_bonus(logits, 0.7, 0.2))
    assert no_bonus(0.2) == ()
