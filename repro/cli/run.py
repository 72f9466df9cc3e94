"""The verb `run`, which runs a study to its verdict, and the internal verb `stage`, which runs one job of it."""

import argparse
import sys
from pathlib import Path

from repro.cli.execution import check_data, execute, warn_of_missing_gpu
from repro.cli.folders import cache_folder, require_report_folder
from repro.cli.options import add_engine_options, add_study_options, choose_engine, command_of, load_study
from repro.cli.pages import build_and_publish
from repro.cli.terminal import console, joined_numbers, print_failures, warn_of_corrupt_cache
from repro.errors import UserError


def add_run(verbs) -> None:
    verb = verbs.add_parser("run", help="run a study to its verdict")
    add_study_options(verb)
    add_engine_options(verb)
    verb.set_defaults(run=_run)


def add_stage(verbs) -> None:
    verb = verbs.add_parser("stage", help="internal: run one stage, described by a file that the launcher wrote")
    verb.add_argument("file", type=Path, metavar="FILE")
    verb.set_defaults(run=_stage)


def _run(arguments: argparse.Namespace) -> int:
    study, cache = load_study(arguments), cache_folder()
    require_report_folder()

    engine, command = choose_engine(arguments, [study]), command_of(arguments, "run", arguments.study)
    _require_same_looks(study)
    console.print(f"[bold]{study.detail.name}[/bold] at scale {study.scale.name}: {study.question}", highlight=False)
    board = (_run_until_decided if study.looks else _run_seeds)(study, cache, engine, command)
    print_failures(board)
    try:
        build_and_publish(study.detail.name, study.scale.name)
    except UserError as error:
        if not board.failed:
            raise
        print(f"no verdict: {error}", file=sys.stderr)
    return 1 if board.failed else 0


def _run_seeds(study, cache: Path, engine, command: str):
    """Run all arms and seeds of a study; returns its board."""
    from repro.engine import launch

    board = launch.board_of(study, cache)
    console.print(
        f"{len(study.arms)} arms x {len(study.seeds)} seeds; {len(board.done)} of {len(board.jobs)} stages "
        f"are cached; {engine}",
        highlight=False,
    )
    warn_of_corrupt_cache(board)
    check_data([study], board)
    warn_of_missing_gpu(study.scale, engine, board)
    execute(study, board, engine, command)
    return board


def _run_until_decided(study, cache: Path, engine, command: str):
    """Run look after look, each with more seeds of the undecided arms; returns the board of the last look that was run."""
    undecided = [label for label in study.arms if label != study.detail.reference]
    for number, look in enumerate(study.looks, 1):
        console.print(f"look {number} of {len(study.looks)}, at {look} seeds: {', '.join(undecided)}", highlight=False)
        board = _run_seeds(study.at(look, undecided), cache, engine, command)
        if board.failed:
            break
        still = _undecided(study)
        undecided = [label for label in undecided if label in still]
        if not undecided:
            break
    return board


def _undecided(study) -> list[str]:
    """The arms of the study whose verdict, from the runs in the store, is undecided."""
    from reports.pages import index
    from reports.reading import studies as read
    from repro.tracking.store import store_uri, usable_store

    with usable_store():
        rows, _ = index.compare(read.read_outline(study.detail.name, study.scale.name, store_uri()))
    return rows.loc[rows["verdict"] == "undecided", "arm"].tolist()


def _require_same_looks(study) -> None:
    """UserError where this study in the store was, or may have been, tested at other numbers of seeds."""
    from reports.reading import studies as read
    from repro.tracking.store import store_uri, usable_store

    try:
        with usable_store():
            recorded = read.read_outline(study.detail.name, study.scale.name, store_uri())
    except UserError:  # no run is recorded; an unusable store is reported where it is first needed
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


def _stage(arguments: argparse.Namespace) -> int:
    from repro.engine import job

    ending = job.perform(arguments.file)
    if ending.code:
        print(f"{'error: ' * (ending.code == job.WRONG)}{ending.why}", file=sys.stderr)
    return ending.code
