"""The loop that SFT, the reward model, DPO and PPO share: going on, learning rate, checkpoints, and when it is over."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from repro.stages import optimise
from repro.stages.checkpoint import Checkpoints, Stateful
from repro.stages.stage import StageContext
from repro.types import Metrics


class TrainingLoop:
    """The steps of a training stage, from where its last checkpoint stood.

    It is made once all that is trained is prepared. `learning_rate` gives the rate of a step, from 0; `save` writes the
    weights that are kept for good, on every rank; `stateful` are what a checkpoint holds beside weights and optimizer.
    """

    def __init__(
        self,
        context: StageContext,
        optimizer: Optimizer,
        learning_rate: Callable[[int], float],
        steps: int,
        save: Callable[[Path], None] = lambda _: None,
        **stateful: Stateful,
    ) -> None:
        self.context, self.optimizer, self.learning_rate = context, optimizer, learning_rate
        self.total, self.save, self.outcome = steps, save, "finished"
        self.checkpoints = Checkpoints(context, **stateful)
        self.done = self.checkpoints.start
        self.state: dict[str, Any] = dict(self.checkpoints.values)  # plain numbers that a step leaves to the next

    def steps(self, batches: Iterable[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """(step, its rows) for each of the `batches` that is left; they are given from the first one on."""
        for step, rows in islice(enumerate(batches), self.done, None):
            optimise.set_learning_rate(self.optimizer, self.learning_rate(step))
            yield step, rows
            self.done = step + 1
            if self.outcome != "finished":
                break
            self.checkpoints.after(self.done, self.save, **self.state)
        self.checkpoints.complete(self.done, **self.state)

    def log(self, examples: int, metrics: Metrics) -> None:
        """Metrics of a step, after which the stage has seen so many examples; averaged over some steps where there are many."""
        self.context.log_mean(examples, metrics, self.total)

    def stop(self, outcome: str) -> None:
        """The step that is running is the last one: the stage ends as `outcome`."""
        self.outcome = outcome
