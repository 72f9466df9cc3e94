"""The points of a run's metrics, as its stages' journals and results have them.

A journal is written by one attempt at its stage. A stage that is killed before a checkpoint begins anew, with a new journal;
one that goes on from a checkpoint goes on with its journal too. So the time of a journal's first line tells attempts apart.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from mlflow.entities import Metric

from repro.engine import artefacts


def attempt(lines: Sequence[dict], folder: Path) -> str:
    """The attempt at a stage that a journal is of; `folder` is the finished artefact of a stage that has no journal."""
    return str(lines[0]["time"] if lines else finished(folder))


def finished(folder: Path) -> float:
    """When an artefact was finished [s]."""
    return artefacts.read_done(folder)["finished"]


def of_lines(lines: Sequence[dict], first: int = 0) -> list[Metric]:
    """The points of a journal's lines from the one numbered `first` on.

    A point's time never goes back, even where the machine's clock did: MLflow sorts by it.
    """
    times = list(accumulate((line["time"] for line in lines), max))
    return [
        Metric(name, value, int(when * 1000), line["step"])
        for line, when in list(zip(lines, times))[first:]
        for name, value in line["metrics"].items()
    ]


def of_result(folder: Path, **linked: Any) -> list[Metric]:
    """The points of a finished stage's result."""
    when, metrics = int(finished(folder) * 1000), artefacts.read_result(folder)["metrics"]
    return [Metric(name, value, when, 0, **linked) for name, value in metrics.items()]
