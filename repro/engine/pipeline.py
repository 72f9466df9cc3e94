"""The stages of one arm and seed, data -> base -> sft -> rm -> ppo -> evaluate, and their cache keys."""

from collections.abc import Callable
from pathlib import Path

from repro.detail import Recipe
from repro.details import check_corpus
from repro.engine import artefacts
from repro.stages import base, data, evaluate, ppo, rm, sft
from repro.stages.stage import Stage
from repro.study.scale import Scale

STAGES: tuple[Stage, ...] = (data.STAGE, base.STAGE, sft.STAGE, rm.STAGE, evaluate.BASELINE, ppo.STAGE, evaluate.STAGE)
BY_NAME = {stage.name: stage for stage in STAGES}


def keys(recipe: Recipe, scale: Scale, seed: int) -> dict[str, str]:
    """The key of every stage of an arm and seed, in order: equal keys are shared between arms."""
    found: dict[str, str] = {}
    for each in STAGES:
        found[each.name] = artefacts.key(each, recipe, scale, seed, found)
    return found


def run(recipe: Recipe, scale: Scale, seed: int, cache: Path, warn: Callable[[str], None] = print) -> dict[str, Path]:
    """Run or reuse every stage; returns stage -> folder. UserError for an arm that the corpus does not support."""
    check_corpus(recipe, scale.corpus)
    known = keys(recipe, scale, seed)
    return {each.name: artefacts.run_or_reuse(each, recipe, scale, seed, known, cache, warn) for each in STAGES}
