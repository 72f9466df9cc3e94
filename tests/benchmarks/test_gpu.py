"""The benchmark of GPUs runs where there is none, and says so; its figures are for a person to look at."""

import json
import math

import pytest

from benchmarks import gpu
from repro.models import generate, scoring

OPTIONS = ["--shape", "tiny", "--batch", "4", "--updates", "1"]


@pytest.fixture(scope="module")
def found():
    return gpu.measure("tiny", gpu.scale_of("tiny", batch=4), updates=2)


def test_every_phase_takes_time_and_none_is_counted_twice(found):
    parts = {name: taken for name, taken in found.seconds.items() if name != "whole"}
    assert set(parts) == {*gpu.PHASES, "update"} and all(taken > 0 for taken in parts.values())
    assert sum(parts.values()) <= found.seconds["whole"] * 1.05  # medians of two updates
    assert found.episodes_per_second == pytest.approx(4 / found.seconds["whole"])


def test_a_machine_without_a_gpu_has_no_share_of_a_peak(found):
    if found.gpu:
        pytest.skip("there is a GPU here")
    assert math.isnan(found.utilisation) and found.device == "CPU"


def test_the_functions_that_are_timed_are_left_as_they_were():
    before = (generate.sample_with_support, scoring.score)
    with pytest.raises(ZeroDivisionError), gpu.timed():
        assert generate.sample_with_support is not before[0]
        1 / 0  # noqa: B018
    assert (generate.sample_with_support, scoring.score) == before


def test_the_table_says_that_there_is_no_gpu_and_json_is_json(capsys):
    gpu.main([*OPTIONS, "--sampler", "eager"])
    told = capsys.readouterr().out
    assert "episodes/s" in told and ("figures say nothing about one" in told or gpu.cost.at_hand().present)
    gpu.main([*OPTIONS, "--json", "--micro-batch", "2"])
    record = json.loads(capsys.readouterr().out)
    assert record["micro_batch"] == 2 and record["sampler"] == "static" and record["seconds"]["update"] > 0


@pytest.mark.parametrize("shape", [shape for shape in gpu.SHAPES if shape != "tiny"])
def test_a_shape_is_its_preset_with_random_weights(shape):
    scale = gpu.scale_of(shape, batch=512)
    assert (scale.query_tokens, scale.response_tokens, scale.ppo_batch) == (512, 53, 512)
    assert scale.model.startswith("gpt-neox:") and scale.rollout_batch <= 512
