"""Places of a text: what stands there, and where the last of them is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.ops.places import EVERY, at, last, last_true

VALUES = torch.arange(2 * 4 * 3, dtype=torch.float32).view(2, 4, 3)


def test_every_place_is_the_values_as_they_are():
    assert torch.equal(at(VALUES, EVERY), VALUES)


def test_a_slice_takes_the_same_columns_of_every_row():
    assert torch.equal(at(VALUES, last(2)), VALUES[:, 2:])
    assert torch.equal(at(VALUES, slice(1, 3)), VALUES[:, 1:3])


@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_indices_take_each_row_at_its_own_places_whatever_stands_there(shape):
    values = torch.randn(2, 4, *shape)
    found = at(values, torch.tensor([[3, 0, 0], [1, 2, 3]]))
    assert torch.equal(found, torch.stack([values[0][[3, 0, 0]], values[1][[1, 2, 3]]]))


def test_a_place_that_is_read_twice_has_both_gradients_and_one_that_is_not_has_none():
    values = VALUES.clone().requires_grad_()
    (at(values, torch.tensor([[3, 0, 0], [1, 2, 3]])) * torch.tensor([1.0, 10.0, 100.0])[:, None]).sum().backward()
    assert values.grad[..., 0].tolist() == [[110, 0, 0, 1], [0, 1, 10, 100]]


def test_the_last_true_place_of_each_row_is_the_first_of_all_where_there_is_none():
    flags = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert last_true(flags).tolist() == [[2], [3], [0], [0]]


flags_of_rows = st.integers(1, 6).flatmap(
    lambda columns: st.lists(st.lists(st.booleans(), min_size=columns, max_size=columns), min_size=1, max_size=4)
)


@given(flags_of_rows)
def test_the_last_true_place_is_what_a_search_from_the_end_finds(rows):
    found = [max((t for t, flag in enumerate(row) if flag), default=0) for row in rows]
    assert last_true(torch.tensor(rows)).tolist() == [[place] for place in found]


@given(rows=st.integers(1, 4), columns=st.integers(1, 5), count=st.integers(1, 5))
def test_indices_that_are_the_same_of_all_rows_are_the_slice(rows, columns, count):
    values, count = torch.randn(rows, columns, 2), min(count, columns)
    same = torch.arange(columns).expand(rows, columns)
    assert torch.equal(at(values, same), at(values, EVERY))
    assert torch.equal(at(values, same[:, columns - count :]), at(values, last(count)))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
def test_what_stands_at_places_that_nobody_reads_reaches_neither_result_nor_gradient(garbage):
    places = torch.tensor([[3, 0], [1, 1]])
    clean = VALUES.clone().requires_grad_()
    at(clean, places).square().sum().backward()
    read = torch.zeros(2, 4, dtype=torch.bool).scatter(1, places, True)
    spoiled = torch.where(read[..., None], VALUES, garbage).requires_grad_()
    found = at(spoiled, places)
    found.square().sum().backward()
    assert torch.equal(found, at(VALUES, places)) and torch.equal(spoiled.grad, clean.grad)
