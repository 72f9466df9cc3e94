"""Reductions see what their mask lets through, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from repro.ops import masked
from repro.ops.loss import weighted
from tests.tiny import Ranks

GARBAGE = [float("nan"), float("inf"), -float("inf"), 1e38]
REDUCTIONS = [
    masked.mean,
    lambda x, m: torch.stack(masked.moments(x, m)),
    masked.whiten,
    masked.scale,
    masked.unchanged,
    masked.keep,
    lambda x, m: masked.over_micro_batch(masked.whiten, x, m, 2),
    lambda x, m: weighted(x, m / 2),
]
NAMES = ["mean", "moments", "whiten", "scale", "unchanged", "keep", "over_micro_batch", "weighted"]
# Quarters, so that values are either equal or well apart: whitening magnifies what rounding leaves between equals.
number = st.integers(-40, 40).map(lambda quarters: quarters / 4)


@st.composite
def values_and_mask(draw):
    """[B, R] numbers and a mask with at least two true places."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    size = rows * columns
    values = draw(st.lists(number, min_size=size, max_size=size))
    mask = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    mask[0] = mask[1] = True
    return torch.tensor(values).reshape(rows, columns), torch.tensor(mask).reshape(rows, columns)


def result_and_gradient(reduction, values, mask):
    values = values.clone().requires_grad_()
    result = reduction(values, mask)
    result.square().sum().backward()
    return result.detach(), values.grad


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=NAMES)
@given(values_and_mask(), st.sampled_from(GARBAGE))
def test_garbage_in_masked_places_changes_neither_result_nor_gradient(reduction, case, garbage):
    values, mask = case
    clean, clean_gradient = result_and_gradient(reduction, values, mask)
    spoiled, spoiled_gradient = result_and_gradient(reduction, torch.where(mask, values, garbage), mask)
    torch.testing.assert_close(spoiled, clean, rtol=0, atol=0)
    torch.testing.assert_close(spoiled_gradient, clean_gradient, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", [masked.whiten, masked.scale, masked.unchanged], ids=NAMES[2:5])
@given(values_and_mask())
def test_masked_places_come_out_as_zero(reduction, case):
    values, mask = case
    assert (reduction(values, mask)[~mask] == 0).all()


def test_whitening_of_three_numbers_worked_by_hand():
    # 1, 2, 6: mean 3; squared distances 4, 1, 9; biased variance 14/3 = 4.6667; its root 2.1602.
    values, mask = torch.tensor([[1.0, 2.0, 6.0, 100.0]]), torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(
        masked.whiten(values, mask), torch.tensor([[-0.9258, -0.4629, 1.3887, 0.0]]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        masked.scale(values, mask), torch.tensor([[2.0742, 2.5371, 4.3887, 0.0]]), atol=1e-4, rtol=0
    )


@given(values_and_mask())
def test_whitened_values_have_mean_0_and_biased_variance_1(case):
    values, mask = case
    assume(values[mask].unique().numel() > 1)
    white = masked.whiten(values, mask)[mask]
    assert white.mean().abs() < 1e-4
    assert (white.var(correction=0) - 1).abs() < 1e-3


@given(values_and_mask())
def test_scaling_keeps_the_mean_where_whitening_takes_it_away(case):
    values, mask = case
    scaled = masked.scale(values, mask)
    torch.testing.assert_close(scaled[mask].mean(), values[mask].mean(), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(
        scaled[mask] - values[mask].mean(), masked.whiten(values, mask)[mask], atol=1e-4, rtol=1e-4
    )


def test_a_constant_is_whitened_to_zero_and_not_to_nan():
    values, mask = torch.full((2, 3), 7.0), torch.ones(2, 3, dtype=torch.bool)
    assert (masked.whiten(values, mask) == 0).all()


def test_the_mean_over_no_place_is_zero():
    assert masked.mean(torch.full((2, 2), float("nan")), torch.zeros(2, 2, dtype=torch.bool)) == 0


@pytest.mark.parametrize("reduction", [masked.whiten, masked.scale], ids=["whiten", "scale"])
def test_the_moments_are_those_of_all_ranks(reduction):
    values = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    mask = torch.arange(4)[None, :] <= torch.tensor([3, 0, 1, 2, 2])[:, None]
    whole = reduction(values, mask)
    shards = Ranks(2).run(reduction, [(values[:2], mask[:2]), (values[2:], mask[2:])])
    torch.testing.assert_close(torch.cat(shards), whole)


def test_a_rank_whose_shard_has_no_true_place_still_joins_in():
    values, nothing = torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2, dtype=torch.bool)
    means = Ranks(2).run(masked.mean, [(values, ~nothing), (values * 100, nothing)])
    assert [float(mean) for mean in means] == [2.0, 2.0]


# ----------------------------------------------------------------------------- which variance, over whom

VALUES, EVERY = torch.tensor([[1.0, 2.0, 6.0, 100.0]]), torch.tensor([[True, True, True, False]])


@pytest.mark.parametrize("correction", [0, 1])
def test_the_variance_is_numpys_with_as_many_degrees_of_freedom_off(correction):
    centre, variance = masked.moments(VALUES, EVERY, correction=correction)
    assert centre.item() == 3
    assert variance.item() == pytest.approx(np.var([1, 2, 6], ddof=correction))
    white = masked.whiten(VALUES, EVERY, correction=correction)[EVERY]
    expected = (np.array([1.0, 2, 6]) - 3) / np.std([1, 2, 6], ddof=correction)
    assert white.tolist() == pytest.approx(expected.tolist())
    scaled = masked.scale(VALUES, EVERY, correction=correction)[EVERY]
    assert scaled.tolist() == pytest.approx((expected + 3).tolist())


def test_one_place_has_no_unbiased_variance_and_is_whitened_to_zero():
    only = torch.tensor([[True, False, False, False]])
    assert masked.whiten(VALUES, only, correction=1).tolist() == [[0, 0, 0, 0]]


def some_episodes():
    values = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    return values, torch.arange(4)[None, :] <= torch.tensor([3, 0, 1, 2, 2])[:, None]


def test_over_micro_batches_of_all_episodes_is_over_the_batch():
    values, mask = some_episodes()
    whole = masked.whiten(values, mask)
    for size in (5, 8):
        assert torch.equal(masked.over_micro_batch(masked.whiten, values, mask, size), whole)
    split = masked.over_micro_batch(masked.whiten, values, mask, 2)
    assert not torch.allclose(split, whole)
    torch.testing.assert_close(split[2:4], masked.whiten(values[2:4], mask[2:4]))


def test_over_a_rank_its_own_episodes_count_and_over_the_batch_all():
    values, mask = some_episodes()
    shards = [(masked.whiten, values[rows], mask[rows]) for rows in (slice(0, 2), slice(2, 5))]
    everyone = torch.cat(Ranks(2).run(masked.over_batch, shards))
    alone = torch.cat([masked.over_rank(*shard) for shard in shards])
    torch.testing.assert_close(everyone, masked.whiten(values, mask))
    torch.testing.assert_close(alone, torch.cat([masked.whiten(some, where) for _, some, where in shards]))
    assert not torch.allclose(everyone, alone)


def test_on_one_rank_over_the_rank_is_over_the_batch():
    values, mask = some_episodes()
    ours = masked.over_rank(masked.whiten, values, mask)
    assert torch.equal(ours, masked.over_batch(masked.whiten, values, mask, masked.one_rank))
