"""Runs stages of one arm and seed, alone or as one of several ranks, in a process forked from one that has imported all.

Importing takes longer than most of these stages at their small sizes, so it is done once (`multiprocessing`'s forkserver).
"""

import gc
import multiprocessing
import os
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from repro.detail import Recipe
from repro.details import DETAILS
from repro.engine import artefacts, pipeline
from repro.stages import stage
from repro.stages.checkpoint import Checkpoints
from repro.study.scale import SCALES

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "repro.engine.pipeline",
        "datasets",
        "rouge_score.rouge_scorer",
        "torch.distributed.fsdp",
        "transformers.models.gpt_neox.modeling_gpt_neox",
    ]
)


def recipe_and_scale(choices, scale):
    """The reference but for these choices, and the smoke scale but for these fields."""
    recipe = Recipe()
    for name, label in choices.items():
        recipe = recipe.but(DETAILS[name], label)
    return recipe, replace(SCALES["smoke"], **scale)


def keys_with(stages, recipe, scale):
    """The keys of seed 1's steps, and of stages that the arm has not, as it would read what the arm has made."""
    keys = pipeline.keys(recipe, scale, 1)
    for name in stages:
        keys.setdefault(name, artefacts.key(pipeline.BY_NAME[name], recipe, scale, 1, keys))
    return keys


def begin(cache, stages, choices, scale, place, errors, end_at=None, how=None):
    """The process, started: `place` are its environment's variables, `errors` the file that takes its standard error.

    If it is to be ended in a stage's middle, `end_at` says which step and `how` by which signal; a stage that goes on is not
    ended again.
    """
    arguments = (str(cache), stages, *recipe_and_scale(choices, scale), place, str(errors), end_at, how)
    process = FORKS.Process(target=_work, args=arguments)
    process.start()
    return process


def _work(cache, stages, recipe, scale, place, errors, at, how):
    gc.freeze()  # what was imported is not searched for circles at each stage's end
    os.environ.update(place)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    keys = keys_with(stages, recipe, scale)
    if at is not None:
        _end_at(at, getattr(signal, how))
    for name in stages:
        try:
            artefacts.run_or_reuse(pipeline.BY_NAME[name], recipe, scale, 1, keys, Path(cache), print)
        except stage.Preempted:
            sys.exit(75)


def _end_at(last: int, how: signal.Signals) -> None:
    """The process gets the signal once this many steps of a stage are done, before the stage hears of it."""
    start, after_step = Checkpoints.__init__, Checkpoints.after_step

    def begin(self, *arguments, **held):
        start(self, *arguments, **held)
        self.began_at = self.step

    def and_then(self, step, *arguments, **values):
        if step == last and self.began_at == 0:
            os.kill(os.getpid(), how)
        after_step(self, step, *arguments, **values)

    Checkpoints.__init__, Checkpoints.after_step = begin, and_then
