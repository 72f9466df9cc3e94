"""The terms of the objective by hand and at their limits, and what each aggregation weighs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical

from repro.details import LOSS_AGGREGATION, POLICY_OBJECTIVE
from repro.ops import loss, masked
from repro.ops.masked import one_rank as one

MASK = torch.tensor([[True, False, False, False], [True, True, True, False]])


def aggregation(variant):
    return lambda mask, micro_batch, reduce: variant.value(mask=mask, micro_batch=micro_batch, reduce=reduce)


AGGREGATIONS = {label: aggregation(variant) for label, variant in LOSS_AGGREGATION.variants.items()}


def tensor(*numbers):
    return torch.tensor([numbers])


@st.composite
def masks(draw):
    """[episodes, tokens]; a response may have no token that counts."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    return torch.arange(columns) < torch.tensor([[draw(st.integers(0, columns))] for _ in range(rows)])


def test_the_clip_stops_a_gain_and_never_a_loss():
    # Clip 0.2, advantages 2 and -2, ratios 0.5, 1 and 1.5.
    # A = 2:  -2 * 0.5 = -1 against -2 * 0.8 = -1.6 -> -1;   -2;   -2 * 1.5 = -3 against -2 * 1.2 = -2.4 -> -2.4
    # A = -2:  2 * 0.5 = 1 against 2 * 0.8 = 1.6 -> 1.6;      2;    2 * 1.5 = 3 against 2 * 1.2 = 2.4 -> 3
    ratio = tensor(0.5, 1.0, 1.5, 0.5, 1.0, 1.5)
    advantage = tensor(2.0, 2.0, 2.0, -2.0, -2.0, -2.0)
    torch.testing.assert_close(loss.clipped(ratio.log(), advantage, 0.2, 0.2), tensor(-1.0, -2.0, -2.4, 1.6, 2.0, 3.0))
    assert loss.policy_clipped(ratio.log(), advantage, 0.2, 0.2).tolist() == [[0, 0, 1, 1, 0, 0]]


def test_the_objectives_of_a_token_twice_as_likely_and_one_half_as_likely_worked_by_hand():
    # log p is -1 then, so that log r is ln 2 and -ln 2; advantages 3 and 3, clip 0.2, beta 10.
    logprob, log_ratio, advantage = tensor(-1.0, -1.0), tensor(math.log(2), -math.log(2)), tensor(3.0, 3.0)
    torch.testing.assert_close(loss.clipped(log_ratio, advantage, 0.2, 0.2), tensor(-3.6, -1.5))
    torch.testing.assert_close(loss.unclipped(log_ratio, advantage), tensor(-6.0, -1.5))
    # r - 1 - log r is 1 - 0.693147 = 0.306853 and -0.5 + 0.693147 = 0.193147.
    torch.testing.assert_close(loss.kl_penalised(log_ratio, advantage, 10.0), tensor(-6 + 3.06853, -1.5 + 1.93147))
    torch.testing.assert_close(loss.policy_gradient(logprob, advantage), tensor(3.0, 3.0))


@given(st.floats(-1.5, 1.5), st.floats(-3, 3))
def test_a_range_without_end_and_a_beta_of_zero_leave_the_unclipped_objective(log_ratio, advantage):
    log_ratio, advantage = tensor(log_ratio), tensor(advantage)
    plain = loss.unclipped(log_ratio, advantage)
    torch.testing.assert_close(loss.clipped(log_ratio, advantage, math.inf, math.inf), plain)
    torch.testing.assert_close(loss.clipped(log_ratio, advantage, 10.0, 10.0), plain)
    torch.testing.assert_close(loss.kl_penalised(log_ratio, advantage, 0.0), plain)


@pytest.mark.parametrize("objective", POLICY_OBJECTIVE.variants)
@given(advantage=st.floats(-3, 3))
def test_at_ratio_one_every_objective_has_the_slope_of_the_policy_gradient(objective, advantage):
    logprob = tensor(-1.0).requires_grad_()
    objective = POLICY_OBJECTIVE.variants[objective].value
    clip = {"clip_low": 0.2, "clip_high": 0.2}
    objective.loss(
        logprob=logprob, log_ratio=logprob + 1.0, advantage=tensor(advantage), beta=5.0, **clip
    ).sum().backward()
    assert logprob.grad.item() == pytest.approx(-advantage, abs=1e-6)


@given(st.floats(-2, 2))
def test_what_a_penalty_charges_is_never_negative(log_ratio):
    charged = loss.kl_penalised(tensor(log_ratio), tensor(0.0), 1.0).item()
    assert charged == pytest.approx(math.exp(log_ratio) - 1 - log_ratio, abs=1e-6)
    assert charged >= -1e-6


@pytest.mark.parametrize(
    ("kl", "beta"), [(0.0, 0.5), (0.0066, 0.5), (0.0067, 1.0), (0.01, 1.0), (0.0149, 1.0), (0.0151, 2.0), (1.0, 2.0)]
)
def test_beta_doubles_above_one_and_a_half_targets_and_halves_below_two_thirds(kl, beta):
    assert loss.adaptive_beta(1.0, kl, target=0.01) == beta
    assert loss.fixed_beta(1.0, kl) == 1.0


@given(st.floats(0.05, 5), st.floats(-3, 3))
def test_an_infinite_clip_range_is_no_clip(ratio, advantage):
    ratio, advantage = tensor(ratio), tensor(advantage)
    torch.testing.assert_close(loss.clipped(ratio.log(), advantage, math.inf, math.inf), -advantage * ratio)
    assert loss.policy_clipped(ratio.log(), advantage, math.inf, math.inf).sum() == 0


@given(st.floats(0.05, 5), st.floats(-3, 3), st.floats(0.01, 0.9))
def test_the_gradient_is_gone_exactly_where_the_clip_is_counted(ratio, advantage, clip):
    ratio = tensor(ratio).requires_grad_()
    loss.clipped(ratio.log(), tensor(advantage), clip, clip).sum().backward()
    clipped = loss.policy_clipped(ratio.detach().log(), tensor(advantage), clip, clip)
    if clipped.sum() > 0:
        assert ratio.grad.abs().sum() == 0
    elif not math.isclose(abs(ratio.item() - 1), clip, rel_tol=1e-5):
        torch.testing.assert_close(ratio.grad, -tensor(advantage))


def test_the_value_loss_is_half_the_larger_squared_error():
    # Old value 1, clip 0.2, new value 2, so clipped 1.2.
    # Returns 3: 1.8^2 / 2 = 1.62 beats 1^2 / 2 = 0.5. Returns 0: 2^2 / 2 = 2 beats 1.2^2 / 2 = 0.72.
    value, old = tensor(2.0, 2.0), tensor(1.0, 1.0)
    clipped = loss.clip_value(value, old, 0.2)
    torch.testing.assert_close(clipped, tensor(1.2, 1.2))
    torch.testing.assert_close(loss.value_loss(value, clipped, tensor(3.0, 0.0), loss.half_square), tensor(1.62, 2.0))
    assert loss.value_clipped(value, clipped, tensor(3.0, 0.0)).tolist() == [[1, 0]]


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_an_infinite_value_clip_is_the_plain_squared_error(value, old, returns):
    value, old, returns = tensor(value), tensor(old), tensor(returns)
    free = loss.value_loss(value, loss.free_value(value, old), returns, loss.half_square)
    torch.testing.assert_close(free, 0.5 * (value - returns) ** 2)
    torch.testing.assert_close(
        loss.value_loss(value, loss.clip_value(value, old, math.inf), returns, loss.half_square),
        free,
        atol=1e-5,
        rtol=1e-5,
    )


# ----------------------------------------------------------------------------- aggregation


@pytest.mark.parametrize(
    ("weights", "first", "second"),
    [
        (loss.token_mean(MASK), 1 / 4, 1 / 4),  # four tokens in all
        (loss.token_mean_per_micro_batch(MASK, 1), 1 / 2, 1 / 6),  # micro-batches of one row: 1/1 and 1/3, halved
        (loss.sequence_mean(MASK), 1 / 2, 1 / 6),  # the same here, where a micro-batch is a sequence
        (loss.sum_over_limit(MASK), 1 / 8, 1 / 8),  # four places times two episodes
    ],
    ids=["token_mean", "token_mean_per_micro_batch", "sequence_mean", "sum_over_limit"],
)
def test_the_weight_of_a_token_worked_by_hand(weights, first, second):
    torch.testing.assert_close(weights, torch.tensor([[first, 0, 0, 0], [second, second, second, 0]]))


def test_the_micro_batch_enters_where_the_name_says_so_and_nowhere_else():
    depends = {
        label for label, weigh in AGGREGATIONS.items() if not torch.equal(weigh(MASK, 1, one), weigh(MASK, 2, one))
    }
    assert depends == {"token_mean_per_micro_batch"}


@given(masks())
def test_a_mean_per_micro_batch_without_a_split_is_the_token_mean(mask):
    torch.testing.assert_close(loss.token_mean_per_micro_batch(mask, len(mask)), loss.token_mean(mask))


@given(masks())
def test_a_mean_per_micro_batch_of_one_response_each_is_the_sequence_mean_where_none_is_empty(mask):
    mask[:, 0] = True
    torch.testing.assert_close(loss.token_mean_per_micro_batch(mask, 1), loss.sequence_mean(mask))


@given(masks())
def test_where_all_responses_reach_the_limit_every_aggregation_is_the_token_mean(mask):
    full = torch.ones_like(mask)
    for label, weigh in AGGREGATIONS.items():
        torch.testing.assert_close(weigh(full, 1, one), loss.token_mean(full), msg=label)


@given(masks(), st.sampled_from(["token_mean", "sequence_mean"]))
def test_a_mean_of_ones_is_one_and_nothing_masked_has_a_weight(mask, label):
    weights = AGGREGATIONS[label](mask, 1, one)
    torch.testing.assert_close(weights.sum(), mask.any().float())
    assert (weights[~mask] == 0).all()


@pytest.mark.parametrize("aggregate", AGGREGATIONS.values(), ids=AGGREGATIONS)
def test_an_aggregation_divides_by_what_all_ranks_hold(aggregate):
    two_like_this_one = aggregate(MASK, 1, lambda value: 2 * value)
    torch.testing.assert_close(two_like_this_one, aggregate(MASK, 1, one) / 2)


@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_a_term_of_weight_zero_counts_neither_in_the_sum_nor_in_the_gradient(garbage):
    terms = torch.where(MASK, 2.0, garbage).requires_grad_()
    total = loss.weighted(terms, loss.token_mean(MASK))
    total.backward()
    assert total == 2.0
    torch.testing.assert_close(terms.grad, MASK / 4)


@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_behind_a_term_of_weight_zero_the_gradient_is_zero_where_the_log_ratio_was_masked_first(garbage):
    advantage, weights = torch.where(MASK, 1.0, garbage), loss.token_mean(MASK)

    def loss_and_gradient(masks_first):
        logprob = torch.where(MASK, -1.0, garbage).requires_grad_()
        log_ratio = logprob - torch.where(MASK, -1.0, garbage)
        terms = loss.clipped(masked.keep(log_ratio, MASK) if masks_first else log_ratio, advantage, 0.2, 0.2)
        total = loss.weighted(terms, weights)
        total.backward()
        return total.item(), logprob.grad

    (total, gradient), (late_total, late_gradient) = map(loss_and_gradient, (True, False))
    assert total == late_total == -1.0
    torch.testing.assert_close(gradient, -weights)
    assert torch.equal(late_gradient.isnan(), ~MASK)  # 0 times what is no number: masking the terms comes too late


# ----------------------------------------------------------------------------- the entropy bonus


def test_the_bonus_is_its_coefficient_times_the_entropy_and_none_is_zero():
    logits = tensor([0.0, 0.0, 0.0, 0.0], [0.0, 50.0, 0.0, 0.0])
    torch.testing.assert_close(loss.entropy_bonus(logits, 1.0, 0.01), tensor(0.01 * math.log(4), 0.0))


def test_the_gradient_of_the_bonus_is_that_of_finite_differences():
    logits = tensor([0.3, -1.0, 0.5], [2.0, 0.0, -0.5]).requires_grad_()
    loss.entropy_bonus(logits, 0.7, 0.01).sum().backward()
    for place in range(6):
        step = torch.zeros(6, dtype=torch.float64).index_fill(0, torch.tensor([place]), 1e-4).view(1, 2, 3)
        ahead, behind = (
            Categorical(logits=(logits.detach().double() + shift) / 0.7).entropy().sum() for shift in (step, -step)
        )
        found = logits.grad.flatten()[place].item()
        assert found == pytest.approx(0.01 * (ahead - behind).item() / 2e-4, abs=1e-6)


# ----------------------------------------------------------------------------- which responses count, and what is imitated


def test_a_huber_loss_is_half_the_square_up_to_its_limit_and_then_a_line():
    # |x| = 0.5: 0.125. |x| = 3 at limit 1: 1 * (3 - 0.5) = 2.5; at no limit 4.5.
    error = tensor(0.5, -3.0)
    torch.testing.assert_close(loss.huber(error, 1.0), tensor(0.125, 2.5))
    torch.testing.assert_close(loss.huber(error, math.inf), loss.half_square(error))


def test_only_responses_that_end_count_where_the_others_are_left_out():
    has_eos = torch.tensor([True, False])
    assert loss.all_responses(has_eos).tolist() == [True, True]
    assert loss.ended_responses(has_eos).tolist() == [True, False]


def test_only_good_responses_are_imitated_every_token_of_them_that_counts():
    # The first response's advantages add up to 1 over the tokens that count, the second's to -1.
    logprob = torch.tensor([[-1.0, -2.0, -4.0, -8.0], [-1.0, -2.0, -4.0, -8.0]])
    advantage = torch.tensor([[2.0, -9.0, -9.0, -9.0], [3.0, -2.0, -2.0, 9.0]])
    imitated = loss.imitate_good_responses(logprob, advantage, MASK, 0.1)
    torch.testing.assert_close(imitated, torch.tensor([[0.1, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert loss.imitate_good_responses(logprob, advantage, MASK, 0.0).abs().sum() == 0
    assert loss.no_imitation(logprob, advantage, MASK).tolist() == [[0.0] * 4] * 2
