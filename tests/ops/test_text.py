"""Where a response ends, and how likely its tokens are."""

import math

import pytest
import torch

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
