"""What is measured of logits some places at a time: the same values and gradients, with fewer logits at once."""

from functools import partial

import pytest
import torch

from repro.models import forward_pass, logprobs, padding, pretrained
from repro.models.wrapping import Learner, Learners
from repro.ops import loss, text
from repro.ops.vocabulary import BLOCK
from tests import tiny
from tests.live import Live
from tests.tiny import EOS, PAD, VOCABULARY

TEMPERATURE, ROWS, TOKENS = 0.7, 8, 5
BONUS = partial(loss.entropy_bonus, coefficient=0.1)


@pytest.fixture
def texts():
    generator = torch.Generator().manual_seed(3)
    response = torch.randint(2, PAD, (ROWS, TOKENS), generator=generator)
    response[0, 2:], response[1, 4] = PAD, EOS
    return tiny.queries(ROWS), response


def plain(network, query, response):
    """Log-probability and bonus from all logits at once."""
    logits = logprobs.response_logits(network, query, response, PAD, EOS)
    bonus = BONUS(logits, TEMPERATURE).masked_fill(padding.is_padding(response, PAD, EOS), 0.0)
    return logprobs.token_logprobs(logits, response, PAD, EOS, TEMPERATURE), bonus


def gradients(network, outputs):
    network.zero_grad()
    weights = torch.linspace(-1, 1, outputs[0].numel()).view_as(outputs[0])
    sum((weights * output).sum() for output in outputs).backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("positions", [1, 7, 16, 40, 1_000])
def test_values_and_gradients_are_those_of_all_logits_at_once(texts, positions):
    network = tiny.policy(0)
    measures = partial(logprobs.response_measures, network, *texts, PAD, EOS, TEMPERATURE, BONUS, positions=positions)
    expected, got = plain(network, *texts), measures()
    for one, other in zip(expected, got):
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-6)
    expected, got = gradients(network, expected), gradients(network, measures())
    for name in expected:
        assert (got[name] - expected[name]).abs().max() <= 1e-6 * max(1, expected[name].abs().max())


def test_one_chunk_is_the_plain_forward_pass_to_the_bit(texts):
    network = tiny.policy(0)
    measures = logprobs.response_measures(network, *texts, PAD, EOS, TEMPERATURE, BONUS)
    expected = plain(network, *texts)
    assert all(torch.equal(one, other) for one, other in zip(expected, measures))
    expected, got = gradients(network, expected), gradients(network, measures)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: Learner(Learners(policy=n), "policy")])
def test_the_network_is_left_as_it_was(texts, wrap):
    network = tiny.policy(0)
    before = logprobs.response_logits(network, *texts, PAD, EOS)
    logprobs.response_measures(wrap(network), *texts, PAD, EOS, TEMPERATURE, positions=3)
    assert "forward" not in vars(network.get_output_embeddings())
    assert torch.equal(before, logprobs.response_logits(network, *texts, PAD, EOS))


def test_an_error_on_the_way_leaves_the_network_as_it_was(texts):
    network, (query, response) = tiny.policy(0), texts
    with pytest.raises(IndexError):
        logprobs.response_measures(network, query + VOCABULARY * 10, response, PAD, EOS, TEMPERATURE, positions=3)
    assert "forward" not in vars(network.get_output_embeddings())


def test_a_padding_token_cannot_be_drawn_in_any_chunk(texts):
    network = tiny.policy(0)
    with torch.no_grad():
        network.get_output_embeddings().weight[PAD, 0] = 1e3  # by far the likeliest, were it allowed
    for one, other in zip(
        plain(network, *texts), logprobs.response_measures(network, *texts, PAD, EOS, TEMPERATURE, BONUS, positions=3)
    ):
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-6)


def test_a_model_that_changes_its_logits_after_the_output_layer_is_measured_as_it_is(texts):
    network = tiny.policy(0)
    network.config.final_logit_softcapping = 30.0
    expected = plain(network, *texts)
    got = logprobs.response_measures(network, *texts, PAD, EOS, TEMPERATURE, BONUS, positions=3)
    assert all(torch.equal(one, other) for one, other in zip(expected, got))


def test_the_kl_over_the_vocabulary_is_the_same_some_episodes_at_a_time(texts, monkeypatch):
    policy, reference = tiny.policy(0), tiny.policy(1)
    whole = logprobs.response_kl(policy, reference, *texts, PAD, EOS, TEMPERATURE)
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 2 * TOKENS)
    torch.testing.assert_close(logprobs.response_kl(policy, reference, *texts, PAD, EOS, TEMPERATURE), whole)
    assert whole.abs().max() > 0.01


def test_logits_of_a_chunk_are_all_that_exist_at_once_in_both_passes():
    """[B, R, V] float32 is what the plain pass has several of."""
    rows, tokens, vocabulary, positions = 64, 16, 4_096, 32
    network = pretrained.initialise_policy("gpt-neox:16/1/2/32", vocabulary, 64, seed=0)
    query, response = (torch.randint(2, vocabulary - 1, (rows, size)) for size in (4, tokens))
    whole, chunk = rows * tokens * vocabulary * 4, positions * vocabulary * 4

    def peak(measure):
        network.zero_grad()
        with Live() as live:
            sum(output.sum() for output in measure()).backward()
        return live

    inputs = (network, query, response, vocabulary - 1, EOS, TEMPERATURE)
    together = peak(lambda: logprobs.response_measures(*inputs, BONUS))
    apart = peak(lambda: logprobs.response_measures(*inputs, BONUS, positions=positions))
    assert together.largest == whole and together.peak > 3 * whole
    assert apart.largest <= max(chunk, vocabulary * 16 * 4)  # the output layer's own gradient is the other large one
    assert apart.peak < whole / 2  # a 32nd of the places, some copies of their logits, and what is not logits


def test_under_no_gradient_too_only_a_chunk_of_logits_exists():
    rows, tokens, vocabulary, positions = 16, 16, 4_096, 32
    network = pretrained.initialise_policy("gpt-neox:16/1/2/32", vocabulary, 64, seed=0)
    query, response = (torch.randint(2, vocabulary - 1, (rows, size)) for size in (4, tokens))
    with Live() as live, torch.no_grad():
        logprobs.response_measures(network, query, response, vocabulary - 1, EOS, TEMPERATURE, positions=positions)
    whole = rows * tokens * vocabulary * 4
    assert live.largest <= BLOCK["cpu"] * 4 < whole and live.peak < whole


def test_any_measure_can_be_asked_for(texts):
    """Here the share of the vocabulary that is less likely than the token."""
    network, (query, response) = tiny.policy(0), texts

    def rank(logits, tokens):
        own = text.logprob_of(logits, tokens[..., None].squeeze(-1), 1.0)
        return (logits.log_softmax(-1) < own[..., None]).float().mean(-1, keepdim=True)

    ids = torch.cat([query, response[:, :-1]], 1)
    logits = network(**forward_pass.model_inputs(ids, PAD), logits_to_keep=TOKENS).logits
    got = logprobs.measure_logits(network, ids, response, PAD, rank, positions=4)
    torch.testing.assert_close(got, rank(logits, response))
