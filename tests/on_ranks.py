"""Runs stages of one arm and seed, alone or as one of several ranks: `python on_ranks.py CACHE JSON`, for tests.

The JSON has `stages`, `choices` of details, fields of the smoke `scale` and, if it is to be ended in a stage's middle,
`end_at` which step and by which `signal`; a stage that goes on is not ended again.
"""

import json
import os
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch


def main(cache: str, told: str) -> int:
    warnings.filterwarnings("ignore")
    from repro import pipeline, stage
    from repro.detail import Recipe
    from repro.details import DETAILS
    from repro.scale import SCALES

    torch.set_num_threads(1)
    told = json.loads(told)
    recipe = Recipe()
    for name, label in told["choices"].items():
        recipe = recipe.but(DETAILS[name], label)
    scale = replace(SCALES["smoke"], **told["scale"])
    keys = pipeline.keys(recipe, scale, 1)
    print(json.dumps(keys), flush=True)
    if "end_at" in told:
        end_at(told["end_at"], getattr(signal, told["signal"]))
    for name in told["stages"]:
        try:
            stage.run_or_reuse(pipeline.BY_NAME[name], recipe, scale, 1, keys, Path(cache), print)
        except stage.Preempted:
            return 75
    return 0


def end_at(last: int, how: signal.Signals) -> None:
    """The process gets the signal once this many steps of a stage are done, before the stage hears of it."""
    from repro.checkpoint import Checkpoints

    start, after = Checkpoints.__init__, Checkpoints.after

    def begin(self, *arguments, **held):
        start(self, *arguments, **held)
        self.began_at = self.start

    def and_then(self, step, *arguments, **values):
        if step == last and self.began_at == 0:
            os.kill(os.getpid(), how)
        after(self, step, *arguments, **values)

    Checkpoints.__init__, Checkpoints.after = begin, and_then


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
