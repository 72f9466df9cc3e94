"""How long a study will take on this computer's workers, from the command to its report, and the source of the estimate."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from repro.engine import cost
from repro.engine.job import Job

SIDE_BY_SIDE = 1.1  # slowdown of a stage where every core has a worker: they share memory and its cache
PUBLISHING = 1.0  # seconds for each run of a study
REPORT = 10.0  # seconds of the page, its figures and the index


def wall(jobs: Iterable[Job], cache_folder: Path, workers: int, start_up: float = 0.0) -> float:
    """Seconds from the command to the report: start-up, the jobs as the launcher schedules them, publishing, the report."""
    jobs = list(jobs)
    if not jobs:
        return 0.0
    busy, before = min(workers, len(jobs)), cost.history(cache_folder)
    # Measured times of finished stages include this already.
    slower = SIDE_BY_SIDE if busy > 1 and not cost.for_gpu(jobs[0].scale) else 1.0
    taken = {
        job.key: seconds * (1.0 if (job.stage, job.scale.name) in before else slower)
        for job, seconds in zip(jobs, cost.each_seconds(jobs, cache_folder))
    }
    runs = {(job.arm, job.seed) for job in jobs if job.stage == "ppo"}
    return start_up + makespan(jobs, taken, busy) + PUBLISHING * len(runs) + REPORT


def makespan(jobs: Iterable[Job], taken: Mapping[str, float], workers: int) -> float:
    """Seconds until all jobs are done, where a free worker takes the first job whose needs are done."""
    waiting, now = {job.key: job for job in jobs}, 0.0
    running: dict[str, float] = {}  # key -> when it will be done
    while waiting or running:
        missing = waiting.keys() | running.keys()
        ready = [job for job in waiting.values() if not missing & set(job.needs)]
        for job in ready[: workers - len(running)]:
            running[job.key] = now + taken[job.key]
            del waiting[job.key]
        first = min(running, key=running.__getitem__)
        now = running.pop(first)
    return now


def sources(jobs: Iterable[Job], cache_folder: Path, otherwise: str) -> list[str]:
    """Lines that say where the stages' seconds come from: earlier runs here, or `otherwise`."""
    before, names = cost.history(cache_folder), list(dict.fromkeys((job.stage, job.scale.name) for job in jobs))
    found = {
        "as in earlier runs here": [name for name, scale in names if (name, scale) in before],
        otherwise: [name for name, scale in names if (name, scale) not in before],
    }
    return [f"{', '.join(stages)}: {how}" for how, stages in found.items() if stages]
