"""An arm's pipeline up to the last step that a test reads: those after it take most of the time."""

import pytest

from repro.engine import artefacts, pipeline


def run_until(last, recipe, scale, cache):
    """The folders of an arm's steps up to `last` by name, made or reused."""
    folders = {}
    for step, keys in pipeline.all_steps(recipe, scale, 1):
        seed = pipeline.seed_of(1, step.member)
        folders[step.name] = artefacts.run_or_reuse(step.stage, recipe, scale, seed, keys, cache, pytest.fail)
        if step.name == last:
            break
    return folders
