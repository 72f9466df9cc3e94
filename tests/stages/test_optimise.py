"""What the training stages share: AdamW as the paper sets it, steps over micro-batches, and passes over rows."""

import itertools
import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from repro.errors import UserError
from repro.stages import optimise
from tests.tiny import pick


def generator():
    return torch.Generator().manual_seed(0)


# ----------------------------------------------------------------------------- AdamW


def adamw(networks, learning_rate=0.1, **choices):
    return optimise.adamw(networks, learning_rate, pick(**choices))


def test_all_but_epsilon_is_pytorchs_default():
    group = adamw([nn.Linear(2, 1)]).param_groups[0]
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
    optimise.step(Accelerator(), adamw([network]), [1e-5 * network.weight.sum()])
    assert network.weight.item() == pytest.approx(-0.05)


@pytest.mark.parametrize(
    ("choices", "moved"),
    [
        ({}, -0.05),  # beside epsilon 1e-5 a gradient of 1e-5 counts half
        ({"adam_epsilon": "1e-8"}, -0.1 / 1.001),
        # The uncorrected root is sqrt(0.001) * 1e-5, so that epsilon is 1 / 0.031623 as much: 1 / (1 + 31.623).
        ({"adam_flavour": "tensorflow"}, -0.1 / 32.623),
        ({"adam_flavour": "tensorflow", "adam_epsilon": "1e-8"}, -0.1 / 1.031623),
    ],
)
def test_the_first_step_of_each_flavour_and_epsilon_worked_by_hand(choices, moved):
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    optimise.step(Accelerator(), adamw([network], **choices), [1e-5 * network.weight.sum()])
    assert network.weight.item() == pytest.approx(moved, rel=1e-4)


@pytest.mark.parametrize(("choice", "left"), [("0.01", 2 * (1 - 0.1 * 0.01) - 0.1), ("0", 2 - 0.1)])
@pytest.mark.parametrize("flavour", ["pytorch", "tensorflow"])
def test_weight_decay_takes_its_share_of_the_rate_off_a_weight(choice, left, flavour):
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 2.0)
    optimizer = adamw([network], weight_decay=choice, adam_flavour=flavour)
    optimise.step(Accelerator(), optimizer, [1e4 * network.weight.sum()])  # so large that epsilon does not count
    assert network.weight.item() == pytest.approx(left, rel=1e-6)


def test_a_weight_that_two_networks_share_is_held_once_and_one_that_is_frozen_not_at_all():
    trunk, one, other, still = (nn.Linear(1, 1, bias=False) for _ in range(4))
    still.requires_grad_(False)
    held = adamw([nn.Sequential(trunk, one, still), nn.Sequential(trunk, other)]).param_groups[0]["params"]
    assert [id(weight) for weight in held] == [id(network.weight) for network in (trunk, one, other)]


def test_every_network_is_trained_at_the_rate_that_is_set():
    networks = [nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)]
    before = [network.weight.item() for network in networks]
    optimizer = adamw(networks)
    optimise.set_learning_rate(optimizer, 0.01)
    optimise.step(Accelerator(), optimizer, [sum(network.weight.sum() for network in networks)])
    for network, old in zip(networks, before):
        assert network.weight.item() == pytest.approx(old * (1 - 0.01 * 0.01) - 0.01, abs=1e-5)


def test_networks_of_one_factor_are_one_group_and_each_has_its_own_rate():
    networks = [nn.Linear(1, 1, bias=False) for _ in range(3)]
    optimizer = optimise.adamw(networks, 0.1, pick(), (1.0, 3.0, 1.0))
    optimise.set_learning_rate(optimizer, 0.01)
    assert [(group["lr"], len(group["params"])) for group in optimizer.param_groups] == [(0.01, 2), (0.03, 1)]
    assert len(adamw(networks).param_groups) == 1


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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing_though_the_loss_is_finite(bad):
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * bad

    weight, optimizer = plain_descent()
    assert math.isnan(optimise.step(Accelerator(), optimizer, [weight * 1.0, Bad.apply(weight)]))
    assert weight.item() == 1.0
    assert optimise.step(Accelerator(), optimizer, [2 * weight]) == 2.0
    assert weight.item() == -1.0


def step_of(longest):
    """What plain descent at rate 1 takes off weights of two shapes, whose gradient is 3, 4 and 12: of length 13."""
    one, other = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([2.0, 3.0]))
    optimizer = torch.optim.SGD([one, other], lr=1.0)
    losses = (3 * one.sum(), (torch.tensor([4.0, 12.0]) * other).sum())
    optimise.step(Accelerator(), optimizer, losses, longest)
    return torch.cat([1.0 - one.detach(), torch.tensor([2.0, 3.0]) - other.detach()])


def test_gradients_together_are_no_longer_than_they_may_be():
    torch.testing.assert_close(step_of(1.0), torch.tensor([3.0, 4.0, 12.0]) / 13)
    torch.testing.assert_close(step_of(6.5), torch.tensor([3.0, 4.0, 12.0]) / 2)


@pytest.mark.parametrize("longest", [14.0, math.inf])
def test_a_gradient_that_is_short_enough_is_left_as_it_is(longest):
    assert torch.equal(step_of(longest), torch.tensor([3.0, 4.0, 12.0]))


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
