"""Log-probabilities a block of logits at a time: those of all logits at once, and so are their gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.ops import text, vocabulary
from repro.ops.vocabulary import selected_logprob
from tests.live import Live

NOBODY = -1


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Blocks of 3 tokens of the vocabulary by 4 rows: next to nothing is a multiple of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vocabulary.BLOCK, "cpu", 12)
        patch.setattr(vocabulary, "WIDTH", 3)
        yield


def plain(hidden, weight, tokens, temperature, never):
    """From all logits at once."""
    logits = hidden @ weight.T / temperature
    if never != NOBODY:
        logits = logits.index_fill(1, torch.tensor([never]), -torch.inf)
    return logits.log_softmax(1).gather(1, tokens[:, None])[:, 0]


def factors(rows, vocabulary_size, width=5, seed=0, dtype=torch.float64, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (
        spread * torch.randn(count, width, generator=generator, dtype=dtype) for count in (rows, vocabulary_size)
    )
    return hidden, weight, torch.randint(vocabulary_size, (rows,), generator=generator)


def value_and_gradients(function, hidden, weight, *rest, towards=None):
    hidden, weight = (each.clone().requires_grad_() for each in (hidden, weight))
    value = function(hidden, weight, *rest)
    towards = torch.linspace(-1, 1, len(value)) if towards is None else towards
    return value.detach(), *torch.autograd.grad((value * towards).sum(), (hidden, weight))


@settings(max_examples=40)
@given(
    rows=st.integers(1, 11),
    size=st.integers(2, 14),
    width=st.integers(1, 6),
    temperature=st.sampled_from([0.01, 0.7, 1.0, 3.0]),
    never=st.integers(-1, 14),
    seed=st.integers(0, 1000),
)
def test_values_and_gradients_are_those_of_all_logits_at_once(rows, size, width, temperature, never, seed):
    hidden, weight, tokens = factors(rows, size, width, seed)
    tokens = torch.where(tokens == never, (tokens + 1) % size, tokens)
    expected = value_and_gradients(plain, hidden, weight, tokens, temperature, never if never < size else NOBODY)
    got = value_and_gradients(selected_logprob, hidden, weight, tokens, temperature, never)
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)
    in_single = selected_logprob(hidden.float(), weight.float(), tokens, temperature, never)
    assert in_single.dtype == torch.float32
    torch.testing.assert_close(in_single.double(), expected[0], atol=1e-4 / temperature, rtol=1e-5)


@pytest.mark.parametrize("never", [NOBODY, 0, 3, 7, 8, 100])
def test_gradients_are_those_of_finite_differences(never):
    hidden, weight, tokens = factors(5, 8)
    tokens = torch.where(tokens == never, 1, tokens)
    inputs = hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: selected_logprob(h, w, tokens, 0.7, never), inputs)


@pytest.mark.parametrize("never", [0, 2, 3, 7])
def test_a_token_that_cannot_be_drawn_has_no_share_and_no_gradient(never):
    hidden, weight, tokens = factors(5, 8)
    tokens = torch.where(tokens == never, 1, tokens)
    before = value_and_gradients(selected_logprob, hidden, weight, tokens, 0.7, never)
    weight[never] *= 50
    after = value_and_gradients(selected_logprob, hidden, weight, tokens, 0.7, never)
    torch.testing.assert_close(after, before)
    assert (after[2][never] == 0).all()


def test_the_only_token_that_can_be_drawn_is_certain_and_its_gradient_is_zero():
    hidden, weight, _ = factors(5, 2)
    got = value_and_gradients(selected_logprob, hidden, weight, torch.zeros(5, dtype=torch.long), 0.7, 1)
    for values in got:
        torch.testing.assert_close(values, torch.zeros_like(values), atol=1e-12, rtol=0)


@pytest.mark.parametrize("spread", [1e2, 1e4])
def test_logits_of_any_size_overflow_nowhere(spread):
    hidden, weight, tokens = factors(9, 8, dtype=torch.float32, spread=spread)
    got = value_and_gradients(selected_logprob, hidden, weight, tokens, 0.01, NOBODY)
    assert all(values.isfinite().all() for values in got)
    expected = plain(hidden.double(), weight.double(), tokens, 0.01, NOBODY)
    torch.testing.assert_close(got[0].double(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("wanted", ["hidden", "weight"])
def test_one_gradient_alone_is_what_it_is_beside_the_other(wanted):
    hidden, weight, tokens = factors(9, 8)
    both = dict(zip(("hidden", "weight"), value_and_gradients(selected_logprob, hidden, weight, tokens, 0.7, 3)[1:]))
    given = {"hidden": hidden, "weight": weight}
    given[wanted] = given[wanted].clone().requires_grad_()
    value = selected_logprob(given["hidden"], given["weight"], tokens, 0.7, 3)
    (value * torch.linspace(-1, 1, len(value))).sum().backward()
    assert torch.equal(given[wanted].grad, both[wanted])
    assert all(each.grad is None for name, each in given.items() if name != wanted)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_stands_in_a_row_whose_gradient_is_zero_reaches_no_gradient(garbage):
    hidden, weight, tokens = factors(9, 8, dtype=torch.float32)
    towards = torch.tensor([1.0, 0, 2, -1, 0, 3, 1, -0.0, 2])
    clean = value_and_gradients(selected_logprob, hidden, weight, tokens, 0.7, 3, towards=towards)
    spoiled = hidden.clone()
    spoiled[towards == 0, 1] = garbage
    spoiled_hidden, spoiled_weight = spoiled.requires_grad_(), weight.clone().requires_grad_()
    value = selected_logprob(spoiled_hidden, spoiled_weight, tokens, 0.7, 3)
    value.backward(towards)
    assert torch.equal(value[towards != 0], clean[0][towards != 0])
    assert torch.equal(spoiled_weight.grad, clean[2])
    assert torch.equal(spoiled_hidden.grad, clean[1])
    assert (spoiled_hidden.grad[towards == 0] == 0).all()


def test_under_autocast_it_is_as_far_off_as_the_librarys_own_logits_are():
    hidden, weight, tokens = factors(64, 40, width=32, dtype=torch.float32, spread=0.5)
    exact = value_and_gradients(plain, hidden, weight, tokens, 1.0, NOBODY)
    with torch.autocast("cpu", torch.bfloat16):
        ours = value_and_gradients(selected_logprob, hidden, weight, tokens, 1.0, NOBODY)
        theirs = value_and_gradients(plain, hidden, weight, tokens, 1.0, NOBODY)
    assert [values.dtype for values in ours] == [torch.float32] * 3
    for our, their, right in zip(ours, theirs, exact, strict=True):
        assert (their - right).norm() / 3 < (our - right).norm() < 3 * (their - right).norm() < 0.1 * right.norm()


def test_what_it_is_given_is_left_as_it_was():
    hidden, weight, tokens = factors(9, 8)
    before = hidden.clone(), weight.clone(), tokens.clone()
    value_and_gradients(selected_logprob, hidden, weight, tokens, 0.7, 3)
    assert torch.equal(hidden, before[0]) and torch.equal(weight, before[1]) and torch.equal(tokens, before[2])


def test_a_second_derivative_is_refused_and_not_wrong():
    hidden, weight, tokens = factors(3, 8)
    hidden.requires_grad_()
    squares = selected_logprob(hidden, weight, tokens, 1.0, 3).square().sum()
    (first,) = torch.autograd.grad(squares, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_more_than_a_block_of_logits_exists_in_either_pass(dtype, monkeypatch):
    monkeypatch.setitem(vocabulary.BLOCK, "cpu", 2**12)
    monkeypatch.setattr(vocabulary, "WIDTH", 2**7)
    hidden, weight, tokens = factors(256, 2**11, width=1, dtype=torch.float32)
    hidden.requires_grad_()
    weight.requires_grad_()
    block, whole = 2**12 * 4, 256 * 2**11 * 4
    with Live() as live, torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        selected_logprob(hidden, weight, tokens, 0.7, 3).sum().backward()
    assert live.largest <= block
    assert live.peak < 10 * block < whole / 10  # copies of a block, and what is as large as a factor


def test_under_autocast_a_token_that_is_nearly_certain_is_not_more_than_certain():
    hidden, weight, _ = factors(64, 40, width=128, dtype=torch.float32)
    tokens = (hidden @ weight.T).argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        ours, logits = selected_logprob(hidden, weight, tokens, 1.0, NOBODY), hidden @ weight.T
    assert (ours <= 0).all() and (ours > -1e-3).any()
    # What a sampler that sees these logits says of the same token.
    torch.testing.assert_close(ours, text.logprob_of(logits, tokens, 1.0), atol=1e-5, rtol=1e-5)
