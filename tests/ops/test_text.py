"""Where a response ends, and how likely its tokens are."""

import math

import pytest
import torch
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
