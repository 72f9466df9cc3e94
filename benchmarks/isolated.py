"""A process for what is measured, with its own threads and peak memory; it keeps what it has built from call to call."""

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from types import TracebackType
from typing import Any

from repro.engine.job import prepare_process


class Isolated:
    """One process, started by its first call: `with Isolated(threads) as process: process(function, *arguments)`."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=prepare_process, initargs=(threads,))

    def __enter__(self) -> "Isolated":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pool.shutdown(cancel_futures=True)

    def start(self, function: Callable, *arguments: Any) -> Future:
        return self.pool.submit(function, *arguments)

    def __call__(self, function: Callable, *arguments: Any) -> Any:
        return self.start(function, *arguments).result()

    def peak_gib(self) -> float:
        """The most memory that the process has had."""
        return self(_peak_gib)


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
