"""Rejection sampling and expert iteration: which responses are kept, what a step on them does, and what the rounds are."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from repro.details import ALGORITHM, CLASHES, DETAILS
from repro.engine.completion import completion, examples
from repro.ops.preference import ExpertIteration, best_of_each_prompt
from repro.stages import expert_iteration, optimise, ppo
from repro.stages.stage import RESULT, Budget, StageContext, read_journal
from repro.study import metrics
from tests.engine.test_completion import job
from tests.tiny import EOS, PAD, episodes, models, pick, setting

BOTH = ("rejection_sampling", "expert_iteration")
ARM = "expert_iteration"

# ----------------------------------------------------------------------------- which are kept


def test_the_favourite_of_a_prompt_is_its_best_episode_and_of_equal_ones_the_first():
    # Prompts a, b, c, once and once more and again: a's best is its second, b's its first, c's its third and its first.
    score = torch.tensor([0.0, 9.0, 4.0, 2.0, 8.0, 1.0, 1.0, -3.0, 4.0])
    assert best_of_each_prompt(score, responses=3).tolist() == [3, 1, 2]


def test_of_one_response_to_each_prompt_all_are_favourites():
    assert best_of_each_prompt(torch.tensor([3.0, -1.0, 2.0]), responses=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("rounds", "expected"), [(1, [5]), (2, [3, 2]), (5, [1] * 5), (9, [1] * 5)])
def test_a_round_samples_at_its_beginning_and_passes_over_all_of_its_favourites(rounds, expected):
    batches = [torch.arange(6) + 10 * update for update in range(5)]
    plan = ExpertIteration(rounds, responses=2, passes=4)
    updates = list(expert_iteration.schedule(plan, batches, torch.Generator().manual_seed(0)))
    assert [len(minibatches) for _, minibatches in updates] == [4] * 5  # PPO's steps, in PPO's updates
    begins = [update for update, (to_sample, _) in enumerate(updates) if to_sample]
    assert [len(updates[update][0]) for update in begins] == expected
    assert torch.equal(torch.cat([rows for to_sample, _ in updates for rows in to_sample]), torch.cat(batches))
    for first, count in zip(begins, expected):
        seen = torch.cat([each for _, minibatches in updates[first : first + count] for each in minibatches])
        for once in seen.split(3 * count):
            assert once.sort().values.tolist() == list(range(3 * count))


def planned(monkeypatch, plan):
    """Expert iteration as this plan has it."""
    monkeypatch.setitem(ALGORITHM.variants, ARM, ALGORITHM.variants[ARM]._replace(value=plan))


def sampled_round(queue, **choices):
    """A round of two batches of eight episodes of those models; `queue` has what is kept of each."""
    networks = models()
    run = setting(networks, pick(algorithm=ARM, **choices))
    rollout = episodes(networks, rows=8)
    rollouts = iter([rollout, replace(rollout, score=rollout.score.flip(0))])
    batch = SimpleNamespace(query=None, uniform=None, real=torch.ones(8, dtype=torch.bool), posts=None)
    training = SimpleNamespace(
        queue=SimpleNamespace(clear=queue.clear, put=lambda _, kept: queue.append(kept)),
        new_batch=lambda *_: batch,
        sampling_rng=None,
        reward=lambda found, _: found,
    )
    found = expert_iteration.sample_round(run, training, lambda *_: next(rollouts), [torch.arange(8)] * 2)
    return rollout, found


@pytest.fixture
def without_gold(monkeypatch):
    monkeypatch.setattr(expert_iteration.ppo_gold, "gold_metrics", lambda *_: {})


def test_kept_are_the_episodes_that_would_be_paid_most(without_gold):
    kept = []
    rollout, found = sampled_round(kept, no_eos_score="replace_with_minus_one")
    assert rollout.has_eos.any() and not rollout.has_eos.all()
    paid = torch.where(rollout.has_eos, rollout.score, torch.tensor(-1.0))
    for row in (0, 1):  # the responses to prompt 0 are episodes 0, 2, 4 and 6
        best = max(range(row, 8, 2), key=lambda episode: paid[episode])
        assert torch.equal(kept[0].response[row], rollout.response[best])
    assert found["objective/favourite_score"] >= found["objective/score"]
    assert found["objective/kl"] == pytest.approx(0, abs=1e-5)


def test_with_one_response_to_a_prompt_the_favourites_are_the_samples(without_gold, monkeypatch):
    planned(monkeypatch, ExpertIteration(rounds=2, responses=1))
    kept = []
    rollout, found = sampled_round(kept)
    assert torch.equal(kept[0].response, rollout.response) and len(kept) == 2
    assert found["objective/favourite_score"] == pytest.approx(found["objective/score"])


# ----------------------------------------------------------------------------- a step on them


def likelihood(networks, kept):
    """The mean log-probability in nats of the kept responses' tokens, a token at a time, at temperature 1."""
    total, count = 0.0, 0
    for query, response, last in zip(kept.query, kept.response, kept.last_token.tolist()):
        tokens = query[query != PAD].tolist()
        for token in response[: last + 1].tolist():
            logits = networks.policy(torch.tensor([tokens])).logits[0, -1].double()
            logits[PAD] = -math.inf
            total, count, tokens = total + logits.log_softmax(-1)[token].item(), count + 1, [*tokens, token]
    return total / count


@torch.no_grad()
def stepped(micro_batch):
    """Networks, favourites, and the result of a step on six of eight of them."""
    networks = models()
    kept = episodes(networks, rows=8)
    assert (kept.response == EOS).any()
    with torch.enable_grad():
        optimizer = torch.optim.SGD(networks.policy.parameters(), lr=1e-3)
        run = setting(networks, pick(algorithm=ARM), optimizer, micro_batch)
        before = likelihood(networks, kept[:6])
        return networks, kept, before, expert_iteration.imitate(run, kept, torch.arange(6))


def test_the_loss_is_the_likelihood_of_the_favourites_and_a_step_raises_it():
    networks, kept, before, loss = stepped(micro_batch=8)
    assert loss == pytest.approx(-before, rel=1e-4)
    assert likelihood(networks, kept[:6]) > before


def test_a_step_is_the_same_however_it_is_split():
    (whole, _, _, loss), (split, _, _, same) = stepped(micro_batch=8), stepped(micro_batch=4)
    assert loss == pytest.approx(same, rel=1e-5)
    for one, other in zip(whole.policy.parameters(), split.policy.parameters()):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


# ----------------------------------------------------------------------------- the stage


@pytest.mark.parametrize("algorithm", BOTH)
def test_in_the_place_of_ppo_it_logs_where_ppo_does_and_leaves_a_policy(algorithm, run_stage, tiny_run, tiny_scale):
    out = run_stage(ppo.STAGE, algorithm=algorithm)
    journal = read_journal(out)
    assert [line["step"] for line in journal] == [line["step"] for line in read_journal(tiny_run["ppo"])]
    assert not [name for line in journal for name in line["metrics"] if not metrics.known(name)]
    sampled = [line["metrics"] for line in journal if "objective/score" in line["metrics"]]
    assert len(sampled) == {"rejection_sampling": 1, "expert_iteration": 3}[algorithm]  # the scale has three updates
    assert all(each["objective/favourite_score"] >= each["objective/score"] for each in sampled)
    assert sampled[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert sum("eval/win_rate" in line["metrics"] for line in journal) == 2
    assert json.loads((out / RESULT).read_text()) == {"outcome": "finished", "metrics": {"ppo/updates": 3.0}}
    assert (out / "model").is_dir() and not (out / "critic").exists()
    told = job(tiny_scale, "ppo", pick(algorithm=algorithm).recipe)
    assert examples(told, tiny_run["data"].parent) == 48
    half = completion(told, journal[0]["time"], journal[:1], 8.0, tiny_run["data"].parent)
    assert half.share == pytest.approx(1 / 3, abs=0.01)


def test_over_its_passes_the_loss_of_the_favourites_falls(run_stage):
    losses = [line["metrics"]["loss/total"] for line in read_journal(run_stage(ppo.STAGE, algorithm=BOTH[0]))]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]


def test_one_round_of_expert_iteration_is_rejection_sampling(run_stage, monkeypatch):
    expected = weights(run_stage(ppo.STAGE, algorithm="rejection_sampling"))
    planned(monkeypatch, ExpertIteration(rounds=1))
    assert same(expected, weights(run_stage(ppo.STAGE, algorithm=ARM)))


def test_a_loss_that_is_not_finite_ends_it_as_diverged(run_stage, monkeypatch):
    monkeypatch.setattr(optimise, "step", lambda *_: [None for _ in _[2]] and math.nan)
    out = run_stage(ppo.STAGE, algorithm=ARM)
    assert json.loads((out / RESULT).read_text())["outcome"] == "diverged"
    assert len(read_journal(out)) == 1


def weights(folder):
    return load_file(next((folder / "model").glob("*.safetensors")))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Killed(Exception):
    """In the place of a signal."""


@pytest.mark.parametrize("algorithm", BOTH)
@pytest.mark.parametrize("after", [1, 2])
def test_stopped_in_the_middle_and_started_again_it_is_as_if_it_had_not_been(
    algorithm, after, tiny_scale, tiny_run, tmp_path, monkeypatch
):
    """One round of three updates is stopped in its middle, and three rounds between two; favourites are not sampled anew."""
    scale = replace(tiny_scale, checkpoint_every=1)

    def run(out):
        out.mkdir(exist_ok=True)
        inputs = {name: tiny_run[name] for name in ppo.STAGE.upstream}
        arm = pick(algorithm=algorithm, weight_average="0.992")
        ppo.STAGE.run(StageContext("ppo", arm, Budget(scale, ppo.STAGE.fields), "float32", 1, inputs, out))
        lines = [line["metrics"] | {"at": line["step"]} for line in read_journal(out)]
        return weights(out), lines

    undisturbed, steps = run(tmp_path / "whole"), []
    imitate = expert_iteration.imitate

    def killed(*given):
        steps.append(given)
        if len(steps) > 4 * after + 2:  # four steps an update
            raise Killed
        return imitate(*given)

    with monkeypatch.context() as patch:
        patch.setattr(expert_iteration, "imitate", killed)
        with pytest.raises(Killed):
            run(tmp_path / "stopped")
    again = run(tmp_path / "stopped")
    assert same(undisturbed[0], again[0]) and undisturbed[1] == again[1]


# ----------------------------------------------------------------------------- what it reads


@pytest.mark.parametrize("algorithm", BOTH)
def test_what_it_does_not_read_clashes_with_it(algorithm, tiny_scale, tiny_run, tmp_path):
    arm = pick(algorithm=algorithm)
    inputs = {name: tiny_run[name] for name in ppo.STAGE.upstream}
    ppo.STAGE.run(StageContext("ppo", arm, Budget(tiny_scale, ppo.STAGE.fields), "float32", 1, inputs, tmp_path))
    refused = {clash.other.name for clash in CLASHES if clash.one is ALGORITHM and algorithm in clash.labels}
    allowed = {each.name for each in DETAILS.values() if "ppo" in each.stages} - refused
    assert allowed <= arm.read and {"ppo_epochs", "baseline", "kl_coef"} <= refused
