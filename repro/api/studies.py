"""Run a study from Python, as `python -m repro run` does from a terminal; or one arm and seed by itself."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from repro.api import terminal
from repro.api.execution import run_to_verdict
from repro.api.folders import cache_path, writable_folder
from repro.api.results import Results, read_results
from repro.detail import Detail, Recipe
from repro.errors import UserError
from repro.study.ablation import Ablation
from repro.study.scale import SCALES, Scale, checked, find


def run_study(
    detail: Detail | str,
    *,
    scale: Scale | str = "mini",
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    until: str = "",
    looks: Sequence[int] = (),
    ceiling: bool = False,
    shared: Mapping[str, str] = {},
    changes: Mapping[str, Any] = {},
    cache: Path | str = "",
    fresh: bool = False,
    progress: bool = True,
    register: bool = False,
) -> Results:
    """Run the study of a detail on this machine's cores or GPUs, and give its results; what the cache has is not run again.

    Args:
        detail: what the arms differ in, as `details.WHITEN_ADV` or "whiten_adv".
        scale: the budget; a `Scale` of your own needs a name of its own, since results are recorded under it.
        seeds: training seeds that all arms share; by default those of the study's file or of the scale.
        arms: labels of the variants to run beside the reference; by default all.
        until: "decided" runs more seeds, look by look, until every arm is decided.
        looks: the numbers of seeds at which that is tested.
        ceiling: run the reference with the gold score as reward too, beside the arms; `Results.ceiling` compares with it.
        shared: detail -> label, of choices that all arms make, the reference too.
        changes: field of the scale -> value.
        cache: the folder of artefacts; by default REPRO_CACHE, or `cache`.
        fresh: make cached stages again whose code has changed since.
        progress: print what is done, and on a terminal a live table.
        register: register the final policies in MLflow's model registry, as `Results.register` does.

    The results are recorded in the MLflow store in use (MLFLOW_TRACKING_URI, or mlflow.db here). UserError for what makes no
    sense; a stage that fails is a warning, and in `Results.failures`: the verdicts are then about what did not.
    """
    from repro.engine import launch

    name = detail.name if isinstance(detail, Detail) else detail
    study = _study(name, scale, seeds, arms, until, looks, ceiling, shared, changes)
    folder = writable_folder(Path(cache) if cache else cache_path(), "cache", "give one that is")
    console = terminal.console if progress else Console(quiet=True)
    with _workers_without_main():
        dag = run_to_verdict(study, folder, launch.local(study.scale), f"run_study({name!r})", fresh, console)
    for job, why in dag.broken.items():
        warnings.warn(f"{job} failed: {why}", stacklevel=2)
    results = replace(read_results(study.detail, study.scale.name), failures=dag.broken)
    if register:
        with terminal.phase("registering the policies", console):
            results.register()
    return results


def run_arm(recipe: Recipe, scale: Scale | str, seed: int, cache: Path | str = "") -> dict[str, Path]:
    """Run, or reuse, every stage of one arm and seed in this process, untracked; the artefacts' folders by stage.

    It has the scale's number of threads, as a study's worker does: on all cores small networks take several times as long.
    `ppo` holds the trained policy (`model/`) and the journal of its metrics (`metrics.jsonl`, a line of JSON a logged step).
    """
    from repro import details
    from repro.engine import annotation, pipeline, speed

    details.check(recipe)
    budget = scale if isinstance(scale, Scale) else find(scale)
    details.check_batch(recipe, budget.ppo_batch, budget.processes)
    details.check_rounds(recipe, budget.rm_from)
    folder = writable_folder(Path(cache) if cache else cache_path(), "cache", "give one that is")
    details.check_corpus(recipe, budget.corpus, budget.annotator)
    annotation.check_arm(recipe, budget, seed, folder)
    with speed.on_threads(budget.threads):
        return pipeline.run(recipe, budget, seed, folder, warn=lambda text: warnings.warn(text, stacklevel=2))


def load_policy(detail: Detail | str, arm: str, seed: int, scale: str = "mini"):
    """The final policy of a recorded run and its tokenizer: `model, tokenizer = load_policy("whiten_adv", "off", 1)`."""
    return read_results(detail, scale).policy(arm, seed)


def _study(
    name: str,
    scale: Scale | str,
    seeds: Sequence[int],
    arms: Sequence[str],
    until: str,
    looks: Sequence[int],
    with_ceiling: bool,
    shared: Mapping[str, str],
    changes: Mapping[str, Any],
) -> Ablation:
    """The study that is asked for, at a scale that is named or handed over."""
    from repro.study import ablation

    schedule = [str(look) for look in looks]
    if isinstance(scale, Scale):
        if changes:
            raise UserError("changes are for a scale that is given by its name; use dataclasses.replace on your own")
        asked = [str(seed) for seed in seeds or (() if until else scale.seeds)]
        study = ablation.load(
            name, "mini", asked, {}, shared, arms, until=until, looks=schedule, with_ceiling=with_ceiling
        )
        return _at_own_scale(study, scale, shared)
    asked, budget = [str(seed) for seed in seeds], {field: str(value) for field, value in changes.items()}
    return ablation.load(
        name, scale, asked, budget, shared, arms, until=until, looks=schedule, with_ceiling=with_ceiling
    )


def _at_own_scale(study: Ablation, scale: Scale, shared: Mapping[str, str]) -> Ablation:
    """The study at a scale that is none of the presets; UserError where it goes by the name of one."""
    from repro import details
    from repro.study import ablation
    from repro.study import ceiling as ceilings

    if SCALES.get(scale.name, scale) != scale:
        raise UserError(
            f"this scale is called {scale.name} and differs from the one of that name; give it a name of its own, as "
            f'dataclasses.replace(scale, name="{scale.name}-of-mine")'
        )
    ceilings.check(study.ceiling, scale)
    for recipe in study.recipes.values():
        details.check_sharing(recipe, scale.sharding, scale.precision)
        details.check_batch(recipe, scale.ppo_batch, scale.processes)
        details.check_rounds(recipe, scale.rm_from)
    return replace(study, scale=replace(checked(scale), name=ablation.recorded_name(scale.name, shared)))


@contextmanager
def _workers_without_main() -> Iterator[None]:
    """Workers import no script: one that calls run_study at its top level would start itself again in each of them."""
    main: dict[str, Any] = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        del main["__spec__"]
        main.update(kept)
