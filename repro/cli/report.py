"""The verbs `report`, `figures` and `inspect`: build pages from the MLflow store; they run no stage."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from repro.api.folders import REPORTS, require_report_folder
from repro.api.terminal import complain, console, say
from repro.cli.options import add_study_options, common_choices, load_study, scale_changes
from repro.cli.pages import build_atlas_page, build_format, build_index, build_paper_page, build_study_page
from repro.cli.parser import episode_number
from repro.errors import UserError, nearest, quoted


def add_report(verbs) -> None:
    verb = verbs.add_parser("report", help="build a study's page, figures and verdict from the MLflow store")
    add_study_options(verb)
    verb.add_argument("--format", default="", metavar="FORM", help="slides, latex or csv: the study in this form too")
    verb.set_defaults(run=_report)


def add_figures(verbs) -> None:
    verbs.add_parser("figures", help="build the report of every study in the store").set_defaults(run=_figures)


def add_inspect(verbs) -> None:
    verb = verbs.add_parser(
        "inspect", help="show a training episode token by token; without --episode, list the recorded ones"
    )
    verb.add_argument("which", metavar="RUN", help="an MLflow run id, its beginning, or DETAIL/ARM/SEED")
    verb.add_argument(
        "--episode",
        type=episode_number,
        default=argparse.SUPPRESS,
        metavar="N",
        help="the episode's number in training",
    )
    verb.set_defaults(run=_inspect)


def _report(arguments: argparse.Namespace) -> int:
    from repro.study import ablation
    from repro.tracking.address import shown, store_uri

    if arguments.config or arguments.study is None:
        study = load_study(arguments)
        detail, scale = study.detail.name, study.scale.name
    else:  # without torch, which a study brings
        detail, scale = ablation.names(
            arguments.study, arguments.scale, scale_changes(arguments), common_choices(arguments)
        )
    form = _known_format(arguments.format)
    require_report_folder()
    say(f"reading {detail} at scale {scale} from {shown(store_uri())} ...")
    path, *_ = build_study_page(detail, scale)
    if form:
        build_format(detail, scale, path, form)
    return build_index()


def _known_format(form: str) -> str:
    """The form of a study that --format asks for, or nothing; UserError where there is no such form."""
    from repro.reports.formats.formats import FORMATS

    if form and form not in FORMATS:
        raise UserError(f"there is no format {quoted(form)}; {nearest(form, FORMATS)}")
    return form


def _figures(_: argparse.Namespace) -> int:
    from repro.tracking.address import shown, store_uri
    from repro.tracking.store import recorded_studies

    require_report_folder()
    found = recorded_studies()
    if not found:
        raise UserError(
            f"the MLflow store {shown(store_uri())} holds no study; run one, for example make ablation DETAIL=whiten_adv"
        )
    for detail, scale in found:
        try:
            build_study_page(detail, scale)
        except UserError as error:
            complain(f"skipped: {error}")
    build_paper_page()
    for scale in atlas_scales(found):
        build_atlas_page(scale)
    return build_index()


def atlas_scales(studies: Sequence[tuple[str, str]]) -> list[str]:
    """The scales that have an atlas: those of more than one study (detail, scale)."""
    scales = [scale for _, scale in studies]
    return [scale for scale in dict.fromkeys(scales) if scales.count(scale) > 1]


def _inspect(arguments: argparse.Namespace) -> int:
    from repro.reports.pages import inspect
    from repro.tracking.store import store_uri, usable_store

    wide = Console(width=max(console.width, inspect.WIDTH))  # rows may wrap, so that no number is cut off
    with usable_store():
        if "episode" not in arguments:
            wide.print(inspect.listing(store_uri(), arguments.which))
            return 0
        episode = inspect.shown(store_uri(), arguments.which, arguments.episode)
        require_report_folder()
        path = inspect.build_one(store_uri(), arguments.which, arguments.episode, REPORTS / "episodes")
    wide.print(episode)
    say(f"page: {path}")
    return 0
