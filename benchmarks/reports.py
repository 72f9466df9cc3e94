"""Speed of the reports: one report out of a store of 1,000 runs, the atlas over 60 details, and the index.

`make bench-reports`, or `python -m benchmarks.reports --runs 1000`. The store is made up; each page is built in a process
of its own, whose seconds and memory include Python's start and every import. The exit code is 1 where a target is missed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

STUDIES, VARIANTS = 60, 103
# What each page is made with, in a process of its own. Memory is counted in KiB.
PROGRAM = """
import resource, sys
from pathlib import Path
from benchmarks import reports
reports.{name}({uri!r}, Path({out!r}))
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


@dataclass(frozen=True)
class Target:
    """What a page may take: seconds, and GiB of memory."""

    seconds: float
    memory: float


TARGETS = {"report": Target(10, 1), "atlas": Target(60, 1), "index": Target(10, 1)}


def studies() -> dict[str, list[str]]:
    """Detail -> arms, the reference first: one variant each, and a second one for as many as it takes."""
    second = VARIANTS - STUDIES
    return {f"detail_{i:02d}": ["paper", "other", "another"][: 3 if i < second else 2] for i in range(STUDIES)}


def registered() -> list[dict]:
    """The details as the registry tells of them."""
    told = {"numbers": [], "paper": "made up", "question": "Does it matter?", "reference": "paper"}
    return [
        told | {"name": name, "group": f"Stage {i // 10}", "variants": arms}
        for i, (name, arms) in enumerate(studies().items())
    ]


def report(uri: str, out: Path) -> None:
    """The page of the first study."""
    from benchmarks.store import SCALE
    from repro.reports.pages import page
    from repro.reports.reading.studies import read_study

    page.build(read_study(next(iter(studies())), SCALE, uri), out / next(iter(studies())))


def atlas(uri: str, out: Path) -> None:
    """The page over all details."""
    from benchmarks.store import SCALE
    from repro.reports.pages import atlas

    atlas.build(SCALE, registered(), uri, out / "atlas")


def index(uri: str, out: Path) -> None:
    """The index of everything built."""
    from repro.reports.pages import index

    index.build(out, uri, registered())


def measure(name: str, uri: str, out: Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak GiB of making one page; a busy machine adds to the first."""
    began = time.perf_counter()
    program = PROGRAM.format(name=name, uri=uri, out=str(out))
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    busy, memory = done.stdout.split()[-2:]
    return time.perf_counter() - began, float(busy), int(memory) / 2**20


def make_store(folder: Path, runs: int) -> str:
    """The store's address; made in a process of its own, so that its memory counts towards no page."""
    program = (
        "import json, sys; from pathlib import Path; from benchmarks import reports, store; "
        f"print(store.make(Path({str(folder)!r}), reports.studies(), {runs}))"
    )
    return subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1_000)
    arguments = parser.parse_args()
    console, missed = Console(), False
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        uri = make_store(Path(folder), arguments.runs)
        size = (Path(folder) / "mlflow.db").stat().st_size / 2**20
        console.print(f"a store of {arguments.runs} runs, {size:.0f} MiB, made in {time.perf_counter() - began:.0f} s")
        table = Table("page", "seconds", "at most", "CPU seconds", "peak GiB", "at most", "")
        for name, target in TARGETS.items():
            seconds, busy, memory = measure(name, uri, Path(folder) / "build")
            kept = seconds <= target.seconds and memory <= target.memory
            missed |= not kept
            told = f"{target.seconds:.0f}", f"{busy:.1f}", f"{memory:.2f}", f"{target.memory:.0f}"
            table.add_row(name, f"{seconds:.1f}", *told, "" if kept else "missed")
        console.print(table)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
