"""A stage's key, its artefact's folder, and run-or-reuse.

A key is the stage's name and a hash of everything that the stage may read. An artefact is a folder of that name, whose
`done.json` is written last, by rename: a killed stage is never a hit.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock

from repro import details as d
from repro.detail import Pick, Recipe
from repro.details import DETAILS, RANK_DEPENDENT
from repro.models import hub, ranks
from repro.study.scale import SOURCES, Scale
from repro.types import Metrics

if TYPE_CHECKING:
    from accelerate import Accelerator

JOURNAL, RESULT, DONE = "metrics.jsonl", "result.json", "done.json"
CHECKPOINTS = "checkpoints"  # in the folder of a stage that runs: where it goes on from, should it be ended
# Fields of Scale that say how a stage is run and not what it computes: every stage may read them, no key has them.
UNKEYED = ("recompute", "processes", "sharding", "checkpoint_every", "keep_every")
# Fields that came later: at their default a key does without them, so that what was made before is still found.
DEFAULTS = {each.name: each.default for each in fields(Scale)}
LATER = ("frozen_weights", "sampler", "sft_from", "rm_from", "policy_from")
LARGE = 256 * 2**20  # bytes of a file
CURVE_POINTS = 200  # about as many as a figure can show


class Preempted(BaseException):
    """The stage was told to end, and has kept where it stands; started again, it goes on from there.

    It is raised wherever the process happens to be, so it is no Exception: a library's handler would take it for its own.
    """


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: `fields` of Scale and `upstream` artefacts are all that `run` may read."""

    name: str
    version: int  # bumped by hand when the same inputs give another result
    fields: tuple[str, ...]
    upstream: tuple[str, ...]
    seeded: bool
    run: Callable[[Work], None]


class Budget:
    """The fields of a Scale that a stage declared; any other is refused, since the key omits it."""

    def __init__(self, scale: Scale, allowed: tuple[str, ...]) -> None:
        self._scale, self._allowed = scale, allowed

    def __getattr__(self, name: str) -> Any:
        if name not in self._allowed and name not in UNKEYED:
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
    model: str = ""  # the base model's source
    seconds_before: float = 0.0  # that it ran before it was ended and started again
    nonfinite: dict[str, int] = field(default_factory=dict)
    unlogged: list[tuple[int, Metrics]] = field(default_factory=list)

    @cached_property
    def accelerator(self) -> Accelerator:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState

        # A worker runs stages of several arms, and accelerate keeps the first one's precision for the whole process.
        AcceleratorState._reset_state()
        # Buffers are the same on all ranks, and sending them around would change them between two forward passes.
        wrapping = DistributedDataParallelKwargs(broadcast_buffers=False)
        mixed = self.pick(d.PRECISION)(self.precision)
        return ranks.configure_sharding(Accelerator(mixed_precision=mixed, kwargs_handlers=[wrapping]))

    @cached_property
    def _journaled(self) -> int:
        """The last step that the journal had when the stage started: of one that goes on, some are logged already."""
        return max((line["step"] for line in read_journal(self.out)), default=-1)

    def start(self, field: str) -> Path:
        """The folder of the checkpoint that Scale.`field` names, in the place of one that this stage would train."""
        return hub.start_of(getattr(self.scale, field), self.model, self.seed, self.stage)

    def seed_of(self, purpose: str) -> int:
        """A seed of its own for each purpose: all arms share it, so that differences between arms are paired."""
        return int(_digest([self.stage, self.seed, purpose])[:15], 16)

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed_of(purpose))

    def log(self, step: int, metrics: Metrics) -> None:
        """Append one line to the journal, once for each step; non-finite numbers are counted instead of logged."""
        already = self._journaled >= step
        for name, value in metrics.items():
            if not math.isfinite(value):
                self.nonfinite[name] = self.nonfinite.get(name, 0) + 1
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        counts = {f"nonfinite/{name}": float(count) for name, count in self.nonfinite.items()}
        if already or not ranks.is_main():
            return
        with (self.out / JOURNAL).open("a") as journal:
            journal.write(json.dumps({"step": step, "time": time.time(), "metrics": finite | counts}) + "\n")

    def log_mean(self, step: int, metrics: Metrics, steps: int) -> None:
        """As `log`, of the mean over as many calls as leave about `CURVE_POINTS` lines of all `steps`."""
        self.unlogged.append((step, metrics))
        if len(self.unlogged) >= steps / CURVE_POINTS or not math.isfinite(sum(metrics.values())):
            self._log_rest()

    def close(self) -> None:
        """Free what the stage held of the device: networks are in circles, and the next stage needs the room."""
        if "accelerator" in self.__dict__:
            self.accelerator.free_memory()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _log_rest(self) -> None:
        if self.unlogged:
            step, last = self.unlogged[-1]
            self.log(step, {name: sum(each[name] for _, each in self.unlogged) / len(self.unlogged) for name in last})
            self.unlogged.clear()

    def finish(self, metrics: Metrics, outcome: str = "finished") -> None:
        """Write the stage's final numbers, and what is left to log."""
        self._log_rest()
        if not ranks.is_main():
            return
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        lost = {f"nonfinite/{name}": 1.0 for name, value in metrics.items() if not math.isfinite(value)}
        (self.out / RESULT).write_text(json.dumps({"outcome": outcome, "metrics": finite | lost}))


def key(stage: Stage, recipe: Recipe, scale: Scale, seed: int, upstream: Mapping[str, str]) -> str:
    """`name-` and a hash of all that the stage may read: a detail at its reference is not part of it (promise 1)."""
    choices = {
        each.name: recipe.label(each)
        for each in DETAILS.values()
        if stage.name in each.stages and recipe.label(each) != each.reference
    }
    # How many ranks there are changes nothing but what these choices do.
    split = scale.processes > 1 and bool(RANK_DEPENDENT & choices.items())
    read = ({"processes": scale.processes} if split else {}) | {
        "stage": stage.name,
        "version": stage.version,
        "choices": choices,
        "seed": seed if stage.seeded else 0,
        "scale": _budget(stage, scale, seed) | _mixed(stage, recipe, scale),
        "upstream": {name: upstream[name] for name in stage.upstream},
    }
    return f"{stage.name}-{_digest(read)[:16]}"


def _budget(stage: Stage, scale: Scale, seed: int) -> dict[str, Any]:
    values = {name: getattr(scale, name) for name in stage.fields}
    return {
        name: _content(name, value, seed)
        for name, value in values.items()
        if not (name in LATER and value == DEFAULTS[name])
    }


def _mixed(stage: Stage, recipe: Recipe, scale: Scale) -> dict[str, str]:
    """The precision that the stage computes in on this device, if it computes: machines may share a cache."""
    mixed = d.PRECISION.variants[recipe.label(d.PRECISION)].value(scale.precision)
    return {"precision": mixed} if stage.name in d.PRECISION.stages else {}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _content(name: str, value: Any, seed: int) -> Any:
    """What a field of Scale stands for: of a path what lies there, so that a moved file is still a hit.

    A reference to the hub stands for itself: a key needs neither the hub nor what comes from there.
    """
    if name not in SOURCES or not value:
        return value
    source = str(value).replace("{seed}", str(seed))
    is_word = source == "released" or (name == "model" and not Path(source).exists())
    return source if is_word or hub.is_reference(source) else _tree_digest(Path(source))


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
        done = json.loads((folder / DONE).read_text())
        return all(_as_written(folder, name, done) for name in done["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _as_written(folder: Path, name: str, done: Mapping[str, Any]) -> bool:
    """Whether a file is what the stage wrote; of a large one the size has to do, since reading it takes minutes."""
    size = done.get("sizes", {}).get(name, 0)
    if size > LARGE:
        return (folder / name).stat().st_size == size
    return file_digest(folder / name) == done["files"][name]


def run_or_reuse(
    stage: Stage,
    recipe: Recipe,
    scale: Scale,
    seed: int,
    keys: Mapping[str, str],
    folder: Path,
    warn: Callable[[str], None],
) -> Path:
    """The stage's artefact under `folder`, made now unless it is there; two processes never make the same one.

    Ranks of one run call it together.
    """
    target = folder / keys[stage.name]
    folder.mkdir(parents=True, exist_ok=True)
    ranks.initialise()
    with FileLock(folder / f"{target.name}.lock") if ranks.is_main() else nullcontext():
        if ranks.broadcast(ranks.is_main() and cached(target)):
            return target
        if ranks.is_main():
            _clear(target, warn)
        ranks.barrier()
        _make(stage, recipe, scale, seed, keys, target)
        ranks.barrier()
    return target


def _clear(target: Path, warn: Callable[[str], None]) -> None:
    """Room for the artefact to be made in; a stage that was ended in its middle finds what it left."""
    if target.exists():
        warn(f"cached artefact {target.name} is corrupt; making it again")
        shutil.rmtree(target)
    partial = partial_folder(target)
    if not any((partial / CHECKPOINTS).glob(f"*/{DONE}")):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    elif (partial / JOURNAL).exists():
        complete = (partial / JOURNAL).read_text().rpartition("\n")
        (partial / JOURNAL).write_text("".join(complete[:2]))


def _make(stage: Stage, recipe: Recipe, scale: Scale, seed: int, keys: Mapping[str, str], target: Path) -> None:
    partial = partial_folder(target)
    began = time.time()
    work = Work(
        stage.name,
        Pick(recipe, stage.name),
        Budget(scale, stage.fields),
        scale.precision,
        seed if stage.seeded else 0,
        {name: target.parent / keys[name] for name in stage.upstream},
        partial,
        scale.model,
    )
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        stage.run(work)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_term)
        work.close()
    ranks.barrier()
    if ranks.is_main():
        _complete(work, partial, target, scale.name, began)


def _complete(work: Work, partial: Path, target: Path, scale: str, began: float) -> None:
    """The folder gets its list of files and its name; what the stage would have gone on from goes last."""
    made = [p for p in sorted(partial.rglob("*")) if p.is_file() and p.relative_to(partial).parts[0] != CHECKPOINTS]
    files = {str(p.relative_to(partial)): file_digest(p) for p in made}
    done = {
        "key": target.name,
        "seconds": work.seconds_before + time.time() - began,
        "finished": time.time(),
        "files": files,
        "sizes": {str(p.relative_to(partial)): p.stat().st_size for p in made},
        "read": sorted(work.pick.read),
        "seed": work.seed,
        "scale": scale,
    }
    (partial / f"{DONE}.tmp").write_text(json.dumps(done, indent=1))
    os.replace(partial / f"{DONE}.tmp", partial / DONE)
    os.replace(partial, target)
    shutil.rmtree(target / CHECKPOINTS, ignore_errors=True)


def partial_folder(target: Path) -> Path:
    """Where an artefact stands while it is made: progress is read from its journal."""
    return target.with_name(f"{target.name}.partial")


def read_journal(folder: Path) -> list[dict]:
    """The journal's complete lines, of a stage that runs or has ended."""
    path = folder / JOURNAL
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
