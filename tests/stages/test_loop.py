"""The loop that training stages share: what a stage that stops early leaves behind."""

from dataclasses import replace

import pytest
import torch

from repro.detail import Pick, Recipe
from repro.stages.checkpoint import complete_checkpoints
from repro.stages.loop import TrainingLoop
from repro.stages.stage import CHECKPOINTS, Budget, StageContext


@pytest.fixture
def loop_of(tiny_scale, tmp_path):
    """A loop of six steps with a checkpoint after every second one, resumed from what an earlier one left."""

    def make():
        scale = replace(tiny_scale, checkpoint_every=2)
        context = StageContext("sft", Pick(Recipe(), "sft"), Budget(scale, ()), "float32", 1, {}, tmp_path, "")
        weights = torch.nn.Linear(2, 1)
        optimizer = context.accelerator.prepare(torch.optim.SGD(weights.parameters(), lr=0.1))
        return TrainingLoop(context, optimizer, lambda step: 0.1, 6)

    return make


def test_a_loop_that_stopped_early_and_is_ended_before_its_stage_is_comes_to_the_same_stop(loop_of, tmp_path):
    for first in (0, 2):
        loop, seen = loop_of(), []
        for step, _ in loop.steps(torch.arange(6)):
            seen.append(step)
            if step == 3:
                loop.stop("diverged")
        assert (seen, loop.outcome) == (list(range(first, 4)), "diverged")
        assert [path.name for path in complete_checkpoints(tmp_path / CHECKPOINTS)] == ["step-00000002"]


def test_a_loop_that_came_to_its_end_is_not_repeated(loop_of):
    assert [step for step, _ in loop_of().steps(torch.arange(6))] == [0, 1, 2, 3, 4, 5]
    again = loop_of()
    assert list(again.steps(torch.arange(6))) == [] and again.steps_done == 6
