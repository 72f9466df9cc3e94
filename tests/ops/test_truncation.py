"""The tokens that a truncation keeps, packed to bits, and the softmax over them."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.ops import text, truncation

TOP_2 = partial(text.top_k, count=2)


def logits(rows=3, vocabulary=11, seed=0):
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def test_two_of_four_tokens_worked_by_hand():
    one = torch.tensor([[0.0, 2.0, -1.0, 1.0]])
    packed = truncation.support_of(one, TOP_2)
    assert packed.tolist() == [[0b1010]]
    over = truncation.within(one, packed).log_softmax(-1)
    assert over.isneginf().tolist() == [[True, False, True, False]]
    assert over[0, 1].item() == pytest.approx(-torch.tensor(1 + torch.e**-1).log().item())


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_what_is_unpacked_is_what_may_be_drawn(vocabulary, count, seed):
    some = logits(vocabulary=vocabulary, seed=seed)
    truncate = partial(text.top_k, count=count)
    packed = truncation.support_of(some, truncate)
    assert packed.dtype == torch.uint8 and packed.shape == (3, -(-vocabulary // 8))
    assert torch.equal(truncation.within(some, packed), truncate(some))


def test_a_support_of_every_token_is_the_softmax_over_all():
    some = logits()
    every = truncation.support_of(some, text.every_token)
    assert torch.equal(truncation.within(some, every), some)
    full = torch.full_like(every, truncation.EVERY_TOKEN)
    assert torch.equal(truncation.within(some, full), some)


def test_without_a_support_the_logits_are_not_touched():
    some = logits()
    nothing = truncation.whole_vocabulary(some)
    assert nothing.shape == (3, 0)
    assert truncation.within(some, nothing) is some


def test_a_token_that_was_left_out_has_no_gradient():
    some = logits().requires_grad_()
    packed = truncation.support_of(some.detach(), TOP_2)
    likeliest = some.detach().argmax(-1, keepdim=True)
    truncation.within(some, packed).log_softmax(-1).gather(-1, likeliest).sum().backward()
    assert ((some.grad != 0).sum(-1) == 2).all() and some.grad.isfinite().all()
