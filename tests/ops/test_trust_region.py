"""The natural gradient, its scale in KL and the line search: by hand, and against a solver in float64."""

import math

import pytest
import torch

from repro.ops.trust_region import backtrack, conjugate_gradient, step_scale


def times(matrix):
    return lambda vector: matrix @ vector


def positive_definite(size, seed=0):
    factor = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T / size


def test_two_equations_that_stand_apart_are_solved_as_by_hand():
    matrix, target = torch.diag(torch.tensor([3.0, 1.0])), torch.tensor([3.0, 1.0])
    torch.testing.assert_close(conjugate_gradient(times(matrix), target, 0.0, 2), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(conjugate_gradient(times(matrix), target, 1.0, 2), torch.tensor([3 / 4, 1 / 2]))


def test_the_first_iteration_is_the_steepest_descent():
    # Left to solve (1, 1), of squared length 2; its curvature is 3 + 1: half of it.
    solved = conjugate_gradient(times(torch.diag(torch.tensor([3.0, 1.0]))), torch.ones(2), 0.0, 1)
    assert solved.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("damping", [0.1, 1.0])
def test_after_as_many_iterations_as_unknowns_it_is_the_solution(damping):
    matrix, target = positive_definite(12), torch.arange(12.0, dtype=torch.float64)
    solved = conjugate_gradient(times(matrix), target, damping, 30)
    exact = torch.linalg.solve(matrix + damping * torch.eye(12, dtype=torch.float64), target)
    torch.testing.assert_close(solved, exact, atol=1e-4, rtol=1e-4)


def test_a_large_damping_leaves_the_direction_of_the_gradient():
    matrix, target = positive_definite(12), torch.arange(12.0, dtype=torch.float64)
    solved = conjugate_gradient(times(matrix), target, 1e9, 10)
    torch.testing.assert_close(1e9 * solved, target, atol=1e-6, rtol=1e-6)


def test_the_length_of_the_target_changes_the_solution_in_proportion():
    matrix, target = positive_definite(12), torch.arange(12.0, dtype=torch.float64)
    short, long = (conjugate_gradient(times(matrix), size * target, 0.1, 5) for size in (1e-6, 1.0))
    torch.testing.assert_close(1e6 * short, long)


def test_nothing_to_solve_is_solved_by_nothing_and_a_flat_matrix_ends_it():
    assert conjugate_gradient(times(torch.eye(3)), torch.zeros(3), 0.1, 10).tolist() == [0, 0, 0]
    assert conjugate_gradient(times(torch.zeros(3, 3)), torch.ones(3), 0.0, 10).tolist() == [0, 0, 0]


def test_a_step_reaches_the_radius_of_a_parabola():
    # The KL of s times (1, 0) is s^2 2 / 2, which is 0.01 at 0.1.
    assert step_scale(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 5.0]), 0.01).item() == pytest.approx(0.1)
    matrix, direction = positive_definite(12), torch.arange(12.0, dtype=torch.float64)
    step = direction * step_scale(direction.float(), (matrix @ direction).float(), 0.01)
    assert (step @ matrix @ step / 2).item() == pytest.approx(0.01, rel=1e-5)


def test_where_the_kl_is_flat_there_is_no_step():
    assert step_scale(torch.ones(2), torch.zeros(2), 0.01) == 0
    assert step_scale(torch.ones(2), -torch.ones(2), 0.01) == 0
    assert step_scale(torch.zeros(2), torch.zeros(2), math.inf) == 0


def test_a_step_is_shortened_until_it_stays_within_the_radius():
    tried = []

    def measure(fraction):
        tried.append(fraction)
        return -fraction, 0.02 * fraction**2

    # 0.02, 0.0128 and then 0.008192.
    assert backtrack(measure, 0.01, 0.8, 10) == pytest.approx(0.64)
    assert tried == pytest.approx([1, 0.8, 0.64])


def test_a_step_is_shortened_until_the_loss_falls():
    # A parabola whose lowest point is at 0.3 is lower than at 0 up to 0.6: 0.8^3 is the first.
    assert backtrack(lambda f: (f * (f - 0.6), 0.0), 0.01, 0.8, 10) == pytest.approx(0.512)


@pytest.mark.parametrize("change", [1.0, 0.0, math.nan, -math.inf])
def test_what_never_lowers_the_loss_is_not_taken(change):
    tried = []
    assert backtrack(lambda f: (tried.append(f), (change, 0.0))[1], 0.01, 0.8, 10) == 0
    assert len(tried) == 10


def test_an_infinite_radius_asks_for_a_lower_loss_alone_and_a_kl_that_is_no_number_is_refused():
    assert backtrack(lambda f: (-f, 1e9), math.inf, 0.8, 10) == 1
    assert backtrack(lambda f: (-f, math.nan), math.inf, 0.8, 10) == 0
