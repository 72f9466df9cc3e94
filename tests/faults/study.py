"""A small study in a folder of its own: started as a person starts it, and all that it leaves, in a form to compare."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil

from repro.stages import stage
from tests.paths import ROOT

CHANGES = {
    "model": "gpt-neox:32/2/2/64",
    "posts": "64",
    "comparisons": "32",
    "episodes": "64",
    "ppo_batch": "8",
    "sft_batch": "8",
    "validation_posts": "8",
    "test_posts": "8",
    "response_tokens": "12",
    "checkpoint_every": "2",
}
WORDS = (
    "run",
    "score_position",
    "--scale",
    "smoke",
    "--seeds",
    "1",
    "--set",
    *(f"{k}={v}" for k, v in CHANGES.items()),
)
COMMAND_LINE = ("-m", "repro")  # what Python is given, as a person starts it
PATIENCE = 300  # seconds for a study that takes 20 on a core of its own
NOTES = (stage.JOURNAL, stage.RESULT)  # files with times in them; what else they say is compared


def start(folder: Path, words: Sequence[str] = WORDS) -> subprocess.Popen:
    """The study, started or continued in the folder, as a process group of its own."""
    own = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "", "REPRO_CACHE": ""}
    with (folder / "out").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, *COMMAND_LINE, *words],
            cwd=folder,
            env=os.environ | own,
            start_new_session=True,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def check(folder: Path) -> int:
    """The exit code of `make check` in the folder."""
    return end(start(folder, ["check"]))


def end(process: subprocess.Popen) -> int:
    """The exit code of a study that ends by itself, after which no process of it is left."""
    try:
        code = process.wait(PATIENCE)
        until = time.monotonic() + 20
        while members(process) and time.monotonic() < until:
            time.sleep(0.05)
        assert not members(process), f"the study has left {[each.cmdline() for each in members(process)]} behind"
        return code
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def members(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes of a study's group that run, the launcher first."""
    found = []
    for each in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(each.pid) == process.pid and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return sorted(found, key=lambda each: each.pid)


def remains(folder: Path) -> dict[str, Any]:
    """All that a study leaves but times: each artefact's files and journal, every point of its runs, and its verdict."""
    artefacts = {path.name: path for path in (folder / "cache").iterdir() if (path / stage.DONE).is_file()}
    (verdict,) = folder.glob("reports/build/score_position-*/verdict.json")
    return {
        "files": {key: _files(path) for key, path in artefacts.items()},
        "journals": {key: _journal(path) for key, path in artefacts.items()},
        "points": points(folder),
        "runs": _runs(folder),
        "verdict": json.loads(verdict.read_text()) | {"index": None},  # the index's facts have the times of the runs
        "left over": sorted(path.name for path in _left_over(folder)),
    }


def _files(artefact: Path) -> dict[str, str]:
    files = json.loads((artefact / stage.DONE).read_text())["files"]
    return {name: digest for name, digest in files.items() if name not in NOTES}


def _journal(artefact: Path) -> list[Any]:
    lines = stage.read_journal(artefact) if (artefact / stage.JOURNAL).exists() else []
    return [*((line["step"], line["metrics"]) for line in lines), json.loads((artefact / stage.RESULT).read_text())]


def points(folder: Path) -> Counter:
    """(arm, metric, step, value) of every point in the store, and how many times it is there."""
    asked = """select tags.value, metrics.key, metrics.step, metrics.value from metrics
               join tags on tags.run_uuid = metrics.run_uuid and tags.key = 'arm'
               join runs on runs.run_uuid = metrics.run_uuid and runs.lifecycle_stage = 'active'
               where metrics.key not like 'system/%'"""
    return Counter(_rows(folder, asked))


def _runs(folder: Path) -> list[tuple]:
    """(arm, status) of every run in the store; the study's own has no arm."""
    asked = """select coalesce(tags.value, ''), runs.status from runs
               left join tags on tags.run_uuid = runs.run_uuid and tags.key = 'arm'
               where runs.lifecycle_stage = 'active'"""
    return sorted(_rows(folder, asked))


def _rows(folder: Path, asked: str) -> list[tuple]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        return store.execute(asked).fetchall()


def _left_over(folder: Path) -> list[Path]:
    """What a study that has ended needs no more: halves of artefacts and of stores."""
    names = ("cache/*.partial", "cache/*.earlier", "cache/*.tmp", "mlflow.db*.partial*", "mlflow.db-journal")
    return [path for name in names for path in folder.glob(name)]
