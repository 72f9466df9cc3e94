"""Truncated sampling whose training has its softmax over the tokens that the sampler kept, and the one that has not."""

from dataclasses import replace

import pytest
import torch

from repro.models import generate, logprobs, modes
from repro.ops import text, truncation
from repro.stages import ppo, ppo_step
from repro.stages.ppo_setup import AdaptiveState, sampling
from tests.tiny import EOS, NO_TEXTS, PAD, episodes, models, pick, policy, queries, setting, uniform

REPLAYED = pytest.mark.parametrize("label", ["top_k_10_replayed", "top_p_0.9_replayed"])
TEMPERATURE = 0.7


def run_of(label, micro_batch=8, **choices):
    """A run whose policy moves, by plain gradient descent, so that splits of a batch can be compared."""
    networks = models()
    weights = [weight for network in networks.trained for weight in network.parameters()]
    arm = pick(truncated_sampling=label, **choices)
    return setting(networks, arm, torch.optim.SGD(weights, 1.0), micro_batch)


def rolled(run, rows=8, tokens=5):
    return ppo.roll_out(run, queries(rows), uniform(rows, tokens))


def step(run, rollout, first_on_batch=True):
    target, _ = ppo.targets(rollout, 0.05, run.micro_batch, run.pick)
    return ppo_step.ppo_step(run, rollout, target, NO_TEXTS, AdaptiveState(0.05), first_on_batch)


def in_support(r):
    """[B, R, V] bool: the tokens in the support."""
    return truncation.within(torch.zeros(*r.response.shape, policy().config.vocab_size), r.support) == 0


def over_the_support(network, r):
    logits = logprobs.response_logits(network, r.query, r.response, PAD, EOS)
    return text.logprob_of(logits.masked_fill(~in_support(r), -torch.inf), r.response, TEMPERATURE)


@REPLAYED
@pytest.mark.parametrize("choices", [{}, {"old_logprob": "recomputed"}, {"logprob_temperature": "unscaled"}])
def test_replayed_the_ratio_is_one_and_the_kl_zero_before_the_first_step(label, choices):
    run = run_of(label, **choices)
    r = rolled(run)
    torch.testing.assert_close(r.logprob, r.sampler_logprob, atol=1e-5, rtol=0)
    measured = step(run, r)
    assert measured["policy/ratio_error"] < 1e-5 and measured["policy/sampler_gap"] < 1e-5
    assert r.kl.abs().max() < 1e-5


@REPLAYED
def test_replayed_a_log_probability_is_that_with_which_the_sampler_drew_and_uncorrected_it_is_not(label):
    replayed, uncorrected = (
        episodes(models(), truncated_sampling=each) for each in (label, label[: -len("_replayed")])
    )
    assert torch.equal(replayed.response, uncorrected.response)
    network = policy(0, 2.0)
    torch.testing.assert_close(replayed.logprob, over_the_support(network, replayed), atol=1e-5, rtol=0)
    everything = logprobs.response_logprobs(network, replayed.query, replayed.response, PAD, EOS, TEMPERATURE)
    torch.testing.assert_close(uncorrected.logprob, everything, atol=1e-5, rtol=0)
    assert (replayed.logprob >= uncorrected.logprob - 1e-5).all()
    assert (replayed.logprob - uncorrected.logprob).max() > 0.05


def test_the_support_has_what_was_drawn_and_as_many_tokens_as_the_truncation_keeps():
    r = episodes(models(), truncated_sampling="top_k_10_replayed")
    inside = in_support(r)
    assert (inside.sum(-1) == 10).all()
    assert inside.gather(-1, r.response[..., None]).all()
    assert not inside[..., PAD].any()


def test_where_training_is_over_all_tokens_nothing_is_stored():
    for label in ("off", "top_p_0.9", "top_k_10"):
        assert episodes(models(), truncated_sampling=label).support.numel() == 0


@REPLAYED
def test_after_a_step_the_softmax_is_over_the_support_of_the_policy_that_sampled(label):
    run = run_of(label)
    r = rolled(run)
    step(run, r)
    now = logprobs.response_logprobs(run.networks.policy, r.query, r.response, PAD, EOS, TEMPERATURE, r.support)
    torch.testing.assert_close(now, over_the_support(run.networks.policy, r), atol=1e-5, rtol=0)
    again = rolled(run)
    assert not torch.equal(now, r.logprob)
    assert not torch.equal(again.support, r.support)  # the policy's own supports have moved
    assert step(run, r, first_on_batch=False)["policy/ratio_error"] > 1e-4


@REPLAYED
@pytest.mark.parametrize(
    "choices", [{}, {"entropy_bonus": "0.01"}, {"kl_estimator": "whole_vocabulary"}, {"constrained_step": "trpo"}]
)
def test_the_split_into_micro_batches_changes_nothing(label, choices):
    weights = []
    for micro_batch in (8, 3):
        run = run_of(label, micro_batch, **choices)
        step(run, rolled(run))
        weights.append(torch.cat([weight.detach().flatten() for weight in run.networks.policy.parameters()]))
    # Ten products with a curvature carry a rounding further.
    torch.testing.assert_close(*weights, atol=2e-4 if "constrained_step" in choices else 1e-5, rtol=1e-4)


@REPLAYED
def test_both_samplers_have_the_same_support(label):
    how = sampling(pick(truncated_sampling=label))
    network, inputs = policy(0, 2.0), (queries(8), uniform(8, 5))
    one, other = (
        generate.sample_with_support(network, *inputs, replace(how, sampler=each), EOS, PAD)
        for each in (generate.eager, generate.static)
    )
    assert torch.equal(one[0], other[0]) and torch.equal(one[2], other[2])
    torch.testing.assert_close(one[1], other[1], atol=1e-5, rtol=0)


@REPLAYED
def test_where_sampling_stops_padding_has_every_token_and_no_number_is_lost(label):
    run = run_of(label, sampling="stop_at_eos")
    r = rolled(run)
    padded = r.response == PAD
    assert padded.any() and (r.support[padded] == truncation.EVERY_TOKEN).all()
    measured = step(run, r)
    assert all(value == value for value in measured.values())
    assert all(weight.isfinite().all() for weight in run.networks.policy.parameters())


@REPLAYED
def test_the_greedy_response_pays_the_kl_over_what_the_arm_keeps_not_over_itself(label):
    networks = models()
    networks = replace(networks, reference=modes.freeze(models(end_logit=0.0).policy))
    run = setting(networks, pick(truncated_sampling=label, baseline="greedy_response"))
    greedy = replace(run, sampling=generate.greedy(run.sampling))
    r = rolled(greedy)
    assert (in_support(r).sum(-1) > 1).any() and r.kl.abs().max() > 0.01
