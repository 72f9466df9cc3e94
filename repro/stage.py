"""A stage's key, its artefact's folder, and run-or-reuse.

A key is the stage's name and a hash of everything that the stage may read. An artefact is a folder of that name, whose
`done.json` is written last, by rename: a killed stage is never a hit.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from filelock import FileLock

from repro.detail import Pick, Recipe
from repro.details import DETAILS, PRECISION
from repro.scale import Scale
from repro.types import Metrics

JOURNAL, RESULT, DONE = "metrics.jsonl", "result.json", "done.json"
CURVE_POINTS = 200  # about as many as a figure can show


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: `fields` of Scale and `upstream` artefacts are all that `run` may read."""

    name: str
    version: int  # bumped by hand when the same inputs give another result
    fields: tuple[str, ...]
    upstream: tuple[str, ...]
    seeded: bool
    run: Callable[["Work"], None]


class Budget:
    """The fields of a Scale that a stage declared; any other is refused, since the key omits it."""

    def __init__(self, scale: Scale, allowed: tuple[str, ...]) -> None:
        self._scale, self._allowed = scale, allowed

    def __getattr__(self, name: str) -> Any:
        if name not in self._allowed:
            raise LookupError(f"this stage reads Scale.{name}, which its key omits; it declares {self._allowed}")
        return getattr(self._scale, name)


@dataclass
class Work:
    """What a running stage is handed."""

    stage: str
    pick: Pick
    scale: Budget
    precision: str
    seed: int
    inputs: Mapping[str, Path]
    out: Path
    nonfinite: dict[str, int] = field(default_factory=dict)
    unlogged: list[tuple[int, Metrics]] = field(default_factory=list)

    @cached_property
    def accelerator(self) -> Accelerator:
        # A worker runs stages of several arms, and accelerate keeps the first one's precision for the whole process.
        AcceleratorState._reset_state()
        return Accelerator(mixed_precision=self.pick(PRECISION)(self.precision))

    def seed_of(self, purpose: str) -> int:
        """A seed of its own for each purpose: all arms share it, so that differences between arms are paired."""
        return int(_digest([self.stage, self.seed, purpose])[:15], 16)

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed_of(purpose))

    def log(self, step: int, metrics: Metrics) -> None:
        """Append one line to the journal; non-finite numbers are counted instead of logged."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                self.nonfinite[name] = self.nonfinite.get(name, 0) + 1
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        counts = {f"nonfinite/{name}": float(count) for name, count in self.nonfinite.items()}
        with (self.out / JOURNAL).open("a") as journal:
            journal.write(json.dumps({"step": step, "time": time.time(), "metrics": finite | counts}) + "\n")

    def log_mean(self, step: int, metrics: Metrics, steps: int) -> None:
        """As `log`, of the mean over as many calls as leave about `CURVE_POINTS` lines of all `steps`."""
        self.unlogged.append((step, metrics))
        if len(self.unlogged) >= steps / CURVE_POINTS or not math.isfinite(sum(metrics.values())):
            self._log_rest()

    def _log_rest(self) -> None:
        if self.unlogged:
            step, last = self.unlogged[-1]
            self.log(step, {name: sum(each[name] for _, each in self.unlogged) / len(self.unlogged) for name in last})
            self.unlogged.clear()

    def finish(self, metrics: Metrics, outcome: str = "finished") -> None:
        """Write the stage's final numbers, and what is left to log."""
        self._log_rest()
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        lost = {f"nonfinite/{name}": 1.0 for name, value in metrics.items() if not math.isfinite(value)}
        (self.out / RESULT).write_text(json.dumps({"outcome": outcome, "metrics": finite | lost}))


def key(stage: Stage, recipe: Recipe, scale: Scale, seed: int, upstream: Mapping[str, str]) -> str:
    """`name-` and a hash of all that the stage may read: a detail at its reference is not part of it (promise 1)."""
    choices = {
        d.name: recipe.label(d) for d in DETAILS.values() if stage.name in d.stages and recipe.label(d) != d.reference
    }
    read = {
        "stage": stage.name,
        "version": stage.version,
        "choices": choices,
        "seed": seed if stage.seeded else 0,
        "scale": {name: _content(name, getattr(scale, name)) for name in stage.fields} | _mixed(stage, recipe, scale),
        "upstream": {name: upstream[name] for name in stage.upstream},
    }
    return f"{stage.name}-{_digest(read)[:16]}"


def _mixed(stage: Stage, recipe: Recipe, scale: Scale) -> dict[str, str]:
    """The precision that the stage computes in on this device, if it computes: machines may share a cache."""
    mixed = PRECISION.variants[recipe.label(PRECISION)].value(scale.precision)
    return {"precision": mixed} if stage.name in PRECISION.stages else {}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _content(name: str, value: Any) -> Any:
    """What a field of Scale stands for: of a path what lies there, so that a moved file is still a hit."""
    if value == Path():
        return ""
    if isinstance(value, Path) or (name == "model" and Path(value).is_dir()):
        return _tree_digest(Path(value))
    return value


@cache
def _tree_digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return _digest([[str(file.relative_to(path)), file_digest(file)] for file in files])


def file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached(folder: Path) -> bool:
    """Whether the artefact is finished and its files are as they were written."""
    if not (folder / DONE).exists():
        return False
    try:
        files = json.loads((folder / DONE).read_text())["files"]
        return all(file_digest(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_or_reuse(
    stage: Stage,
    recipe: Recipe,
    scale: Scale,
    seed: int,
    keys: Mapping[str, str],
    folder: Path,
    warn: Callable[[str], None],
) -> Path:
    """The stage's artefact under `folder`, made now unless it is there; two processes never make the same one."""
    target = folder / keys[stage.name]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{target.name}.lock"):
        if cached(target):
            return target
        if target.exists():
            warn(f"cached artefact {target.name} is corrupt; making it again")
            shutil.rmtree(target)
        _make(stage, recipe, scale, seed, keys, target)
    return target


def _make(stage: Stage, recipe: Recipe, scale: Scale, seed: int, keys: Mapping[str, str], target: Path) -> None:
    partial = partial_folder(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    began = time.time()
    work = Work(
        stage.name,
        Pick(recipe, stage.name),
        Budget(scale, stage.fields),
        scale.precision,
        seed if stage.seeded else 0,
        {name: target.parent / keys[name] for name in stage.upstream},
        partial,
    )
    stage.run(work)
    files = {str(p.relative_to(partial)): file_digest(p) for p in sorted(partial.rglob("*")) if p.is_file()}
    done = {
        "key": target.name,
        "seconds": time.time() - began,
        "finished": time.time(),
        "files": files,
        "read": sorted(work.pick.read),
        "seed": work.seed,
        "scale": scale.name,
    }
    (partial / f"{DONE}.tmp").write_text(json.dumps(done, indent=1))
    os.replace(partial / f"{DONE}.tmp", partial / DONE)
    os.replace(partial, target)


def partial_folder(target: Path) -> Path:
    """Where an artefact stands while it is made: progress is read from its journal."""
    return target.with_name(f"{target.name}.partial")


def read_journal(folder: Path) -> list[dict]:
    """The journal's complete lines, of a stage that runs or has ended."""
    path = folder / JOURNAL
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
