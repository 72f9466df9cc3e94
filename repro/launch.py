"""Many arms and seeds: each stage once, as soon as what it needs is there, in worker processes with their own cores."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from repro import pipeline, stage
from repro.ablation import Ablation
from repro.detail import Recipe
from repro.errors import UserError
from repro.scale import Scale

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """One stage of one arm and seed; the first arm that needs it names it."""

    key: str
    stage: str
    arm: str
    recipe: Recipe
    scale: Scale
    seed: int
    keys: dict[str, str]

    @property
    def needs(self) -> list[str]:
        return [self.keys[name] for name in pipeline.BY_NAME[self.stage].upstream]

    @property
    def label(self) -> str:
        return f"{self.stage} {self.arm} seed {self.seed}"


@dataclass
class Board:
    """Where a study stands, by keys; the launcher writes it, whoever shows or tracks progress reads it."""

    jobs: dict[str, Job]
    cache: Path
    done: set[str] = field(default_factory=set)
    corrupt: set[str] = field(default_factory=set)  # in the cache, but not as they were written
    failed: dict[str, str] = field(default_factory=dict)  # -> why
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
            return stage.read_journal(stage.partial_folder(self.cache / key))
        except FileNotFoundError:
            return []  # it ended, and its folder was renamed, just now

    def finish(self, key: str) -> None:
        """Mark a running job done."""
        del self.running[key]
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


def board_of(study: Ablation, cache: Path) -> Board:
    """The study's jobs, with those that the cache already holds marked done."""
    return board_for(jobs_of(study), cache)


def board_for(jobs: dict[str, Job], cache: Path) -> Board:
    """These jobs, with those that the cache already holds marked done."""
    # A finished stage counts even where what it was made from is gone.
    done = {key for key in jobs if stage.cached(cache / key)}
    return Board(jobs, cache, done, corrupt={key for key in jobs if key not in done and (cache / key).exists()})


def workers_for(scale: Scale) -> int:
    """One worker per `scale.threads` cores that this process may use."""
    # macOS cannot say which cores a process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, cores // scale.threads)


def run(board: Board, workers: int, threads: int, tick: Callable[[Board], None]) -> None:
    """Run every job that is not done; `tick` is called about twice a second and at the end.

    A job that fails takes down what rests on it, and no more. Input that a person must correct ends the study with its
    UserError; that, or an interrupt, ends the workers too.
    """
    while not board.over:
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(threads, os.getpid()),
        )
        try:
            _drain(board, pool, workers, tick)
        except BrokenProcessPool:
            board.lose()
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    tick(board)


def _drain(board: Board, pool: ProcessPoolExecutor, workers: int, tick: Callable[[Board], None]) -> None:
    futures: dict[Future, Job] = {}
    while not board.over:
        for job in board.next(workers):
            board.running[job.key] = time.time()
            with _interrupts_held():
                futures[pool.submit(_work, job, board.cache)] = job
        finished, _ = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in finished:
            _settle(board, futures.pop(future).key, future)
        tick(board)


def _settle(board: Board, key: str, future: Future) -> None:
    try:
        error = future.result()
    except UserError as wrong:
        board.fail(key, str(wrong))
        raise
    if error:
        board.fail(key, error)
    else:
        board.finish(key)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """A worker that starts here never sees the terminal's Ctrl-C: it inherits the mask, and the launcher ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _start_worker(threads: int, parent: int) -> None:
    """In the worker: its share of the cores, quiet libraries, and an end when the launcher has gone."""
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging

    torch.set_num_threads(threads)
    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(job: Job, cache: Path) -> str:
    """Make the job's artefact; the error in words, or nothing; a UserError is raised."""
    try:
        # The board knows the corrupt artefacts, so whoever shows it has told of them.
        stage.run_or_reuse(
            pipeline.BY_NAME[job.stage], job.recipe, job.scale, job.seed, job.keys, cache, warn=lambda _: None
        )
        return ""
    except UserError:
        raise
    except Exception as error:
        log = cache / f"{job.key}.error.txt"
        log.write_text(traceback.format_exc())
        return f"{type(error).__name__}: {error} (the traceback is in {log})"
