"""Locks between the studies of one machine: a process that waits for another says so, and not for ever."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

STUDIES_SECONDS = 600.0  # that other studies are waited for: many may start together, each with the lock for seconds
TELL_SECONDS = 8.0  # of them, before the wait is told


@contextmanager
def held(file: Path, seconds: float = STUDIES_SECONDS, who: str = "writes to the store") -> Iterator[None]:
    """Hold a lock file, which a thread may do more than once; OSError where another process keeps it for so many seconds."""
    lock = FileLock(file, is_singleton=True)
    try:
        try:
            lock.acquire(min(seconds, TELL_SECONDS))
        except Timeout:
            if seconds <= TELL_SECONDS:
                raise
            print(f"waiting up to {seconds:.0f} s for another study, which {who}", file=sys.stderr, flush=True)
            lock.acquire(seconds - TELL_SECONDS)
    except Timeout:
        raise TimeoutError(f"another study has held {file} for {seconds:.0f} s") from None
    try:
        yield
    finally:
        lock.release()
