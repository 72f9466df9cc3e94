"""Programs timed in turn, A B A B ..., each run in a process of its own: what drifts on a shared computer meets all alike.

A side is compared with the first one round by round; the median of these ratios, with the smallest and the largest, is
what may be said of it.
"""

import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.engine.machine import cores
from repro.errors import UserError


@dataclass(frozen=True)
class Side:
    """One of those that are compared: a script that reads LOAD.json and writes RESULT.json, and where it runs."""

    name: str
    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, load: Mapping) -> dict:
        """What one process measured, with the cores that others kept busy meanwhile; UserError where it failed."""
        with tempfile.TemporaryDirectory() as folder:
            given, result = Path(folder) / "load.json", Path(folder) / "result.json"
            given.write_text(json.dumps(load))
            threads = {"OMP_NUM_THREADS": str(load["threads"]), "CUDA_VISIBLE_DEVICES": ""}
            meter = Meter()
            done = subprocess.run(
                [*self.command, str(given), str(result)],
                cwd=self.folder,
                env=os.environ | threads | self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            whole, others = meter.read()
            if done.returncode or not result.exists():
                raise UserError(f"{self.name} failed, and nothing was measured; it ended with:\n{_last(done.stdout)}")
            return json.loads(result.read_text()) | {"process_seconds": whole, "others_cores": others}


def _last(told: str, lines: int = 12) -> str:
    return "\n".join(told.strip().splitlines()[-lines:]) or "nothing"


class Meter:
    """Seconds since it was made, and how many cores others than this process's children kept busy; NaN off Linux."""

    def __init__(self) -> None:
        self.began, self.all, self.own = time.perf_counter(), _busy_in_all(), _busy_of_children()

    def read(self) -> tuple[float, float]:
        seconds = time.perf_counter() - self.began
        others = (_busy_in_all() - self.all) - (_busy_of_children() - self.own)
        return seconds, max(0.0, others / seconds) if others == others else others


def _busy_in_all() -> float:
    """Core-seconds of all processes since the system started, and of those that a host took away."""
    try:
        user, nice, system, _, _, irq, softirq, steal = Path("/proc/stat").read_text().split()[1:9]
    except (OSError, ValueError):
        return float("nan")
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / os.sysconf("SC_CLK_TCK")


def _busy_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# ---------------------------------------------------------------------------------------------- rounds


def take_turns(sides: list[Side], load: Mapping, rounds: int, tell: Callable[[str], None]) -> dict[str, list[dict]]:
    """Side -> what each of its processes measured, one a round, in the order of the sides."""
    found: dict[str, list[dict]] = {side.name: [] for side in sides}
    for number in range(1, rounds + 1):
        for side in sides:
            found[side.name].append(side.run(load))
        shown = ", ".join(f"{name} {statistics.median(runs[-1]['seconds']):.2f} s" for name, runs in found.items())
        tell(f"round {number} of {rounds}: {shown}")
    return found


@dataclass(frozen=True)
class Spread:
    """A median, and the smallest and largest that it lies between."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def scaled(self, factor: float) -> "Spread":
        return Spread(self.median * factor, self.min * factor, self.max * factor)

    def told(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} ({self.min:.{digits}f} to {self.max:.{digits}f})"


def seconds_of(runs: list[dict], what: str = "seconds") -> list[float]:
    """Of each process the median of what it repeated."""
    return [statistics.median(run[what]) for run in runs]


def ratios(first: list[dict], other: list[dict], what: str = "seconds") -> Spread:
    """How many times as fast the first is, round by round."""
    return Spread.of([theirs / ours for ours, theirs in zip(seconds_of(first, what), seconds_of(other, what))])


def disturbed(found: Mapping[str, list[dict]]) -> float:
    """The most cores that others kept busy during a process, of those that are here."""
    return max(run["others_cores"] for runs in found.values() for run in runs) / cores()
