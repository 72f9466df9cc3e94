"""Checkpoints of a training stage: weights, optimizer, random states, the step, and what the stage adds.

Batches and learning rates are functions of the step, so a checkpoint does not hold them: a resumed stage generates its
batches from the first one on and skips those that it has trained on.
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

FORMAT = 6  # version of a checkpoint's contents; a checkpoint of another version is ignored, and its stage starts anew


class Stateful(Protocol):
    """An object whose state is part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class RandomState:
    """A random number generator as a `Stateful`."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["state"])


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder that were written to their end, in this version's format."""
    return [file.parent for file in folder.glob(f"*/{DONE}") if _format_of(file) == FORMAT]


def _format_of(done: Path) -> int:
    """The format in a checkpoint's last file; 0 where the file is torn, or older than formats."""
    try:
        return json.loads(done.read_text()).get("format", 0)
    except ValueError:
        return 0


def _exit_now(*_: object) -> None:
    raise Preempted("ended by SIGTERM after its last step; the checkpoint is saved")


class Checkpoints:
    """Saves a checkpoint every `Scale.checkpoint_every` steps and on SIGTERM, and resumes from the last one.

    Construct it after networks and optimizer are wrapped by accelerate: the last checkpoint is loaded into them here. Then
    `step` is the number of steps done, and `loop_state` what `after_step` was given with it; at the start 0 and empty.
    """

    def __init__(self, context: StageContext, **stateful: Stateful) -> None:
        self.context, self.stateful, self.accelerator = context, stateful, context.accelerator
        self.folder, self.every = context.out / CHECKPOINTS, context.scale.checkpoint_every
        self.step, self.best_value = 0, -math.inf
        self.loop_state: dict[str, Any] = {}
        self.start_time, self.sigterm = time.time(), threading.Event()
        self.accelerator.register_for_checkpointing(self)
        if self.every:
            signal.signal(signal.SIGTERM, lambda *_: self.sigterm.set())
        last = max(complete_checkpoints(self.folder), default=None)
        if last:
            self.accelerator.load_state(str(last))

    def state_dict(self) -> dict[str, Any]:
        return {
            "start": self.step,
            "values": self.loop_state,
            "record": self.best_value,
            "held": {name: each.state_dict() for name, each in self.stateful.items()},
            "unlogged": self.context.unlogged,
            "nonfinite": self.context.nonfinite,
            "seconds": self.context.seconds_before + time.time() - self.start_time,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.loop_state, self.best_value = state["start"], state["values"], state["record"]
        for name, each in self.stateful.items():
            each.load_state_dict(state["held"][name])
        self.context.unlogged, self.context.nonfinite = state["unlogged"], state["nonfinite"]
        self.context.seconds_before = state["seconds"]

    def after_step(self, step: int, save_weights: Callable[[Path], None] = lambda _: None, **loop_state: Any) -> None:
        """Call it once `step` steps are done and logged; `save_weights` writes inference weights and runs on every rank.

        Raises Preempted, after saving a checkpoint, where any rank has received SIGTERM.
        """
        if not self.every:
            return
        preempted = ranks.any_rank(self.sigterm.is_set())
        if step % self.every and not preempted:
            return
        weights_every = self.context.scale.keep_every * self.every
        if weights_every and step % weights_every == 0:
            self._save_weights(f"step-{step:08d}", save_weights)
        self._save_checkpoint(step, loop_state)
        if preempted:
            raise Preempted(f"ended by SIGTERM after step {step}; the checkpoint is saved")

    def complete(self, steps: int, **loop_state: Any) -> None:
        """Call it after the last step. From here on SIGTERM ends the process at once: resumed, it repeats only what follows."""
        if self.every:
            if self.step < steps:
                self._save_checkpoint(steps, loop_state)
            signal.signal(signal.SIGTERM, _exit_now)

    def save_if_best(self, value: float, save_weights: Callable[[Path], None]) -> None:
        """Save the inference weights where `value`, higher is better, is the best so far; only where checkpoints are on."""
        if self.every and value > self.best_value:
            self._save_weights("best", save_weights)
            self.best_value = value

    def _save_weights(self, name: str, save_weights: Callable[[Path], None]) -> None:
        """The folder gets its name last, so weights are complete or absent; absent in stages that save none on the way."""
        target = self.context.out / "kept" / name
        partial = target.with_name(f"{name}.partial")
        save_weights(partial)
        ranks.barrier()
        if ranks.is_main() and partial.exists():
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)

    def _save_checkpoint(self, step: int, loop_state: dict[str, Any]) -> None:
        """Save this step and remove older checkpoints; `done.json` is written last, so a torn checkpoint is never resumed."""
        self.step, self.loop_state = step, loop_state
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
            (target / DONE).write_text(json.dumps({"step": self.step, "format": FORMAT}))
            for older in set(self.folder.iterdir()) - {target}:
                shutil.rmtree(older, ignore_errors=True)
        ranks.barrier()
