"""What a stage is, and what a stage that runs is handed: its budget, its arm's choices, its inputs, its journal."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from repro import details as d
from repro.detail import Pick
from repro.models import ranks, starts
from repro.study.scale import Scale
from repro.types import Metrics

if TYPE_CHECKING:
    from accelerate import Accelerator

JOURNAL, RESULT, DONE = "metrics.jsonl", "result.json", "done.json"
CHECKPOINTS = "checkpoints"  # in the folder of a stage that runs: where it goes on from, should it be ended
# Fields of Scale that say how a stage is run and not what it computes: every stage may read them, no key has them.
UNKEYED = (
    *("recompute", "processes", "sharding", "checkpoint_every", "keep_every"),
    *("judge_url", "judge_key_env"),  # an answer is of the model, wherever that runs
)
CURVE_POINTS = 200  # about as many as a figure can show


class Preempted(BaseException):
    """The stage was told to end, and has kept where it stands; started again, it goes on from there.

    It is raised wherever the process happens to be, so it is no Exception: a library's handler would take it for its own.
    """


@dataclass(frozen=True)
class Stage:
    """A kind of step of the pipeline: `fields` of Scale and the artefacts that it reads are all that `run` may depend on.

    `upstream` names the artefacts that it always reads, `optional` those that only some arms have.
    """

    name: str
    version: int  # bumped by hand when the same inputs give another result
    fields: tuple[str, ...]
    upstream: tuple[str, ...]
    seeded: bool
    run: Callable[[StageContext], None]
    optional: tuple[str, ...] = ()

    def inputs(self, keys: Mapping[str, str]) -> dict[str, str]:
        """Of an arm's keys by name, those of the artefacts that the stage reads."""
        return {name: keys[name] for name in (*self.upstream, *(each for each in self.optional if each in keys))}


class Budget:
    """The fields of a Scale that a stage declared; any other is refused, since the key omits it."""

    def __init__(self, scale: Scale, allowed: tuple[str, ...]) -> None:
        self._scale, self._allowed = scale, allowed

    def __getattr__(self, name: str) -> Any:
        if name not in self._allowed and name not in UNKEYED:
            raise LookupError(f"this stage reads Scale.{name}, which its key omits; it declares {self._allowed}")
        return getattr(self._scale, name)


@dataclass
class StageContext:
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
        return starts.start_of(getattr(self.scale, field), self.model, self.seed, self.stage)

    def seed_of(self, purpose: str) -> int:
        """A seed of its own for each purpose: all arms share it, so that differences between arms are paired."""
        return int(digest([self.stage, self.seed, purpose])[:15], 16)

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed_of(purpose))

    def seed_dropout(self) -> None:
        """Seed what dropout draws from: other numbers on each rank, or rows of different ranks would lose the same units."""
        torch.manual_seed(self.seed_of("dropout") + ranks.rank())

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


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_journal(folder: Path) -> list[dict]:
    """The journal's complete lines, of a stage that runs or has ended."""
    path = folder / JOURNAL
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
