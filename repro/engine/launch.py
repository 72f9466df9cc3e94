"""Many arms and seeds: each stage once, as soon as what it needs is there, in worker processes with their own cores."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Protocol

import torch

from repro.engine import artefacts, outdated, pipeline
from repro.engine.job import (
    DONE,
    FAILED,
    FAULT,
    LIBRARIES,
    PREEMPTED,
    WRONG,
    Ending,
    Job,
    attempt,
    check,
    prepare_process,
    run_apart,
    write_job,
)
from repro.errors import UserError
from repro.models import folders, hub, samplers
from repro.stages import stage
from repro.study.ablation import Ablation
from repro.study.scale import Scale

POLL_SECONDS = 0.5
ENDING_SECONDS = 330  # that workers have for their checkpoints once they are told to end; more than their ranks have


@dataclass
class Board:
    """Where a study stands, by keys; the launcher writes it, whoever shows or tracks progress reads it."""

    jobs: dict[str, Job]
    cache: Path
    done: set[str] = field(default_factory=set)
    corrupt: set[str] = field(default_factory=set)  # in the cache, but not as they were written
    outdated: dict[str, tuple[str, ...]] = field(default_factory=dict)  # in the cache -> code that has changed since
    failed: dict[str, str] = field(default_factory=dict)  # -> why
    faults: set[str] = field(default_factory=set)  # of those, the ones that failed by a fault in the code
    running: dict[str, float] = field(default_factory=dict)  # -> since when
    suspect: set[str] = field(default_factory=set)  # jobs whose worker has died

    @property
    def over(self) -> bool:
        return len(self.done) + len(self.failed) == len(self.jobs)

    def ready(self) -> Iterator[Job]:
        """Jobs that can start: earlier stages first."""
        for job in self.jobs.values():
            waiting = job.key not in self.done | self.failed.keys() | self.running.keys()
            if waiting and all(need in self.done for need in job.needs):
                yield job

    def next(self, workers: int) -> list[Job]:
        """What to start now; a job whose worker died is tried again alone: if that dies too, the job is the reason."""
        suspects = self.suspect - self.done - self.failed.keys()
        if suspects:
            return [] if self.running else [job for job in self.ready() if job.key in suspects][:1]
        return list(self.ready())[: workers - len(self.running)]

    @property
    def exit_code(self) -> int:
        """What a command ends with that ran this board."""
        return FAULT if self.faults else FAILED if self.failed else DONE

    @property
    def broken(self) -> dict[str, str]:
        """Label -> reason of the jobs that failed themselves."""
        return {
            self.jobs[key].label: why
            for key, why in self.failed.items()
            if not self.failed.keys() & set(self.jobs[key].needs)
        }

    def journal(self, key: str) -> list[dict]:
        """The lines that a running job has logged so far."""
        try:
            return stage.read_journal(artefacts.partial_folder(self.cache / key))
        except FileNotFoundError:
            return []  # it ended, and its folder was renamed, just now

    def finish(self, key: str) -> None:
        """Mark a running job done."""
        self.running.pop(key, None)
        self.outdated.pop(key, None)
        self.done.add(key)

    def lose(self) -> None:
        """The workers are gone: what they ran is tried once more."""
        for key in self.running.keys() & self.suspect:
            self.fail(key, "its worker process died twice; out of memory?")
        self.suspect |= self.running.keys()
        self.running.clear()

    def fail(self, key: str, why: str) -> None:
        """Mark a job failed, and all that rest on it and are not done."""
        self.failed[key] = why
        self.running.pop(key, None)
        for job in self.jobs.values():
            if key in job.needs and job.key not in self.done | self.failed.keys():
                self.fail(job.key, f"needs {self.jobs[key].label}, which failed")


def jobs_of(study: Ablation, arms: Collection[str] = ()) -> dict[str, Job]:
    """Every distinct stage of the study, or of some arms, by key, in the order of the pipeline."""
    jobs: dict[str, Job] = {}
    keys = {
        (arm, seed): pipeline.keys(study.arms[arm], study.scale, seed)
        for seed in study.seeds
        for arm in arms or study.arms
    }
    for each in pipeline.STAGES:
        for (arm, seed), known in keys.items():
            key = known[each.name]
            jobs.setdefault(key, Job(key, each.name, arm, study.arms[arm], study.scale, seed, known))
    return jobs


def board_of(study: Ablation, cache: Path, fresh: bool = False) -> Board:
    """The study's jobs, with those that the cache already holds marked done; `fresh` as `board_for` has it."""
    return board_for(jobs_of(study), cache, fresh)


def board_for(jobs: dict[str, Job], cache: Path, fresh: bool = False) -> Board:
    """These jobs, with those that the cache already holds marked done; if `fresh`, without those of other code."""
    # A finished stage counts even where what it was made from is gone.
    whole = {key for key in jobs if artefacts.cached(cache / key)}
    old = outdated.outdated({key: job for key, job in jobs.items() if key in whole}, cache)
    corrupt = {key for key in jobs if key not in whole and (cache / key).exists()}
    return Board(jobs, cache, whole - old.keys() if fresh else whole, corrupt, old)


def set_aside(board: Board) -> None:
    """Free the places of the artefacts that are to be made again since their code has changed."""
    for key in board.outdated.keys() - board.done:
        artefacts.set_aside(board.cache / key)


def check_starts(board: Board) -> None:
    """UserError where a stage that is left starts from a checkpoint that is not to be had.

    What comes from the hub is here afterwards: the workers find it.
    """
    fields = {name: field for field, name in hub.STARTS.items()}
    left = {(job.stage, job.seed): job.scale for key, job in board.jobs.items() if key not in board.done}
    starts = [
        (getattr(scale, fields[name]), scale.model, seed, name)
        for (name, seed), scale in left.items()
        if name in fields and getattr(scale, fields[name])
    ]
    for start in starts:  # a seed that has none is told before gigabytes of the others come
        hub.start_source(*start)
    for value, model, seed, name in starts:
        folders.check_network(f"the start of {name}, seed {seed},", hub.start_of(value, model, seed, name))


class Engine(Protocol):
    """Where jobs run, in words as a text: as many at once as `workers`."""

    workers: int

    def prepare(self) -> None:
        """Begin what takes its time before the first job, while others get ready too."""

    def run(self, board: Board, tick: Callable[[Board], None]) -> None:
        """Run every job that is not done; `tick` is called about twice a second and at the end.

        A job that fails takes down what rests on it, and no more. Input that a person must correct ends the study with
        its UserError.
        """

    def parting(self, board: Board) -> str:
        """What an interrupt or an error leaves running, in words."""


@dataclass(frozen=True)
class Local:
    """Worker processes of this machine, each with its own cores and, where there are any, its own GPUs."""

    workers: int
    threads: int
    devices: tuple[str, ...] = ()  # of each worker, as CUDA_VISIBLE_DEVICES says it; none on a CPU

    def __str__(self) -> str:
        return f"{self.workers} worker{'s' * (self.workers > 1)}"

    def prepare(self) -> None:
        workers_of(self.devices)

    def run(self, board: Board, tick: Callable[[Board], None]) -> None:
        run(board, self.workers, self.threads, tick, self.devices)

    def parting(self, board: Board) -> str:
        return ""


def local(scale: Scale) -> Local:
    """This machine's workers for a scale; UserError where its ranks find no place."""
    check(scale, torch.cuda.is_available())
    samplers.require(scale.sampler)
    return Local(workers_for(scale), scale.threads, devices_for(scale, visible_devices()))


def workers_for(scale: Scale) -> int:
    """One worker for each slice of this machine's GPUs; on a CPU, for the cores that a stage's ranks use."""
    devices = devices_for(scale, visible_devices())
    # macOS cannot say which cores a process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return len(devices) or max(1, cores // (scale.threads * scale.processes))


def visible_devices() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = tuple(name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip())
    count = torch.cuda.device_count()
    return named[:count] or tuple(str(number) for number in range(count))


def devices_for(scale: Scale, visible: tuple[str, ...]) -> tuple[str, ...]:
    """Slices of `scale.processes` GPUs, one for each worker; none where there is no GPU."""
    if 0 < len(visible) < scale.processes:
        raise UserError(
            f"processes={scale.processes}, and this machine has {len(visible)} GPUs; set it to at most that"
        )
    starts = range(0, len(visible) - scale.processes + 1, scale.processes)
    return tuple(",".join(visible[start : start + scale.processes]) for start in starts) if visible else ()


def run(board: Board, workers: int, threads: int, tick: Callable[[Board], None], devices: tuple[str, ...] = ()) -> None:
    """`Engine.run` in worker processes; they are told to end where it ends early, and keep where their stages stand."""
    context = workers_of(devices)
    while not board.over:
        places = context.SimpleQueue()
        for device in devices:
            places.put(device)
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start_worker, initargs=(threads, places, bool(devices))
        )
        try:
            _drain(board, pool, workers, tick)
        except BrokenProcessPool:
            board.lose()
        except BaseException:
            children = multiprocessing.active_children()
            for child in children:
                child.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            _wait_for(children)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    tick(board)


def workers_of(devices: tuple[str, ...] = ()) -> BaseContext:
    """How workers start: forked from one process that has imported what stages need, which is begun here if need be.

    Each by itself where there are GPUs, since CUDA does not outlive a fork, and on systems whose libraries do not either.
    """
    if devices or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LIBRARIES, "repro.engine.pipeline", "rouge_score.rouge_scorer"])
    with _signals_held():
        forkserver.ensure_running()
    return context


def _wait_for(children: list[multiprocessing.Process]) -> None:
    """Until they have ended; a second interrupt, or too long a wait, ends them as they are."""
    until = time.monotonic() + ENDING_SECONDS
    try:
        for child in children:
            child.join(max(0.0, until - time.monotonic()))
    finally:
        for child in children:
            child.kill()


def _drain(board: Board, pool: ProcessPoolExecutor, workers: int, tick: Callable[[Board], None]) -> None:
    futures: dict[Future, Job] = {}
    while not board.over:
        for job in board.next(workers):
            board.running[job.key] = time.time()
            with _signals_held():
                futures[pool.submit(work, job, board.cache)] = job
        finished, _ = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in finished:
            _settle(board, futures.pop(future).key, future)
        tick(board)


def _settle(board: Board, key: str, future: Future) -> None:
    ending = future.result()
    if ending.code == PREEMPTED:  # whoever told one worker to end means the study
        board.running.pop(key)
        raise KeyboardInterrupt
    if ending.code == DONE:
        board.finish(key)
        return
    board.fail(key, ending.why)
    if ending.code == FAULT:
        board.faults.add(key)
    if ending.code == WRONG:
        raise UserError(ending.why)


@contextmanager
def _signals_held() -> Iterator[None]:
    """A process that starts here never sees the terminal's Ctrl-C, nor an end that is meant for the launcher: it inherits
    the mask, and the launcher ends it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _start_worker(threads: int, places: multiprocessing.SimpleQueue, placed: bool) -> None:
    """In the worker: its share of the machine, quiet libraries, and an end when the launcher has gone."""
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if placed:  # before anything asks CUDA for its devices
        os.environ["CUDA_VISIBLE_DEVICES"] = places.get()
    prepare_process(threads)


def _end_with_launcher() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def work(job: Job, cache: Path) -> Ending:
    """Make the job's artefact, in this worker or in processes of its ranks; how that ended."""
    if job.ranks == 1:
        return attempt(job, cache)
    file = cache / f"{job.key}.log"
    with file.open("ab") as log:
        ending = run_apart(write_job(job, cache), log)
    return replace(ending, why=f"{ending.why} (its output is in {file})") if ending.code in (FAILED, FAULT) else ending
