"""The verbs `ui` and `import`: open the MLflow store in a browser; import the studies of another store."""

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from rich.table import Table
from rich.text import Text

from repro.api.folders import cache_folder
from repro.api.terminal import console
from repro.cli.parser import port
from repro.errors import UserError, printable, quoted

SERVERS = ("http", "https")  # of MLflow, by the beginning of their address
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # each perhaps with a driver, as postgresql+psycopg2


def add_ui(verbs) -> None:
    verb = verbs.add_parser("ui", help="open MLflow's own pages at a study (stop with Ctrl-C)")
    verb.add_argument("study", nargs="?", default="", metavar="DETAIL", help="default: the study that was started last")
    verb.add_argument(
        "--scale", default="mini", help="mini (the default), pythia-1b, or the full name of a scale with changed fields"
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
    from repro.tracking import ui

    ui.show(arguments.study, arguments.scale, arguments.port, lambda line: print(line, flush=True))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    _check_address(arguments.store)
    from repro.tracking import transfer

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


def _check_address(store: str) -> None:
    """UserError, before anything is made here, for a path that leads nowhere and an address that no store can have."""
    scheme, separator, rest = store.partition("://")
    kind = scheme.partition("+")[0]
    if separator and kind not in SERVERS + DATABASES:
        raise UserError(
            f"a store cannot be read from {quoted(store)}; give an mlflow.db, its folder, or a server's address, as "
            "http://HOST:5000"
        )
    if separator and kind in SERVERS and not _is_usable(store):
        raise UserError(f"{quoted(store)} is no address of a server; write it as http://HOST:5000")
    if not separator or kind == "sqlite":
        _check_file(Path((rest.removeprefix("/") if separator else store).partition("?")[0]))


def _check_file(given: Path) -> None:
    from repro.tracking.store import require_schema

    file = given / "mlflow.db" if os.path.isdir(given) else given
    if not os.path.isfile(file):
        raise UserError(f"there is no MLflow store {file}; give an mlflow.db, its folder, or a server's address")
    require_schema(file)


def _is_usable(address: str) -> bool:
    """Whether an address of a server has a host, and a port that there can be."""
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number, or too large
        return False
