"""The verbs `ui` and `import`: open the MLflow store in a browser; import the studies of another store."""

import argparse
import sys

from rich.table import Table
from rich.text import Text

from repro.api.folders import cache_folder
from repro.api.terminal import console
from repro.cli.parser import port
from repro.errors import printable


def add_ui(verbs) -> None:
    verb = verbs.add_parser("ui", help="open MLflow's own pages at a study (stop with Ctrl-C)")
    verb.add_argument("study", nargs="?", default="", metavar="DETAIL", help="default: the study that was started last")
    verb.add_argument(
        "--scale", default="", help="the full name of a scale, such as pythia-1b (default: the study's own)"
    )
    verb.add_argument("--port", type=port, default=5000, help="of this machine, for the pages (5000)")
    verb.set_defaults(run=_ui)


def add_import(verbs) -> None:
    verb = verbs.add_parser(
        "import", help="import the studies of another MLflow store; a second import adds no duplicates"
    )
    verb.add_argument("store", metavar="STORE", help="an mlflow.db, its folder, or a server's address")
    verb.set_defaults(run=_import)


def _ui(arguments: argparse.Namespace) -> int:
    from repro.study import ablation
    from repro.tracking import ui

    study = ablation.recorded(arguments.study, arguments.scale) if arguments.study else ("", "")
    ui.show(*study, arguments.port, lambda line: print(line, flush=True))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from repro.tracking import transfer

    transfer.source_of(arguments.store)  # refused before a folder is made
    found = transfer.import_studies(arguments.store, cache_folder())
    table = Table("study", *transfer.STATUSES, box=None, header_style="dim")
    for study in dict.fromkeys(each.study for each in found):
        statuses = [each.status for each in found if each.study == study]
        table.add_row(Text(printable(study)), *(str(statuses.count(status) or "") for status in transfer.STATUSES))
    console.print(table)
    troubles = [each for each in found if each.trouble]
    for each in troubles:
        print(printable(f"not read: {each.study} {each.run}: {each.trouble}"), file=sys.stderr)
    return 1 if troubles else 0
