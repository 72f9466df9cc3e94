"""The training loop of SFT, the reward model, DPO and PPO: resuming, the learning rate, checkpoints, and stopping early."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from torch.optim import Optimizer

from repro.stages import optimise
from repro.stages.checkpoint import Checkpoints, Stateful
from repro.stages.stage import StageContext
from repro.types import Metrics

Rows = TypeVar("Rows")  # the row indices of a step, in whatever form its stage has them


class TrainingLoop:
    """The steps of a training stage, resumed from its last checkpoint if there is one.

    Construct it after networks and optimizer are wrapped by accelerate: a checkpoint is loaded into them here.
    `learning_rate` maps a step, counted from 0, to its rate. `save_weights` writes inference weights to a folder and is
    called on every rank. `stateful` are the objects that a checkpoint holds beside weights, optimizer and random states.
    """

    def __init__(
        self,
        context: StageContext,
        optimizer: Optimizer,
        learning_rate: Callable[[int], float],
        total_steps: int,
        save_weights: Callable[[Path], None] = lambda _: None,
        **stateful: Stateful,
    ) -> None:
        self.context, self.optimizer, self.learning_rate = context, optimizer, learning_rate
        self.total_steps, self.save_weights, self.outcome = total_steps, save_weights, "finished"
        self.checkpoints = Checkpoints(context, **stateful)
        self.steps_done = self.checkpoints.step
        # Plain numbers that one step passes to the next; a checkpoint holds them.
        self.state: dict[str, Any] = dict(self.checkpoints.loop_state)

    def steps(self, batches: Iterable[Rows]) -> Iterator[tuple[int, Rows]]:
        """Yields (step, its row indices) for every step that is not done yet; `batches` starts at step 0 in any case."""
        for step, rows in islice(enumerate(batches), self.steps_done, None):
            optimise.set_learning_rate(self.optimizer, self.learning_rate(step))
            yield step, rows
            self.steps_done = step + 1
            if self.outcome != "finished":
                break
            self.checkpoints.after_step(self.steps_done, self.save_weights, **self.state)
        if self.outcome == "finished":  # an early stop is not in a checkpoint: resumed, the loop comes to it again
            self.checkpoints.complete(self.steps_done, **self.state)

    def log(self, examples: int, metrics: Metrics) -> None:
        """Log one step's metrics at `examples` seen so far; long runs log means over several steps."""
        self.context.log_mean(examples, metrics, self.total_steps)

    def stop(self, outcome: str) -> None:
        """End the loop after the current step, with this outcome of the stage."""
        self.outcome = outcome
