"""The engine that `--engine slurm` names: its options, checked, and the loop that watches its jobs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from shutil import which

import torch

from repro.engine.dag import Dag
from repro.engine.job import check_sharding
from repro.engine.slurm.options import check_gpus, read_options
from repro.engine.slurm.submission import tickets
from repro.engine.slurm.watch import Watch
from repro.errors import UserError
from repro.models import samplers
from repro.study.scale import Scale

POLL_SECONDS = 1.0  # between polls of the cache


@dataclass(frozen=True)
class Slurm:
    """The SLURM engine: up to `workers` jobs at once; `gpus` says whether jobs that compute request GPUs."""

    workers: int
    options: Mapping[str, str | int]
    gpus: bool

    def __str__(self) -> str:
        return "as jobs of SLURM"

    def run(self, dag: Dag, tick: Callable[[Dag], None]) -> None:
        watch = Watch(dag, self.options, self.gpus)
        while not dag.over:
            watch.poll()
            tick(dag)
            time.sleep(POLL_SECONDS)
        tick(dag)

    def prepare(self) -> None:
        """Nothing to prepare: jobs start on the cluster."""

    def parting(self, dag: Dag) -> str:
        ids = [ticket.id for ticket in tickets(dag)]
        return f"the jobs remain in SLURM's queue; cancel them with: scancel {' '.join(ids)}\n" if ids else ""


def engine(scale: Scale, options: Mapping[str, str], workers: int) -> Slurm:
    """The engine for a scale with these options of --slurm; UserError where they do not work."""
    known = read_options(options)
    if not find_spec("submitit"):
        raise UserError("the engine slurm needs submitit; install it with .venv/bin/pip install '.[slurm]'")
    if not which("sbatch"):
        raise UserError("there is no sbatch on this machine; use one that submits to SLURM, or --engine local")
    gpus = int(known.get("gpus_per_node", "gres" in known or scale.corpus != "embedded")) > 0
    check_gpus(scale, known)
    check_sharding(scale, gpus)
    samplers.require(scale.sampler)
    if gpus and scale.precision == "auto" and not torch.cuda.is_available():
        raise UserError(
            "precision=auto depends on this machine's GPU, and it has none; choose the precision for the cluster's GPUs with "
            "--set precision=bfloat16 or float32 (gpus_per_node=0 is for jobs without a GPU)"
        )
    return Slurm(workers, known, gpus)
