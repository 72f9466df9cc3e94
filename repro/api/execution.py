"""How a study is run to its verdict: its data checked before, its jobs run and shown, its runs tracked, look by look."""

import sys
from collections.abc import Collection
from pathlib import Path

from rich.console import Console

from repro.api import terminal
from repro.api.terminal import (
    beside_arms,
    complain,
    joined_numbers,
    phase,
    say,
    say_study,
    tell_of_outdated_code,
    warn_of_corrupt_cache,
)
from repro.errors import UserError


def run_to_verdict(study, cache: Path, engine, command: str, fresh: bool, console: Console = terminal.console):
    """Run what is left of a study, all seeds or look by look; its DAG afterwards.

    UserError, before anything is run, where the store's runs of this study were judged by another schedule of looks.
    """
    from repro.study import ablation

    say_study(study, console)
    with phase("reading the MLflow store", console):
        _require_same_looks(study)
        new = _new_store()
    if new:  # said, since a misspelt address is one of a new store too
        say(f"a new MLflow store is made: {new}", console)
    say(ablation.source(study.detail.name), console)
    if study.looks:
        return run_until_decided(study, cache, engine, command, fresh, console)
    return run_seeds(study, cache, engine, command, fresh, console)


def run_seeds(study, cache: Path, engine, command: str, fresh: bool, console: Console):
    """Run all arms and seeds of a study; its DAG afterwards."""
    from repro.engine import annotation
    from repro.engine.dag import dag_of

    with phase("looking up what is cached", console):
        dag = dag_of(study, cache, fresh)
    arms, seeds = len(study.arms), len(study.seeds)
    say(
        f"{arms} arm{'s' * (arms > 1)}{beside_arms(study)} x {seeds} seed{'s' * (seeds > 1)}; "
        f"{len(dag.done)} of {len(dag.jobs)} stages are cached; {engine}",
        console,
    )
    warn_of_corrupt_cache(dag)
    tell_of_outdated_code(dag)
    for line in annotation.lines(dag):
        say(line, console)
    with phase("checking the data", console):
        check_data([study], dag)
    cache.mkdir(parents=True, exist_ok=True)
    warn_of_missing_gpu(study.scale, engine, dag)
    execute(study, dag, engine, command, console)
    return dag


def run_until_decided(study, cache: Path, engine, command: str, fresh: bool, console: Console):
    """Run look by look, each with more seeds of the undecided arms; the DAG of the last look that was needed."""
    undecided = [label for label in study.arms if label != study.detail.reference]
    for place, look in enumerate(study.looks, 1):
        say(f"look {place} of {len(study.looks)}, at {look} seeds: {', '.join(undecided)}", console)
        dag = run_seeds(study.at(look, undecided), cache, engine, command, fresh, console)
        if dag.failed:
            break
        with phase("judging what is decided", console):
            still = undecided_arms(study)
        undecided = [label for label in undecided if label in still]
        if not undecided:
            break
    return dag


def undecided_arms(study) -> Collection[str]:
    """The study's arms about which the store's runs decide nothing yet."""
    from repro.reports.pages import entries
    from repro.reports.reading import studies as read
    from repro.reports.statistics import words
    from repro.tracking.store import store_uri, usable_store

    with usable_store():
        rows, _ = entries.compare(read.read_outline(study.detail.name, study.scale.name, store_uri()))
    return rows.loc[rows["verdict"] == words.UNDECIDED, "arm"].tolist()


def _require_same_looks(study) -> None:
    """UserError where this study in the store was, or may have been, judged at other numbers of seeds."""
    from repro.reports.reading import studies as read
    from repro.tracking.opening import Unusable
    from repro.tracking.store import store_uri, usable_store

    try:
        with usable_store(writing=True):
            recorded = read.read_outline(study.detail.name, study.scale.name, store_uri())
    except Unusable:
        raise
    except UserError:  # no run is recorded
        return
    requested, declared, seen = joined_numbers(study.looks), joined_numbers(recorded.looks), len(recorded.seeds)
    if recorded.looks and recorded.looks != study.looks:
        raise UserError(
            f"this study was started with looks at {declared} seeds; continue it with --until decided --looks "
            f'{declared} (with make: UNTIL=decided LOOKS="{declared}"), or use another store'
        )
    if study.looks and not recorded.looks and seen not in study.looks and seen > study.looks[0]:
        raise UserError(
            f"a verdict at {seen} seeds of this study has been seen, and its looks are at {requested} seeds; add {seen} "
            'to them (with make: LOOKS="..."), or use another store'
        )


def _new_store() -> str:
    """The address of the store in use where there is none yet, else nothing."""
    from repro.tracking.address import shown
    from repro.tracking.store import store_is_missing, store_uri

    return shown(store_uri()) if store_is_missing() else ""


def check_data(studies, dag) -> None:
    """UserError where a stage would refuse an arm's data, starting weights or annotator; checked before any job is run."""
    from repro.engine import annotation, atlas
    from repro.engine.dag import check_starts
    from repro.stages import data

    for recipe in atlas.recipes(studies) if not dag.over else ():
        data.check(recipe, studies[0].scale)
    check_starts(dag)
    annotation.check(dag)


def warn_of_missing_gpu(scale, engine, dag) -> None:
    """Print a warning where a scale for GPUs runs on a machine without one; it is run, since its budget may be small."""
    from repro.engine import cost, launch

    if isinstance(engine, launch.Local) and not engine.devices and cost.for_gpu(scale) and not dag.over:
        complain(
            f"warning: scale {scale.name} is made for GPUs, and this machine has none; `plan` estimates the time, and "
            "--engine slurm runs it on a cluster"
        )


def execute(study, dag, engine, command: str, console: Console = terminal.console) -> None:
    """Run the remaining jobs of a study, with progress and tracking."""
    if not dag.over:
        engine.prepare()
    with phase("opening the MLflow store", console):
        from repro.engine.dag import set_aside
        from repro.tracking.track import Tracker

        set_aside(dag)
        tracker = Tracker(study, dag, command)
    run_jobs(dag, engine, tracker, console)


def run_jobs(dag, engine, tracker, console: Console = terminal.console) -> None:
    """Run the DAG's jobs, with their progress on the console; the tracker is updated as they go on, and closed."""
    from repro.api.progress import Progress
    from repro.engine.dag import Dag

    try:
        with Progress(dag, engine.workers, console) as progress:

            def tick(_: Dag) -> None:
                tracker.update()
                progress.update(tracker.trouble)

            engine.run(dag, tick)
    except BaseException:  # whatever ended it, jobs on a cluster continue
        print(engine.parting(dag), end="", file=sys.stderr)
        raise
    finally:
        with phase("publishing to MLflow", console):
            tracker.close()
