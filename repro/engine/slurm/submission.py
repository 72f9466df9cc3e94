"""A job of SLURM: how it is submitted, which one makes which artefact, and what runs in it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.engine.dag import Dag
from repro.engine.job import (
    ENDING_SECONDS,
    PREEMPTED,
    Job,
    clear_endings,
    perform,
    read_job,
    run_in_subprocesses,
    write_job,
)
from repro.engine.slurm.options import FORM, MINUTES
from repro.engine.slurm.states import in_queue
from repro.errors import UserError

TRIES, REQUEUES = 5, 100  # of a job that the cluster ended: submissions by one launcher, and requeues by the job itself
Options = Mapping[str, str | int]  # of --slurm


@dataclass(frozen=True)
class Ticket:
    """The SLURM job that makes an artefact, and how many earlier ones the cluster ended."""

    id: str
    tries: int = 0


def tickets(dag: Dag) -> list[Ticket]:
    """Tickets of the DAG's jobs that are neither done nor failed."""
    left = [key for key in dag.jobs if key not in dag.done | dag.failed.keys()]
    return [ticket for ticket in (read_ticket(dag.cache, key) for key in left) if ticket.id]


def read_ticket(cache: Path, key: str) -> Ticket:
    try:
        return Ticket(**json.loads((cache / "slurm" / f"{key}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return Ticket("")


def write_ticket(cache: Path, key: str, ticket: Ticket) -> None:
    path = cache / "slurm" / f"{key}.json"
    path.with_suffix(".partial").write_text(json.dumps(ticket.__dict__))
    os.replace(path.with_suffix(".partial"), path)


def submit(job: Job, cache: Path, options: Options, gpus: bool, after: Iterable[str]) -> str:
    """Submit a job, to start after the SLURM jobs `after` have succeeded; returns its SLURM id."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    clear_endings(job, cache)
    path = write_job(job, cache)
    executor = SlurmExecutor(logs(cache))
    executor.update_parameters(**parameters(job, options, gpus, list(after)))
    try:
        return executor.submit(work, path).job_id
    except (FailedJobError, FailedSubmissionError):  # sbatch has printed the reason on standard error
        raise UserError(f"SLURM refuses {job.label} with these options; change them with --slurm {FORM}") from None


def logs(cache: Path) -> Path:
    return cache.absolute() / "slurm" / "logs"


def parameters(job: Job, options: Options, gpus: bool, after: list[str]) -> dict[str, object]:
    """A job's options for SLURM, under submitit's names."""
    given: dict[str, Any] = {"time": MINUTES, "gpus_per_node": job.ranks * gpus} | dict(options)
    cores = job.scale.threads * job.ranks
    if not job.computes or "gres" in given or not given["gpus_per_node"]:
        del given["gpus_per_node"]
    if not job.computes:
        given.pop("gres", "")
    # The signal comes before the time limit, at which SLURM kills the job.
    extra = {"signal": f"TERM@{min(ENDING_SECONDS, 60 * given['time'] // 4)}", "requeue": True}
    if after:
        extra |= {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"}
    if "reservation" in given:
        extra["reservation"] = given.pop("reservation")
    if "setup" in given:
        given["setup"] = [given["setup"]]
    return given | {
        "job_name": job.key,
        "cpus_per_task": cores,
        "srun_args": [f"--cpus-per-task={cores}"],  # srun does not inherit it from the job
        "additional_parameters": extra,
    }


def work(path: Path) -> None:
    """What a SLURM job runs; one that received SIGTERM before its time limit is requeued."""
    job, cache = read_job(path)
    clear_endings(job, cache)
    ending = run_in_subprocesses(path, sys.stdout) if job.ranks > 1 else perform(path)
    if ending.code == PREEMPTED:
        _requeue(os.environ["SLURM_JOB_ID"], REQUEUES if job.scale.checkpoint_every else TRIES)
    if ending.code:
        print(f"ended with {ending.code}: {ending.why}", file=sys.stderr, flush=True)
        sys.exit(ending.code)


def _requeue(number: str, most: int) -> None:
    """Requeue a job unless it is being cancelled or requeued already; then its state is not RUNNING."""
    state, _ = in_queue([number]).get(number, ("", ""))
    if state == "RUNNING" and int(os.environ.get("SLURM_RESTART_COUNT", "0")) < most:
        subprocess.run(["scontrol", "requeue", number], check=False)
