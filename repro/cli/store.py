"""The verbs `ui` and `import`, which open the MLflow store in a browser and bring the studies of another one."""

import argparse
import sys

from rich.table import Table

from repro.api.folders import cache_folder
from repro.api.terminal import console


def add_ui(verbs) -> None:
    verb = verbs.add_parser("ui", help="MLflow's own pages, opened on a study, until Ctrl-C")
    verb.add_argument("study", nargs="?", default="", metavar="DETAIL", help="the last started one by default")
    verb.add_argument("--scale", default="mini", help="mini (the default), pythia-1b, or a changed one's full name")
    verb.add_argument("--port", type=int, default=5000)
    verb.set_defaults(run=_ui)


def add_import(verbs) -> None:
    verb = verbs.add_parser("import", help="bring the studies of another MLflow store; twice without duplicates")
    verb.add_argument("store", metavar="STORE", help="an mlflow.db, the folder of one, or a server's address")
    verb.set_defaults(run=_import)


def _ui(arguments: argparse.Namespace) -> int:
    from repro.tracking import ui

    ui.show(arguments.study, arguments.scale, arguments.port, lambda line: print(line, flush=True))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from repro.tracking import transfer

    found = transfer.bring(arguments.store, cache_folder())
    table = Table("study", *transfer.FATES, box=None, header_style="dim")
    for study in dict.fromkeys(each.study for each in found):
        fates = [each.fate for each in found if each.study == study]
        table.add_row(study, *(str(fates.count(fate) or "") for fate in transfer.FATES))
    console.print(table)
    troubles = [each for each in found if each.trouble]
    for each in troubles:
        print(f"not read: {each.study} {each.run}: {each.trouble}", file=sys.stderr)
    return 1 if troubles else 0
