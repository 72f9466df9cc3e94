"""Best of n: against all subsets, at its two ends, and its KL against that of a distribution that is known."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.ops.best_of import best_of_n, best_of_n_kl_where_samples_repeat, rank_weights
from repro.ops.reward import best_of_n_kl

SIZES = [(samples, n) for samples in (1, 2, 5, 7) for n in range(1, samples + 1)]


def made_up(posts, samples, seed=0):
    """Values and scores without ties."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(posts, samples, generator=generator, dtype=torch.float64) for _ in range(2)]


def over_all_subsets(value, score, n):
    """The mean value of the best by score over every subset of n, ties counting alike."""
    told = []
    for values, scores in zip(value.tolist(), score.tolist()):
        best = []
        for subset in combinations(range(len(scores)), n):
            highest = max(scores[i] for i in subset)
            tied = [values[i] for i in subset if scores[i] == highest]
            best.append(sum(tied) / len(tied))
        told.append(sum(best) / len(best))
    return told


@pytest.mark.parametrize(("samples", "n"), SIZES)
def test_it_is_the_mean_over_all_subsets(samples, n):
    value, score = made_up(3, samples)
    assert best_of_n(value, score, n).tolist() == pytest.approx(over_all_subsets(value, score, n))


@settings(max_examples=40)
@given(st.lists(st.integers(0, 2), min_size=6, max_size=6), st.integers(1, 6))
def test_samples_that_tie_count_alike(scores, n):
    value, score = made_up(1, 6)[0], torch.tensor([scores], dtype=torch.float64)
    assert best_of_n(value, score, n).tolist() == pytest.approx(over_all_subsets(value, score, n))


def test_best_of_one_is_the_plain_mean_and_best_of_all_the_value_of_the_highest_score():
    value, score = made_up(4, 9)
    assert torch.allclose(best_of_n(value, score, 1), value.mean(1))
    assert torch.allclose(best_of_n(value, score, 9), value.gather(1, score.argmax(1, keepdim=True))[:, 0])


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(2, 40))
def test_the_expected_score_never_falls_with_n_and_the_order_of_samples_says_nothing(seed, samples):
    value, score = made_up(2, samples, seed)
    expected = torch.stack([best_of_n(score, score, n) for n in range(1, samples + 1)])
    assert (expected.diff(dim=0) > -1e-12).all()
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(best_of_n(value[:, order], score[:, order], 2), best_of_n(value, score, 2))


@pytest.mark.parametrize("n", [1, 2, 64, 255, 256])
def test_weights_are_those_of_a_draw_at_256_samples_too(n):
    weights = rank_weights(256, n)
    assert weights.sum().item() == pytest.approx(1) and (weights.diff() >= 0).all()
    assert (weights[: n - 1] == 0).all() and (weights[n - 1 :] > 0).all()


def test_a_score_that_is_not_a_number_is_not_passed_over():
    value, score = made_up(2, 4)
    score[1, 0] = math.nan
    assert best_of_n(value, score, 2).isnan().tolist() == [False, True]


# ----------------------------------------------------------------------------- its KL


@pytest.mark.parametrize("n", [1, 2, 16, 256])
def test_where_no_sample_repeats_the_kl_is_the_formulas(n):
    _, score = made_up(3, 256)
    for unlikely in (-60.0, -5000.0):
        found = best_of_n_kl_where_samples_repeat(torch.full_like(score, unlikely), score, n)
        assert found.tolist() == pytest.approx([best_of_n_kl(n)] * 3, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 16, 256])
def test_a_policy_that_always_says_the_same_is_at_no_kl(n):
    score = torch.zeros(1, 256, dtype=torch.float64)
    assert best_of_n_kl_where_samples_repeat(torch.zeros_like(score), score, n).item() == pytest.approx(0)


@pytest.mark.parametrize("n", [2, 8, 64])
@pytest.mark.parametrize("probability", [(0.5, 0.5), (0.7, 0.2, 0.1), (0.05,) * 20])
def test_it_is_no_less_than_the_kl_of_a_distribution_that_is_known_and_near_it_where_samples_repeat(n, probability):
    p = torch.tensor(probability, dtype=torch.float64)
    below_or_equal = p.cumsum(0)
    best = below_or_equal**n - (below_or_equal - p).clamp(min=0) ** n  # the last outcome scores highest
    known = (best * (best / p).log()).nansum().item()
    drawn = torch.multinomial(p.expand(400, -1), 64, replacement=True, generator=torch.Generator().manual_seed(1))
    found = best_of_n_kl_where_samples_repeat(p.log()[drawn], drawn.double(), n).mean().item()
    assert known - 0.03 <= found <= min(best_of_n_kl(n) + 1e-9, known + 0.6)
