"""Baselines that need more than a batch's own episodes: an average of earlier batches, and greedy responses."""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from repro.details import BASELINE
from repro.models import critics, generate
from repro.ops.masked import one_rank
from repro.stages import ppo, ppo_batches, ppo_metrics
from repro.stages.ppo_queue import Batch
from repro.types import Targets
from tests.tiny import Ranks, made_up_rollout, models, pick, queries, setting, uniform

KL_COEFFICIENT = 0.05
UNSCORED = SimpleNamespace(reward=lambda rollout, posts: rollout)  # the reward model's score is the final one


def batch(rows=8, tokens=5):
    return Batch(torch.arange(rows), queries(rows), uniform(rows, tokens), torch.ones(rows, dtype=torch.bool), None)


def drifted(**choices):
    """A run whose reference is another policy, so that responses have a KL that is charged."""
    networks = models()
    return setting(replace(networks, reference=models(end_logit=0.0).policy), pick(**choices))


def greedy_returns(run, of=None):
    return ppo.greedy_returns(run, UNSCORED, of or batch(), KL_COEFFICIENT)


# ----------------------------------------------------------------------------- what only sees a response's sum


SUMS = ({"baseline": "leave_one_out"}, {"baseline": "batch_mean"}, {"baseline": "moving_average"})
PLACES = ({"kl_position": "with_the_score"}, {"score_position": "at_eos"})


def advantages(run):
    rollout = ppo.roll_out(run, queries(4).repeat(2, 1), uniform(8, 5))
    return ppo.targets(rollout, KL_COEFFICIENT, 8, run.pick, mean_return=0.1)[0].advantage


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("sums", SUMS, ids=str)
def test_where_a_reward_is_paid_matters_to_a_sum_only_with_a_discount_or_whitening(sums, place):
    """Why these clash, but beside such a choice."""
    torch.testing.assert_close(advantages(drifted(**sums, **place)), advantages(drifted(**sums)), atol=1e-6, rtol=0)
    for beside in ({"gamma": "0.95"}, {"whiten_reward": "scale_only"}):
        apart = advantages(drifted(**sums, **place, **beside)) - advantages(drifted(**sums, **beside))
        assert apart.abs().max() > 1e-4


# ----------------------------------------------------------------------------- the greedy response


def test_the_greedy_response_is_the_likeliest_token_after_token_whatever_the_random_numbers():
    run, some = drifted(), batch()
    greedy = replace(run, sampling=generate.greedy(run.sampling))
    one, other = (ppo.roll_out(greedy, some.query, numbers) for numbers in (some.uniform, uniform(8, 5, seed=3)))
    assert torch.equal(one.response, other.response)
    sampled = ppo.roll_out(run, some.query, some.uniform)
    assert not torch.equal(one.response, sampled.response)
    first = run.networks.policy(input_ids=some.query[:1]).logits[0, -1]  # the first query has no padding
    assert one.response[0, 0] == first.argmax()


@pytest.mark.parametrize("choices", [{}, {"no_eos_score": "keep", "gamma": "0.95"}, {"kl_position": "with_the_score"}])
def test_where_the_policy_is_deterministic_no_advantage_is_left(choices):
    run = drifted(baseline="greedy_response", whiten_adv="off", **choices)
    certain = replace(run, sampling=generate.greedy(run.sampling))  # its every sample is the greedy response
    rollout = ppo.roll_out(certain, batch().query, batch().uniform)
    target, _ = ppo.targets(
        rollout, KL_COEFFICIENT, 8, run.pick, greedy_return=partial(greedy_returns, run), mean_return=math.nan
    )
    assert torch.equal(target.advantage, torch.zeros_like(target.advantage))
    assert target.returns[:, 0].std() > 0.1  # though responses are not worth the same


def test_an_advantage_is_the_return_less_that_of_the_greedy_response_to_the_same_prompt():
    run = drifted(baseline="greedy_response", whiten_adv="off")
    rollout = ppo.roll_out(run, batch().query, batch().uniform)
    greedy = partial(greedy_returns, run)
    target, _ = ppo.targets(rollout, KL_COEFFICIENT, 8, run.pick, greedy_return=greedy, mean_return=math.nan)
    torch.testing.assert_close(target.advantage[:, 0], target.returns[:, 0] - greedy())


def test_the_greedy_response_without_an_end_is_scored_by_the_rule_and_pays_for_its_kl():
    run = drifted()
    r = ppo.roll_out(replace(run, sampling=generate.greedy(run.sampling)), batch().query, batch().uniform)
    assert 0 < r.has_eos.sum() < len(r)
    paid = torch.where(r.has_eos, r.score, -torch.ones(8)) - KL_COEFFICIENT * torch.where(r.token_mask, r.kl, 0.0).sum(
        1
    )
    torch.testing.assert_close(greedy_returns(run), paid)


def test_filler_rows_of_a_rank_have_no_greedy_return():
    some = batch()
    half = replace(some, real=torch.arange(8) < 4)
    torch.testing.assert_close(greedy_returns(drifted(), half), greedy_returns(drifted(), some)[:4])


def test_the_explained_variance_of_a_critic_that_is_off_by_a_constant_is_all_of_it():
    r = ppo.roll_out(drifted(), batch().query, batch().uniform)
    returns = torch.linspace(-1, 2, r.value.numel()).view_as(r.value)

    def explained(value):
        target = Targets(returns, returns, returns)
        found = ppo_metrics.rollout_metrics(replace(r, value=value), r.score, target, KL_COEFFICIENT, one_rank)
        return found["value/explained_variance"]

    assert explained(returns) == explained(returns + 3) == pytest.approx(1)
    assert explained(torch.full_like(returns, 3.0)) == pytest.approx(0, abs=1e-6)
    assert explained(-returns) == pytest.approx(-3)  # four times the variance in its errors


# ----------------------------------------------------------------------------- the moving average


def test_a_batch_is_compared_with_the_average_of_those_before_it(run_stage, monkeypatch):
    seen, real = [], ppo.targets

    def watched(*given):
        target, metrics = real(*given)
        *_, mean_return, _ = given
        seen.append((mean_return, target))
        return target, metrics

    monkeypatch.setattr(ppo, "targets", watched)
    run_stage(ppo.STAGE, baseline="moving_average", whiten_adv="off")
    averages, (first, second, third) = zip(*seen, strict=True)
    means = [target.returns[:, 0].mean().item() for target in (first, second, third)]
    assert math.isnan(averages[0])
    assert averages[1:] == pytest.approx([means[0], 0.9 * means[0] + 0.1 * means[1]], abs=1e-6)
    torch.testing.assert_close(first.advantage[:, 0], first.returns[:, 0] - means[0])
    torch.testing.assert_close(third.advantage[:, 0], third.returns[:, 0] - averages[2])


def test_the_mean_return_is_that_of_all_ranks():
    returns = torch.arange(12.0).view(4, 3)
    target = Targets(returns, returns, returns)
    shards = [(target[:1],), (target[1:],)]
    assert Ranks(2).run(ppo_metrics.mean_return, shards) == [ppo_metrics.mean_return(target, one_rank)] * 2 == [4.5] * 2


# ----------------------------------------------------------------------------- groups that say nothing


def dealt(rollout, **choices):
    """What one pass of an arm hands to its optimizer steps: the first token of each query, and whether its response counts."""
    arm = pick(ppo_epochs="1", minibatches="4", **choices)
    run, made = setting(models(), arm), Targets(*(torch.zeros_like(rollout.logprob) for _ in range(3)))
    order, no_texts = torch.Generator().manual_seed(0), lambda count: torch.empty(0, 4)
    some = SimpleNamespace(minibatch_rng=order, sft_texts=no_texts)
    parts = [r for r, *_ in ppo_batches.minibatches(run, some, rollout, made, len(rollout))]
    return {int(query[0]): bool(mask.any()) for r in parts for query, mask in zip(r.query, r.token_mask)}


def test_groups_whose_responses_have_one_score_after_the_rule_count_for_nothing():
    # Two responses to each of four queries; those to the second do not end, and those to the third are equally good.
    ended = [True, False, True, True] * 2
    rollout = made_up_rollout(last_token=[2] * 8, has_eos=ended)
    rollout = replace(rollout, query=torch.arange(8)[:, None])
    rollout.score[6] = rollout.score[2]
    group = {"baseline": "leave_one_out", "responses_per_query": "2"}
    assert dealt(rollout, **group) == dict.fromkeys(range(8), True)
    kept = {query: query % 4 in (0, 3) for query in range(8)}
    assert dealt(rollout, uninformative_groups="dropped", **group) == kept
    # By the reward model's own scores those that do not end differ.
    asked = {"uninformative_groups": "dropped", "no_eos_score": "keep"} | group
    assert dealt(rollout, **asked) == {query: query % 4 != 2 for query in range(8)}


def test_the_spread_of_returns_is_measured_only_where_a_query_has_several_responses():
    # Scores of two queries' responses: 1 and 3, 5 and 5; there is no KL and no discount.
    r = made_up_rollout(last_token=[1] * 4, has_eos=[True] * 4)
    r = replace(r, score=torch.tensor([1.0, 5.0, 3.0, 5.0]), kl=torch.zeros_like(r.kl))
    for baseline in ("critic", "group_mean"):
        _, measured = ppo.targets(r, KL_COEFFICIENT, 2, pick(baseline=baseline, responses_per_query="2"))
        spreads = measured["objective/spread_within_groups"], measured["objective/spread_between_groups"]
        assert spreads == pytest.approx((1.0, 4.5**0.5))
    _, measured = ppo.targets(r, KL_COEFFICIENT, 2, pick(baseline="batch_mean"))
    assert not [name for name in measured if "spread" in name]


def test_a_batch_of_which_every_group_is_dropped_changes_nothing_and_is_finite():
    r = replace(made_up_rollout(last_token=[1] * 4, has_eos=[False] * 4), last_counted=torch.full((4,), -2))
    weights = ppo_batches.loss_weights(r, 2, pick(baseline="leave_one_out"))
    assert all((each == 0).all() for each in vars(weights).values())


# ----------------------------------------------------------------------------- no baseline


def estimated(label, reward):
    """The advantages of a baseline without a critic, of two responses to a query; its average and greedy returns are 1.5."""
    return BASELINE.variants[label].value.estimate(
        advantage=torch.full_like(reward, math.nan),
        returns=torch.full_like(reward, math.nan),
        reward=reward,
        gamma=1.0,
        responses=2,
        reduce=one_rank,
        mean_return=1.5,
        greedy_return=lambda: torch.full((len(reward),), 1.5),
    )[0]


@pytest.mark.parametrize("label", [label for label in BASELINE.variants if label != "critic"])
def test_a_return_that_all_responses_have_is_an_advantage_without_a_baseline_and_none_with_any(label):
    reward = torch.zeros(4, 3)
    reward[:, -1] = 1.5
    expected = 1.5 if label == "none" else 0.0
    torch.testing.assert_close(estimated(label, reward), torch.full_like(reward, expected), atol=1e-5, rtol=0)


def test_without_a_baseline_targets_are_those_of_the_reward_to_go_and_no_critic_is_constructed():
    rollout = ppo.roll_out(drifted(), batch().query, batch().uniform)
    ours, theirs = (
        ppo.targets(rollout, KL_COEFFICIENT, 8, pick(**choices))[0]
        for choices in ({"baseline": "none"}, {"advantage": "reward_to_go"})
    )
    assert torch.equal(ours.advantage, theirs.advantage) and torch.equal(ours.returns, theirs.returns)
    assert BASELINE.variants["none"].value.critic is critics.not_needed


def test_a_token_pays_for_the_kl_from_itself_on_and_under_the_batchs_mean_for_all_of_it():
    reward = torch.tensor([[-0.5, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert estimated("none", reward)[0].tolist() == [0.5, 1.0, 1.0]
    assert estimated("batch_mean", reward)[0].tolist() == [0.25, 0.25, 0.25]
