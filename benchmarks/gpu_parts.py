"""The parts of `benchmarks/gpu_check.py`, each run by a process of its own: this one.

It is told the kind of its part as an argument and imports what that needs, which takes as long as a part may; then it waits
for a line of JSON on its standard input: {"part", "shape", "ends", "ours", "answer"}. What it finds goes into the file
that "answer" names, as soon as it is known. Without a line there is nothing to do.
"""

import gc
import importlib
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks import peer_gpu
from benchmarks.gpu_check import ROOT, write

BATCH, UPDATES = 512, 3  # episodes of an update, as the paper's; updates after the one that warms up
TIDY = 0.9  # of its limit a part takes for itself
PEER = 4.0  # times as long as ours that an update of TRL's may take, by guess: its batch is made so small that two fit
Tell = Callable[..., None]  # status, and what else the answer says
# What each kind of part imports, and only then: a TRL that is broken should not take half a minute to say so.
NEEDS = {
    "tests": ("pytest", "benchmarks.gpu"),
    "ppo": ("benchmarks.gpu",),
    "trl": ("trl.experimental.ppo", "benchmarks.gpu"),
}


def tests(job: dict[str, Any], tell: Tell) -> None:
    """The tests of tests/gpu, with nothing of the others' fixtures."""
    import pytest

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "--confcutdir", ROOT / "tests" / "gpu"]
        options += ["-o", "addopts=", "-m", "gpu", "-p", "no:cacheprovider", "-v", "--tb=short", f"--junitxml={report}"]
        code = pytest.main([*map(str, options), str(ROOT / "tests" / "gpu")])
        found = told_by(report) if report.exists() else []
    failed = [test["name"] for test in found if test["outcome"] == "failed"]
    passed = sum(test["outcome"] == "passed" for test in found)
    why = f"failed: {', '.join(failed)}" if failed else f"pytest ended with {int(code)}" if code else ""
    tell(
        "failed" if code or not passed else "passed",
        why=why or ("" if passed else "no test ran"),
        result={"tests": found},
    )


def told_by(report: Path) -> list[dict[str, Any]]:
    """Name, outcome, seconds and the reason of each test in a JUnit report."""
    return [_told(case) for case in ElementTree.parse(report).iter("testcase")]


def _told(case: ElementTree.Element) -> dict[str, Any]:
    outcomes = {"failure": "failed", "error": "failed", "skipped": "skipped"}
    ended = next((each for each in case if each.tag in outcomes), None)
    told = {"name": case.get("name"), "outcome": "passed", "seconds": float(case.get("time", 0))}
    return told if ended is None else told | {"outcome": outcomes[ended.tag], "why": ended.get("message", "")[:500]}


def ppo(job: dict[str, Any], tell: Tell) -> None:
    """Ours at a shape: the preset's settings, and half its micro-batch where that does not fit."""
    from benchmarks import gpu

    until = gpu.clock() + seconds_left(job)

    def measured(scale: Any) -> dict[str, Any]:
        return asdict(gpu.measure(job["shape"], scale, UPDATES, until))

    _where_it_fits(measured, gpu.scale_of(job["shape"], gpu.TINY.ppo_batch if job["shape"] == "tiny" else BATCH), tell)


def trl(job: dict[str, Any], tell: Tell) -> None:
    """TRL's at the shape and micro-batch of ours; its batch too, or so much less that two updates should fit."""
    from benchmarks import gpu

    until, ours = time.perf_counter() + seconds_left(job), job.get("ours") or {}
    preset = gpu.scale_of(job["shape"], gpu.TINY.ppo_batch)
    micro_batch = ours.get("micro_batch", preset.micro_batch)
    scale = replace(preset, ppo_batch=ours.get("batch", 2 * micro_batch), micro_batch=micro_batch)
    if rate := ours.get("episodes_per_second"):
        fits = int(seconds_left(job) * rate / PEER / 2)
        scale = replace(scale, ppo_batch=halved_to(scale.ppo_batch, fits, at_least=scale.micro_batch))

    def measured(scale: Any) -> dict[str, Any]:
        sizes = (scale.ppo_batch, scale.micro_batch)
        return peer_gpu.measure(job["shape"], *sizes, UPDATES, until, lambda known: tell("passed", result=known))

    _where_it_fits(measured, scale, tell)


def seconds_left(job: dict[str, Any]) -> float:
    """Until the part should be over, some time before it is ended; some may have gone in getting ready."""
    return TIDY * (job["ends"] - time.time())


def halved_to(batch: int, most: int, at_least: int) -> int:
    """The batch, halved until it is no more than `most`, or could not be halved again."""
    while batch > most and batch % 2 == 0 and batch // 2 >= at_least:
        batch //= 2
    return batch


def _where_it_fits(measure: Callable[[Any], dict[str, Any]], scale: Any, tell: Tell) -> None:
    """Measured as it is, else once with half the rows at a time; what ran out of memory is in the answer."""
    fewer = {name: max(1, getattr(scale, name) // 2) for name in ("micro_batch", "rollout_batch")}
    full: list[int] = []
    for each in (scale, replace(scale, **fewer)):
        result = _unless_full(measure, each)
        if result is not None:
            return tell("passed", result=result | {"out_of_memory_at": full})
        full.append(each.micro_batch)
    tell("failed", why=f"out of memory at micro-batches of {full[0]} and {full[1]}", result={"out_of_memory_at": full})


def _unless_full(measure: Callable[[Any], dict[str, Any]], scale: Any) -> dict[str, Any] | None:
    """Nothing where the memory ran out, which is free again by then: the error holds what was in it."""
    import torch

    try:
        return measure(scale)
    except torch.OutOfMemoryError as full:
        print(str(full).splitlines()[0], flush=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


PARTS = {"tests": tests, "ppo": ppo, "trl": trl}


def main() -> None:
    warnings.filterwarnings("ignore")
    kind = sys.argv[1]
    trouble = _trouble_importing(kind)
    line = sys.stdin.readline()
    if not line.strip():
        return
    job = json.loads(line)

    def tell(status: str, **said: Any) -> None:
        write(Path(job["answer"]), {"status": status} | {name: value for name, value in said.items() if value})

    try:
        if trouble:
            raise trouble
        PARTS[kind](job, tell)
    except Exception as error:
        tell("failed", why=f"{type(error).__name__}: {error}".splitlines()[0])
        raise


def _trouble_importing(kind: str) -> Exception | None:
    """What went wrong, to be told once there is a file to tell it in."""
    try:
        if kind == "trl":
            peer_gpu.reach()
        for name in NEEDS[kind]:
            importlib.import_module(name)
    except Exception as error:
        return error
    return None


if __name__ == "__main__":
    main()
