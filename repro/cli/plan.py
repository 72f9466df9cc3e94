"""The verb `plan`: the stages that a study would run, which are cached, and how long the rest will take."""

import argparse

from rich.table import Table

from repro.api.folders import cache_folder, usable_cache_folder
from repro.api.terminal import (
    beside_arms,
    console,
    duration,
    joined_numbers,
    say,
    say_study,
    tell_of_outdated_code,
    warn_of_corrupt_cache,
)
from repro.cli.options import add_fresh_option, add_study_options, load_study
from repro.errors import UserError


def add_plan(verbs) -> None:
    verb = verbs.add_parser("plan", help="show what a study would run, what is cached, and how long it will take")
    add_study_options(verb)
    add_fresh_option(verb)
    verb.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    study = load_study(arguments)
    from repro.engine import annotation, cost
    from repro.engine.dag import dag_of
    from repro.study import ablation

    dag = dag_of(study, usable_cache_folder(), arguments.fresh)
    annotators = list(annotation.lines(dag))  # a malformed address is told before anything is
    gpu = cost.for_gpu(study.scale)
    workers, refusal = (1, "") if gpu and not cost.at_hand().present else _workers(study.scale)
    say_study(study)
    seeds = " ".join(map(str, study.seeds))
    say(f"arms {', '.join(study.arms)}{beside_arms(study)}; seeds {seeds}; primary metric {study.primary}")
    say(ablation.source(study.detail.name))
    warn_of_corrupt_cache(dag)
    tell_of_outdated_code(dag)
    remaining, start_up = [job for key, job in dag.jobs.items() if key not in dag.done], _seconds_since_start()
    # Before the table: a speed that is measured now is what its seconds are estimated from.
    origin = _origin(study, dag, remaining, workers, gpu)
    console.print(_stages(study, dag, gpu))
    for line in (*annotators, *origin):
        say(line)
    _say_duration(study, dag, remaining, workers, start_up)
    if refusal:
        say(f"`run` would refuse this on this machine: {refusal}")
    return 0


def _origin(study, dag, remaining: list, workers: int, gpu: bool) -> list[str]:
    """Lines on the GPUs and the memory that the jobs need; on CPUs, on where their seconds come from."""
    from repro.engine import cost, forecast, speed

    if gpu:
        return cost.requirements(remaining, study.scale, dag.cache, workers) if remaining else []
    speeds = speed.known(cache_folder(), study.scale) if remaining else speed.UNMEASURED
    return forecast.sources(remaining, dag.cache, str(speeds))


def _stages(study, dag, gpu: bool) -> Table:
    """Each stage with the number of its jobs, whether arms share them, how many are cached, and the time of one."""
    from repro.engine import cost

    each = "time each" if gpu else "seconds each"
    table = Table("stage", "runs", "shared by arms", "cached", each, box=None, header_style="dim")
    for name in dict.fromkeys(job.stage for job in dag.jobs.values()):
        jobs = [job for job in dag.jobs.values() if job.stage == name]
        cached = sum(job.key in dag.done for job in jobs)
        shared = "yes" if len(jobs) < len(study.recipes) * len(study.seeds) else "no"
        seconds = cost.seconds(jobs, dag.cache) / len(jobs)
        taken = duration(seconds) if gpu else f"{seconds:.0f}"
        table.add_row(name, str(len(jobs)), shared, f"{cached}/{len(jobs)}", taken)
    return table


def _say_duration(study, dag, remaining: list, workers: int, start_up: float) -> None:
    """How long the study will take and, where it has looks, until the first of them."""
    from repro.engine import forecast
    from repro.engine.dag import jobs_of

    if not remaining:
        say("everything is cached")
        return
    # Workers take about as long to start as this process did, once the launcher has.
    seconds = forecast.wall(remaining, dag.cache, workers, 2 * start_up)
    say(f"about {duration(seconds)} with {workers} worker{'s' * (workers > 1)}")
    if study.looks:
        first = jobs_of(study.at(study.looks[0], study.arms))
        begun = forecast.wall([job for job in remaining if job.key in first], dag.cache, workers, 2 * start_up)
        say(
            f"that is for all looks, at {joined_numbers(study.looks)} seeds; the study ends at the first look that decides it, "
            f"the earliest after about {duration(begun)}"
        )


def _seconds_since_start() -> float:
    """Seconds since this process began, its imports included."""
    import time

    import psutil

    return time.time() - psutil.Process().create_time()


def _workers(scale) -> tuple[int, str]:
    """The number of workers that a run would have; 1 and the reason where this machine has too few GPUs for a run."""
    from repro.engine import launch

    try:
        return launch.workers_for(scale), ""
    except UserError as error:
        return 1, str(error)
