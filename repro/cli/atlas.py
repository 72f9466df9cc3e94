"""The verb `atlas`: run the studies of all details together, and build one page on all of them."""

import argparse
from contextlib import suppress
from pathlib import Path

from repro.api.execution import check_data, run_jobs, warn_of_missing_gpu
from repro.api.folders import cache_path, require_report_folder, usable_cache_folder
from repro.api.terminal import duration, phase, print_failures, say, tell_of_outdated_code, warn_of_corrupt_cache
from repro.cli.options import add_engine_options, add_fresh_option, choose_engine, command_of, scale_changes
from repro.cli.pages import build_atlas_page, build_index
from repro.errors import UserError


def add_atlas(verbs) -> None:
    verb = verbs.add_parser("atlas", help="run the study of every detail, cheapest first, and build one page on all")
    verb.add_argument("details", nargs="*", metavar="DETAIL", help="only these details (default: all)")
    verb.add_argument("--scale", default="mini", help="mini (the default), smoke, local, or pythia-160m to pythia-6.9b")
    verb.add_argument("--seeds", nargs="+", default=[], metavar="N", help="training seeds, shared by all arms")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the scale")
    verb.add_argument(
        "--plan", action="store_true", help="print what would run and how long it would take; run nothing"
    )
    verb.add_argument("--page", action="store_true", help="build the page from the MLflow store; run nothing")
    add_fresh_option(verb)
    add_engine_options(verb)
    verb.set_defaults(run=_atlas)


def _atlas(arguments: argparse.Namespace) -> int:
    with phase("reading the studies"):
        from repro.engine import annotation, atlas, cost

        changes = scale_changes(arguments)
        studies = atlas.studies(arguments.details, arguments.scale, arguments.seeds, changes, cache_path())
    require_report_folder()
    if arguments.page:
        build_atlas_page(studies[0].scale.name)
        return build_index()
    engine, cache = choose_engine(arguments, studies), usable_cache_folder()
    with phase("looking up what is cached"):
        dag = atlas.dag_of(studies, cache, arguments.fresh)
        annotators = list(annotation.lines(dag))
    remaining = [job for key, job in dag.jobs.items() if key not in dag.done]
    variants = sum(len(study.arms) - 1 for study in studies)
    say(
        f"{len(studies)} detail{'s' * (len(studies) > 1)}, {variants} variant{'s' * (variants > 1)} beside the reference; "
        f"{len(dag.done)} of {len(dag.jobs)} stages are cached; "
        f"about {duration(cost.seconds(remaining, cache) / engine.workers)} with {engine}"
    )
    warn_of_corrupt_cache(dag)
    tell_of_outdated_code(dag)
    for line in annotators:
        say(line)
    if arguments.plan:
        return 0
    with phase("checking the data"):
        check_data(studies, dag)
    cache.mkdir(parents=True, exist_ok=True)
    warn_of_missing_gpu(studies[0].scale, engine, dag)
    _run_atlas(studies, dag, engine, command_of(arguments, "atlas", *arguments.details), cache)
    build_atlas_page(studies[0].scale.name)
    build_index()
    print_failures(dag)
    return dag.exit_code


def _run_atlas(studies, dag, engine, command: str, cache: Path) -> None:
    """Run the remaining jobs; an interrupted atlas still gets a page, on the runs that have finished."""
    with phase("opening the MLflow store"):
        from repro.engine.dag import set_aside
        from repro.tracking.atlas_tracker import AtlasTracker
        from repro.tracking.store import require_store

        require_store(cache)
    set_aside(dag)
    try:
        run_jobs(dag, engine, AtlasTracker(studies, dag, command))
    except BaseException:
        with suppress(UserError):
            build_atlas_page(studies[0].scale.name)
            build_index()
        raise
