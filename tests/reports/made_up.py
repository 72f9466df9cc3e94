"""Made-up runs in a real MLflow store, laid out as the tracker lays them out."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from tests.paths import ROOT

ARMS = ("shift_and_scale", "off", "scale_only")  # the reference first
EFFECTS = {"shift_and_scale": (0.84, 0.80, 0.82), "off": (0.74, 0.71, 0.71), "scale_only": (0.85, 0.79, 0.84)}
STAGES = ("data", "base", "sft", "rm", "baseline", "ppo", "evaluate")


@dataclass(frozen=True)
class Fake:
    """What one made-up run says; effects are added to the reference's numbers."""

    arm: str
    seed: int
    outcome: str = "finished"
    win_rate: float = 0.8
    finals: bool = True
    steps: int = 12
    curves: bool = True
    tags: dict = field(default_factory=dict)


def experiment(uri: str, name: str) -> str:
    """A new experiment whose artifacts lie beside the store."""
    detail, scale = name.rsplit("-", 1)
    folder = Path(uri.removeprefix("sqlite:///")).parent / "artifacts"
    return MlflowClient(uri).create_experiment(
        name, artifact_location=folder.as_uri(), tags={"detail": detail, "scale": scale}
    )


def tags(run: Fake) -> dict[str, str]:
    """The tags that the tracker writes before and after a run."""
    stages = {f"stage.{s}": f"{s}-{run.seed if s in ('sft', 'rm', 'baseline') else 0}" for s in STAGES[:5]}
    stages |= {f"stage.{s}": f"{s}-{run.arm}-{run.seed}" for s in STAGES[5:]}
    return (
        stages
        | {
            "detail": "whiten_adv",
            "arm": run.arm,
            "reference": str(run.arm == ARMS[0]).lower(),
            "seed": str(run.seed),
            "scale": "mini",
            "question": "Does whitening the advantages matter?",
            "hypothesis": "Without it the step size follows the scale of the reward: larger KL early, unstable late.",
            "moves": json.dumps({"objective/kl": "up", "test/win_rate": "down", "objective/length": "same"}),
            "paper": "N+ detail 25",
            "primary": "test/win_rate",
            "higher_is_better": "true",
            "smallest_effect": "0.02",
            "judge": "gold score",
            "outcome": run.outcome,
            "recipe": json.dumps({"whiten_adv": run.arm}),
            "stage_seconds": json.dumps({"data": 2.1, "sft": 14.0, "rm": 61.5, "ppo": 57.3, "evaluate": 4.2}),
            "commit": "0123456789abcdef",
            "machine": "2 cores, 8 GB",
            "versions": json.dumps({"torch": "2.13.0"}),
            "command": "make ablation DETAIL=whiten_adv",
            "record": f"{run.arm}-{run.seed}",
        }
        | run.tags
    )


def curves(run: Fake, rng: np.random.Generator) -> list[Metric]:
    """Learning curves in the shape that PPO gives them, shifted a little by arm."""
    shift = ARMS.index(run.arm)
    t = np.linspace(0, 1, run.steps)
    shapes = {
        "objective/score": 0.4 + 0.4 * t,
        "objective/gold": 2.2 + 0.7 * t - 0.2 * shift * t,
        "objective/kl": 3.0 * t * (1 + shift),
        "objective/rlhf_reward": 0.4 + 0.2 * t,
        "objective/eos_rate": np.full(run.steps, 0.99),
        "objective/length": 7 + 3 * t,
        "objective/entropy": 9 - 3 * t,
        "policy/approx_kl": 0.01 + 0.01 * t,
        "policy/clip_fraction": 0.1 + 0.05 * t,
        "policy/ratio": np.ones(run.steps),
        "loss/value": 6 * np.exp(-5 * t) + 0.3,
        "eval/win_rate": 0.74 + 0.1 * t - 0.05 * shift * t,
        "sft/loss": 3 - t,
        "rm/loss": 0.7 - 0.2 * t,
        "rm/train_accuracy": 0.5 + 0.25 * t,
    }
    noise = {name: 0.03 * (abs(y).mean()) * rng.standard_normal(run.steps) for name, y in shapes.items()}
    return [
        Metric(name, float(v), 1, 64 * (i + 1)) for name, y in shapes.items() for i, v in enumerate(y + noise[name])
    ]


def finals(run: Fake, rng: np.random.Generator) -> list[Metric]:
    """The single values of the evaluation, the SFT policy's, the references' and the reward model's."""
    test = {
        "win_rate": run.win_rate,
        "gold": 3.3 + 0.1 * rng.standard_normal(),
        "score": 0.77,
        "kl": 2.2,
        "length": 10.2,
        "eos_rate": 1.0,
        "rouge_l": 0.4,
        "wrong_facts": 0.2,
    }
    before = {"win_rate": 0.74, "gold": 2.8, "score": 0.44, "length": 6.8, "eos_rate": 1.0}
    values = {f"test/{k}": v for k, v in test.items()} | {f"sft_test/{k}": v for k, v in before.items()}
    values |= {
        "test/reference_gold": 1.78,
        "test/sampled_win_rate": 0.7,
        "test/judge_agreement": 0.8,
        "sft_test/judge_agreement": 0.7,
        "rm/validation_accuracy": 0.68,
        "rm/bias": 2.2,
        "rm/off_eos_mean": -0.4,
        "rm/padding_difference_largest": 1e-6,
        "rm/calibration_error": 0.05,
        "nonfinite/objective/score": 0.0,
    }
    values |= {f"rm/calibration/{0.25 + 0.5 * i}": 0.52 + 0.08 * i + 0.01 * run.seed for i in range(5)}
    values |= {f"rm/accuracy/confidence/{c}": 0.6 + 0.01 * c for c in (1, 6, 7, 8, 9)}
    values |= {f"rm/accuracy/batch/batch{b}": 0.6 + 0.01 * b for b in (10, 11, 12, 13)}
    values |= {f"rm/accuracy/policies/{pair}": 0.66 for pair in ("ppo vs sft", "ref vs sft")}
    values |= {f"rm/right_over_wrong/{fact}": 0.8 for fact in ("who", "what", "where")}
    return [Metric(name, float(v), 1, 0) for name, v in values.items()]


def samples(run: Fake) -> pd.DataFrame:
    """Six posts, the first of which has a summary that tries to be a script."""
    texts = ["<script>alert('summary')</script>"] + [f"my neighbor burned my car , {run.arm} {i} ." for i in range(5)]
    return pd.DataFrame(
        {
            "post_id": [f"t3_{i}" for i in range(6)],
            "query": [f"SUBREDDIT: r/legal\n\nTITLE: car {i}\n\nPOST: it was burned .\n\nTL;DR:" for i in range(6)],
            "reference": [f"neighbor burned car {i}" for i in range(6)],
            "sft_summary": "someone burned it",
            "summary": texts,
            "score": 0.7,
            "sft_score": 0.4,
            "length": 8,
            "ended": True,
            "gold": 3.1,
            "reference_gold": 1.9,
            "sft_gold": 2.5,
        }
    )


def log(uri: str, experiment_id: str, run: Fake, start: int) -> str:
    """Writes one run, started at `start` [ms], and gives its id."""
    client, rng = MlflowClient(uri), np.random.default_rng([run.seed, ARMS.index(run.arm)])
    run_id = client.create_run(experiment_id, start, tags(run), f"{run.arm}-seed{run.seed}").info.run_id
    metrics = (curves(run, rng) if run.curves else []) + (finals(run, rng) if run.finals else [])
    for first in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[first : first + 1000])
    client.log_batch(
        run_id,
        params=[Param("whiten_adv", run.arm), Param("scale.episodes", "768")],
        tags=[RunTag("outcome", run.outcome)],
    )
    if run.finals:
        client.log_table(run_id, samples(run), "samples.json")
    client.set_terminated(run_id, end_time=int(time.time() * 1000))
    return run_id


def log_light(uri: str, experiment_id: str, run: Fake, values: dict[str, float]) -> str:
    """Writes a run that has nothing but tags and these final values, and gives its id."""
    client = MlflowClient(uri)
    run_id = client.create_run(experiment_id, run.seed, tags(run), f"{run.arm}-seed{run.seed}").info.run_id
    client.log_batch(run_id, metrics=[Metric(name, float(value), 1, 0) for name, value in values.items()])
    client.set_terminated(run_id)
    return run_id


REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        allowed = name in ("repro.errors", "repro.record") or f"{name}.".startswith("repro.reports.")
        if name.split(".")[0] in ("torch", "transformers") or name.startswith("repro.") and not allowed:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
"""


def without_torch(program: str, environment: dict[str, str] = {}) -> subprocess.CompletedProcess:
    """A program's end in a process of its own, in which neither torch nor any stage can be imported."""
    return subprocess.run(
        [sys.executable, "-c", REFUSE + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | environment,
    )
