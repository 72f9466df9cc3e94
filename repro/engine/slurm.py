"""Runs a study's stages as SLURM jobs: each is submitted once, with the jobs that it needs as dependencies.

The cache is on a file system that all nodes share. A job writes its artefact there and nothing else. This process polls the
cluster, and may be stopped and started again: the cache also records which SLURM job makes which artefact.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import torch
from filelock import FileLock

from repro.engine import artefacts
from repro.engine.job import (
    ENDING_SECONDS,
    PREEMPTED,
    WRONG,
    Job,
    check,
    ending_of,
    forget,
    perform,
    read_job,
    run_apart,
    write_job,
)
from repro.engine.launch import Board
from repro.engine.slurm_options import FORM, MINUTES, check_gpus, read_options
from repro.errors import UserError
from repro.models import samplers
from repro.stages import stage
from repro.study.scale import Scale

POLL_SECONDS, ASK_SECONDS = 1.0, 10.0  # between polls of the cache, and of the cluster
SILENT_SECONDS = 600  # without an answer of the cluster, after which the launcher gives up
LAG_SECONDS = 120  # until a file written on a node has to be visible here
TRIES, REQUEUES = 5, 100  # of a job that the cluster ended: submissions by this process, and requeues by the job itself
TAIL = 5  # lines of a log in an error message
# States of jobs that have not ended, and of jobs that the cluster ended and that can be submitted again.
LIVE = frozenset(
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING REQUEUED REQUEUE_HOLD "
    "REQUEUE_FED SPECIAL_EXIT RESV_DEL_HOLD".split()
)
NEVER = "DependencyNeverSatisfied"
ENDED_BY_CLUSTER = frozenset(["TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])


@dataclass(frozen=True)
class Slurm:
    """The SLURM engine: up to `workers` jobs at once; `gpus` says whether jobs that compute request GPUs."""

    workers: int
    options: Mapping[str, str | int]
    gpus: bool

    def __str__(self) -> str:
        return "as jobs of SLURM"

    def run(self, board: Board, tick: Callable[[Board], None]) -> None:
        watch = _Watch(board, self)
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
    known = read_options(options)
    if not find_spec("submitit"):
        raise UserError("the engine slurm needs submitit; install it with .venv/bin/pip install '.[slurm]'")
    if not which("sbatch"):
        raise UserError("there is no sbatch on this machine; use one that submits to SLURM, or --engine local")
    gpus = known.get("gpus_per_node", int("gres" in known or scale.corpus != "embedded")) > 0
    check_gpus(scale, known)
    check(scale, gpus)
    samplers.require(scale.sampler)
    if gpus and scale.precision == "auto" and not torch.cuda.is_available():
        raise UserError(
            "precision=auto depends on this machine's GPU, and it has none; choose the precision for the cluster's GPUs with "
            "--set precision=bfloat16 or float32 (gpus_per_node=0 is for jobs without a GPU)"
        )
    return Slurm(workers, known, gpus)


# ------------------------------------------------------------------------------------------------ what is submitted


@dataclass(frozen=True)
class Ticket:
    """The SLURM job that makes an artefact, and how many earlier ones the cluster ended."""

    id: str
    tries: int = 0


def tickets(board: Board) -> list[Ticket]:
    """Tickets of the board's jobs that are neither done nor failed."""
    left = [key for key in board.jobs if key not in board.done | board.failed.keys()]
    return [ticket for ticket in (_written(board.cache, key) for key in left) if ticket.id]


def _written(cache: Path, key: str) -> Ticket:
    try:
        return Ticket(**json.loads((cache / "slurm" / f"{key}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return Ticket("")


def _write(cache: Path, key: str, ticket: Ticket) -> None:
    path = cache / "slurm" / f"{key}.json"
    path.with_suffix(".partial").write_text(json.dumps(ticket.__dict__))
    os.replace(path.with_suffix(".partial"), path)


def submit(job: Job, cache: Path, slurm: Slurm, after: Iterable[str]) -> str:
    """Submit a job, to start after the SLURM jobs `after` have succeeded; returns its SLURM id."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    forget(job, cache)
    path = write_job(job, cache)
    executor = SlurmExecutor(logs(cache))
    executor.update_parameters(**parameters(job, slurm, list(after)))
    try:
        return executor.submit(work, path).job_id
    except (FailedJobError, FailedSubmissionError):  # sbatch has printed the reason on standard error
        raise UserError(f"SLURM refuses {job.label} with these options; change them with --slurm {FORM}") from None


def logs(cache: Path) -> Path:
    return cache.absolute() / "slurm" / "logs"


def parameters(job: Job, slurm: Slurm, after: list[str]) -> dict[str, object]:
    """A job's options for SLURM, under submitit's names."""
    given = {"time": MINUTES, "gpus_per_node": job.ranks * slurm.gpus} | dict(slurm.options)
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


# --------------------------------------------------------------------------------------------------- in the job


def work(path: Path) -> None:
    """What a SLURM job runs; one that received SIGTERM before its time limit is requeued."""
    job, cache = read_job(path)
    forget(job, cache)
    ending = run_apart(path, sys.stdout) if job.ranks > 1 else perform(path)
    if ending.code == PREEMPTED:
        _requeue(os.environ["SLURM_JOB_ID"], REQUEUES if job.scale.checkpoint_every else TRIES)
    if ending.code:
        print(f"ended with {ending.code}: {ending.why}", file=sys.stderr, flush=True)
        sys.exit(ending.code)


def _requeue(number: str, most: int) -> None:
    """Requeue a job unless it is being cancelled or requeued already; then its state is not RUNNING."""
    state, _ = _asked([number]).get(number, ("", ""))
    if state == "RUNNING" and int(os.environ.get("SLURM_RESTART_COUNT", "0")) < most:
        subprocess.run(["scontrol", "requeue", number], check=False)


# ---------------------------------------------------------------------------------------------- what became of it


class Unanswered(Exception):
    """SLURM's commands fail or time out."""


def states(ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Id -> state and reason of the jobs that SLURM still knows; `Unanswered` if it cannot be queried."""
    found = _asked(ids)
    rest = [number for number in ids if number not in found]
    if rest:  # squeue forgets a job minutes after its end; sacct, where accounting is on, does not
        words = [
            "sacct",
            "--noheader",
            "--allocations",
            "--parsable2",
            "--format=JobIDRaw,State",
            "--jobs",
            ",".join(rest),
        ]
        for line in _lines(words, check=False):
            number, _, state = line.partition("|")
            found[number] = (state.split()[0], "")
    return found


def _asked(ids: Collection[str]) -> dict[str, tuple[str, str]]:
    if not ids:
        return {}
    # With a second id, since a single unknown one is an error for squeue.
    words = ["squeue", "--noheader", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join([*ids, '1'])}"]
    found = {number: (state, reason) for number, state, reason in (line.split("|", 2) for line in _lines(words))}
    return {number: found[number] for number in ids if number in found}


def _lines(words: list[str], check: bool = True) -> Iterator[str]:
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(str(error)) from None
    if answer.returncode and "Invalid job id" not in answer.stderr and check:
        raise Unanswered(answer.stderr.strip())
    return (line.strip() for line in answer.stdout.splitlines() if "|" in line)


@dataclass
class _Watch:
    """Updates the board from the cache and the cluster, and submits jobs that are not submitted yet."""

    board: Board
    slurm: Slurm
    tickets: dict[str, Ticket] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    absent: dict[str, float] = field(default_factory=dict)  # -> since when an artefact is expected
    asked: float = 0.0
    answered: float = field(default_factory=time.time)

    def poll(self) -> None:
        for key in [key for key in self.tickets if self._is_done(key)]:
            self._finish(key)
        if time.time() - self.asked < ASK_SECONDS:
            return
        try:
            self._update_all(states([ticket.id for ticket in self.tickets.values()]))
            self._submit_rest()
            self.answered = time.time()
        except Unanswered as silence:
            if time.time() - self.answered > SILENT_SECONDS:
                raise UserError(
                    f"SLURM has not answered for {SILENT_SECONDS // 60} minutes ({silence}); its jobs continue, and the same "
                    "command finds them again"
                ) from None
        self.asked = time.time()

    def _is_done(self, key: str) -> bool:
        folder = self.board.cache / key
        return (folder / stage.DONE).exists() and (key not in self.board.corrupt or artefacts.cached(folder))

    def _finish(self, key: str) -> None:
        del self.tickets[key]
        self.board.finish(key)

    def _update_all(self, found: Mapping[str, tuple[str, str]]) -> None:
        """Update each job from its state, in the board's order: a job's needs come before it."""
        for key in [key for key in self.board.jobs if key in self.tickets]:
            if key in self.board.failed:  # one of its needs has failed
                del self.tickets[key]
                continue
            state, reason = found.get(self.tickets[key].id, ("FORGOTTEN", ""))
            if state == "RUNNING":
                self.board.running.setdefault(key, time.time())
            else:
                self.board.running.pop(key, None)
            if state not in LIVE:
                self._update(key, state, reason)

    def _update(self, key: str, state: str, reason: str) -> None:
        """Update a job that has ended and whose artefact was not there at the poll before."""
        job = self.board.jobs[key]
        ending = ending_of(job, self.board.cache)
        if self._is_done(key):
            self._finish(key)
        elif state == "CANCELLED" and reason in (NEVER, "") and not self.board.done.issuperset(job.needs):
            del self.tickets[key]  # since one of its needs was ended, and is submitted again
        elif state == "TIMEOUT" and not job.scale.checkpoint_every:
            self._fail(
                job,
                f"it reached its time limit (job {self.tickets[key].id}); raise it with --slurm time=MINUTES, or write "
                "checkpoints with --set checkpoint_every=100",
            )
        elif state in ENDED_BY_CLUSTER or (ending.code == PREEMPTED and state == "FAILED"):
            self._retry(key, state)
        elif state in ("COMPLETED", "FORGOTTEN") and self._lags(key):
            return
        else:
            self._fail(job, self._why(job, state, reason))

    def _lags(self, key: str) -> bool:
        return time.time() - self.absent.setdefault(key, time.time()) < LAG_SECONDS

    def _retry(self, key: str, state: str) -> None:
        ticket = self.tickets.pop(key)
        self.tries[key] = ticket.tries + 1
        if self.tries[key] >= TRIES:
            self.board.fail(key, f"the cluster ended its job {TRIES} times ({state}, {ticket.id} is the last)")

    def _why(self, job: Job, state: str, reason: str) -> str:
        """Why a job failed: the stage's own message, or SLURM's state and the end of the log."""
        ticket, ending = self.tickets[job.key], ending_of(job, self.board.cache)
        files = sorted(logs(self.board.cache).glob(f"{ticket.id}_*_log.*"))
        where = f"job {ticket.id}; its logs are {logs(self.board.cache)}/{ticket.id}_*"
        if state == "CANCELLED":
            return f"cancelled ({where}); the same command submits it again"
        if ending.trace or ending.code == WRONG:
            return f"{ending.why} ({where})"
        tail = [
            line for file in files for line in file.read_text(errors="replace").splitlines()[-TAIL:] if line.strip()
        ]
        words = [state.lower(), *(word for word in [reason] if word not in ("", "None"))]
        return "\n  ".join([f"{', '.join(words)} ({where})", *tail])

    def _fail(self, job: Job, why: str) -> None:
        del self.tickets[job.key]
        self.board.fail(job.key, why)
        if ending_of(job, self.board.cache).code == WRONG:
            raise UserError(why)

    def _submit_rest(self) -> None:
        """Submit the jobs that have no live SLURM job, under a lock: another launcher of this cache may have submitted them."""
        board, cache = self.board, self.board.cache
        rest = [
            job for key, job in board.jobs.items() if key not in board.done | board.failed.keys() | self.tickets.keys()
        ]
        if not rest:
            return
        logs(cache).mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "slurm" / "lock"):
            written = {job.key: _written(cache, job.key) for job in rest}
            found = states([ticket.id for ticket in written.values() if ticket.id])
            for job in rest:
                if self._is_done(job.key):
                    board.finish(job.key)
                elif found.get(written[job.key].id, ("", ""))[0] in LIVE:
                    self.tickets[job.key] = written[job.key]
                else:
                    self._submit(job)

    def _submit(self, job: Job) -> None:
        after = [self.tickets[need].id for need in job.needs if need not in self.board.done]
        ticket = Ticket(submit(job, self.board.cache, self.slurm, after), self.tries.get(job.key, 0))
        _write(self.board.cache, job.key, ticket)
        self.tickets[job.key] = ticket
        self.absent.pop(job.key, None)
