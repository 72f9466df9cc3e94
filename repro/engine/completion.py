"""How far a stage that runs has come, and how long it still takes: by its journal, else by what such a stage takes."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from repro import details as d
from repro.detail import Pick
from repro.engine import artefacts
from repro.engine.cost import passes_of
from repro.engine.job import Job
from repro.engine.stage_flops import trains
from repro.ops.preference import ExpertIteration


class Completion(NamedTuple):
    """Of a running stage, the share of its work that is done, and the seconds that are left."""

    share: float
    left: float
    counted: bool  # the share is of steps that its journal has, and not of the time that it is expected to take


def completion(job: Job, began: float, lines: Sequence[Mapping], expected: float, cache: Path) -> Completion:
    """How far a job has come that started at `began`, has logged `lines`, and was expected to take `expected` seconds.

    The pace is that of the steps since the start, so that steps before an interrupt do not count. Before the second step, and
    after the last one, the expectation takes its place.
    """
    elapsed, total = time.time() - began, examples(job, cache)
    rest = max(expected - elapsed, 0.0)
    if not total or not lines:
        return Completion(min(elapsed / max(expected, 1e-9), 0.99), rest, counted=False)
    shares = [min((line["step"] + _ahead(job)) / total, 1.0) for line in lines]
    since = [(line["time"], share) for line, share in zip(lines, shares) if line["time"] >= began]
    share = shares[-1]
    if len(since) > 1 and since[0][1] < share < 1:
        pace = (since[-1][0] - since[0][0]) / (share - since[0][1])
        rest = max(pace * (1 - share) - (time.time() - since[-1][0]), 0.0)
    elif since and share < 1:  # its set-up is in the time of its first step
        rest = max(rest, elapsed * (1 - share))
    return Completion(min(share, 0.99), rest, counted=True)


def examples(job: Job, cache: Path) -> float:
    """Posts, comparisons or episodes of all optimizer steps of a stage, as its journal counts them; 0 if it has no steps."""
    scale, passes = job.scale, passes_of(job.recipe)
    if not trains(job.stage, scale):
        return 0
    if job.stage == "ppo" and _algorithm(job) != "dpo":
        return scale.episodes // scale.ppo_batch * scale.ppo_batch if passes.ppo else 0
    with suppress(OSError, ValueError, KeyError):  # the data are gone from the cache
        sizes = artefacts.read_result(cache / job.keys["data"])["metrics"]
        comparisons = sizes["data/train_comparisons"]
        if job.stage == "rm" and "feedback" in job.inputs:
            comparisons += artefacts.read_result(cache / job.inputs["feedback"])["metrics"]["feedback/comparisons"]
        return {
            "sft": sizes["data/train_posts"] // scale.sft_batch * scale.sft_batch * passes.sft,
            "rm": comparisons * passes.rm,
            "ppo": comparisons // scale.rm_batch * scale.rm_batch,
        }.get(job.stage, 0)
    return 0


def _ahead(job: Job) -> int:
    """Examples that have been used beyond a line's `step`: PPO, and what samples in its place, logs a batch at its start."""
    return job.scale.ppo_batch if job.stage == "ppo" and _algorithm(job) != "dpo" else 0


def _algorithm(job: Job) -> str | ExpertIteration:
    return Pick(job.recipe, "ppo")(d.ALGORITHM)
