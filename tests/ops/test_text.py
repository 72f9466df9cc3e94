"""Where a response ends, and how likely its tokens are."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from repro.details import OLD_LOGPROB
from repro.ops import text

EOS, PAD = 0, 9
#                      end first, end in the middle, end last, two ends, none
RESPONSES = torch.tensor([[0, 5, 5, 5], [5, 0, 5, 5], [5, 5, 5, 0], [5, 0, 0, 5], [5, 5, 5, 5]])


def test_the_last_token_is_the_first_end_of_text_or_else_the_last_of_all():
    last, has_eos = text.last_token(RESPONSES, EOS)
    assert last.tolist() == [0, 1, 3, 1, 3]
    assert has_eos.tolist() == [True, True, True, True, False]


def test_what_follows_the_first_end_of_text_is_padding():
    expected = [[0, 9, 9, 9], [5, 0, 9, 9], [5, 5, 5, 0], [5, 0, 9, 9], [5, 5, 5, 5]]
    assert text.truncate_after_eos(RESPONSES, EOS, PAD).tolist() == expected


@pytest.mark.parametrize(("flags", "index"), [([True, True], 0), ([False, True], 1), ([False, False], 2)])
def test_first_true_is_the_length_where_nothing_is_true(flags, index):
    assert text.first_true(torch.tensor([flags])).tolist() == [index]


responses = st.integers(1, 6).flatmap(
    lambda tokens: st.lists(st.lists(st.integers(0, 3), min_size=tokens, max_size=tokens), min_size=1, max_size=4)
)


@given(responses, st.integers(0, 3))
def test_what_is_drawn_after_the_first_end_of_text_changes_neither_the_end_nor_the_text(rows, garbage):
    response = torch.tensor(rows)
    last, has_eos = text.last_token(response, EOS)
    after = torch.arange(response.shape[1]) > last[:, None]
    spoiled = torch.where(after, garbage, response)
    assert all(map(torch.equal, text.last_token(spoiled, EOS), (last, has_eos)))
    assert torch.equal(text.truncate_after_eos(spoiled, EOS, PAD), text.truncate_after_eos(response, EOS, PAD))


@given(responses)
def test_a_text_that_was_cut_at_its_end_is_cut_no_further_and_has_its_tokens_up_to_there(rows):
    cut = text.truncate_after_eos(torch.tensor(rows), EOS, PAD)
    assert torch.equal(text.truncate_after_eos(cut, EOS, PAD), cut)
    for row, left in zip(rows, cut.tolist(), strict=True):
        kept = row[: row.index(EOS) + 1] if EOS in row else row
        assert left == kept + [PAD] * (len(row) - len(kept))


@given(responses)
def test_stopping_at_the_end_is_going_on_and_cutting_afterwards(rows):
    drawn, ended, stopped = torch.tensor(rows), torch.zeros(len(rows), dtype=torch.bool), []
    for column in drawn.unbind(1):
        stopped.append(text.stop_at_eos(column, ended, PAD))
        assert torch.equal(text.ignore_eos(column, ended, PAD), column)
        ended = ended | (column == EOS)
    assert torch.equal(torch.stack(stopped, 1), text.truncate_after_eos(drawn, EOS, PAD))


def test_logprobs_of_a_three_token_vocabulary_worked_by_hand():
    # At temperature 0.5 the logits 0, ln 2, ln 3 become 0, ln 4, ln 9: probabilities 1/14, 4/14, 9/14.
    logits = torch.tensor([0.0, math.log(2), math.log(3)]).expand(1, 3, 3)
    got = text.logprob_of(logits, torch.tensor([[0, 1, 2]]), 0.5)
    torch.testing.assert_close(got, torch.tensor([[1 / 14, 4 / 14, 9 / 14]]).log(), atol=1e-5, rtol=0)


def test_logprobs_are_float32_and_finite_for_half_precision_logits_of_any_size():
    logits = torch.tensor([[[300.0, -300.0, 0.0]]], dtype=torch.bfloat16)
    got = text.logprob_of(logits, torch.tensor([[1]]), 0.7)
    assert got.dtype == torch.float32
    assert got.isfinite().all()


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=6), st.sampled_from([0.5, 0.7, 1.0, 2.0]))
def test_the_probabilities_of_all_tokens_sum_to_one_and_their_mean_log_is_the_entropy(numbers, temperature):
    logits = torch.tensor(numbers).expand(1, len(numbers), -1)
    logprob = text.logprob_of(logits, torch.arange(len(numbers))[None], temperature)
    assert logprob.exp().sum().item() == pytest.approx(1, abs=1e-5)
    entropy = -(logprob.exp() * logprob).sum().item()
    assert text.entropy_of(logits, temperature)[0, 0].item() == pytest.approx(entropy, abs=1e-5)


@given(st.integers(2, 50))
def test_the_entropy_of_equal_logits_is_that_of_a_fair_die_and_of_a_hot_temperature(sides):
    assert text.entropy_of(torch.zeros(sides), 1.0).item() == pytest.approx(math.log(sides), rel=1e-5)
    hot = text.entropy_of(torch.linspace(-3, 3, sides), 1e4).item()
    assert hot == pytest.approx(math.log(sides), rel=1e-5)


# ----------------------------------------------------------------------------- entropy and KL over the vocabulary


def logits(seed, impossible=()):
    """[2, 3, 6] random logits; the tokens that are `impossible` cannot be drawn."""
    values = 3 * torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(seed))
    values[..., list(impossible)] = -torch.inf
    return values


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("impossible", [(), (2, 5)])
def test_entropy_and_kl_are_those_of_the_distributions_over_what_can_be_drawn(temperature, impossible):
    possible = [token for token in range(6) if token not in impossible]
    p, q = (Categorical(logits=logits(seed)[..., possible] / temperature) for seed in (0, 1))
    ours = logits(0, impossible), logits(1, impossible)
    torch.testing.assert_close(text.entropy_of(ours[0], temperature), p.entropy(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text.kl_of(*ours, temperature), kl_divergence(p, q), atol=1e-5, rtol=1e-5)
    assert (text.kl_of(ours[0], ours[0], temperature) == 0).all()


def test_what_the_reference_cannot_draw_and_the_policy_can_is_infinitely_far():
    assert (text.kl_of(logits(0), logits(1, impossible=(2,)), 1.0) == math.inf).all()


def test_the_gradient_of_the_entropy_is_that_of_finite_differences():
    values, direction = logits(0).double(), logits(3).double()
    values.requires_grad_()
    text.entropy_of(values, 0.7).sum().backward()
    ahead, behind = (entropy_in_double(values.detach() + step * direction, 0.7) for step in (1e-5, -1e-5))
    assert (values.grad * direction).sum().item() == pytest.approx((ahead - behind) / 2e-5, rel=1e-4)


def entropy_in_double(values, temperature):
    probability = (values / temperature).softmax(-1)
    return -(probability * probability.log()).sum().item()


def test_what_cannot_be_drawn_leaves_the_gradient_of_the_entropy_finite():
    values = logits(0, impossible=(1,)).requires_grad_()
    text.entropy_of(values, 0.7).sum().backward()
    assert values.grad.isfinite().all() and (values.grad[..., 1] == 0).all()
    assert values.grad.abs().sum() > 0


# ----------------------------------------------------------------------------- after the end


def test_after_its_end_a_row_goes_on_or_stops():
    drawn, ended = torch.tensor([5, 6]), torch.tensor([True, False])
    assert text.ignore_eos(drawn, ended, PAD).tolist() == [5, 6]
    assert text.stop_at_eos(drawn, ended, PAD).tolist() == [PAD, 6]


def test_what_counts_goes_to_the_end_or_to_the_limit():
    last = torch.tensor([0, 2, 3])
    assert text.up_to_end(last, 4).tolist() == [0, 2, 3]
    assert text.to_the_limit(last, 4).tolist() == [3, 3, 3]


def test_old_logprobs_are_computed_again_only_where_that_is_asked_for():
    sampled = torch.tensor([[-1.0]])
    from_sampler, recomputed = (OLD_LOGPROB.variants[label].value for label in ("from_sampler", "recomputed"))
    assert from_sampler(sampled=sampled, again=lambda: pytest.fail("a second forward pass")) is sampled
    assert recomputed(sampled=sampled, again=lambda: sampled - 1).item() == -2


def test_the_temperature_of_logprobs_is_that_of_the_draws_or_one():
    assert (text.at_temperature(0.7), text.without_temperature(0.7)) == (0.7, 1.0)
    assert text.at_temperature(1.0) == text.without_temperature(1.0)


# ----------------------------------------------------------------------------- what SFT counts


def test_the_response_is_as_many_of_a_texts_last_tokens_as_it_has():
    # Queries of 2, 1 and 3 tokens; responses of 2, 1 with its end cut off, and none.
    ids = torch.tensor([[3, 4, 5, EOS, 9, 9], [3, 6, 9, 9, 9, 9], [3, 4, 5, 9, 9, 9]])
    response = torch.tensor([2, 1, 0])
    assert text.response_only(ids, response, PAD).int().tolist() == [
        [0, 0, 1, 1, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert text.whole_text(ids, response, PAD).int().tolist() == [
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
    ]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_response_that_is_the_whole_text_is_all_that_is_not_padding(lengths):
    length = torch.tensor(lengths)
    ids = torch.where(torch.arange(6) < length[:, None], 5, PAD)
    assert torch.equal(text.response_only(ids, length, PAD), text.whole_text(ids, length, PAD))
    assert text.whole_text(ids, length, PAD).sum(1).tolist() == lengths


# ----------------------------------------------------------------------------- which tokens may be drawn


def test_the_likeliest_tokens_that_have_the_mass_together_may_be_drawn():
    # Probabilities 0.1, 0.5, 0.15, 0.25: 0.5 + 0.25 reach 0.7, and 0.5 alone reaches 0.5.
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    drawn = {mass: text.top_p(logits, mass).isfinite().tolist() for mass in (0.1, 0.5, 0.7, 0.8, 1.0)}
    assert drawn[0.1] == drawn[0.5] == [[False, True, False, False]]
    assert drawn[0.7] == [[False, True, False, True]]
    assert drawn[0.8] == [[False, True, True, True]]
    assert drawn[1.0] == [[True, True, True, True]]
    assert text.top_k(logits, 2).isfinite().tolist() == [[False, True, False, True]]


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=6))
def test_what_may_be_drawn_keeps_its_logit_and_all_of_the_mass_or_of_the_tokens_is_every_token(values):
    logits = torch.tensor([values])
    for kept in (text.top_p(logits, 0.5), text.top_k(logits, 1)):
        assert torch.equal(kept[kept.isfinite()], logits[kept.isfinite()]) and kept.isfinite().any()
    unlikely = torch.cat([logits, torch.full((1, 50), -40.0)], 1)
    for whole in (1.0, 1.1):
        assert torch.equal(text.top_p(unlikely, whole), text.every_token(unlikely))
    assert torch.equal(text.top_k(logits, len(values) + 3), logits)
