"""Whose ratio the objective has and how far it may go, by hand and at the limits where one is the other."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.ops import loss, ratio

NUMBERS = st.floats(-2, 2, width=32)


def tensor(*rows):
    return torch.tensor(rows)


def test_the_ratio_of_a_response_is_the_geometric_mean_or_the_product_of_its_tokens():
    # Ratios 2 and 1/4: mean of ln 2 and -2 ln 2 is -ln 2 / 2, their sum -ln 2.
    log_ratio = tensor([math.log(2), -2 * math.log(2), math.nan])
    mask = tensor([True, True, False])
    assert ratio.per_token(log_ratio, mask) is log_ratio
    half = -math.log(2) / 2
    torch.testing.assert_close(ratio.mean_of_response(log_ratio, mask), tensor([half, half, 0.0]))
    torch.testing.assert_close(ratio.product_of_response(log_ratio, mask), tensor([2 * half, 2 * half, 0.0]))


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_of_responses_of_one_token_every_level_is_the_tokens(values):
    log_ratio = torch.tensor(values)[:, None]
    mask = torch.ones_like(log_ratio, dtype=torch.bool)
    for level in (ratio.mean_of_response, ratio.product_of_response):
        assert torch.equal(level(log_ratio, mask), log_ratio)


def test_a_response_without_a_token_that_counts_has_no_ratio():
    log_ratio, mask = tensor([0.0, 0.0]), tensor([False, False])
    for level in (ratio.mean_of_response, ratio.product_of_response):
        assert level(log_ratio, mask).tolist() == [[0.0, 0.0]]


def test_the_gradient_of_a_response_ratio_reaches_each_of_its_tokens_alike():
    log_ratio = tensor([0.0, 0.0, 0.0]).requires_grad_()
    mask, advantage = tensor([True, True, False]), tensor([1.0, 3.0, 9.0])
    for level, each in ((ratio.mean_of_response, -2.0), (ratio.product_of_response, -4.0)):
        log_ratio.grad = None
        terms = loss.clipped(level(log_ratio, mask), advantage, 0.2, 0.2)
        loss.weighted(terms, mask.float()).backward()
        # -(1 + 3) over both tokens, shared by two in the mean and had by each in the product.
        torch.testing.assert_close(log_ratio.grad, tensor([each, each, 0.0]))


def test_the_range_above_is_the_range_below_unless_it_is_chosen():
    assert ratio.same_above(0.1) == 0.1
    assert ratio.wider_above(0.1, 0.28) == 0.28


def test_a_wider_range_above_lets_a_good_token_earn_on_and_changes_nothing_below():
    above, below = tensor([1.25, 1.5]), tensor([0.75, 0.5])
    good, bad = tensor([1.0, 1.0]), tensor([-1.0, -1.0])
    torch.testing.assert_close(loss.clipped(above.log(), good, 0.2, 0.28), tensor([-1.25, -1.28]))
    torch.testing.assert_close(loss.clipped(above.log(), good, 0.2, 0.2), tensor([-1.2, -1.2]))
    assert torch.equal(loss.clipped(below.log(), bad, 0.2, 0.28), loss.clipped(below.log(), bad, 0.2, 0.2))


def test_a_bad_tokens_loss_is_bounded_and_a_good_ones_is_not():
    # A = -2, r = 5: loss 10, at most 3 * 2 = 6. A = -2, r = 2: 4 stays. A = 2: -2 r stays.
    advantage, log_ratio = tensor([-2.0, -2.0, 2.0]), tensor([math.log(5), math.log(2), math.log(5)])
    terms = loss.unclipped(log_ratio, advantage)
    torch.testing.assert_close(ratio.dual_clip(terms, advantage, 3.0), tensor([6.0, 4.0, -10.0]))


@given(NUMBERS, NUMBERS)
def test_a_limit_without_end_leaves_the_loss_as_it_is(log_ratio, advantage):
    log_ratio, advantage = tensor([log_ratio]), tensor([advantage])
    terms = loss.clipped(log_ratio, advantage, 0.2, 0.2)
    assert torch.equal(ratio.dual_clip(terms, advantage, math.inf), ratio.unbounded(terms, advantage))


def test_beyond_the_limit_a_bad_token_has_no_gradient():
    log_ratio = tensor([math.log(4), math.log(2)]).requires_grad_()
    advantage = tensor([-1.0, -1.0])
    ratio.dual_clip(loss.clipped(log_ratio, advantage, 0.2, 0.2), advantage, 3.0).sum().backward()
    torch.testing.assert_close(log_ratio.grad, tensor([0.0, 2.0]))


@pytest.mark.parametrize(("log_ratio", "weight"), [(math.log(1.5), 1.2), (math.log(1.1), 1.1), (math.log(0.3), 0.3)])
def test_a_clipped_weight_has_the_policy_gradient_of_every_token_times_its_weight(log_ratio, weight):
    logprob = tensor([-1.0]).requires_grad_()
    ratios = logprob - logprob.detach() + log_ratio
    loss.clipped_weight(logprob, ratios, tensor([2.0]), 0.2).sum().backward()
    torch.testing.assert_close(logprob.grad, tensor([-2.0 * weight]))


# ----------------------------------------------------------------------------- another sampler than trainer


def test_where_sampler_and_trainer_agree_every_weight_is_one():
    agree = torch.zeros(2, 3)
    for weight in (ratio.uncorrected(agree), ratio.truncated_weight(agree, 2.0), ratio.masked_weight(agree, 2.0)):
        assert weight.tolist() == [[1.0] * 3] * 2


def test_a_token_that_the_sampler_thought_too_likely_or_too_unlikely_weighs_less_or_not_at_all():
    log_weight = tensor([math.log(3), math.log(1.5), math.log(0.75), math.log(0.25)])
    torch.testing.assert_close(ratio.truncated_weight(log_weight, 2.0), tensor([2.0, 1.5, 0.75, 0.25]))
    torch.testing.assert_close(ratio.masked_weight(log_weight, 2.0), tensor([0.0, 1.5, 0.75, 0.0]))


@given(st.lists(st.floats(0.0625, 1, width=32), min_size=2, max_size=5))
def test_truncated_weights_are_right_on_average_where_none_is_truncated(sampler):
    # E_sampler[w f] = E_trainer[f]: with weights p / q under samples of q.
    q = torch.tensor(sampler) / sum(sampler)
    p, f = q.flip(0), torch.arange(len(sampler)).float()
    weight = ratio.truncated_weight((p.log() - q.log())[None], math.inf)[0]
    torch.testing.assert_close((q * weight * f).sum(), (p * f).sum(), atol=1e-4, rtol=1e-4)
