"""What an episode is paid: scores by hand, and the KL estimators by enumeration of a toy vocabulary."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.details import KL_ESTIMATOR
from repro.ops import reward
from repro.ops.text import kl_of
from repro.types import Rollout

UNFINISHED = torch.tensor([True, False])


@pytest.mark.parametrize(
    ("rule", "paid"),
    [(reward.replace_with_minus_one, [2.0, -1.0]), (reward.subtract_one, [2.0, 2.5]), (reward.keep_score, [2.0, 3.5])],
)
def test_an_unfinished_response_is_paid_by_the_rule(rule, paid):
    assert rule(torch.tensor([2.0, 3.5]), UNFINISHED).tolist() == paid


scores = st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=5).map(torch.tensor)


@pytest.mark.parametrize("rule", [reward.replace_with_minus_one, reward.subtract_one, reward.keep_score])
@given(scores)
def test_where_every_response_ends_all_rules_pay_the_score(rule, score):
    assert torch.equal(rule(score, torch.ones_like(score, dtype=torch.bool)), score)


def test_what_the_reward_model_says_of_an_unfinished_response_is_not_paid_though_it_is_no_number():
    score = torch.tensor([2.0, float("nan")], requires_grad=True)
    paid = reward.replace_with_minus_one(score, UNFINISHED)
    paid.sum().backward()
    assert paid.tolist() == [2.0, -1.0] and score.grad.tolist() == [1.0, 0.0]


@given(scores, st.data())
def test_a_score_is_paid_once_and_where_there_is_no_room_both_places_are_one(score, data):
    tokens = data.draw(st.integers(1, 5))
    last = torch.tensor([data.draw(st.integers(0, tokens - 1)) for _ in score])
    after, at = (place(score, last, (len(score), tokens)) for place in (reward.score_after_eos, reward.score_at_eos))
    assert torch.equal(after.sum(1), score) and torch.equal(at.sum(1), score)
    full = last == tokens - 1
    assert torch.equal(after[full], at[full])
    assert torch.equal(after[~full][:, 1:], at[~full][:, :-1])


def test_the_score_stands_after_the_end_or_on_the_last_token_where_there_is_no_room():
    # Four places; last tokens at 0, 2 and 3: the third response fills them all.
    score, last = torch.tensor([7.0, 8.0, 9.0]), torch.tensor([0, 2, 3])
    assert reward.score_after_eos(score, last, torch.Size([3, 4])).tolist() == [
        [0, 7, 0, 0],
        [0, 0, 0, 8],
        [0, 0, 0, 9],
    ]
    assert reward.score_at_eos(score, last, torch.Size([3, 4])).tolist() == [[7, 0, 0, 0], [0, 0, 8, 0], [0, 0, 0, 9]]


def test_the_kl_is_charged_up_to_the_end_of_text_and_not_after():
    placed = torch.tensor([[0.0, 0.0, 4.0]])
    kl = torch.tensor([[0.5, 0.25, float("nan")]])
    assert reward.kl_penalised_reward(placed, kl, torch.tensor([[True, True, False]])).tolist() == [[-0.5, -0.25, 4.0]]


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_without_a_kl_the_reward_is_the_score(score, kl):
    placed, cost, token = torch.tensor([[0.0, score]]), torch.tensor([[kl, kl]]), torch.tensor([[True, True]])
    assert torch.equal(reward.kl_penalised_reward(placed, reward.subtract_nothing(cost), token), placed)
    assert torch.equal(reward.kl_penalised_reward(placed, cost, ~token), placed)


# ----------------------------------------------------------------------------- estimators of the KL


def toy(seed=0):
    """Logits of a policy p and a reference q over five tokens."""
    p, q = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return p, q


def expected_under_policy(estimator, p, q):
    """Sum over the whole vocabulary of p times the estimate: no sampling, so no tolerance for noise."""
    return (p.softmax(0) * estimator(p.log_softmax(0), q.log_softmax(0))).sum()


def kl(p, q):
    return (p.softmax(0) * (p.log_softmax(0) - q.log_softmax(0))).sum()


def mean_gradient(estimator, p, q):
    """What averaging a loss term over on-policy samples differentiates to: the samples' distribution is held fixed."""
    p = p.clone().requires_grad_()
    (p.detach().softmax(0) * estimator(p.log_softmax(0), q.log_softmax(0))).sum().backward()
    return p.grad


def gradient_of(divergence, p):
    p = p.clone().requires_grad_()
    divergence(p).backward()
    return p.grad


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("estimator", [reward.k1, reward.k3])
def test_k1_and_k3_are_unbiased(estimator, seed):
    p, q = toy(seed)
    torch.testing.assert_close(expected_under_policy(estimator, p, q), kl(p, q))


def test_k2_is_biased():
    p, q = toy()
    assert (expected_under_policy(reward.k2, p, q) - kl(p, q)).abs() > 0.01


@given(st.floats(-8, 0), st.floats(-8, 0))
def test_k2_and_k3_are_never_negative_though_k1_is(logprob, ref_logprob):
    pair = torch.tensor(logprob, dtype=torch.float64), torch.tensor(ref_logprob, dtype=torch.float64)
    assert reward.k2(*pair) >= 0
    assert reward.k3(*pair) >= -1e-12
    assert (reward.k1(*pair) < 0) == (logprob < ref_logprob)


@given(st.floats(-0.05, 0.05))
def test_near_the_reference_k3_is_k2_to_second_order(shift):
    logprob, ref = torch.tensor(-2.0 + shift, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)
    # k3 = s^2/2 - s^3/6 + ..., so that what k2 leaves over is at most |s|^3 / 5 here.
    assert (reward.k3(logprob, ref) - reward.k2(logprob, ref)).abs() <= abs(shift) ** 3 / 5 + 1e-15


def test_k1_and_k3_agree_in_the_mean_to_first_order():
    # The difference of the two is a term of mean zero, so their means move alike as p leaves q.
    _, q = toy()
    direction = torch.tensor([1.0, -1.0, 0.5, 0.0, 0.0], dtype=torch.float64)
    for size in (1e-1, 1e-2, 1e-3):
        p = q + size * direction
        torch.testing.assert_close(
            expected_under_policy(reward.k1, p, q), expected_under_policy(reward.k3, p, q), rtol=1e-6, atol=1e-14
        )


def test_as_a_loss_k1_teaches_nothing():
    p, q = toy()
    torch.testing.assert_close(mean_gradient(reward.k1, p, q), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_as_a_loss_k2_has_the_gradient_of_the_reverse_kl():
    p, q = toy()
    torch.testing.assert_close(mean_gradient(reward.k2, p, q), gradient_of(lambda p: kl(p, q), p))


def test_as_a_loss_k3_has_the_gradient_of_the_forward_kl():
    p, q = toy()
    torch.testing.assert_close(mean_gradient(reward.k3, p, q), gradient_of(lambda p: kl(q, p), p))


def test_the_sum_over_the_vocabulary_is_the_mean_of_k1_and_of_k3_over_all_that_can_be_sampled():
    p, q = toy()
    exact = kl_of(p[None, None], q[None, None], 1.0)
    for estimator in (reward.k1, reward.k3):
        expected = expected_under_policy(estimator, p, q)
        torch.testing.assert_close(exact.squeeze().double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("label", "expected"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) - 0.5)])
def test_an_estimate_from_samples_does_not_ask_for_the_sum_over_the_vocabulary(label, expected):
    logprob, ref_logprob = torch.tensor([[-1.0]]), torch.tensor([[-1.5]])
    estimate = KL_ESTIMATOR.variants[label].value
    got = estimate(logprob=logprob, ref_logprob=ref_logprob, whole=lambda: pytest.fail("a second forward pass"))
    assert got.item() == pytest.approx(expected)


def test_the_sum_over_the_vocabulary_is_computed_where_it_is_asked_for():
    exact, sampled = torch.tensor([[0.25]]), torch.tensor([[-1.0]])
    assert (
        KL_ESTIMATOR.variants["whole_vocabulary"].value(logprob=sampled, ref_logprob=sampled, whole=lambda: exact)
        is exact
    )


def test_a_kl_that_is_free_costs_nothing_not_even_where_it_is_not_a_number():
    kl = torch.tensor([[0.5, float("nan")]])
    assert reward.subtract_nothing(kl).tolist() == [[0, 0]]
    assert reward.subtract_all(kl) is kl
    assert reward.no_kl(kl, kl).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("limit", "expected"), [(5.0, [-5.0, 1.0, 5.0]), (1.0, [-1.0, 1.0, 1.0]), (float("inf"), [-8.0, 1.0, 6.0])]
)
def test_a_score_goes_no_further_than_its_limit_from_zero(limit, expected):
    assert reward.clip_score(torch.tensor([-8.0, 1.0, 6.0]), limit).tolist() == expected


# ----------------------------------------------------------------------------- coefficient and normalisation


@pytest.mark.parametrize(
    ("kl_per_episode", "coefficient"),
    [
        (6.0, 0.1),  # on target
        (6.6, 0.1 * (1 + 0.1 * 0.05)),  # a tenth above, over a twentieth of the horizon
        (60.0, 0.1 * (1 + 0.2 * 0.05)),  # far above: the error is cut at a fifth
        (0.0, 0.1 * (1 - 0.2 * 0.05)),
    ],
)
def test_the_adaptive_coefficient_nudges_towards_six_nats(kl_per_episode, coefficient):
    assert reward.adaptive_coefficient(0.1, kl_per_episode, episodes=500) == pytest.approx(coefficient)
    assert reward.fixed_coefficient(0.1, kl_per_episode, episodes=500) == 0.1


@given(st.floats(0.001, 1), st.integers(1, 10_000))
def test_on_its_target_the_adaptive_coefficient_is_the_fixed_one(coefficient, episodes):
    given = coefficient, 6.0, episodes
    assert reward.adaptive_coefficient(*given) == reward.fixed_coefficient(*given)


@given(st.floats(0, 100), st.floats(0, 100))
def test_a_larger_kl_never_lowers_the_coefficient(one, other):
    low, high = (reward.adaptive_coefficient(0.1, kl, 500) for kl in sorted((one, other)))
    assert low <= high and high / low <= 1.01 / 0.99 + 1e-9


def normalised(scores, how):
    return (scores - how.bias) / how.scale


@given(st.lists(st.integers(-40, 40), min_size=2, max_size=6, unique=True), st.sampled_from([0.5, 1.0, 8.0]))
def test_references_have_mean_zero_and_the_spread_that_the_normalisation_says(quarters, factor):
    scores = torch.tensor(quarters) / 4
    centred = normalised(scores, reward.centre(scores))
    assert centred.mean().item() == pytest.approx(0, abs=1e-5)
    assert normalised(scores, reward.centre_and_scale(scores)).std().item() == pytest.approx(1, abs=1e-4)
    larger = normalised(scores, reward.centre_and_multiply(scores, factor))
    torch.testing.assert_close(larger, factor * centred)
    assert reward.centre_and_multiply(scores, 1.0) == reward.centre(scores)


def test_references_score_zero_on_average_once_centred():
    scores = torch.tensor([1.0, 2.0, 6.0])  # mean 3, unbiased variance (4 + 1 + 9) / 2 = 7
    assert reward.centre(scores) == reward.Normalisation(bias=3.0, scale=1.0)
    assert reward.centre_and_scale(scores).bias == 3.0
    assert reward.centre_and_scale(scores).scale == pytest.approx(7**0.5)
    assert reward.centre_and_multiply(scores, 8.0) == reward.Normalisation(bias=3.0, scale=0.125)
    assert reward.as_trained(scores) == reward.Normalisation(bias=0.0, scale=1.0)


def test_the_score_falls_where_the_value_mask_has_its_extra_state():
    last, tokens = torch.tensor([0, 2, 3]), 4
    nothing, ids = torch.zeros(3, tokens), torch.zeros(3, tokens, dtype=torch.long)
    none, everything = torch.zeros(3, 0), torch.empty(3, tokens, 0).byte()
    rollout = Rollout(ids, ids, *[nothing] * 5, torch.zeros(3), last, last, last >= 0, none, everything)
    placed = reward.score_after_eos(torch.ones(3), last, torch.Size([3, tokens])) != 0
    assert (placed & ~rollout.value_mask).sum() == 0
    assert (placed & rollout.token_mask).sum(1).tolist() == [0, 0, 1]


def test_a_k3_that_is_weighted_by_the_ratio_is_k3_at_the_first_step_and_its_gradient_is_the_kls():
    # p = (0.5, 0.5) at logits 0, q = (0.8, 0.2). Samples of p: r = 1 everywhere, so the value is k3's.
    logits = torch.zeros(2, requires_grad=True)
    logprob, ref_logprob = logits.log_softmax(0)[None], torch.tensor([[0.8, 0.2]]).log()
    weighted = reward.k3_times_ratio(logprob, ref_logprob, logprob - logprob.detach())
    torch.testing.assert_close(weighted, reward.k3(logprob, ref_logprob))
    expected_kl = (logprob.exp() * (logprob - ref_logprob)).sum()
    (wanted,) = torch.autograd.grad(expected_kl, logits, retain_graph=True)
    (got,) = torch.autograd.grad((weighted * 0.5).sum(), logits)
    torch.testing.assert_close(got, wanted)


# ----------------------------------------------------------------------------- shape, length, and where the KL is paid


def test_a_score_over_the_reference_is_the_probability_of_beating_it_or_its_logarithm():
    # 2 above, equal, 2 below: sigmoid(2) = 0.880797, 0.5, 0.119203.
    score, references = torch.tensor([3.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, 1.0])
    chances = torch.tensor([0.880797, 0.5, 0.119203])
    torch.testing.assert_close(reward.sigmoid_over_reference(score, lambda: references), chances)
    torch.testing.assert_close(reward.log_sigmoid_over_reference(score, lambda: references), chances.log())
    assert reward.as_scored(score, lambda: pytest.fail("asked for the references")) is score


def test_length_costs_by_the_token_or_near_the_limit():
    # Ten tokens are the limit and the ramp begins at 8: 0, half way, all of it.
    score, length = torch.zeros(3), torch.tensor([8.0, 9.0, 10.0])
    torch.testing.assert_close(reward.price_per_token(score, length, 10, 0.02), torch.tensor([-0.16, -0.18, -0.2]))
    torch.testing.assert_close(reward.ramp_to_the_limit(score, length, 10, 0.8), torch.tensor([0.0, -0.5, -1.0]))
    assert reward.price_per_token(score, length, 10, 0.0).tolist() == reward.length_is_free(score, length, 10).tolist()


def test_a_response_pays_the_same_kl_with_its_score_as_token_by_token():
    score, cost = torch.tensor([1.0, 2.0]), torch.tensor([[0.1, 0.2, torch.nan], [0.3, torch.nan, torch.nan]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    paid, left = reward.all_with_the_score(score, cost, mask)
    torch.testing.assert_close(paid, torch.tensor([0.7, 1.7]))
    assert left.abs().sum() == 0
    last = torch.tensor([1, 0])
    totals = [
        reward.kl_penalised_reward(reward.score_after_eos(s, last, (2, 3)), c, mask).sum(1)
        for s, c in ((paid, left), reward.each_at_its_token(score, cost, mask))
    ]
    torch.testing.assert_close(*totals)


def test_the_best_of_n_is_as_far_from_one_sample_as_its_distribution_is():
    # Of n samples the best has the density n u^(n-1) of its rank u: KL = integral of n u^(n-1) log(n u^(n-1)).
    rank = (torch.arange(200_000) + 0.5).double() / 200_000
    for n in (2, 4, 16):
        density = n * rank ** (n - 1)
        assert reward.best_of_n_kl(n) == pytest.approx((density * density.log()).mean().item(), abs=1e-4)
    assert reward.best_of_n_kl(1) == 0
