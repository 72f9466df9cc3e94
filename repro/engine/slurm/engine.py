"""The engine that `--engine slurm` names: its options, checked, and the loop that watches its jobs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from shutil import which

import torch

from repro.detail import nearest
from repro.engine.job import check
from repro.engine.launch import Board
from repro.engine.slurm.submission import MINUTES, tickets
from repro.engine.slurm.watch import Watch
from repro.errors import UserError
from repro.study.scale import Scale

POLL_SECONDS = 1.0  # between polls of the cache
NUMBERS = ("time", "gpus_per_node")
WORDS = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "gres", "mem", "setup", "reservation")


@dataclass(frozen=True)
class Slurm:
    """The SLURM engine: up to `workers` jobs at once; `gpus` says whether jobs that compute request GPUs."""

    workers: int
    options: Mapping[str, str | int]
    gpus: bool

    def __str__(self) -> str:
        return "as jobs of SLURM"

    def run(self, board: Board, tick: Callable[[Board], None]) -> None:
        watch = Watch(board, self.options, self.gpus)
        while not board.over:
            watch.poll()
            tick(board)
            time.sleep(POLL_SECONDS)
        tick(board)

    def prepare(self) -> None:
        """Nothing to prepare: jobs start on the cluster."""

    def parting(self, board: Board) -> str:
        ids = [ticket.id for ticket in tickets(board)]
        return f"the jobs remain in SLURM's queue; cancel them with: scancel {' '.join(ids)}\n" if ids else ""


def engine(scale: Scale, options: Mapping[str, str], workers: int) -> Slurm:
    """The engine for a scale with these options of --slurm; UserError where they do not work."""
    if not find_spec("submitit"):
        raise UserError("the engine slurm needs submitit; install it with .venv/bin/pip install '.[slurm]'")
    if not which("sbatch"):
        raise UserError("there is no sbatch on this machine; use one that submits to SLURM, or --engine local")
    for name in options:
        if name not in NUMBERS + WORDS:
            raise UserError(f"--slurm has no {name!r}; {nearest(name, NUMBERS + WORDS)}")
    known = {name: _number(name, value) if name in NUMBERS else value for name, value in options.items()}
    gpus = known.get("gpus_per_node", int("gres" in known or scale.corpus != "embedded")) > 0
    _check_gpus(scale, known)
    check(scale, gpus)
    if gpus and scale.precision == "auto" and not torch.cuda.is_available():
        raise UserError(
            "precision=auto depends on this machine's GPU, and it has none; choose the precision for the cluster's GPUs with "
            "--set precision=bfloat16 or float32 (gpus_per_node=0 is for jobs without a GPU)"
        )
    return Slurm(workers, known, gpus)


def _number(name: str, value: str) -> int:
    if not value.isdigit() or (name == "time" and int(value) == 0):
        unit = " of minutes, at least 1" if name == "time" else ""
        raise UserError(f"--slurm {name}={value!r} is not a number{unit}; write it as {name}={MINUTES if unit else 1}")
    return int(value)


def _check_gpus(scale: Scale, options: Mapping[str, str | int]) -> None:
    """UserError where a job would have GPUs, but fewer than ranks."""
    name = "gres" if "gres" in options else "gpus_per_node"
    value = options.get(name, 0)
    given = _gpus_of(value) if name == "gres" else value
    if 0 < given < scale.processes:
        raise UserError(
            f"--slurm {name}={value} gives a job {given} GPU{'s' * (given > 1)}, and processes={scale.processes} needs "
            f"one each; request {scale.processes}, or set processes to at most {given}"
        )


def _gpus_of(gres: str) -> int:
    """The number of GPUs in a list of resources, each gpu[:TYPE][:COUNT] or another kind."""
    asked = [entry.partition("(")[0].removeprefix("gres/").split(":") for entry in gres.split(",")]
    return sum(int(words[-1]) if words[-1].isdigit() else 1 for words in asked if words[0] == "gpu")
