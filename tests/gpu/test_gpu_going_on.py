"""A run that is ended and goes on is one that was not; and a step takes the memory that was forecast."""

import os
import signal
from dataclasses import replace

import pytest
import torch

from benchmarks import gpu
from repro.engine import flops
from repro.stages import ppo
from repro.stages.checkpoint import Checkpoints, RandomState
from repro.stages.stage import Budget, Preempted, StageContext
from repro.study.scale import SCALES
from tests import tiny
from tests.gpu import on_device

pytestmark = pytest.mark.gpu
UPDATES, ENDED_AFTER = 2, 1
SAME = {"cpu": 0.0, "cuda": 0.02 * on_device.RATE}  # of a weight; on CUDA some sums have no order
FORECAST = (0.6, 1.3)  # measured over forecast: what the plan's figure is good to


def trained(folder, device, seed=0, ended_after=None):
    """Weights after so many updates with the project's own checkpoints; Preempted where the process is told to end."""
    scale = replace(SCALES["smoke"], checkpoint_every=100)  # none but the one that SIGTERM asks for
    work = StageContext("ppo", tiny.pick(), Budget(scale, ppo.STAGE.fields), "float32", seed=1, inputs={}, out=folder)
    work.accelerator = on_device.accelerator(device)
    s, numbers = on_device.setting(device, seed=seed, chief=work.accelerator), torch.Generator().manual_seed(5)
    checkpoints = Checkpoints(work, numbers=RandomState(numbers))
    for done in range(checkpoints.step + 1, UPDATES + 1):
        on_device.update(s, seed=int(torch.randint(1_000, (), generator=numbers)), epochs=2)
        if done == ended_after:
            os.kill(os.getpid(), signal.SIGTERM)
        checkpoints.after_step(done, prices=on_device.PRICES)
    kept = checkpoints.loop_state.get("prices", on_device.PRICES)
    assert str(kept) == str(on_device.PRICES)  # NaN, which one of them may be, equals nothing
    return on_device.weights(s)


def test_a_run_that_is_ended_and_goes_on_is_one_that_was_not(device, tmp_path):
    expected = trained(tmp_path / "whole", device)
    with pytest.raises(Preempted):
        trained(tmp_path / "ended", device, ended_after=ENDED_AFTER)
    got = trained(tmp_path / "ended", device, seed=7)  # other weights: all that counts comes from the checkpoint
    assert on_device.furthest(expected, got) <= SAME[device.type]
    assert on_device.furthest(expected, trained(tmp_path / "other", device, seed=7)) > on_device.RATE


def test_an_updates_peak_of_memory_is_what_was_forecast(cuda):
    """At Pythia 70m's shape: what libraries keep for themselves, some 100 MiB, is little beside it."""
    on_device.forget()
    scale = replace(
        gpu.scale_of("160m", batch=32), model=f"gpt-neox:{flops.PYTHIA['70m']}", micro_batch=16, rollout_batch=32
    )
    found = gpu.measure("70m", scale, updates=1)
    low, high = (factor * found.expected_gib for factor in FORECAST)
    assert low < found.peak_gib < high
