"""The verb `run`, which brings a study to its verdict, and the verb `stage`, with which an engine starts one of its jobs."""

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
    verb = verbs.add_parser("stage", help="internal: one stage of a study, from a file that its launcher wrote")
    verb.add_argument("file", type=Path, metavar="FILE")
    verb.set_defaults(run=_stage)


def _run(arguments: argparse.Namespace) -> int:
    from repro.study import ablation

    study, cache = load_study(arguments), cache_folder()
    require_report_folder()

    engine, command = choose_engine(arguments, [study]), command_of(arguments, "run", arguments.study)
    _require_its_looks(study)
    console.print(f"[bold]{study.detail.name}[/bold] at scale {study.scale.name}: {study.question}", highlight=False)
    console.print(ablation.source(arguments.study), highlight=False, markup=False)
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
    """Run all arms and seeds of a study; where it stands then."""
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
    """Look by look, each with more seeds of the arms that are undecided; where the last look that was needed stands."""
    left = [label for label in study.arms if label != study.detail.reference]
    for place, look in enumerate(study.looks, 1):
        console.print(f"look {place} of {len(study.looks)}, at {look} seeds: {', '.join(left)}", highlight=False)
        board = _run_seeds(study.at(look, left), cache, engine, command)
        if board.failed:
            break
        undecided = _undecided(study)
        left = [label for label in left if label in undecided]
        if not left:
            break
    return board


def _undecided(study) -> list[str]:
    """The study's arms about which the store's runs decide nothing yet."""
    from reports.pages import index
    from reports.reading import studies as read
    from repro.tracking.store import store_uri, usable_store

    with usable_store():
        rows, _ = index.compare(read.read_outline(study.detail.name, study.scale.name, store_uri()))
    return rows.loc[rows["verdict"] == "undecided", "arm"].tolist()


def _require_its_looks(study) -> None:
    """UserError where the store's runs of this study were, or may have been, judged at other numbers of seeds."""
    from reports.reading import studies as read
    from repro.tracking.store import store_uri, usable_store

    try:
        with usable_store():
            recorded = read.read_outline(study.detail.name, study.scale.name, store_uri())
    except UserError:  # nothing was judged yet; a store that cannot be used is told of where it is needed
        return
    asked, begun, seen = joined_numbers(study.looks), joined_numbers(recorded.looks), len(recorded.seeds)
    if recorded.looks and recorded.looks != study.looks:
        raise UserError(
            f"this study is judged at {begun} seeds, as was declared when it began; go on with --until decided --looks "
            f'{begun} (with make: UNTIL=decided LOOKS="{begun}"), or give it a store of its own'
        )
    if study.looks and not recorded.looks and seen not in study.looks and seen > study.looks[0]:
        raise UserError(
            f"{seen} seeds of this study have been looked at, and its looks are at {asked} seeds; put {seen} among them "
            f'(with make: LOOKS="..."), or give it a store of its own'
        )


def _stage(arguments: argparse.Namespace) -> int:
    from repro.engine import job

    ending = job.perform(arguments.file)
    if ending.code:
        print(f"{'error: ' * (ending.code == job.WRONG)}{ending.why}", file=sys.stderr)
    return ending.code
