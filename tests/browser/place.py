"""A working directory with a real study in it: what was recorded, the pages that were built, and the command line in it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.paths import ROOT

DETAIL, SCALE, SEEDS = "whiten_adv", "smoke", (1, 2)
ARMS = REFERENCE, ARM = "shift_and_scale", "off"
# What MLflow takes for a sign that it is being tested, and so behaves better than at a person's desk.
TESTED = ("CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST")


@dataclass(frozen=True)
class Place:
    """The directory, and the runs in its store by (arm, seed)."""

    folder: Path
    runs: dict[tuple[str, int], Run]

    @property
    def store(self) -> str:
        """The address of the store."""
        return address(self.folder)

    @property
    def pages(self) -> Path:
        """The folder of all pages."""
        return self.folder / "reports" / "build"

    @property
    def study(self) -> Path:
        """The folder of the study's page."""
        return self.pages / f"{DETAIL}-{SCALE}"

    def told(self, arm: str, seed: int, name: str) -> dict:
        """A JSON artifact of a run."""
        uri = self.runs[arm, seed].info.artifact_uri
        return json.loads((Path(uri.removeprefix("file://")) / name).read_text())

    def samples(self, arm: str, seed: int) -> pd.DataFrame:
        """What the arm wrote under the test posts."""
        return pd.DataFrame(**self.told(arm, seed, "samples.json"))


def address(folder: Path) -> str:
    """Of the store in a working directory."""
    return f"sqlite:///{folder}/mlflow.db"


def read(folder: Path) -> Place:
    """The place that a folder is."""
    store = MlflowClient(address(folder))
    found = [run for each in store.search_experiments() for run in store.search_runs([each.experiment_id])]
    tags = [(run, run.data.tags) for run in found if "arm" in run.data.tags]
    return Place(folder, {(told["arm"], int(told["seed"])): run for run, told in tags})


def make(folder: Path) -> None:
    """Runs a study of two arms and two seeds at the scale of seconds in a new folder, and builds all pages."""
    folder.mkdir()
    finish(folder, "run", DETAIL, "--scale", SCALE, "--seeds", *map(str, SEEDS), "--arms", ARM)
    finish(folder, "atlas", DETAIL, "--scale", SCALE, "--page")
    finish(folder, "figures")


def start(folder: Path, *words: str) -> subprocess.Popen:
    """`python -m repro ...` in a folder, with a store and a cache of its own, as at a person's desk."""
    desk = {name: value for name, value in os.environ.items() if name not in TESTED}
    return subprocess.Popen(
        [sys.executable, "-m", "repro", *words],
        cwd=folder,
        env=desk | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "", "REPRO_CACHE": "", "DISPLAY": ""},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(folder: Path, *words: str) -> str:
    """The same to its end, which must be a good one; what it said."""
    process = start(folder, *words)
    told, _ = process.communicate(timeout=400)
    assert process.returncode == 0, told
    return told
