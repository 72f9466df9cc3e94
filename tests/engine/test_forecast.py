"""How long a whole study takes: shared among workers as the launcher does, from what was measured, here or before."""

import json
import time
from dataclasses import replace

import pytest

from repro.detail import Recipe
from repro.details import WHITEN_ADV
from repro.engine import cost, flops, forecast, pipeline, speed, stage_flops
from repro.engine.dag import jobs_of
from repro.engine.job import Job
from repro.stages import evaluate, ppo, rm, sft, stage
from repro.study.ablation import Ablation
from repro.study.scale import SCALES
from tests.counting import flops_of

SMOKE = SCALES["smoke"]
FAST = speed.Speeds(dict.fromkeys(("rm", "update", "roll out", "sft", "read"), 1e11), 4.0, "2026-11-28")


@pytest.fixture
def study():
    arms = {label: Recipe().but(WHITEN_ADV, label) for label in ("shift_and_scale", "off")}
    return Ablation(WHITEN_ADV, "Does it matter?", arms, (1, 2), SMOKE, "test/win_rate", True, 0.05)


@pytest.fixture
def jobs(study):
    return list(jobs_of(study).values())


def remember(folder, speeds, scale=SMOKE):
    speed.remember(folder, scale, speeds)


# ---------------------------------------------------------------------------------------------- a study


def test_workers_take_what_has_what_it_needs(jobs):
    each = {job.key: 1.0 for job in jobs}
    assert forecast.makespan(jobs, each, 1) == len(jobs)
    # Data, base, then one stage after another of two seeds, and of two arms and two seeds.
    assert forecast.makespan(jobs, each, 2) == 1 + 1 + 1 + 1 + 1 + 2 + 2
    assert forecast.makespan(jobs, each, 100) == 6  # the longest chain: data, base, sft, rm, ppo, evaluate
    assert forecast.makespan([], {}, 2) == 0


def test_a_chain_takes_no_less_with_more_workers():
    known = pipeline.keys(Recipe(), SMOKE, 1)
    chain = [Job(known[name], name, "reference", Recipe(), SMOKE, 1, known) for name in ("sft", "rm", "ppo")]
    taken = {known["sft"]: 1.0, known["rm"]: 2.0, known["ppo"]: 4.0}
    assert forecast.makespan(chain, taken, 1) == forecast.makespan(chain, taken, 8) == 7.0


def test_a_study_takes_its_stages_its_workers_start_and_its_report(jobs, tmp_path):
    alone = forecast.wall(jobs, tmp_path, 1)
    assert alone == pytest.approx(cost.seconds(jobs, tmp_path) + 4 * forecast.PUBLISHING + forecast.REPORT)
    assert forecast.wall(jobs, tmp_path, 1, start_up=7.0) == pytest.approx(alone + 7)
    assert alone / 2 < forecast.wall(jobs, tmp_path, 2) < alone
    assert forecast.wall([], tmp_path, 2, start_up=7.0) == 0


def test_what_was_done_before_was_done_side_by_side_and_is_not_slowed_again(jobs, tmp_path):
    for name in pipeline.BY_NAME:
        (folder := tmp_path / f"{name}-1").mkdir()
        (folder / stage.DONE).write_text(json.dumps({"scale": SMOKE.name, "seconds": 10.0}))
    assert forecast.wall(jobs, tmp_path, 100) == pytest.approx(60 + 4 * forecast.PUBLISHING + forecast.REPORT)
    stages = ", ".join(pipeline.keys(Recipe(), SMOKE, 1))
    assert forecast.sources(jobs, tmp_path, "guessed") == [f"{stages}: as in earlier runs here"]


def test_it_is_said_where_seconds_come_from(jobs, tmp_path):
    (folder := tmp_path / "rm-1").mkdir()
    (folder / stage.DONE).write_text(json.dumps({"scale": SMOKE.name, "seconds": 10.0}))
    told = forecast.sources(jobs, tmp_path, str(FAST))
    assert told[0] == "rm: as in earlier runs here"
    assert told[1].startswith(
        "data, base, sft, baseline, ppo, evaluate: estimated from a 4-second measurement of 2026-"
    )
    assert forecast.sources([], tmp_path, "guessed") == []


@pytest.mark.parametrize("each", [sft.STAGE, rm.STAGE, evaluate.BASELINE, ppo.STAGE], ids=lambda each: each.name)
def test_a_stage_is_about_as_many_operations_as_it_is_planned_with(each, run_stage, tiny_scale):
    """Whoever else is busy: a plan is within 1.5 only where its counts are."""
    network = flops.Network(32, 1, 64, vocabulary=640, heads=2)
    planned = stage_flops.Stages(tiny_scale, network, cost.filled(tiny_scale)).of(each.name)
    real = flops_of(lambda: run_stage(each))
    assert 1 / 1.5 < sum(map(flops.total, planned.values())) / real < 1.5


# ---------------------------------------------------------------------------------------------- speeds


@pytest.fixture(scope="module")
def small():
    return replace(SMOKE, model="gpt-neox:32/2/2/64", query_tokens=12, query_reference_tokens=18, query_pair_tokens=18,
                   response_tokens=4, rollout_batch=4, micro_batch=4, rm_batch=4)  # fmt: skip


@pytest.fixture(scope="module")
def measured(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    began = time.process_time()
    return folder, speed.known(folder, small), time.process_time() - began


def test_every_part_of_a_stage_has_a_speed_after_a_few_seconds(measured, small):
    _, speeds, seconds = measured
    assert 1e5 < min(speeds.parts.values()) <= max(speeds.parts.values()) < 1e13
    assert seconds < 10 and "-second measurement of 20" in str(speeds)
    parts = {part for name in pipeline.BY_NAME for part in stage_flops.Stages(small, flops.network_of(small.model),
             stage_flops.Lengths.most(small)).of(name)}  # fmt: skip
    assert all(speeds.of(part) > 0 for part in parts) and speeds.of("answer") == speeds.of("roll out")


def test_a_speed_is_measured_once_for_each_shape(measured, small, monkeypatch):
    folder, speeds, _ = measured
    monkeypatch.setattr(speed, "measure", lambda scale: pytest.fail("measured again"))
    assert speed.known(folder, small) == speed.remembered(folder, small) == speeds
    assert speed.remembered(folder, replace(small, episodes=10**6)) == speeds  # a budget is no shape
    for other in (replace(small, micro_batch=2), replace(small, threads=2), replace(small, query_tokens=13)):
        assert speed.remembered(folder, other) == speed.UNMEASURED


def test_another_computer_or_library_is_measured_anew(measured, small, monkeypatch):
    folder, speeds, _ = measured
    for module, name, value in ((speed, "processor", lambda: "another"), (speed.torch, "__version__", "0.1")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert speed.remembered(folder, small) == speed.UNMEASURED
    assert speed.remembered(folder, small) == speeds


def test_a_file_of_speeds_that_is_spoilt_is_written_again(tmp_path):
    (tmp_path / speed.FILE).write_text("{")
    assert speed.remembered(tmp_path, SMOKE) == speed.UNMEASURED
    remember(tmp_path, FAST)
    remember(tmp_path, speed.UNMEASURED, replace(SMOKE, micro_batch=2))
    assert speed.remembered(tmp_path, SMOKE) == FAST  # beside the other
    assert [file.name for file in tmp_path.iterdir()] == [speed.FILE]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    remember(tmp_path / "missing", FAST)
    assert not (tmp_path / "missing").exists()


def test_time_that_is_up_leaves_the_rest_to_their_like(monkeypatch, small):
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    assert speed.measure(small).parts == {}
    some = speed.Speeds({"rm": 2.0, "update": 1.0}, 4.0)
    assert (some.of("read"), some.of("sft"), some.of("roll out")) == (2.0, 1.0, 1.0)
    assert speed.UNMEASURED.of("rm") == speed.FLOPS and "nothing was measured" in str(speed.UNMEASURED)


def test_an_estimate_follows_the_speed(tmp_path):
    twice = speed.Speeds({part: 2 * rate for part, rate in FAST.parts.items()}, 4.0)
    for name in ("sft", "rm", "ppo"):
        beside = cost.estimate(name, SMOKE, speed.Speeds(dict.fromkeys(FAST.parts, 1e30)))
        once, half = (cost.estimate(name, SMOKE, speeds) - beside for speeds in (FAST, twice))
        assert once == pytest.approx(2 * half)
    known = pipeline.keys(Recipe(), SMOKE, 1)
    job = Job(known["rm"], "rm", "reference", Recipe(), SMOKE, 1, known)
    before = cost.seconds([job], tmp_path)
    remember(tmp_path, FAST)
    assert cost.seconds([job], tmp_path) == cost.estimate("rm", SMOKE, FAST) < before
