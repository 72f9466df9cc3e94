"""PPO's pieces against arithmetic by hand and tiny networks: what is paid, what is learned, what must not matter."""

import itertools
import json
import random
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from repro.data import embedded
from repro.detail import Variant
from repro.details import ADVANTAGE, ENTROPY_TARGET, KL_ESTIMATOR, KL_PLACEMENT, POLICY_OBJECTIVE, PTX_MIX, WHITEN_SCOPE
from repro.models import critics, forward_pass, logprobs, modes, pretrained, ranks
from repro.ops.entropy import towards_level
from repro.ops.masked import one_rank
from repro.stages import optimise, ppo, ppo_batches, ppo_rewards, ppo_step
from repro.stages.corpus import Corpus
from repro.stages.ppo_setup import AdaptiveState
from repro.types import Rollout, Targets
from tests.paths import ROOT
from tests.tiny import (
    EOS,
    NO_TEXTS,
    PAD,
    VOCABULARY,
    Ranks,
    episodes,
    made_up_rollout,
    models,
    pick,
    policy,
    queries,
    setting,
    uniform,
    with_garbage,
)

COEFFICIENT = 0.05
PRICES = AdaptiveState(COEFFICIENT, sampler_kl_coefficient=1.0)
# First, in the middle, last, none, and one before the last.
AWKWARD = made_up_rollout(last_token=[0, 2, 4, 4, 3], has_eos=[True, True, True, False, True])
PLACEMENTS = list(KL_PLACEMENT.variants)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def targets(rollout, coefficient=COEFFICIENT, micro_batch=2, **choices):
    return ppo.targets(rollout, coefficient, micro_batch, pick(**choices))


def agree(ours, theirs):
    torch.testing.assert_close((ours.advantage, ours.returns), (theirs.advantage, theirs.returns))


def row(*numbers):
    return torch.tensor([numbers])


# ----------------------------------------------------------------------------- targets by hand


def three_tokens(last_token=1, has_eos=True, score=2.0):
    """One episode of room for three tokens: log p - log q is 0.4, -0.2 and 0.1; values 1, 0.5 and 3."""
    return Rollout(
        query=row(5),
        response=row(7, EOS, PAD),
        logprob=row(-1.0, -1.0, -1.0),
        sampler_logprob=row(-1.0, -1.0, -1.0),
        ref_logprob=row(-1.4, -0.8, -1.1),
        kl=row(0.4, -0.2, 0.1),
        value=row(1.0, 0.5, 3.0),
        score=torch.tensor([score]),
        last_token=torch.tensor([last_token]),
        last_counted=torch.tensor([last_token]),
        has_eos=torch.tensor([has_eos]),
        member_scores=torch.zeros(1, 0),
        support=torch.empty(1, 3, 0, dtype=torch.uint8),
    )


def one_token(ref_logprob=-1.0, value=0.0):
    """One episode of one token, its end of text, at log-probability -1."""
    return Rollout(
        query=row(5),
        response=row(EOS),
        logprob=row(-1.0),
        sampler_logprob=row(-1.0),
        ref_logprob=row(ref_logprob),
        kl=row(-1.0 - ref_logprob),
        value=row(value),
        score=torch.tensor([0.0]),
        last_token=torch.tensor([0]),
        last_counted=torch.tensor([0]),
        has_eos=torch.tensor([True]),
        member_scores=torch.zeros(1, 0),
        support=torch.empty(1, 1, 0, dtype=torch.uint8),
    )


def test_an_episode_that_ends_with_its_second_token_worked_by_hand():
    # Rewards: -0.5 * 0.4 = -0.2, then -0.5 * -0.2 = 0.1, then the score 2 in the terminal state, free of KL.
    # gamma 1, lambda 0.9:
    # A_2 = 2 - 3                            = -1
    # A_1 = 0.1 + 3 - 0.5 + 0.9 * (-1)       = 1.7
    # A_0 = -0.2 + 0.5 - 1 + 0.9 * 1.7       = 0.83
    target, _ = targets(three_tokens(), coefficient=0.5, whiten_adv="off", gae_lambda="0.9")
    torch.testing.assert_close(target.advantage, row(0.83, 1.7, 0.0))  # the terminal state has no token to credit
    torch.testing.assert_close(target.returns, row(1.83, 2.2, 2.0))


def test_an_episode_without_an_end_is_paid_minus_one_on_its_last_token():
    # Rewards -0.2, 0.1 and -0.5 * 0.1 - 1 = -1.05; gamma 1, lambda 0: each advantage is one step's error.
    target, measured = targets(
        three_tokens(last_token=2, has_eos=False), coefficient=0.5, whiten_adv="off", gae_lambda="0"
    )
    torch.testing.assert_close(target.advantage, row(-0.2 + 0.5 - 1, 0.1 + 3 - 0.5, -1.05 - 3))
    assert measured["objective/score"] == -1
    assert measured["objective/eos_rate"] == 0


def test_an_episode_that_ends_at_once_has_one_token_and_a_terminal_state():
    # Rewards -0.2 and the score 2; lambda 1: A_0 = (-0.2 + 2) - 1; the value of the third state is out of the game.
    target, _ = targets(three_tokens(last_token=0), coefficient=0.5, whiten_adv="off", gae_lambda="1")
    torch.testing.assert_close(target.advantage, row(0.8, 0.0, 0.0))
    torch.testing.assert_close(target.returns, row(1.8, 2.0, 0.0))


def test_the_score_on_the_end_of_text_leaves_the_terminal_state_its_value_to_bootstrap_from():
    # Rewards -0.2, 0.1 + 2 and 0; lambda 0: A_1 = 2.1 + 3 - 0.5.
    target, _ = targets(three_tokens(), coefficient=0.5, whiten_adv="off", gae_lambda="0", score_position="at_eos")
    torch.testing.assert_close(target.advantage, row(-0.2 + 0.5 - 1, 2.1 + 3 - 0.5, 0.0))


def test_an_episode_whose_tokens_after_the_end_are_charged_too():
    # The score 2 stands where it stood, in the state after the end; the third token pays for its KL: 2 - 0.5 * 0.1.
    # gamma 1, lambda 0.9:
    # A_2 = 1.95 - 3                         = -1.05
    # A_1 = 0.1 + 3 - 0.5 + 0.9 * (-1.05)    = 1.655
    # A_0 = -0.2 + 0.5 - 1 + 0.9 * 1.655     = 0.7895
    charged = replace(three_tokens(), last_counted=torch.tensor([2]))
    target, measured = targets(charged, coefficient=0.5, whiten_adv="off", gae_lambda="0.9")
    torch.testing.assert_close(target.advantage, row(0.7895, 1.655, -1.05))
    torch.testing.assert_close(target.returns, row(1.7895, 2.155, 1.95))
    assert measured["objective/kl"] == pytest.approx(0.4 - 0.2 + 0.1)
    assert measured["objective/length"] == 2
    assert ppo_batches.loss_weights(charged, 1, pick()).policy.tolist() == [pytest.approx([1 / 3] * 3)]


@pytest.mark.parametrize(("limit", "paid"), [("none", 7.0), ("5", 5.0), ("1", 1.0)])
def test_a_score_is_clipped_before_an_unfinished_response_is_told_off(limit, paid):
    _, measured = targets(three_tokens(score=7.0), reward_clip=limit)
    assert measured["objective/score"] == paid
    _, measured = targets(three_tokens(score=-7.0), reward_clip=limit)
    assert measured["objective/score"] == -paid
    _, measured = targets(three_tokens(2, False, 7.0), reward_clip=limit, no_eos_score="subtract_one")
    assert measured["objective/score"] == paid - 1


@pytest.mark.parametrize(("choice", "ddof"), [("biased", 0), ("unbiased", 1)])
def test_advantages_are_whitened_by_the_variance_that_is_chosen(choice, ddof):
    plain, _ = targets(AWKWARD, whiten_adv="off")
    white, _ = targets(AWKWARD, whiten_moments=choice)
    values = plain.advantage[AWKWARD.token_mask].double().numpy()
    expected = (values - values.mean()) / values.std(ddof=ddof)
    torch.testing.assert_close(white.advantage[AWKWARD.token_mask].double().numpy(), expected, **CLOSE)


def test_over_each_micro_batch_the_first_episodes_do_not_see_the_last():
    split, _ = targets(AWKWARD, micro_batch=2, whiten_scope="each_micro_batch")
    parts = [targets(AWKWARD[rows])[0].advantage for rows in (slice(0, 2), slice(2, 4), slice(4, 5))]
    torch.testing.assert_close(split.advantage, torch.cat(parts))
    whole, _ = targets(AWKWARD)
    assert not torch.allclose(split.advantage, whole.advantage)
    together, _ = targets(AWKWARD, micro_batch=5, whiten_scope="each_micro_batch")
    agree(together, whole)


def test_more_steps_than_an_episode_has_are_lambda_1():
    steps, _ = targets(AWKWARD, advantage="n_step", whiten_adv="off")  # five of them, as many as there are tokens
    monte_carlo, _ = targets(AWKWARD, gae_lambda="1", whiten_adv="off")
    agree(steps, monte_carlo)


def test_without_a_critic_every_value_is_as_if_it_were_zero():
    blind, _ = targets(AWKWARD, advantage="reward_to_go", whiten_adv="off", gamma="0.95")
    zero, _ = targets(replace(AWKWARD, value=torch.zeros(5, 5)), gae_lambda="1", whiten_adv="off", gamma="0.95")
    agree(blind, zero)


def test_the_metrics_of_an_episode_worked_by_hand():
    _, measured = targets(three_tokens(), coefficient=0.5)
    expected = {
        "objective/score": 2,
        "objective/kl": 0.4 - 0.2,
        "objective/rlhf_reward": 2 - 0.5 * 0.2,
        "objective/entropy": 2,
        "objective/length": 2,
        "objective/eos_rate": 1,
        "value/mean": 4.5 / 3,
        "objective/kl_coefficient": 0.5,
    }
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def loss_of(r, target, logprob, value, prices=PRICES, **choices):
    """The loss and its metrics, of a forward pass over the whole rollout in one micro-batch, without a bonus."""
    arm = pick(**choices)
    nothing = torch.zeros_like(r.logprob)
    return ppo_step.ppo_loss(logprob, nothing, value, r, target, ppo_batches.loss_weights(r, len(r), arm), prices, arm)


# ----------------------------------------------------------------------------- garbage in masked places


def loss_and_gradient(rollout, target_of, **choices):
    """The loss, its metrics and its gradients, of a forward pass with garbage wherever the rollout has it."""
    logprob = (rollout.logprob + 0.1).requires_grad_()
    value = (rollout.value - 0.3).requires_grad_()
    total, terms = loss_of(rollout, target_of, logprob, value, **choices)
    total.backward()
    return total.detach(), terms, logprob.grad, value.grad


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_garbage_in_masked_places_changes_no_target_and_no_metric(placement, garbage):
    clean, measured = targets(AWKWARD, kl_placement=placement, whiten_reward="scale_only")
    spoiled, spoiled_measured = targets(
        with_garbage(AWKWARD, garbage), kl_placement=placement, whiten_reward="scale_only"
    )
    assert torch.equal(spoiled.advantage, clean.advantage)
    assert torch.equal(spoiled.returns, clean.returns)
    assert spoiled_measured == measured


@pytest.mark.parametrize("scope", WHITEN_SCOPE.variants)
@pytest.mark.parametrize("estimate", ADVANTAGE.variants)
def test_garbage_changes_no_estimate_of_the_advantage_however_it_is_whitened(estimate, scope):
    choices = {"advantage": estimate, "whiten_scope": scope, "whiten_moments": "unbiased"}
    clean, _ = targets(AWKWARD, **choices)
    spoiled, _ = targets(with_garbage(AWKWARD), **choices)
    assert torch.equal(spoiled.advantage, clean.advantage)
    assert torch.equal(spoiled.returns, clean.returns)


@pytest.mark.parametrize("objective", POLICY_OBJECTIVE.variants)
def test_garbage_changes_no_objective_and_no_gradient_of_it(objective):
    target, _ = targets(AWKWARD)
    clean, _, *gradients = loss_and_gradient(AWKWARD, target, policy_objective=objective)
    spoiled, _, *spoiled_gradients = loss_and_gradient(with_garbage(AWKWARD), target, policy_objective=objective)
    torch.testing.assert_close(spoiled, clean)
    torch.testing.assert_close(spoiled_gradients, gradients)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
@pytest.mark.parametrize("value_clip", ["0.2", "off"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_garbage_in_masked_places_changes_no_loss_and_no_gradient(placement, value_clip, garbage):
    target, _ = targets(AWKWARD)
    choices = {"kl_placement": placement, "value_clip": value_clip}
    clean, terms, *gradients = loss_and_gradient(AWKWARD, target, **choices)
    spoiled, spoiled_terms, *spoiled_gradients = loss_and_gradient(with_garbage(AWKWARD, garbage), target, **choices)
    torch.testing.assert_close(spoiled, clean)
    torch.testing.assert_close(spoiled_terms, terms)
    torch.testing.assert_close(spoiled_gradients, gradients)


def test_the_block_of_the_documentation_puts_the_formulas_together_as_the_stage_does():
    """The last one of docs/python.md: NaN where nothing counts, and the paper's recipe."""
    block = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)[-1]
    exec(block, told := {})
    rollout = replace(
        made_up_rollout(last_token=told["last"].tolist(), has_eos=[True, True], tokens=told["logprob"].shape[1]),
        score=told["score"],
        value=told["old_value"],
        kl=told["old_logprob"] - told["ref_logprob"],
        **dict.fromkeys(("logprob", "sampler_logprob"), told["old_logprob"]),
        ref_logprob=told["ref_logprob"],
    )
    logprob, value = (told[name].detach().requires_grad_() for name in ("logprob", "new_value"))
    total, _ = loss_of(rollout, targets(rollout)[0], logprob, value)
    total.backward()
    torch.testing.assert_close(told["total"], total)
    torch.testing.assert_close((told["logprob"].grad, told["new_value"].grad), (logprob.grad, value.grad))


# ----------------------------------------------------------------------------- special cases of the loss


@pytest.mark.parametrize("objective", POLICY_OBJECTIVE.variants)
def test_at_the_first_pass_the_gradient_is_that_of_the_policy_gradient(objective):
    target, _ = targets(AWKWARD)
    logprob = AWKWARD.logprob.clone().requires_grad_()
    total, _ = loss_of(AWKWARD, target, logprob, AWKWARD.value, policy_objective=objective)
    total.backward()
    torch.testing.assert_close(logprob.grad, -target.advantage * AWKWARD.token_mask / AWKWARD.token_mask.sum())


def test_a_gain_past_the_range_has_a_gradient_only_where_nothing_clips_it():
    # The token is twice as likely as it was, and its advantage is 3: the surrogate is -2 * 3, its slope in log p too.
    # The penalty at price 1 adds r - 1 - log r = 1 - ln 2 and its slope r - 1 = 1. REINFORCE: -log p * 3, slope -3;
    # CISPO has it 1.2 times.
    r, log_2 = one_token(), torch.tensor(2.0).log()
    expected = {
        "clipped": (-1.2 * 3, 0),
        "unclipped": (-6, -6),
        "kl_penalty": (-6 + 1 - log_2, -6 + 1),
        "adaptive_kl_penalty": (-6 + 1 - log_2, -6 + 1),
        "policy_gradient": (-3 * (log_2 - 1), -3),
        "clipped_weight": (-3 * 1.2 * (log_2 - 1), -3 * 1.2),
    }
    assert expected.keys() == POLICY_OBJECTIVE.variants.keys()
    for objective, (loss, slope) in expected.items():
        logprob = (r.logprob + log_2).requires_grad_()
        target = Targets(row(3.0), row(0.0), row(0.0))
        total, _ = loss_of(r, target, logprob, r.value, policy_objective=objective)
        total.backward()
        assert (total.item(), logprob.grad.item()) == pytest.approx((float(loss), slope), abs=1e-5), objective


def test_a_penalty_that_costs_nothing_is_the_unclipped_objective():
    target, _ = targets(AWKWARD)
    forward = AWKWARD, target, AWKWARD.logprob + 0.4, AWKWARD.value, AdaptiveState(COEFFICIENT, 0.0)
    free, _ = loss_of(*forward, policy_objective="kl_penalty")
    unclipped, _ = loss_of(*forward, policy_objective="unclipped")
    torch.testing.assert_close(free, unclipped)


@pytest.mark.parametrize(("choice", "weight"), [("0.1", 0.1), ("0.5", 0.5), ("1", 1.0)])
def test_the_value_enters_the_loss_with_its_coefficient_times_half_its_squared_error(choice, weight):
    # One token and one state: (2 - 3)^2 / 2 = 0.5; the advantage is 0, so that is all.
    r = one_token(value=2.0)
    total, _ = loss_of(
        r, Targets(row(0.0), row(3.0), row(0.0)), r.logprob, r.value, value_coef=choice, value_clip="off"
    )
    assert total.item() == pytest.approx(weight * 0.5)


@pytest.mark.parametrize(
    ("placement", "charged"),
    [
        ("in_reward", 0.0),
        ("none", 0.0),
        ("in_loss_k1", 0.3),
        ("in_loss_k2", 0.5 * 0.3**2),
        ("in_loss_k3", 0.740818 - 1 + 0.3),  # e^-0.3 - 1 + 0.3
    ],
)
def test_the_kl_in_the_loss_is_charged_at_its_coefficient(placement, charged):
    r = one_token(ref_logprob=-1.3)
    total, _ = loss_of(
        r, Targets(row(0.0), row(0.0), row(0.0)), r.logprob, r.value, AdaptiveState(0.2), kl_placement=placement
    )
    assert total.item() == pytest.approx(0.2 * charged, abs=1e-6)


def test_what_is_charged_is_the_estimate_and_what_is_reported_is_unbiased():
    estimated = replace(three_tokens(), kl=row(1.0, 3.0, float("nan")), value=torch.zeros(1, 3))
    target, measured = targets(estimated, coefficient=0.5, whiten_adv="off", gae_lambda="0")
    torch.testing.assert_close(target.advantage, row(-0.5, -1.5, 0.0))
    assert measured["objective/kl"] == pytest.approx(0.4 - 0.2)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_reward_is_charged_the_kl_in_one_placement_only(placement):
    # Reward of the last token but one, without values: -0.5 * 0.4 where the KL is charged, else nothing.
    r = replace(three_tokens(), value=torch.zeros(1, 3))
    target, _ = targets(r, coefficient=0.5, kl_placement=placement, whiten_adv="off", gae_lambda="0")
    assert target.advantage[0, 0].item() == pytest.approx(-0.2 if placement == "in_reward" else 0.0)


def test_the_bonus_is_paid_on_the_tokens_that_count():
    r, arm = replace(three_tokens(), value=torch.zeros(1, 3)), pick()
    nothing = Targets(*torch.zeros(3, 1, 3))
    bonus = row(0.25, 0.5, float("nan"))
    total, _ = ppo_step.ppo_loss(
        r.logprob, bonus, r.value, r, nothing, ppo_batches.loss_weights(r, 1, arm), AdaptiveState(0.0), arm
    )
    assert total.item() == pytest.approx(-(0.25 + 0.5) / 2)


# ----------------------------------------------------------------------------- rollouts of tiny networks


def test_the_episodes_are_what_the_networks_say_one_by_one():
    networks = models()
    r = episodes(networks)
    assert 0 < r.has_eos.sum() < len(r), "some responses must end and some must not"
    for index in range(len(r)):
        query = r.query[index][r.query[index] != PAD][None]
        response = r.response[index][: int(r.last_token[index]) + 1][None]
        logprob, ref_logprob = (
            logprobs.response_logprobs(network, query, response, PAD, EOS, 0.7)
            for network in (networks.policy, networks.reference)
        )
        value = critics.response_values(networks.critic, query, response, PAD)
        score = networks.reward_model(**forward_pass.model_inputs(torch.cat([query, response], 1), PAD))[0, -1]
        mask = r.token_mask[index]
        torch.testing.assert_close(r.logprob[index][mask], logprob[0], **CLOSE)
        torch.testing.assert_close(r.ref_logprob[index][mask], ref_logprob[0], **CLOSE)
        torch.testing.assert_close(r.value[index][mask], value[0], **CLOSE)
        torch.testing.assert_close(r.score[index], score, **CLOSE)


def test_the_size_of_a_rollout_batch_changes_nothing():
    networks, query, numbers = models(), queries(8), uniform(8, 5)
    one, many = (ppo.roll_out(setting(networks, pick(), rollout_batch=b), query, numbers) for b in (1, 8))
    assert torch.equal(one.response, many.response)
    torch.testing.assert_close(one.score, many.score, **CLOSE)
    for name in ("logprob", "ref_logprob", "kl", "value"):
        ours, theirs = (getattr(r, name)[r.token_mask] for r in (one, many))
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("rollout_batch", [8, 3, 2, 1])
def test_responses_that_share_a_pass_over_their_prompt_are_the_same_episodes_in_the_same_order(rollout_batch):
    """Whole groups of four in a batch, groups cut by a batch's edge, and batches of one row."""
    networks, query, numbers = models(), queries(2).repeat(4, 1), uniform(8, 5)
    run = setting(networks, pick(), rollout_batch=rollout_batch)
    alone = ppo.roll_out(run, query, numbers)
    shared = ppo.roll_out(replace(run, sampling=replace(run.sampling, responses=4)), query, numbers)
    for one, other in zip(shared, alone):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert torch.equal(shared.response, alone.response)


@pytest.mark.parametrize("estimator", KL_ESTIMATOR.variants)
def test_before_the_first_update_there_is_no_kl_to_the_reference(estimator):
    r = episodes(models(), kl_estimator=estimator)
    _, measured = targets(r)
    assert abs(measured["objective/kl"]) < 1e-4
    assert r.kl[r.token_mask].abs().max() < 1e-4


def test_the_kl_over_the_vocabulary_is_the_sum_over_all_that_can_be_drawn():
    networks = replace(models(), reference=modes.freeze(policy(7, 2.0)))
    r = episodes(networks, kl_estimator="whole_vocabulary")
    drawable = torch.arange(VOCABULARY) != PAD
    for index in range(len(r)):
        query, end = r.query[index][r.query[index] != PAD], int(r.last_token[index])
        ids = torch.cat([query, r.response[index][:end]])[None]
        p, q = (
            Categorical(logits=network(ids).logits[0, len(query) - 1 :, drawable] / 0.7)
            for network in (networks.policy, networks.reference)
        )
        torch.testing.assert_close(r.kl[index][: end + 1], kl_divergence(p, q), atol=1e-4, rtol=1e-4)
    assert r.kl[r.token_mask].min() > 0.1


def test_sampling_on_after_the_end_leaves_what_counts_as_it_was():
    networks = models()
    fixed, stopped = (episodes(networks, sampling=how) for how in ("fixed_length_then_truncate", "stop_at_eos"))
    mask = stopped.token_mask
    assert torch.equal(fixed.token_mask, mask) and torch.equal(fixed.value_mask, stopped.value_mask)
    assert torch.equal(fixed.response[mask], stopped.response[mask])
    assert not torch.equal(fixed.response, stopped.response)
    assert (stopped.response[~mask] == PAD).all() and not (fixed.response == PAD).any()
    torch.testing.assert_close(fixed.score, stopped.score, **CLOSE)


def test_charged_every_token_counts_to_the_limit():
    r = episodes(models(), after_eos="unmasked")
    assert r.has_eos.any() and r.token_mask.all() and r.value_mask.all()
    assert torch.equal(r.last_token, episodes(models()).last_token)


def test_at_temperature_1_scaled_and_unscaled_are_the_same():
    networks = models()
    scaled, unscaled = (episodes(networks, temperature="1", logprob_temperature=how) for how in ("scaled", "unscaled"))
    torch.testing.assert_close(list(scaled), list(unscaled), atol=0, rtol=0)


def test_unscaled_the_draws_are_at_the_temperature_and_the_logprobs_are_not():
    networks = models()
    scaled, unscaled = (episodes(networks, logprob_temperature=how) for how in ("scaled", "unscaled"))
    assert torch.equal(scaled.response, unscaled.response)
    at_one = logprobs.response_logprobs(networks.policy, unscaled.query, unscaled.response, PAD, EOS, 1.0)
    torch.testing.assert_close(unscaled.logprob, at_one, **CLOSE)
    torch.testing.assert_close(unscaled.ref_logprob, at_one, **CLOSE)
    assert not torch.allclose(unscaled.logprob, scaled.logprob, atol=0.1)


def test_a_critic_that_is_the_reward_model_is_right_about_the_terminal_state():
    networks = models()
    networks = replace(networks, critic=networks.reward_model)
    r = episodes(networks)
    room = r.has_eos & (r.last_token + 1 < r.response.shape[1])
    assert room.sum() >= 2
    terminal = (r.last_token + 1)[room][:, None]
    torch.testing.assert_close(r.value[room].gather(1, terminal).squeeze(1), r.score[room], **CLOSE)
    target, _ = targets(r, coefficient=0.0)
    # The error of the terminal state is the score less its value: nothing is left for the critic to learn there.
    torch.testing.assert_close(target.returns[room].gather(1, terminal), r.value[room].gather(1, terminal), **CLOSE)


# ----------------------------------------------------------------------------- one optimizer step


def improved(micro_batch=8, texts=NO_TEXTS, **choices):
    """Metrics of one step of plain gradient descent, and the gradient itself: what the step took off the weights."""
    networks = models()
    r = episodes(networks, **choices)
    target, _ = targets(r, **choices)
    trained = [*networks.policy.parameters(), *networks.critic.parameters()]
    before = [p.detach().clone() for p in trained]
    # The reference is moved, so that a KL in the loss has something to pull at.
    r = replace(r, ref_logprob=r.ref_logprob - 0.2)
    work = setting(networks, pick(**choices), torch.optim.SGD(trained, lr=1.0), micro_batch)
    measured = ppo.ppo_step(work, r, target, texts, PRICES)
    return measured, torch.cat([(old - new.detach()).flatten() for old, new in zip(before, trained, strict=True)])


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"logprob_temperature": "unscaled"},
        {"temperature": "1"},
        {"after_eos": "unmasked"},
        {"sampling": "stop_at_eos"},
    ],
    ids=str,
)
def test_at_the_first_pass_the_ratio_is_one_and_nothing_is_clipped(choices):
    measured, _ = improved(**choices)
    assert measured["policy/ratio_error"] < 1e-5
    assert measured["policy/clip_fraction"] == 0
    assert measured["policy/approx_kl"] < 1e-9


def test_old_logprobs_that_are_recomputed_make_the_first_ratio_one_to_a_rounding():
    measured, _ = improved(micro_batch=4, old_logprob="recomputed")  # four at a time, as the rollout
    # To the bit on some processors; on others a product of the same shape is rounded by where it lies in memory.
    assert measured["policy/ratio_error"] < 5e-7 and measured["policy/approx_kl"] < 1e-12


@pytest.mark.parametrize("sampling", ["fixed_length_then_truncate", "stop_at_eos"])
def test_how_sampling_ends_changes_no_loss_where_what_follows_is_masked(sampling):
    (masked, gradient), (same, same_gradient) = (improved(), improved(sampling=sampling))
    assert same == pytest.approx(masked, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(same_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_a_gradient_longer_than_its_limit_is_shortened_and_keeps_its_direction():
    (_, free), (_, clipped) = improved(), improved(gradient_clip="1")
    assert free.norm() > 1.1
    assert clipped.norm().item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(clipped, free / free.norm(), atol=1e-5, rtol=1e-3)


def gradient_of(networks, loss):
    """Of a loss that is computed here, with respect to all weights of policy and critic, as one vector."""
    trained = [*networks.policy.parameters(), *networks.critic.parameters()]
    loss.backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])


def test_the_entropy_bonus_takes_a_hundredth_of_the_mean_entropy_off_the_loss():
    (plain, gradient), (paid, paid_gradient) = improved(), improved(entropy_bonus="0.01")
    networks, entropy = models(), []
    for query, response, last in zip(
        *(getattr(episodes(networks), name) for name in ("query", "response", "last_token"))
    ):
        query = query[query != PAD]
        logits = networks.policy(torch.cat([query, response[:last]])[None]).logits[0, len(query) - 1 :]
        entropy.append(Categorical(logits=logits[:, torch.arange(VOCABULARY) != PAD] / 0.7).entropy())
    mean = torch.cat(entropy).mean()
    assert paid["loss/total"] - plain["loss/total"] == pytest.approx(-0.01 * mean.item(), abs=1e-5)
    torch.testing.assert_close(paid_gradient - gradient, gradient_of(networks, -0.01 * mean), atol=1e-5, rtol=1e-3)


# ----------------------------------------------------------------------------- texts mixed in

TEXTS = torch.tensor([[5, 6, 7, EOS, PAD], [8, 9, EOS, PAD, PAD], [10, 11, 12, 13, 14]])


def text_loss(network):
    """The mean cross-entropy in nats of the tokens of TEXTS after their first, one text at a time."""
    losses = []
    for text in TEXTS:
        text = text[text != PAD]
        losses.append(-network(text[None, :-1]).logits[0].log_softmax(-1).gather(1, text[1:, None]))
    return torch.cat(losses).mean()


@pytest.mark.parametrize(("choice", "coefficient"), [("1", 1.0), ("27.8", 27.8)])
@pytest.mark.parametrize("micro_batch", [8, 2])
def test_texts_that_are_mixed_in_add_their_loss_and_its_gradient(choice, coefficient, micro_batch):
    (plain, gradient), (mixed, mixed_gradient) = improved(), improved(micro_batch, TEXTS, ptx_mix=choice)
    networks = models()
    loss = coefficient * text_loss(networks.policy)
    assert mixed["loss/total"] - plain["loss/total"] == pytest.approx(loss.item(), rel=1e-4)
    torch.testing.assert_close(mixed_gradient - gradient, gradient_of(networks, loss), atol=1e-4, rtol=1e-3)


def test_where_none_are_mixed_in_texts_change_nothing():
    (plain, gradient), (same, same_gradient) = improved(), improved(texts=TEXTS)
    assert same == plain
    assert torch.equal(same_gradient, gradient)


def test_two_ranks_mix_in_what_one_would(monkeypatch):
    # Losses are summed over ranks, and every rank is handed the same texts.
    run, mix = setting(models(), pick(), micro_batch=2), PTX_MIX.variants["1"].value
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    total = 0.0
    for rank in (0, 1):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        total += sum(part().item() for part in ppo_batches.sft_losses(run, TEXTS, mix))
    assert total == pytest.approx(text_loss(run.networks.policy).item(), rel=1e-4)


# ----------------------------------------------------------------------------- splits of a step


@pytest.mark.parametrize("placement", ["in_reward", "in_loss_k2"])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sum_over_limit"])
def test_the_micro_batch_changes_neither_loss_nor_gradient(aggregation, placement):
    choices = {"loss_aggregation": aggregation, "kl_placement": placement}
    whole, gradient = improved(8, **choices)
    for micro_batch in (1, 3):
        measured, split_gradient = improved(micro_batch, **choices)
        assert measured == pytest.approx(whole, rel=1e-4, abs=1e-6)
        torch.testing.assert_close(split_gradient, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "choices",
    [
        {"entropy_bonus": "0.01"},
        {"policy_objective": "kl_penalty"},
        {"policy_objective": "policy_gradient"},
        {"after_eos": "unmasked"},
        {"kl_estimator": "whole_vocabulary"},
    ],
    ids=str,
)
def test_the_micro_batch_changes_nothing_beside_another_choice(choices):
    (whole, gradient), (split, split_gradient) = improved(8, **choices), improved(3, **choices)
    assert split == pytest.approx(whole, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(split_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_a_mean_per_micro_batch_is_the_one_aggregation_that_depends_on_the_split():
    (whole, gradient), (split, split_gradient) = (
        improved(size, loss_aggregation="token_mean_per_micro_batch") for size in (8, 3)
    )
    assert whole["loss/value"] != pytest.approx(split["loss/value"], rel=1e-2)
    assert (gradient - split_gradient).norm() > 1e-2 * gradient.norm()
    assert whole["policy/ratio"] == pytest.approx(split["policy/ratio"], rel=1e-5), "a metric's denominator is its own"


# ----------------------------------------------------------------------------- order, padding, and what is past the end


def uneven(rows=8):
    """Networks, and a rollout of theirs in which short and long responses stand in no order, none of them to the limit."""
    networks = models()
    query, numbers = queries(rows)[torch.randperm(rows, generator=torch.Generator().manual_seed(1))], uniform(rows, 7)
    r = ppo.roll_out(setting(networks, pick()), query, numbers)
    counted = torch.tensor([3, 0, 2, 1, 4, 0, 1, 2])[:rows]
    return networks, replace(r, last_counted=counted, last_token=counted, ref_logprob=r.ref_logprob - 0.2)


def stepped(networks, r, target, micro_batch=8, prices=PRICES, **choices):
    """Metrics and gradient of one step; the networks are left as they were."""
    trained = [*networks.policy.parameters(), *networks.critic.parameters()]
    before = [p.detach().clone() for p in trained]
    work = setting(networks, pick(**choices), torch.optim.SGD(trained, lr=1.0), micro_batch)
    measured = ppo.ppo_step(work, r, target, NO_TEXTS, prices)
    gradient = torch.cat([(old - new.detach()).flatten() for old, new in zip(before, trained, strict=True)])
    with torch.no_grad():
        for old, new in zip(before, trained, strict=True):
            new.copy_(old)
            new.grad = None
    return measured, gradient


def whole(networks, r, target, micro_batch=8, **choices):
    """As `stepped`, of one pass over all episodes as they are: in their order, with every column."""
    arm, inputs = pick(**choices), (r.query, r.response, PAD, EOS, 0.7)
    logprob = logprobs.response_logprobs(networks.policy, *inputs)
    value = critics.response_values(networks.critic, r.query, r.response, PAD)
    weights, nothing = ppo_batches.loss_weights(r, micro_batch, arm), torch.zeros_like(logprob)
    total, terms = ppo_step.ppo_loss(logprob, nothing, value, r, target, weights, PRICES, arm)
    gradient = gradient_of(networks, total)
    for weight in (*networks.policy.parameters(), *networks.critic.parameters()):
        weight.grad = None
    return {name: term.item() for name, term in terms.items()} | {"loss/total": total.item()}, gradient


def alike(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4, abs=1e-6)
    assert theirs[1].norm() > 0.1
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=3e-6)


AGGREGATIONS = ["token_mean", "sequence_mean", "sum_over_limit", "token_mean_per_micro_batch"]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("micro_batch", [2, 3, 8])
def test_a_step_is_that_of_all_episodes_in_the_order_they_were_sampled_in(aggregation, micro_batch):
    networks, r = uneven()
    target, _ = targets(r, micro_batch=micro_batch, whiten_scope="each_micro_batch")
    arguments = networks, r, target, micro_batch
    alike(stepped(*arguments, loss_aggregation=aggregation), whole(*arguments, loss_aggregation=aggregation))


@pytest.mark.parametrize("micro_batch", [3, 8])
def test_the_order_of_episodes_changes_nothing_where_no_detail_reads_micro_batches(micro_batch):
    networks, r = uneven()
    target, _ = targets(r)
    rows = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    alike(stepped(networks, r[rows], target[rows], micro_batch), stepped(networks, r, target, micro_batch))


def test_padding_on_the_left_of_every_query_changes_no_step():
    networks, r = uneven()
    target, _ = targets(r)
    padded = replace(r, query=torch.nn.functional.pad(r.query, (3, 0), value=PAD))
    alike(stepped(networks, padded, target, 3), stepped(networks, r, target, 3))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
def test_what_follows_the_tokens_that_count_changes_no_step(garbage):
    networks, r = uneven()
    target, _ = targets(r)
    after = torch.arange(7)[None] > r.last_counted[:, None]
    other = torch.randint(2, PAD, r.response.shape, generator=torch.Generator().manual_seed(5))
    spoiled = replace(with_garbage(r, garbage), response=torch.where(after, other, r.response))
    assert not torch.equal(spoiled.response, r.response)
    bad = Targets(*(torch.where(r.value_mask, x, torch.full_like(x, garbage)) for x in vars(target).values()))
    alike(stepped(networks, spoiled, bad, 3), stepped(networks, r, target, 3))


def test_episodes_that_count_for_nothing_change_no_step():
    networks, r = uneven()
    target, _ = targets(r)
    rows = torch.tensor([0, 1, 6, 2, 3, 4, 5, 6, 7, 1])
    stand_ins = torch.tensor([0, 0, 1, 0, 0, 0, 0, 0, 0, 1]).bool()
    more = replace(r[rows], last_counted=r.last_counted[rows].masked_fill(stand_ins, -2))
    for micro_batch in (1, 3):  # with 1, some parts are of nothing else
        alike(stepped(networks, more, target[rows], micro_batch), stepped(networks, r, target, micro_batch))


@pytest.mark.parametrize(
    ("counted", "columns"),
    [([0, 0], 2), ([0, 1], 3), ([2, 0], 4), ([4, 0], 5), ([3, 0], 5), ([-2, -2], 1), ([-2, 1], 3)],
    ids=["first", "second", "third", "last", "last but one", "nobody counts", "one does not"],
)
def test_the_columns_that_count_reach_to_the_state_after_the_last_token_of_any(counted, columns):
    r = replace(made_up_rollout(last_token=[0, 0], has_eos=[True, True]), last_counted=torch.tensor(counted))
    ((rows, needed),) = ppo_batches.micro_batches_by_length(r, 2, PAD)
    assert needed.response_tokens == columns
    # Neither mask has anything further on, and one column less would lose something.
    assert not r.value_mask[:, columns:].any()
    assert columns == 1 or r.value_mask[:, columns - 1].any()


def test_queries_lose_the_columns_that_are_padding_in_all_of_a_part():
    query = torch.tensor([[PAD, PAD, 5], [4, PAD, 5], [PAD, PAD, PAD], [PAD, 6, 5]])  # padding may stand within, too
    r = replace(made_up_rollout(last_token=[0, 1, 0, 0], has_eos=[True] * 4), query=query)
    parts = [(rows.tolist(), columns.query_start) for rows, columns in ppo_batches.micro_batches_by_length(r, 2, PAD)]
    assert parts == [([1, 3], 0), ([0, 2], 2)]


def test_the_longest_episodes_go_first_and_no_column_is_run_that_counts_for_none_of_its_part():
    networks, r = uneven()
    target, _ = targets(r)
    shapes = []
    networks.policy.register_forward_pre_hook(
        lambda network, args, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    stepped(networks, r, target, 2)
    tokens, query = (r.last_counted + 2).clamp(max=7), (r.query != PAD).sum(1)
    parts = ((r.query != PAD).sum(1) + r.last_counted).argsort(descending=True, stable=True).split(2)
    # The last token predicts nothing, and is not run.
    assert shapes == [(2, int(query[rows].max() + tokens[rows].max()) - 1) for rows in parts]
    assert shapes[0][1] > shapes[-1][1] + 2


# ----------------------------------------------------------------------------- ranks


def share(rollout, reduce):
    """One rank's part in an update: its targets, the metrics, and its share of the loss."""
    arm = pick(whiten_reward="scale_only")
    target, measured = ppo.targets(rollout, COEFFICIENT, 2, arm, reduce)
    weights, nothing = ppo_batches.loss_weights(rollout, 2, arm, reduce), torch.zeros_like(rollout.logprob)
    forward = rollout.logprob + 0.1, nothing, rollout.value - 0.3
    total, _ = ppo_step.ppo_loss(*forward, rollout, target, weights, AdaptiveState(COEFFICIENT), arm)
    return target, measured, total


def test_two_ranks_compute_what_one_would():
    target, measured, total = share(AWKWARD, one_rank)
    ours, theirs = Ranks(2).run(share, [(AWKWARD[:2],), (AWKWARD[2:],)])
    torch.testing.assert_close(torch.cat([ours[0].advantage, theirs[0].advantage]), target.advantage)
    torch.testing.assert_close(torch.cat([ours[0].returns, theirs[0].returns]), target.returns)
    assert ours[1] == pytest.approx(measured)
    assert ours[1] == theirs[1]
    torch.testing.assert_close(ours[2] + theirs[2], total)


def whitened(rollout, reduce):
    return ppo.targets(rollout, COEFFICIENT, 2, pick(whiten_scope="each_rank"), reduce)[0].advantage


def test_over_each_rank_a_shard_is_whitened_as_if_it_were_alone():
    shards = AWKWARD[:2], AWKWARD[2:]
    ours = Ranks(2).run(whitened, [(shard,) for shard in shards])
    for advantage, shard in zip(ours, shards, strict=True):
        torch.testing.assert_close(advantage, targets(shard)[0].advantage)
    assert not torch.allclose(torch.cat(ours), targets(AWKWARD)[0].advantage)


# ----------------------------------------------------------------------------- the loop


@pytest.fixture
def steps(run_stage, monkeypatch):
    """Runs an arm of the tiny PPO: what each optimizer step was handed and measured, as the arguments of `improve`."""
    seen, real = [], ppo.ppo_step

    def watched(run, r, target, texts, prices, first_on_batch):
        measured = real(run, r, target, texts, prices, first_on_batch)
        seen.append(SimpleNamespace(rollout=r, texts=texts, prices=prices, measured=measured))
        return measured

    def run(**choices):
        run_stage(ppo.STAGE, **choices)
        return seen

    monkeypatch.setattr(ppo, "ppo_step", watched)
    return run


@pytest.mark.parametrize(("minibatches", "size"), [("1", 16), ("4", 4), ("8", 2)])
def test_every_pass_takes_each_episode_into_one_of_its_minibatches(tiny_scale, steps, minibatches, size):
    taken, parts = steps(ppo_epochs="2", minibatches=minibatches, ptx_mix="1"), int(minibatches)
    assert len(taken) == 2 * parts * (tiny_scale.episodes // tiny_scale.ppo_batch)
    assert {(len(step.rollout), len(step.texts)) for step in taken} == {(size, size)}
    first, second, other = (
        sorted(query for step in taken[start : start + parts] for query in step.rollout.query.tolist())
        for start in (0, parts, 2 * parts)
    )
    assert first == second
    assert len(first) == tiny_scale.ppo_batch
    assert [step.rollout.logprob.tolist() for step in taken[:parts]] != [
        step.rollout.logprob.tolist() for step in taken[parts : 2 * parts]
    ], "the order is another at every pass"


def test_the_price_of_a_step_doubles_or_halves_after_an_update(steps):
    taken = steps(ppo_epochs="2", policy_objective="adaptive_kl_penalty")
    prices = [step.prices.sampler_kl_coefficient for step in taken]
    assert prices[0] == prices[1] == 1
    for update in (1, 2):
        kl = taken[2 * update - 1].measured["policy/approx_kl"]
        factor = 2 if kl > 0.015 else 0.5 if kl < 0.00667 else 1
        assert prices[2 * update] == prices[2 * update + 1] == prices[2 * update - 1] * factor
    assert len(set(prices)) > 1


def test_the_price_of_the_kl_to_the_reference_follows_what_the_last_update_measured(steps, tiny_scale):
    prices = [step.prices.kl_coefficient for step in steps(ppo_epochs="1", kl_controller="adaptive")]
    # Below 0.8 times 6 nats the error is cut at -0.2: over 16 of 10,000 episodes a price loses 0.2 * 0.0016 of itself.
    assert tiny_scale.ppo_batch == 16
    assert prices == pytest.approx([0.05, 0.05 * 0.99968, 0.05 * 0.99968**2], rel=1e-9)
    assert [step.prices.sampler_kl_coefficient for step in steps(ppo_epochs="2")[3:]] == [0] * 6


def test_the_price_of_entropy_follows_what_the_last_update_measured(steps, monkeypatch):
    logged, real = [], ppo.next_state

    def watched(arm, now, metrics, *rest):
        logged.append(metrics["objective/entropy"])
        return real(arm, now, metrics, *rest)

    monkeypatch.setattr(ppo, "next_state", watched)
    out_of_reach = replace(ENTROPY_TARGET.variants["3_nats"].value, adapt=partial(towards_level, level=99.0, rate=0.01))
    monkeypatch.setitem(ENTROPY_TARGET.variants, "3_nats", Variant(out_of_reach, "a level that is never reached"))
    prices = [
        step.prices.entropy_coefficient for step in steps(ppo_epochs="1", minibatches="1", entropy_target="3_nats")
    ]
    assert prices[0] == 0.01 and len(prices) == 3
    for update in (1, 2):
        assert prices[update] == pytest.approx(prices[update - 1] + 0.01 * (99 - logged[update - 1]))
    assert [step.prices.entropy_coefficient for step in steps(ppo_epochs="1", minibatches="1")[3:]] == [0] * 3


def test_a_bonus_at_a_coefficient_that_adapts_is_the_fixed_one_of_the_same_size():
    networks, r = uneven()
    target, _ = targets(r)
    fixed = stepped(networks, r, target, 3, entropy_bonus="0.01")
    measured, gradient = stepped(
        networks, r, target, 3, replace(PRICES, entropy_coefficient=0.01), entropy_target="3_nats"
    )
    assert measured == fixed[0] | {"objective/entropy_coefficient": 0.01} and torch.equal(gradient, fixed[1])
    _, free = stepped(networks, r, target, 3, entropy_target="3_nats")  # at coefficient 0
    torch.testing.assert_close(free, stepped(networks, r, target, 3)[1], rtol=1e-3, atol=1e-5)


@pytest.fixture
def references(run_stage, monkeypatch):
    """Runs an arm of the tiny PPO: a weight of policy and reference, as every rollout finds them."""
    seen, real = [], ppo.roll_out

    def watched(run, *rest):
        networks = run.networks.policy, run.networks.reference
        seen.append([network.gpt_neox.embed_in.weight.detach().clone() for network in networks])
        return real(run, *rest)

    def run(**choices):
        run_stage(ppo.STAGE, ppo_epochs="1", **choices)
        return zip(*seen, strict=True)

    monkeypatch.setattr(ppo, "roll_out", watched)
    return run


def test_the_reference_is_the_frozen_sft_policy(references, tiny_run):
    policies, kept = references()
    sft = pretrained.load_policy(tiny_run["sft"] / "model").gpt_neox.embed_in.weight
    assert torch.equal(policies[0], sft) and not torch.equal(policies[1], sft)
    assert all(torch.equal(weight, sft) for weight in kept)


def test_the_reference_can_be_the_base_model(references, tiny_run):
    policies, kept = references(reference_policy="base")
    base, sft = (
        pretrained.load_policy(tiny_run[stage] / "model").gpt_neox.embed_in.weight for stage in ("base", "sft")
    )
    assert torch.equal(policies[0], sft) and not torch.equal(base, sft)
    assert all(torch.equal(weight, base) for weight in kept)


def test_the_reference_can_follow_the_policy_a_hundredth_of_the_way(references):
    policies, kept = references(reference_policy="moving_average")
    assert torch.equal(kept[0], policies[0])
    for update in (1, 2):
        expected = 0.99 * kept[update - 1] + 0.01 * policies[update]
        torch.testing.assert_close(kept[update], expected, atol=1e-7, rtol=1e-6)
        assert not torch.equal(kept[update], kept[update - 1])


def paid_by_gold(corpus, texts, ended=True):
    """The scores of these summaries of the training posts; behind each end of text stands a word that states a fact."""
    room = 60
    tokens = [corpus.tokenizer.encode(f" {text}") + [corpus.eos] + corpus.tokenizer.encode(" boston") for text in texts]
    response = torch.tensor([row + [corpus.pad] * (room - len(row)) for row in tokens])
    last = (response == corpus.eos).int().argmax(1)
    made = made_up_rollout(last.tolist(), [ended] * len(texts), tokens=room)
    return ppo_rewards.REWARD_SOURCES["gold"](corpus)(replace(made, response=response), corpus.posts("train")).score


def test_paid_by_gold_the_references_earn_nothing_in_the_mean_and_a_lie_costs_what_the_gold_score_takes(tiny_run):
    corpus = Corpus(tiny_run["data"])
    posts = corpus.posts("train")
    references, facts = posts["reference"], [json.loads(known) for known in posts["facts"]]
    wrong = [embedded.corrupt_fact(text, random.Random(0)) for text in references]
    honest, lies, cut = (paid_by_gold(corpus, *given) for given in ((references,), (wrong,), (references, False)))
    assert honest.mean().item() == pytest.approx(0.0, abs=1e-5)
    costs = (
        [embedded.gold(*pair) for pair in zip(facts, references)],
        [embedded.gold(*pair) for pair in zip(facts, wrong)],
    )
    expected = torch.tensor(costs[0]) - torch.tensor(costs[1])
    assert expected.max() > 1
    torch.testing.assert_close(honest - lies, expected.to(honest), **CLOSE)
    torch.testing.assert_close(honest - cut, torch.full_like(cut, -embedded.UNFINISHED), **CLOSE)


def test_unless_a_recipe_says_so_episodes_are_paid_the_reward_models_score(tiny_run):
    assert ppo_rewards.REWARD_SOURCES["reward_model"](Corpus(tiny_run["data"]))(AWKWARD, None) is AWKWARD


def test_the_first_pass_of_every_update_starts_at_ratio_one(tiny_scale, run_stage):
    journal = (run_stage(ppo.STAGE) / "metrics.jsonl").read_text().splitlines()
    assert len(journal) == tiny_scale.episodes // tiny_scale.ppo_batch
    assert all(json.loads(line)["metrics"]["policy/first_ratio_error"] < 1e-5 for line in journal)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("linear", [1, 2 / 3, 1 / 3]), ("constant", [1, 1, 1]), ("cosine", [1, 0.75, 0.25])],  # cos of 0, 60, 120 degrees
)
def test_the_learning_rate_of_each_update(tiny_scale, run_stage, monkeypatch, schedule, factors):
    rates = []
    monkeypatch.setattr(optimise, "set_learning_rate", lambda optimizer, rate: rates.append(rate))
    run_stage(ppo.STAGE, ppo_epochs="1", lr_schedule=schedule)
    assert rates == pytest.approx([tiny_scale.ppo_learning_rate * factor for factor in factors])


def test_posts_are_used_once_before_any_is_used_again():
    rows = list(itertools.islice(optimise.endless_batches(10, 3, torch.Generator().manual_seed(0)), 6))
    first, second = torch.cat(rows[:3]).tolist(), torch.cat(rows[3:]).tolist()
    assert len(set(first)) == len(set(second)) == 9
    assert first != second
