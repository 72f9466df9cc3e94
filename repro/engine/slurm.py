"""A study's stages as jobs of a cluster that SLURM schedules: each is submitted once, after what it needs.

The cache lies on a file system that all nodes see. A job writes its artefact there and nothing else; this process watches,
and may be ended and started again: which job makes which artefact is written in the cache too.
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

from repro.detail import nearest
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
from repro.errors import UserError
from repro.stages import stage
from repro.study.scale import Scale

LOOK_SECONDS, ASK_SECONDS = 1.0, 10.0  # between looks at the cache, and questions to the cluster
SILENT_SECONDS = 600  # that the cluster may leave questions without an answer
LAG_SECONDS = 120  # until a file that a node has written is seen here
TRIES, REQUEUES = 5, 100  # of a job that the cluster ended: submitted anew, and taken back into the queue by itself
MINUTES = 1_440  # that a job may take where nothing else is said
TAIL = 5  # lines of a log
NUMBERS = ("time", "gpus_per_node")
WORDS = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "gres", "mem", "setup", "reservation")
FORM = 'KEY=VALUE, as partition=gpu time=1440 (with make: SLURM="partition=gpu time=1440")'
# States that still lead somewhere, and those in which the cluster ended what could go on.
LIVE = frozenset(
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING REQUEUED REQUEUE_HOLD "
    "REQUEUE_FED SPECIAL_EXIT RESV_DEL_HOLD".split()
)
NEVER = "DependencyNeverSatisfied"
ENDED_BY_CLUSTER = frozenset(["TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])


@dataclass(frozen=True)
class Slurm:
    """The engine: `workers` jobs may stand side by side, and `gpus` are asked for by one with one rank that computes."""

    workers: int
    options: Mapping[str, str | int]
    gpus: bool

    def __str__(self) -> str:
        return "as jobs of SLURM"

    def run(self, board: Board, tick: Callable[[Board], None]) -> None:
        watch = _Watch(board, self)
        while not board.over:
            watch.look()
            tick(board)
            time.sleep(LOOK_SECONDS)
        tick(board)

    def prepare(self) -> None:
        """Nothing: its jobs start elsewhere."""

    def parting(self, board: Board) -> str:
        ids = [ticket.id for ticket in tickets(board)]
        return f"its jobs stay in the queue; to end them: scancel {' '.join(ids)}\n" if ids else ""


def engine(scale: Scale, options: Mapping[str, str], workers: int) -> Slurm:
    """The engine for a scale and what was asked of it; UserError where it cannot work."""
    if not find_spec("submitit"):
        raise UserError("the engine slurm needs submitit; install it with .venv/bin/pip install '.[slurm]'")
    if not which("sbatch"):
        raise UserError("there is no sbatch here; start the study where SLURM takes jobs, or use --engine local")
    for name in options:
        if name not in NUMBERS + WORDS:
            raise UserError(f"--slurm has no {name!r}; {nearest(name, NUMBERS + WORDS)}")
    known = {name: _number(name, value) if name in NUMBERS else value for name, value in options.items()}
    gpus = known.get("gpus_per_node", int("gres" in known or scale.corpus != "embedded")) > 0
    _check_gpus(scale, known)
    check(scale, gpus)
    if gpus and scale.precision == "auto" and not torch.cuda.is_available():
        raise UserError(
            "precision=auto asks this machine's GPU, and it has none; say what the cluster's take, as --set "
            "precision=bfloat16 (or float32; gpus_per_node=0 is for jobs without a GPU)"
        )
    return Slurm(workers, known, gpus)


def _number(name: str, value: str) -> int:
    if not value.isdigit() or (name == "time" and int(value) == 0):
        unit = " of minutes, at least 1" if name == "time" else ""
        raise UserError(f"--slurm {name}={value!r} is no number{unit}; write it as {name}={MINUTES if unit else 1}")
    return int(value)


def _check_gpus(scale: Scale, options: Mapping[str, str | int]) -> None:
    """UserError where a job would have GPUs, and fewer than ranks."""
    name = "gres" if "gres" in options else "gpus_per_node"
    value = options.get(name, 0)
    given = _gpus_of(value) if name == "gres" else value
    if 0 < given < scale.processes:
        raise UserError(
            f"--slurm {name}={value} gives a job {given} GPU{'s' * (given > 1)}, and processes={scale.processes} takes "
            f"one each; ask for {scale.processes}, or set processes to at most {given}"
        )


def _gpus_of(gres: str) -> int:
    """How many GPUs a list of gpu[:TYPE][:COUNT] asks for; other resources are none."""
    asked = [entry.partition("(")[0].removeprefix("gres/").split(":") for entry in gres.split(",")]
    return sum(int(words[-1]) if words[-1].isdigit() else 1 for words in asked if words[0] == "gpu")


# ------------------------------------------------------------------------------------------------ what is submitted


@dataclass(frozen=True)
class Ticket:
    """Which job of the cluster makes an artefact, and how many before it the cluster ended."""

    id: str
    tries: int = 0


def tickets(board: Board) -> list[Ticket]:
    """Those of the jobs that are neither done nor failed."""
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
    """The id of a new job of the cluster that runs this one once those with the ids `after` have ended well."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    forget(job, cache)
    path = write_job(job, cache)
    executor = SlurmExecutor(logs(cache))
    executor.update_parameters(**parameters(job, slurm, list(after)))
    try:
        return executor.submit(work, path).job_id
    except (FailedJobError, FailedSubmissionError):  # sbatch has said on standard error what it does not like
        raise UserError(f"SLURM does not take {job.label} with these options; --slurm {FORM} has others") from None


def logs(cache: Path) -> Path:
    return cache.absolute() / "slurm" / "logs"


def parameters(job: Job, slurm: Slurm, after: list[str]) -> dict[str, object]:
    """What is asked of SLURM for a job, in submitit's words."""
    given = {"time": MINUTES, "gpus_per_node": job.ranks * slurm.gpus} | dict(slurm.options)
    cores = job.scale.threads * job.ranks
    if not job.computes or "gres" in given or not given["gpus_per_node"]:
        del given["gpus_per_node"]
    if not job.computes:
        given.pop("gres", "")
    # Its own steps are told first: what has not ended by then is killed.
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
        "srun_args": [f"--cpus-per-task={cores}"],  # a step does not take over what its job was given
        "additional_parameters": extra,
    }


# --------------------------------------------------------------------------------------------------- in the job


def work(path: Path) -> None:
    """What a job of the cluster runs; one that was told to end before its time goes back into the queue."""
    job, cache = read_job(path)
    forget(job, cache)
    ending = run_apart(path, sys.stdout) if job.ranks > 1 else perform(path)
    if ending.code == PREEMPTED:
        _requeue(os.environ["SLURM_JOB_ID"], REQUEUES if job.scale.checkpoint_every else TRIES)
    if ending.code:
        print(f"ended with {ending.code}: {ending.why}", file=sys.stderr, flush=True)
        sys.exit(ending.code)


def _requeue(number: str, most: int) -> None:
    """Unless a person cancels it, or the cluster is about to do so itself: then it does not run any more."""
    state, _ = _asked([number]).get(number, ("", ""))
    if state == "RUNNING" and int(os.environ.get("SLURM_RESTART_COUNT", "0")) < most:
        subprocess.run(["scontrol", "requeue", number], check=False)


# ---------------------------------------------------------------------------------------------- what became of it


class Unanswered(Exception):
    """The cluster does not answer."""


def states(ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Id -> state and reason of the jobs that the cluster still knows; `Unanswered` where it cannot be asked."""
    found = _asked(ids)
    rest = [number for number in ids if number not in found]
    if rest:  # the scheduler forgets a job minutes after its end; the accounts, where any are kept, do not
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
    # A second id, since of a single one that is not known squeue makes an error.
    words = ["squeue", "--noheader", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join([*ids, '1'])}"]
    found = {number: (state, reason) for number, state, reason in (line.split("|", 2) for line in _lines(words))}
    return {number: found[number] for number in ids if number in found}


def _lines(words: list[str], check: bool = True) -> Iterator[str]:
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(str(error)) from None
    if told.returncode and "Invalid job id" not in told.stderr and check:
        raise Unanswered(told.stderr.strip())
    return (line.strip() for line in told.stdout.splitlines() if "|" in line)


@dataclass
class _Watch:
    """Brings the board up to date with the cache and the cluster, and submits what nobody has submitted."""

    board: Board
    slurm: Slurm
    held: dict[str, Ticket] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    absent: dict[str, float] = field(default_factory=dict)  # -> since when an artefact is to be there
    asked: float = 0.0
    answered: float = field(default_factory=time.time)

    def look(self) -> None:
        for key in [key for key in self.held if self._there(key)]:
            self._finish(key)
        if time.time() - self.asked < ASK_SECONDS:
            return
        try:
            self._judge_all(states([ticket.id for ticket in self.held.values()]))
            self._submit_rest()
            self.answered = time.time()
        except Unanswered as silence:
            if time.time() - self.answered > SILENT_SECONDS:
                raise UserError(
                    f"SLURM has not answered for {SILENT_SECONDS // 60} minutes ({silence}); the jobs go on, and the same "
                    "command looks for them again"
                ) from None
        self.asked = time.time()

    def _there(self, key: str) -> bool:
        folder = self.board.cache / key
        return (folder / stage.DONE).exists() and (key not in self.board.corrupt or artefacts.cached(folder))

    def _finish(self, key: str) -> None:
        del self.held[key]
        self.board.finish(key)

    def _judge_all(self, found: Mapping[str, tuple[str, str]]) -> None:
        """In the board's order: what a job needs is judged before it."""
        for key in [key for key in self.board.jobs if key in self.held]:
            if key in self.board.failed:  # with what it needs
                del self.held[key]
                continue
            state, reason = found.get(self.held[key].id, ("FORGOTTEN", ""))
            if state == "RUNNING":
                self.board.running.setdefault(key, time.time())
            else:
                self.board.running.pop(key, None)
            if state not in LIVE:
                self._judge(key, state, reason)

    def _judge(self, key: str, state: str, reason: str) -> None:
        """A job that has ended, and whose artefact was not there a moment ago."""
        job = self.board.jobs[key]
        ending = ending_of(job, self.board.cache)
        if self._there(key):
            self._finish(key)
        elif state == "CANCELLED" and reason in (NEVER, "") and not self.board.done.issuperset(job.needs):
            del self.held[key]  # with one that it needs, which is submitted again
        elif state == "TIMEOUT" and not job.scale.checkpoint_every:
            self._fail(
                job,
                f"its time was up (job {self.held[key].id}); give it more, as --slurm time=MINUTES, or have it "
                "keep checkpoints, as --set checkpoint_every=100",
            )
        elif state in ENDED_BY_CLUSTER or (ending.code == PREEMPTED and state == "FAILED"):
            self._again(key, state)
        elif state in ("COMPLETED", "FORGOTTEN") and self._lags(key):
            return
        else:
            self._fail(job, self._why(job, state, reason))

    def _lags(self, key: str) -> bool:
        return time.time() - self.absent.setdefault(key, time.time()) < LAG_SECONDS

    def _again(self, key: str, state: str) -> None:
        ticket = self.held.pop(key)
        self.tries[key] = ticket.tries + 1
        if self.tries[key] >= TRIES:
            self.board.fail(key, f"the cluster ended its job {TRIES} times ({state}, {ticket.id} is the last)")

    def _why(self, job: Job, state: str, reason: str) -> str:
        """In words: the stage's own ones, or the state and the end of the log."""
        ticket, ending = self.held[job.key], ending_of(job, self.board.cache)
        files = sorted(logs(self.board.cache).glob(f"{ticket.id}_*_log.*"))
        where = f"job {ticket.id}; its logs are {logs(self.board.cache)}/{ticket.id}_*"
        if state == "CANCELLED":
            return f"cancelled ({where}); the same command submits it again"
        if ending.trace or ending.code == WRONG:
            return f"{ending.why} ({where})"
        told = [
            line for file in files for line in file.read_text(errors="replace").splitlines()[-TAIL:] if line.strip()
        ]
        words = [state.lower(), *(word for word in [reason] if word not in ("", "None"))]
        return "\n  ".join([f"{', '.join(words)} ({where})", *told])

    def _fail(self, job: Job, why: str) -> None:
        del self.held[job.key]
        self.board.fail(job.key, why)
        if ending_of(job, self.board.cache).code == WRONG:
            raise UserError(why)

    def _submit_rest(self) -> None:
        """Under a lock: what another launcher of the same cache has in the queue is watched, not submitted again."""
        board, cache = self.board, self.board.cache
        rest = [
            job for key, job in board.jobs.items() if key not in board.done | board.failed.keys() | self.held.keys()
        ]
        if not rest:
            return
        logs(cache).mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "slurm" / "lock"):
            written = {job.key: _written(cache, job.key) for job in rest}
            found = states([ticket.id for ticket in written.values() if ticket.id])
            for job in rest:
                if self._there(job.key):
                    board.finish(job.key)
                elif found.get(written[job.key].id, ("", ""))[0] in LIVE:
                    self.held[job.key] = written[job.key]
                else:
                    self._submit(job)

    def _submit(self, job: Job) -> None:
        after = [self.held[need].id for need in job.needs if need not in self.board.done]
        ticket = Ticket(submit(job, self.board.cache, self.slurm, after), self.tries.get(job.key, 0))
        _write(self.board.cache, job.key, ticket)
        self.held[job.key] = ticket
        self.absent.pop(job.key, None)
