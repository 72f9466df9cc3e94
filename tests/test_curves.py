"""Learning curves of the tiny run against stored ones: a change of what is computed shows here, whatever else passes.

After a change that is meant: `python -m pytest tests/test_curves.py --store-curves`, and say why in the commit.
"""

import json
from dataclasses import replace

import pytest
import torch

from repro.detail import Recipe
from repro.engine import pipeline
from repro.stages.stage import read_journal
from tests.paths import TESTS

STORED = TESTS / "curves" / "tiny.json"
# The first update is before any step: no KL yet, and nothing ends. Those after it have learnt from what was paid.
# At the tiny run's own rate a rounding of another processor flips a sampled token by the second update; at this one none is.
PPO_LEARNING_RATE = 0.003
OF_PPO = ("objective/score", "objective/kl", "objective/entropy", "objective/length", "loss/value", "loss/policy")


def curves(folders):
    """Metric -> its points: every step of SFT and of the reward model, every update of PPO."""
    followed = {"sft": ("sft/loss",), "rm": ("rm/loss",), "ppo": OF_PPO}
    journals = {stage: [line["metrics"] for line in read_journal(folders[stage])] for stage in followed}
    return {name: [step[name] for step in journals[stage]] for stage, names in followed.items() for name in names}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the stored curves are of a CPU in float32")
def test_the_curves_are_the_stored_ones(tiny_run, tiny_scale, request):
    scale = replace(tiny_scale, ppo_learning_rate=PPO_LEARNING_RATE)
    found = curves(pipeline.run(Recipe(), scale, 1, tiny_run["ppo"].parent, warn=pytest.fail))
    if request.config.getoption("--store-curves"):
        STORED.write_text(json.dumps(found, indent=1) + "\n")
        pytest.skip(f"stored {STORED}")
    stored = json.loads(STORED.read_text())
    assert found.keys() == stored.keys()
    for name, points in found.items():
        assert points == pytest.approx(stored[name], rel=1e-3, abs=1e-5), name
