"""Many arms and seeds: each stage once, as soon as what it needs is there, in worker processes with their own cores."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import torch

from repro.engine import machine
from repro.engine.dag import Dag
from repro.engine.job import (
    DONE,
    ENDING_SECONDS,
    FAILED,
    FAULT,
    LIBRARIES,
    PREEMPTED,
    WRONG,
    Ending,
    Job,
    attempt,
    check_sharding,
    prepare_process,
    run_in_subprocesses,
    write_job,
)
from repro.errors import UserError
from repro.models import samplers
from repro.study.scale import Scale

POLL_SECONDS = 0.5
WORKER_ENDING_SECONDS = ENDING_SECONDS + 30  # that workers have for their checkpoints: more than their ranks


class Engine(Protocol):
    """Where jobs run; its `str` says it in words."""

    @property
    def workers(self) -> int:
        """How many jobs run at once, at most."""

    def prepare(self) -> None:
        """Begin what takes its time before the first job, while others get ready too."""

    def run(self, dag: Dag, tick: Callable[[Dag], None]) -> None:
        """Run every job that is not done; `tick` is called about twice a second and at the end.

        A job that fails takes down what rests on it, and no more. Input that a person must correct ends the study with
        its UserError.
        """

    def parting(self, dag: Dag) -> str:
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
        worker_context(self.devices)

    def run(self, dag: Dag, tick: Callable[[Dag], None]) -> None:
        run(dag, self.workers, self.threads, tick, self.devices)

    def parting(self, dag: Dag) -> str:
        return ""


def local(scale: Scale) -> Local:
    """This machine's workers for a scale; UserError where its ranks find no place."""
    check_sharding(scale, torch.cuda.is_available())
    samplers.require(scale.sampler)
    return Local(workers_for(scale), scale.threads, devices_for(scale, visible_devices()))


def workers_for(scale: Scale) -> int:
    """One worker for each slice of this machine's GPUs; on a CPU, for the cores that a stage's ranks use."""
    devices = devices_for(scale, visible_devices())
    return len(devices) or max(1, machine.cores() // (scale.threads * scale.processes))


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


def run(dag: Dag, workers: int, threads: int, tick: Callable[[Dag], None], devices: tuple[str, ...] = ()) -> None:
    """`Engine.run` in worker processes; they are told to end where it ends early, and keep where their stages stand."""
    context = worker_context(devices)
    while not dag.over:
        places = context.SimpleQueue()
        for device in devices:
            places.put(device)
        others = multiprocessing.active_children()  # of whoever called
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start_worker, initargs=(threads, places, bool(devices))
        )
        try:
            _drain(dag, pool, workers, tick)
        except BrokenProcessPool:
            dag.lose()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if not dag.over:
                _end([child for child in multiprocessing.active_children() if child not in others])
    tick(dag)


def worker_context(devices: tuple[str, ...] = ()) -> BaseContext:
    """How worker processes start: forked from one that has imported what stages need, which starts here if need be.

    With GPUs each starts by itself, since CUDA does not outlive a fork; so it does on systems whose libraries do not either.
    """
    if devices or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LIBRARIES, "repro.engine.pipeline", "rouge_score.rouge_scorer"])
    resource_tracker.ensure_running()  # before: where it starts, Python unblocks what is held
    with _signals_held():
        forkserver.ensure_running()
    return context


def _end(workers: list[BaseProcess]) -> None:
    """End workers, which keep where their stages stand; a second interrupt, or too long a wait, ends them as they are.

    They are told again while they live: one that has kept its stage asks for more work, and asks for ever if another one
    ended while it held the lock of the queue.
    """
    until = time.monotonic() + WORKER_ENDING_SECONDS
    try:
        while (alive := [worker for worker in workers if worker.is_alive()]) and time.monotonic() < until:
            for worker in alive:
                worker.terminate()
            connection.wait([worker.sentinel for worker in alive], timeout=1)
    finally:
        for worker in workers:
            worker.kill()


def _drain(dag: Dag, pool: ProcessPoolExecutor, workers: int, tick: Callable[[Dag], None]) -> None:
    futures: dict[Future, Job] = {}
    while not dag.over:
        for job in dag.next(workers):
            dag.running[job.key] = time.time()
            with _signals_held():
                futures[pool.submit(work, job, dag.cache)] = job
        finished, _ = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in finished:
            _settle(dag, futures.pop(future).key, future)
        tick(dag)


def _settle(dag: Dag, key: str, future: Future) -> None:
    ending = future.result()
    if ending.code == PREEMPTED:  # whoever told one worker to end means the study
        dag.running.pop(key)
        raise KeyboardInterrupt
    if ending.code == DONE:
        dag.finish(key)
        return
    dag.fail(key, ending.why)
    if ending.code == FAULT:
        dag.faults.add(key)
    if ending.code == WRONG:
        raise UserError(ending.why)


@contextmanager
def _signals_held() -> Iterator[None]:
    """SIGINT and SIGTERM are blocked within the context, also in a process that starts there: the launcher alone ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _start_worker(threads: int, devices: multiprocessing.SimpleQueue, pinned: bool) -> None:
    """Give a worker process its GPUs, and prepare it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if pinned:  # before anything asks CUDA for its devices
        os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()
    prepare_worker(threads)


def prepare_worker(threads: int) -> None:
    """Prepare a process that ends with the one that started it, and runs stages on so many threads."""
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    prepare_process(threads)


def _end_with_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher, "a worker has a process that started it"
    launcher.join()
    os._exit(1)


def work(job: Job, cache: Path) -> Ending:
    """Make the job's artefact, in this worker or in processes of its ranks; how that ended."""
    if job.ranks == 1:
        return attempt(job, cache)
    file = cache / f"{job.key}.log"
    with file.open("ab") as log:
        ending = run_in_subprocesses(write_job(job, cache), log)
    return replace(ending, why=f"{ending.why} (its output is in {file})") if ending.code in (FAILED, FAULT) else ending
