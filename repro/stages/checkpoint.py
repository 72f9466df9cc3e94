"""Where a training stage stands, kept so that it can go on: weights, optimizer, random states and what the stage adds.

Batches and learning rates are functions of the step, so they are not kept: a stage that goes on deals its batches again and
leaves out those that it has had.
"""

import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from repro.models import ranks
from repro.stages.stage import CHECKPOINTS, DONE, Preempted, StageContext

FORMAT = 2  # of what a checkpoint holds: one of another format is not read, and its stage starts from its beginning


class Stateful(Protocol):
    """Something whose state is part of where the stage stands."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class RandomState:
    """The state of a generator of random numbers."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["state"])


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder that are whole and that this version reads."""
    return [file.parent for file in folder.glob(f"*/{DONE}") if _format_of(file) == FORMAT]


def _format_of(done: Path) -> int:
    """Of a checkpoint, by its last file; 0 where that was not written to its end, or by a version that did not say it."""
    try:
        return json.loads(done.read_text()).get("format", 0)
    except ValueError:
        return 0


def _end_now(*_: object) -> None:
    raise Preempted("ended after its last step, which is kept")


class Checkpoints:
    """Keeps the last checkpoint, every `Scale.checkpoint_every` steps and when the process is told to end (SIGTERM).

    Made once everything that is trained is prepared, and filled from the last checkpoint where there is one: `start` is
    how many steps were done then, `values` what `after` was given beside them.
    """

    def __init__(self, context: StageContext, **stateful: Stateful) -> None:
        self.context, self.stateful, self.accelerator = context, stateful, context.accelerator
        self.folder, self.every, self.began = context.out / CHECKPOINTS, context.scale.checkpoint_every, time.time()
        self.start, self.values, self.record, self.ending = 0, {}, -math.inf, threading.Event()
        self.accelerator.register_for_checkpointing(self)
        if self.every:
            signal.signal(signal.SIGTERM, lambda *_: self.ending.set())
        last = max(complete_checkpoints(self.folder), default=None)
        if last:
            self.accelerator.load_state(str(last))

    def state_dict(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "values": self.values,
            "record": self.record,
            "held": {name: each.state_dict() for name, each in self.stateful.items()},
            "unlogged": self.context.unlogged,
            "nonfinite": self.context.nonfinite,
            "seconds": self.context.seconds_before + time.time() - self.began,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.start, self.values, self.record = state["start"], state["values"], state["record"]
        for name, each in self.stateful.items():
            each.load_state_dict(state["held"][name])
        self.context.unlogged, self.context.nonfinite = state["unlogged"], state["nonfinite"]
        self.context.seconds_before = state["seconds"]

    def after(self, step: int, keep: Callable[[Path], None] = lambda _: None, **values: Any) -> None:
        """Called when `step` steps are done and logged; `keep` writes the weights that are kept for good, on every rank.

        Preempted where the process was told to end: the checkpoint is there by then.
        """
        if not self.every:
            return
        ending = ranks.any_rank(self.ending.is_set())
        if step % self.every and not ending:
            return
        often = self.context.scale.keep_every * self.every
        if often and step % often == 0:
            self._keep(f"step-{step:08d}", keep)
        self._save(step, values)
        if ending:
            raise Preempted(f"ended after step {step}, which is kept")

    def complete(self, steps: int, **values: Any) -> None:
        """Called after the last step: what is still to do is done again from here, and the process can be ended at once."""
        if self.every:
            if self.start < steps:
                self._save(steps, values)
            signal.signal(signal.SIGTERM, _end_now)

    def best(self, value: float, keep: Callable[[Path], None]) -> None:
        """Called when the weights are measured, higher is better: where checkpoints are kept, the best so far are too."""
        if self.every and value > self.record:
            self._keep("best", keep)
            self.record = value

    def _keep(self, name: str, keep: Callable[[Path], None]) -> None:
        """The weights are whole or they are not there."""
        target = self.context.out / "kept" / name
        partial = target.with_name(f"{name}.partial")
        keep(partial)
        ranks.barrier()
        if ranks.is_main():
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)

    def _save(self, step: int, values: dict[str, Any]) -> None:
        self.start, self.values = step, values
        target = self.folder / f"step-{step:08d}"
        partial = target.with_name(f"{target.name}.partial")
        if ranks.is_main():
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)
            partial.mkdir(parents=True)
        ranks.barrier()
        self.accelerator.save_state(str(partial))
        ranks.barrier()
        if ranks.is_main():
            os.replace(partial, target)
            (target / DONE).write_text(json.dumps({"step": self.start, "format": FORMAT}))
            for older in set(self.folder.iterdir()) - {target}:
                shutil.rmtree(older, ignore_errors=True)
        ranks.barrier()
