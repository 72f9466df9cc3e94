"""How long a stage is said to take: what its like took before, else arithmetic that grows with the budget."""

import json
from dataclasses import replace

import pytest

from repro import cost, pipeline, stage
from repro.detail import Recipe
from repro.launch import Job
from repro.scale import SCALES

SMOKE = SCALES["smoke"]


def finished(cache, name, seconds, scale=SMOKE.name):
    folder = cache / name
    folder.mkdir()
    (folder / stage.DONE).write_text(json.dumps({"scale": scale, "seconds": seconds}))


def job(name, scale=SMOKE):
    return Job(key=name, stage=name, arm="reference", recipe=Recipe(), scale=scale, seed=1, keys={})


def test_the_past_is_a_median_for_each_stage_and_scale(tmp_path):
    for number, seconds in enumerate([10.0, 12.0, 500.0]):
        finished(tmp_path, f"ppo-{number}", seconds)
    finished(tmp_path, "ppo-3", 90.0, scale="mini")
    finished(tmp_path, "sft-4", 3.0)
    assert cost.history(tmp_path) == {("ppo", "smoke"): 12, ("ppo", "mini"): 90, ("sft", "smoke"): 3}


def test_what_is_corrupt_or_unfinished_is_no_past(tmp_path):
    finished(tmp_path, "ppo-1", 10.0)
    finished(tmp_path, "ppo-2", 10.0)
    (tmp_path / "ppo-1" / stage.DONE).write_text("{")
    (tmp_path / "ppo-2" / stage.DONE).unlink()
    assert cost.history(tmp_path) == {}


def test_the_past_is_believed_and_only_the_rest_is_worked_out(tmp_path):
    finished(tmp_path, "ppo-1", 10.0)
    assert cost.seconds([job("ppo"), job("ppo")], tmp_path) == 20
    assert cost.seconds([job("ppo"), job("sft")], tmp_path) == 10 + cost.estimate("sft", SMOKE)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("data", "posts"),
        ("data", "comparisons"),
        ("sft", "posts"),
        ("rm", "comparisons"),
        ("baseline", "test_posts"),
        ("ppo", "episodes"),
        ("ppo", "response_tokens"),
        ("evaluate", "test_posts"),
    ],
)
def test_a_larger_budget_takes_longer(name, field):
    larger = replace(SMOKE, **{field: 10 * getattr(SMOKE, field)})
    assert cost.estimate(name, larger) > cost.estimate(name, SMOKE)


@pytest.mark.parametrize("name", ["sft", "rm", "baseline", "ppo", "evaluate"])
def test_a_larger_model_takes_longer(name):
    small, large = (replace(SMOKE, model=shape) for shape in ("gpt-neox:64/2/2/128", "gpt-neox:128/4/2/512"))
    assert cost.estimate(name, large) > cost.estimate(name, small)


@pytest.mark.parametrize(
    "scale", [scale for scale in SCALES.values() if scale.corpus == "embedded"], ids=lambda s: s.name
)
def test_every_stage_has_an_estimate_of_sane_size(scale):
    assert all(1 < cost.estimate(name, scale) < 3600 for name in pipeline.BY_NAME)
