"""The verb `run`, which runs a study to its verdict, and the internal verb `stage`, which runs one job of it."""

import argparse
from pathlib import Path

from repro.api.execution import run_to_verdict
from repro.api.folders import require_report_folder, usable_cache_folder
from repro.api.terminal import complain, phase, print_failures
from repro.cli.options import (
    add_engine_options,
    add_fresh_option,
    add_study_options,
    choose_engine,
    command_of,
    load_study,
)
from repro.cli.pages import build_and_publish
from repro.errors import UserError


def add_run(verbs) -> None:
    verb = verbs.add_parser("run", help="run a study to its verdict")
    add_study_options(verb)
    add_fresh_option(verb)
    add_engine_options(verb)
    verb.add_argument(
        "--register",
        action="store_true",
        help="register the final policies in MLflow's model registry, as seed-1 and so on",
    )
    verb.set_defaults(run=_run)


def add_stage(verbs) -> None:
    verb = verbs.add_parser("stage", help="internal: run one stage, described by a file that the launcher wrote")
    verb.add_argument("file", type=Path, metavar="FILE")
    verb.set_defaults(run=_stage)


def _run(arguments: argparse.Namespace) -> int:
    with phase("reading the study"):
        study = load_study(arguments)
        engine = choose_engine(arguments, [study])
    command, cache = command_of(arguments, "run", *filter(None, [arguments.study])), usable_cache_folder()
    require_report_folder()
    dag = run_to_verdict(study, cache, engine, command, arguments.fresh)
    print_failures(dag)
    try:
        build_and_publish(study.detail.name, study.scale.name, arguments.register, study)
    except UserError as error:
        if not dag.failed:
            raise
        complain(f"no verdict: {error}")
    return dag.exit_code


def _stage(arguments: argparse.Namespace) -> int:
    from repro.engine import job

    ending = job.perform(arguments.file)
    if ending.code:
        complain(f"{'error: ' * (ending.code == job.WRONG)}{ending.why}")
    return ending.code
