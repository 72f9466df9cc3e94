"""How far a running stage is said to be, held against stages that have run to their end."""

import time

import pytest

from repro.detail import Recipe
from repro.details import ALGORITHM, FEEDBACK_ROUNDS, SFT_EPOCHS
from repro.engine.completion import completion, examples
from repro.engine.dag import jobs_of
from repro.stages import ppo, stage
from repro.stages.corpus import Corpus
from repro.study.ablation import Ablation
from tests.steps import run_until

PAPER = Recipe()


def job(scale, name, recipe=PAPER):
    study = Ablation(ALGORITHM, "", {"it": recipe}, (1,), scale, "test/win_rate", True, 0.05)
    return next(each for each in jobs_of(study).values() if each.stage == name)


@pytest.mark.parametrize("name", ["sft", "rm", "ppo"])
def test_the_last_line_of_a_stage_that_has_ended_is_all_of_it(name, tiny_scale, tiny_run):
    lines, cache = stage.read_journal(tiny_run[name]), tiny_run[name].parent
    began = lines[0]["time"]
    whole, half = (
        completion(job(tiny_scale, name), began, lines[:count], 8.0, cache) for count in (len(lines), len(lines) // 2)
    )
    assert whole.counted and whole.share == 0.99, "until it has ended, something is left"
    assert half.share == pytest.approx(len(lines[: len(lines) // 2]) / len(lines), abs=0.01)


def test_dpo_is_counted_in_comparisons(tiny_scale, tiny_run, run_stage):
    lines = stage.read_journal(run_stage(ppo.STAGE, algorithm="dpo"))
    dpo = job(tiny_scale, "ppo", Recipe().but(ALGORITHM, "dpo"))
    assert examples(dpo, tiny_run["data"].parent) == lines[-1]["step"] == 24


def test_the_reward_model_of_a_round_counts_its_new_comparisons_too(tiny_scale, tiny_run):
    cache, two = tiny_run["data"].parent, Recipe().but(FEEDBACK_ROUNDS, "2")
    folders = run_until("rm", two, tiny_scale, cache)
    study = Ablation(FEEDBACK_ROUNDS, "", {"2": two}, (1,), tiny_scale, "test/win_rate", True, 0.05)
    first, last = (each for each in jobs_of(study).values() if each.stage == "rm")
    new = len(Corpus(folders["feedback"]).pairs("train"))
    assert new > 0 and examples(last, cache) == examples(first, cache) + new


def test_a_kept_sft_policy_has_no_steps(tiny_scale, tiny_run, run_stage):
    assert stage.read_journal(run_stage(ppo.STAGE, algorithm="sft")) == []
    kept = job(tiny_scale, "ppo", Recipe().but(ALGORITHM, "sft"))
    assert examples(kept, tiny_run["data"].parent) == 0


def test_epochs_count(tiny_scale, tiny_run):
    cache = tiny_run["data"].parent
    twice = job(tiny_scale, "sft", Recipe().but(SFT_EPOCHS, "2"))
    twice.keys["data"] = job(tiny_scale, "sft").keys["data"]
    assert examples(twice, cache) == 2 * examples(job(tiny_scale, "sft"), cache) == 32
    assert examples(job(tiny_scale, "evaluate"), cache) == examples(job(tiny_scale, "data"), cache) == 0


def test_what_is_left_is_told_by_the_steps_since_it_began(tiny_scale, tmp_path):
    now = time.time()
    # Three updates of 16 episodes: one before an interrupt, a second and a third after it, 10 s apart.
    lines = [{"step": step, "time": now + at} for step, at in ((0, -500), (16, -10), (32, 0))]
    each = job(tiny_scale, "ppo")
    long = job(tiny_scale.__class__(**vars(tiny_scale) | {"episodes": 96}), "ppo")
    assert completion(each, now - 20, lines, 8.0, tmp_path).share == 0.99
    told = completion(long, now - 20, lines, 8.0, tmp_path)
    assert told.share == 0.5 and told.left == pytest.approx(30, abs=1)


def test_a_stage_without_steps_is_told_by_what_it_takes(tiny_scale, tmp_path):
    told = completion(job(tiny_scale, "evaluate"), time.time() - 3, [], 12.0, tmp_path)
    assert told.share == pytest.approx(0.25, abs=0.02) and told.left == pytest.approx(9, abs=1) and not told.counted
    assert completion(job(tiny_scale, "evaluate"), time.time() - 60, [], 12.0, tmp_path)[:2] == (0.99, 0.0)
