"""What the training stages share: AdamW as the paper sets it, steps over micro-batches, and passes over rows."""

import itertools

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from repro import optimise
from repro.errors import UserError


def generator():
    return torch.Generator().manual_seed(0)


# ----------------------------------------------------------------------------- AdamW


def test_all_but_epsilon_is_pytorchs_default():
    group = optimise.adamw([nn.Linear(2, 1)], 0.1).param_groups[0]
    assert {name: group[name] for name in ("lr", "eps", "betas", "weight_decay", "amsgrad")} == {
        "lr": 0.1,
        "eps": 1e-5,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
        "amsgrad": False,
    }


def test_a_gradient_as_small_as_epsilon_moves_a_weight_by_half_the_learning_rate():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    optimizer = optimise.adamw([network], 0.1)
    optimise.step(Accelerator(), optimizer, [1e-5 * network.weight.sum()])
    assert network.weight.item() == pytest.approx(-0.05)


def test_every_network_is_trained_at_the_rate_that_is_set():
    networks = [nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)]
    before = [network.weight.item() for network in networks]
    optimizer = optimise.adamw(networks, 0.1)
    optimise.set_learning_rate(optimizer, 0.01)
    optimise.step(Accelerator(), optimizer, [sum(network.weight.sum() for network in networks)])
    for network, old in zip(networks, before):
        assert network.weight.item() == pytest.approx(old * (1 - 0.01 * 0.01) - 0.01, abs=1e-5)


# ----------------------------------------------------------------------------- steps


def plain_descent():
    weight = nn.Parameter(torch.tensor(1.0))
    return weight, torch.optim.SGD([weight], lr=1.0)


def test_micro_batches_add_up_and_an_earlier_steps_gradient_does_not():
    weight, optimizer = plain_descent()
    for expected in (1 - 3, 1 - 3 - 3):
        optimise.step(Accelerator(), optimizer, (share * weight for share in (1.0, 2.0)))
        assert weight.item() == expected


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_reported_and_moves_nothing(bad):
    weight, optimizer = plain_descent()
    total = optimise.step(Accelerator(), optimizer, (share * weight for share in (1.0, bad)))
    assert not torch.tensor(total).isfinite()
    assert weight.item() == 1.0


# ----------------------------------------------------------------------------- batches


def test_one_pass_has_each_row_once_in_another_order():
    rows = torch.cat(list(optimise.batches(12, 4, generator()))).tolist()
    assert sorted(rows) == list(range(12))
    assert rows != list(range(12))


def test_what_fills_no_batch_is_left_out():
    sizes = [len(rows) for rows in optimise.batches(11, 4, generator())]
    assert sizes == [4, 4]


@pytest.mark.parametrize("make", [optimise.batches, optimise.endless_batches])
def test_fewer_rows_than_a_batch_are_refused(make):
    with pytest.raises(UserError, match="3 training rows are fewer than a batch of 4; give more rows or a smaller"):
        next(make(3, 4, generator()))


def test_without_end_every_pass_is_shuffled_anew():
    rows = list(itertools.islice(optimise.endless_batches(12, 4, generator()), 6))
    first, second = torch.cat(rows[:3]).tolist(), torch.cat(rows[3:]).tolist()
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
