"""Proves the GPU paths on the day a GPU is at hand: in at most 5 minutes, without a network, into one JSON.

`make gpu-check`, or `python -m benchmarks.gpu_check` from a bare checkout where torch, transformers, accelerate, datasets,
peft, jaxtyping, rich and pytest are there. First the tests of tests/gpu; then PPO at the shapes of Pythia 160m, 410m and 1b;
then TRL's at the same, where it is there. Each part has a process and a time limit of its own, and its answer is written as
soon as it is known: started again, the command goes on with the parts that have none. `--device cpu --shapes tiny
--out FILE` rehearses it.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import gpu_table, peer_gpu
from repro.cli.parser import Parser
from repro.errors import UserError

ROOT = Path(__file__).parents[1]
OUT, PAGE = ROOT / "docs" / "gpu-check.json", ROOT / "docs" / "performance.md"
SHAPES = ("tiny", "160m", "410m", "1b", "1.4b")
# Seconds that a part may take at most; together they are more than the whole may, since most take less.
LIMITS = {
    "tests": {"": 80},
    "ppo": {"160m": 30, "410m": 40, "1b": 60, "1.4b": 75},
    "trl": {"160m": 30, "410m": 40, "1b": 55},
}
OTHERWISE, SLOWER = 60, 3  # seconds of any other shape; how much longer everything may take on a CPU
LEAST = 10  # seconds with which a part is not begun
LINES = 40  # of what a part said that are kept where it failed
OUT_OF_TIME, NO_ANSWER = "not run: out of time", "ended without an answer"
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # several threads are slower on tiny networks
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "peft")
SOURCES = ("repro/**/*.py", "benchmarks/*.py", "tests/gpu/*.py", "tests/tiny.py", "pyproject.toml")


@dataclass(frozen=True)
class Part:
    kind: str  # "tests", "ppo" or "trl"
    shape: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.shape}".strip()

    def limit(self, device: str) -> float:
        """Seconds."""
        known = LIMITS[self.kind].get(self.shape, OTHERWISE)
        return known * SLOWER if device == "cpu" else known


def parts_of(shapes: list[str]) -> list[Part]:
    return [Part("tests"), *(Part(kind, shape) for kind in ("ppo", "trl") for shape in shapes)]


# ---------------------------------------------------------------------------------------------- what it is about


def device_of(kind: str) -> dict[str, Any]:
    """The device by name, with its driver and memory; UserError where there is none of the kind."""
    if kind == "cpu":
        return {"kind": "cpu", "name": "CPU", "cores": os.cpu_count()}
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{sys.executable} has no torch; name a Python that has, as make gpu-check PY=python3"
        ) from None
    if not torch.cuda.is_available():
        raise UserError(
            "no CUDA device here; run it where one is, or rehearse it (--device cpu --shapes tiny --out FILE)"
        )
    shown = torch.cuda.get_device_properties(0)
    found = {
        "kind": "cuda",
        "name": shown.name,
        "gib": round(shown.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }
    return found | {"driver": _told_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0")}


def _told_by(*command: str) -> str:
    """What a command prints, without the last line's end; nothing where it is not there or fails."""
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def code_of(named: str = "") -> dict[str, Any]:
    """The commit, what was changed since (docs/ does not count), and a digest of the files that are run."""
    files = sorted({file for pattern in SOURCES for file in ROOT.glob(pattern)})
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    if commit := _told_by("git", "rev-parse", "HEAD"):
        changed = bool(_told_by("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"))
        return {"commit": commit, "changed": changed, "sources": digest}
    return {"commit": named or "unknown", "changed": None, "sources": digest}


def versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def begun(out: Path, about: dict[str, Any], fresh: bool) -> dict[str, Any]:
    """The record that is gone on with: the one that is there if it is about the same, else a new one."""
    if out.exists() and not fresh:
        try:
            record = json.loads(out.read_text())
            known, parts = record["about"], record["parts"]
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{out} is not a record of this command; name another with --out, or use --fresh") from None
        if known == about:
            return record | {"parts": dict(parts)}
    return {"about": about, "date": datetime.now(UTC).isoformat(timespec="seconds"), "parts": {}}


def write(path: Path, record: dict[str, Any]) -> None:
    """As JSON, whole or not at all; numbers that are none are null."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(finite(record), indent=1) + "\n")
    os.replace(partial, path)


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------------------------------------- its parts


class Worker:
    """A process that has imported what a part of this kind needs, and waits for it: importing takes half as long as a part."""

    def __init__(self, kind: str, device: str, folder: Path) -> None:
        self.answer, self.log = folder / "answer.json", folder / "log.txt"
        folder.mkdir()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        told = {
            "REPRO_GPU_CHECK_DEVICE": device,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": path,
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu_parts", kind],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=ROOT,
                env=os.environ | told | (ON_CPU if device == "cpu" else {}),
                start_new_session=True,
            )

    def run(self, job: dict[str, Any], limit: float) -> dict[str, Any]:
        """The part's answer; `late` where it had to be ended, with what it knew by then."""
        try:
            self.process.communicate(json.dumps(job | {"answer": str(self.answer)}) + "\n", timeout=limit)
            late = False
        except subprocess.TimeoutExpired:
            self.end()
            late = True
        said = self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        none = {"status": "failed", "why": f"{NO_ANSWER} ({self.process.returncode}): {said[-1]}"}
        answer = json.loads(self.answer.read_text()) if self.answer.exists() else none
        told = {"log": said[-LINES:]} if answer["status"] == "failed" else {}
        return answer | told | ({"late": True} if late else {})

    def end(self) -> None:
        """The process and what it started, if it is still there."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def run_part(part: Part, worker: Worker, device: str, parts: dict[str, Any], until: float) -> dict[str, Any]:
    """The part's record: its status, seconds, why it did not pass, and what it found."""
    began, own = time.monotonic(), part.limit(device)
    limit = min(own, until - began)
    if limit < LEAST:
        return {"status": "not run", "why": OUT_OF_TIME, "seconds": 0.0}
    ours = parts.get(f"ppo {part.shape}", {}).get("result")
    answer = worker.run({"part": part.kind, "shape": part.shape, "ends": time.time() + limit, "ours": ours}, limit)
    seconds = round(time.monotonic() - began, 1)
    if answer.pop("late", False) and "result" not in answer:
        late = answer | {"status": "failed", "why": f"took longer than its limit of {own:.0f} s"}
        answer = late if limit == own else {"status": "not run", "why": OUT_OF_TIME}
    return answer | {"seconds": seconds}


def to_do(record: dict[str, Any], shapes: list[str]) -> list[Part]:
    """The parts without an answer."""
    return [part for part in parts_of(shapes) if record["parts"].get(part.name, {}).get("status") in (None, "not run")]


def run(record: dict[str, Any], out: Path, device: str, shapes: list[str], limit: float) -> None:
    """Every part that is still to do, each written down when it is done."""
    until, parts = time.monotonic() + limit, record["parts"]
    left, missing = to_do(record, shapes), peer_gpu.missing()
    runnable = [part for part in left if part.kind != "trl" or not missing]
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker(part.kind, device, Path(folder) / part.name) for part in runnable[:1]]
        try:
            for number, part in enumerate(runnable):
                # The next one gets ready meanwhile.
                following = runnable[number + 1 : number + 2]
                workers += [Worker(each.kind, device, Path(folder) / each.name) for each in following]
                parts[part.name] = run_part(part, workers[number], device, parts, until)
                note(record, out, part)
        finally:
            for worker in workers:
                worker.end()
    parts |= {part.name: {"status": "not run", "why": missing, "seconds": 0.0} for part in left if part not in runnable}
    note(record, out)


def note(record: dict[str, Any], out: Path, part: Part | None = None) -> None:
    """The record as it stands, with the targets; and a line on the part, if one has just ended."""
    record["targets"] = gpu_table.targets(record)
    write(out, record)
    if part:
        told = record["parts"][part.name]
        print(f"{part.name}: {told['status']}, {told['seconds']:.0f} s {told.get('why', '')}".rstrip(), flush=True)


# ---------------------------------------------------------------------------------------------- the command


def asked_for(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0], prog="python -m benchmarks.gpu_check")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--shapes", nargs="+", default=["160m", "410m", "1b"], choices=SHAPES)
    parser.add_argument("--limit-s", type=float, default=300.0, help="seconds that all of it may take")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON")
    parser.add_argument("--fresh", action="store_true", help="repeat the parts that are done")
    parser.add_argument("--commit", default="", help="what the record names where there is no git")
    parser.add_argument("--table", action="store_true", help="only write the table into --page, from the JSON")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the markers of the table")
    asked = parser.parse_args(words)
    if not asked.limit_s > 0:
        raise UserError(f"--limit-s {asked.limit_s:g} must be above 0")
    if not asked.out.absolute().parent.is_dir():
        raise UserError(f"--out {asked.out}: the folder does not exist; make it, or name a file in another")
    if asked.device == "cpu" and asked.out == OUT and not asked.table:
        raise UserError("a rehearsal must not replace what a GPU said; name a file for it, as --out rehearsal.json")
    return asked


def main(words: list[str] | None = None) -> int:
    """0 where all passed, 1 where something failed or was not run for want of time, 2 for what cannot be done."""
    try:
        asked = asked_for(words)
        if asked.table:
            gpu_table.write_into(asked.page, asked.out)
            print(asked.page)
            return 0
        shapes = list(dict.fromkeys(asked.shapes))
        about = {"device": device_of(asked.device), "versions": versions(), "shapes": shapes} | code_of(asked.commit)
        record = begun(asked.out, about, asked.fresh)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    run(record, asked.out, asked.device, shapes, asked.limit_s)
    print(f"{asked.out}; python -m benchmarks.gpu_check --table writes its table into {PAGE.relative_to(ROOT)}")
    kept = [record["parts"][part.name] for part in parts_of(shapes)]
    return int(any(part["status"] == "failed" or part.get("why") == OUT_OF_TIME for part in kept))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started ends with it
    sys.exit(main())
