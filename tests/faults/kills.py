"""What ends a study early, and when: a random moment of one of the phases of its life."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.study import end, members, start

# Phase -> what is in the folder while it lasts, in the order of a study's life.
PHASES = {
    "start": "out",
    "store": "mlflow.db*",
    "data": "cache/data-*.partial",
    "base": "cache/base-*.partial",
    "sft": "cache/sft-*.partial/metrics.jsonl",
    "rm": "cache/rm-*.partial/metrics.jsonl",
    "baseline": "cache/baseline-*.partial",
    "ppo": "cache/ppo-*.partial/metrics.jsonl",
    "checkpoint": "cache/ppo-*.partial/checkpoints/*/done.json",
    "evaluate": "cache/evaluate-*.partial",
    "publishing": "mlflow.db",
    "report": "reports/build/*/figures",
}
LONGEST = {"start": 6.0, "store": 3.0, "publishing": 8.0}  # seconds that pass at most before the blow, 1 elsewhere
FULL = "full disk"


@dataclass(frozen=True)
class Kill:
    """An end by `means`, `delay` seconds after a phase began."""

    phase: str
    means: str
    delay: float

    def __str__(self) -> str:
        return f"{self.means} {self.delay:.3f} s into {self.phase}"


@dataclass(frozen=True)
class Outcome:
    """What became of a kill: whether its phase was reached, how the study ended, and what the disk's filler is."""

    kill: Kill
    struck: bool
    code: int


def draw(random_numbers: random.Random, phase: str) -> Kill:
    """A kill in the phase, by random means, at a random moment."""
    means = random_numbers.choice(list(MEANS))
    return Kill(phase, means, random_numbers.uniform(0, LONGEST.get(phase, 1.0)))


def strike(kill: Kill, folder: Path) -> Outcome:
    """Start or continue the study in the folder, and end it so; where it ends before, the kill has not struck."""
    process, began = start(folder), time.time()
    try:
        if not _reached(kill.phase, folder, process, began):
            return Outcome(kill, False, end(process))
        time.sleep(kill.delay)
        struck = process.poll() is None and MEANS[kill.means](process, folder)
        return Outcome(kill, struck, end(process))
    finally:
        _free(folder)


def _reached(phase: str, folder: Path, process: subprocess.Popen, began: float) -> bool:
    """Wait for the phase; whether it came before the study ended."""
    while process.poll() is None:
        for path in folder.glob(PHASES[phase]):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime > began or phase in ("start", "store"):
                    return True
        time.sleep(0.02)
    return False


def _group(number: signal.Signals) -> Callable[[subprocess.Popen, Path], bool]:
    """Every process of the study, as Ctrl-C and a session's end reach them."""

    def send(process: subprocess.Popen, _: Path) -> bool:
        os.killpg(process.pid, number)
        return True

    return send


def _launcher(number: signal.Signals) -> Callable[[subprocess.Popen, Path], bool]:
    """The launcher alone, as a scheduler or a person with its number reaches it."""

    def send(process: subprocess.Popen, _: Path) -> bool:
        process.send_signal(number)
        return True

    return send


def _worker(process: subprocess.Popen, _: Path) -> bool:
    """One worker, as a machine without memory ends the largest process; False where there is none yet."""
    workers = [each for each in members(process) if _is_worker(each)]
    with suppress(ProcessLookupError):
        for each in workers[-1:]:
            os.kill(each.pid, signal.SIGKILL)
    return bool(workers)


def _is_worker(process) -> bool:
    """Workers are forked from a server that is forked from the launcher; a process that has just ended is none."""
    with suppress(psutil.Error):
        parents = process.parents()
        return len(parents) > 1 and "forkserver" in " ".join(parents[0].cmdline())
    return False


def _fill(process: subprocess.Popen, folder: Path) -> bool:
    """Leave no room on the folder's disk, for a second; False where the folder is not on a small disk of its own."""
    if not os.path.ismount(folder):
        return False
    with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(1 << 16))
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    return True


def _free(folder: Path) -> None:
    (folder / "filler").unlink(missing_ok=True)


MEANS: dict[str, Callable[[subprocess.Popen, Path], bool]] = {
    "SIGKILL to all": _group(signal.SIGKILL),
    "SIGINT to all": _group(signal.SIGINT),
    "SIGKILL to the launcher": _launcher(signal.SIGKILL),
    "SIGTERM to the launcher": _launcher(signal.SIGTERM),
    "SIGKILL to a worker": _worker,
    FULL: _fill,
}
