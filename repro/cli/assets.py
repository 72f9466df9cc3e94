"""The verbs `fetch` and `pretrain`, which bring or make the models and data that studies start from."""

import argparse
from pathlib import Path

from rich.table import Table

from repro.api.folders import writable_folder
from repro.api.terminal import console
from repro.cli.options import scale_changes
from repro.cli.parser import positive_integer


def add_fetch(verbs) -> None:
    verb = verbs.add_parser("fetch", help="bring what a scale needs from the hub, for a machine that cannot reach it")
    verb.add_argument("scale", metavar="SCALE", help="pythia-160m to pythia-6.9b, or another whose fields name the hub")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the scale")
    verb.add_argument("--released", action="store_true", help="the checkpoints that the paper's authors published too")
    verb.add_argument("--to", type=Path, default=argparse.SUPPRESS, metavar="FOLDER", help="as plain files there too")
    rows = {"type": positive_integer, "nargs": "?", "const": 1_000, "metavar": "ROWS"}
    verb.add_argument("--check", default=argparse.SUPPRESS, help="compare our tokenisation with the authors'", **rows)
    verb.set_defaults(run=_fetch)


def add_pretrain(verbs) -> None:
    verb = verbs.add_parser("pretrain", help="make the embedded base model and tokenizer again")
    verb.add_argument("folder", type=Path)
    verb.add_argument("--steps", type=positive_integer, default=10_000, help="of all its phases together (10000)")
    verb.set_defaults(run=_pretrain)


def _fetch(arguments: argparse.Namespace) -> int:
    from repro.engine import fetch
    from repro.models import hub
    from repro.study import scale

    budget = scale.find(arguments.scale, scale_changes(arguments))
    wanted = fetch.needs(budget, hub.STARTS.values() if arguments.released else ())
    if not wanted:
        console.print(f"scale {budget.name} needs nothing of the hub")
        return 0
    _show_needs({need: fetch.survey(need) for need in wanted})
    brought = fetch.all_of(wanted, lambda need: print(f"here: {need.source}", flush=True))
    console.print(f"what it was, commit by commit: {fetch.record(fetch.home(), brought)}", highlight=False)
    if budget.corpus == "tldr":
        console.print(", ".join(f"{what} {rows:,}" for what, rows in fetch.counts(budget).items()), highlight=False)
    _say_how_to_carry(brought, fetch.home())
    if "to" in arguments:
        paths = fetch.copy(brought, writable_folder(arguments.to, "target", "give another"))
        fetch.record(arguments.to, brought)
        words = " ".join(f"{field}={path}" for field, path in paths.items())
        console.print(f"as plain files: {arguments.to}; a scale reads them with --set {words}", highlight=False)
    return _compare(fetch.agreements(budget, arguments.check)) if "check" in arguments else 0


def _show_needs(found) -> None:
    table = Table("field", "source", "files", "size", "to download", box=None, header_style="dim")
    for need, content in found.items():
        table.add_row(need.field, need.source, str(len(content.files)), _bytes(content.size), _bytes(content.missing))
    console.print(table)
    console.print(f"{_bytes(sum(each.missing for each in found.values()))} to download", highlight=False)


def _say_how_to_carry(brought, home: Path) -> None:
    from repro.engine import fetch

    console.print(
        f"{_bytes(fetch.size(brought))} in {home}; for a machine without a network: "
        f"rsync -a {home}/ THERE:.cache/huggingface/, and there "
        "export HF_HUB_OFFLINE=1 (and HF_HOME=FOLDER, where it lies elsewhere)",
        highlight=False,
    )


def _compare(agreements) -> int:
    """Exit code 1 where a column of ours is not the authors'."""
    table = Table("file", "column", "rows", "the same", "first that is not", box=None, header_style="dim")
    found = list(agreements)
    for each in found:
        table.add_row(each.file, each.column, str(each.rows), str(each.same), each.first)
    console.print(table)
    return int(any(each.same < each.rows for each in found))


def _bytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.2f} MB"


def _pretrain(arguments: argparse.Namespace) -> int:
    from repro.stages import base

    base.make_embedded_base(arguments.folder, arguments.steps)
    return 0
