"""A function beside others that take more gets the arguments that it names."""

from functools import partial

import pytest

from repro.detail import ByName


def discounted(reward, gamma):
    return reward * gamma


def test_what_a_function_does_not_name_it_does_not_get():
    assert ByName(discounted)(reward=2.0, gamma=0.5, lam=0.95) == 1.0


def test_a_constant_that_is_bound_stays_and_the_rest_is_given():
    assert ByName(partial(discounted, gamma=0.25))(reward=2.0, lam=0.95) == 0.5


def test_what_it_names_and_nobody_has_is_missed_by_name():
    with pytest.raises(TypeError, match="'gamma'"):
        ByName(discounted)(reward=2.0)


def test_an_argument_without_a_name_is_refused():
    with pytest.raises(TypeError):
        ByName(discounted)(2.0, 0.5)
