"""Baselines that need more than a batch's own episodes: an average of earlier batches, and greedy responses."""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from repro.models import generate
from repro.ops.masked import one_rank
from repro.stages import ppo, ppo_metrics
from repro.stages.ppo_queue import Batch
from repro.types import Targets
from tests.tiny import Ranks, models, pick, queries, setting, uniform

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


# ----------------------------------------------------------------------------- the moving average


def test_a_batch_is_compared_with_the_average_of_those_before_it(run_stage, monkeypatch):
    seen, real = [], ppo.targets

    def watched(*given, **compared):
        target, metrics = real(*given, **compared)
        seen.append((compared["mean_return"], target))
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
