"""Episodes token by token: what is kept of them adds up, and watching changes nothing."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from repro.details import GAMMA
from repro.models import modes
from repro.stages import ppo
from repro.stages.corpus import Corpus
from repro.stages.episodes import EPISODES, PER_STATE, EpisodeTraces, rounded, trace_records
from tests import tiny

PART_OF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"
OF_TOKENS = ("logprob", "ref_logprob", "updated_logprob", "advantage", "score_so_far")


@pytest.fixture(scope="module")
def kept(tiny_run):
    return json.loads((tiny_run["ppo"] / "episodes.json").read_text())


def test_the_first_episodes_of_the_first_a_middle_and_the_last_update_are_kept(kept, tiny_scale):
    updates = tiny_scale.episodes // tiny_scale.ppo_batch
    rows = range(min(EPISODES, tiny_scale.ppo_batch))
    expected = [update * tiny_scale.ppo_batch + row for update in (0, updates // 2, updates - 1) for row in rows]
    assert [told["episode"] for told in kept["episodes"]] == expected
    assert {told["updates"] for told in kept["episodes"]} == {updates}


@pytest.mark.parametrize(("updates", "watched"), [(1, {0}), (2, {0, 1}), (3, {0, 1, 2}), (32, {0, 16, 31})])
def test_short_trainings_are_not_told_twice(updates, watched):
    assert EpisodeTraces(None, None, None, updates, 8).traced_updates == watched


def test_every_token_has_all_its_numbers_and_the_tokens_are_the_text(kept, tiny_scale):
    for told in kept["episodes"]:
        policy, sft = told["policy"], told["sft"]
        assert {len(policy[name]) for name in OF_TOKENS} == {len(policy["tokens"])}
        states = min(len(policy["tokens"]) + 1, tiny_scale.response_tokens)
        assert {len(policy[name]) for name in PER_STATE} == {states}
        assert {len(sft[name]) for name in ("logprob", "policy_logprob", "score_so_far")} == {len(sft["tokens"])}
        for wrote in (policy, sft):
            pieces = wrote["tokens"][:-1] if wrote["ended"] else wrote["tokens"]
            text = "".join(pieces).strip()
            assert text == wrote["text"] or PART_OF_A_CHARACTER in text
            assert (wrote["tokens"][-1] == kept["eos"]) == wrote["ended"]


def test_before_the_first_step_the_policy_writes_what_the_sft_policy_writes(kept):
    first = [told for told in kept["episodes"] if told["update"] == 0]
    for told in first:
        assert told["policy"]["text"] == told["sft"]["text"]
        assert told["policy"]["kl"] == pytest.approx(0, abs=1e-4)
        assert told["policy"]["updated_logprob"] == told["sft"]["policy_logprob"]
        assert told["policy"]["updated_logprob"] != told["policy"]["logprob"], "the update has moved the policy"


def told_of(networks):
    """What is told of eight rollouts by these networks, and their rollout."""
    arm = tiny.pick()
    setting, uniform = tiny.setting(networks, arm), tiny.uniform(8, 5)
    rollout = ppo.roll_out(setting, tiny.queries(8), uniform)
    target, _ = ppo.targets(rollout, 0.05, 8, arm)
    posts = Dataset.from_dict({name: [""] * 8 for name in ("id", "query", "reference", "facts")})
    tokenizer = SimpleNamespace(decode=str)
    corpus = SimpleNamespace(eos=tiny.EOS, pad=tiny.PAD, tokenizer=tokenizer, decode=lambda rows: [""] * len(rows))
    return trace_records(networks, setting.sampling, corpus, posts, rollout, target, uniform), rollout


@pytest.fixture(scope="module")
def ending():
    """Eight rollouts by networks of which most end early."""
    return told_of(tiny.models(end_logit=2.0))


def test_the_rewards_add_up_to_the_score_less_what_the_kl_cost(ending):
    records, rollout = ending
    assert rollout.has_eos.any() and not rollout.has_eos.all(), "some end and some do not"
    for row, told in enumerate(told["policy"] for told in records):
        paid = told["score"] if told["ended"] else -1.0  # N+ detail 23.3
        kl = sum(ours - theirs for ours, theirs in zip(told["logprob"], told["ref_logprob"], strict=True))
        assert told["kl"] == pytest.approx(kl, abs=1e-3)
        assert sum(told["reward"]) == pytest.approx(paid - 0.05 * kl, abs=1e-3)
        assert told["score"] == pytest.approx(rollout.score[row].item(), abs=1e-4)
        assert told["score_so_far"][-1] == pytest.approx(told["score"], abs=1e-3)


def test_both_scores_are_read_where_the_reward_model_says():
    networks = replace(tiny.models(end_logit=2.0), reward_model=modes.freeze(tiny.scalar(2, "mean_over_response")))
    records, _ = told_of(networks)
    for said in (told[who] for told in records for who in ("policy", "sft")):
        so_far = said["score_so_far"]
        assert said["score"] == pytest.approx(sum(so_far) / len(so_far), abs=1e-3)


def test_where_there_is_room_the_score_is_paid_in_the_state_after_the_end(ending):
    records, rollout = ending
    short = [told["policy"] for told, last in zip(records, rollout.last_token.tolist(), strict=True) if last < 4]
    assert short
    for told in short:
        assert len(told["reward"]) == len(told["tokens"]) + 1
        assert told["reward"][-1] == pytest.approx(told["score"], abs=1e-4)


def test_at_lambda_and_gamma_below_one_or_not_returns_are_advantage_and_value_before_whitening(run_stage):
    folder = run_stage(ppo.STAGE, whiten_adv="off")
    assert GAMMA.reference == "1"
    for told in json.loads((folder / "episodes.json").read_text())["episodes"]:
        policy = told["policy"]
        raw = [returns - value for returns, value in zip(policy["returns"], policy["value"], strict=True)]
        assert policy["advantage"] == pytest.approx(raw[: len(policy["tokens"])], abs=1e-4)


def test_dpo_has_no_episodes(run_stage):
    assert not (run_stage(ppo.STAGE, algorithm="dpo") / "episodes.json").exists()


def test_watching_an_update_changes_no_number_of_the_next(tiny_run, run_stage, monkeypatch):
    seen = (run_stage(ppo.STAGE, dropout="on_everywhere") / "model" / "model.safetensors").read_bytes()
    monkeypatch.setattr(EpisodeTraces, "add", lambda *_: None)
    unseen = run_stage(ppo.STAGE, dropout="on_everywhere", gamma="1") / "model" / "model.safetensors"
    assert seen == unseen.read_bytes()


def test_what_is_no_number_is_null():
    told = rounded(torch.tensor([1.0, math.nan, math.inf, -math.inf, 0.123456789]))
    assert json.loads(json.dumps(told, allow_nan=False)) == [1.0, None, None, None, 0.12346]


def test_the_gold_score_is_there_where_the_facts_are_known(kept, tiny_run):
    assert all("gold" in told[who] for told in kept["episodes"] for who in ("policy", "sft"))
    assert kept["eos"] == Corpus(tiny_run["data"]).tokenizer.eos_token


def test_the_update_that_diverged_is_kept_wherever_it_came():
    networks, arm = tiny.models(), tiny.pick()
    setting, uniform = tiny.setting(networks, arm), tiny.uniform(8, 5)
    rollout = ppo.roll_out(setting, tiny.queries(8), uniform)
    target, _ = ppo.targets(rollout, 0.05, 8, arm)
    posts = Dataset.from_dict({name: [""] * 8 for name in ("id", "query", "reference", "facts")})
    corpus = SimpleNamespace(
        eos=tiny.EOS, pad=tiny.PAD, tokenizer=SimpleNamespace(decode=str), decode=lambda rows: [""] * len(rows)
    )
    traces = EpisodeTraces(networks, setting.sampling, corpus, updates=32, batch=8)
    traces.add(5, posts, rollout, target, uniform, diverged=False)
    assert traces.episodes == []
    traces.add(6, posts, rollout, target, uniform, diverged=True)
    assert [told["episode"] for told in traces.episodes] == list(range(48, 56))
