"""The verbs `fetch` and `pretrain`: download the models and data that studies start from; train the embedded base model."""

import argparse
from pathlib import Path

from rich.table import Table
from rich.text import Text

from repro.api.folders import writable_folder
from repro.api.terminal import console, say
from repro.cli.options import scale_changes
from repro.cli.parser import positive_integer
from repro.errors import UserError, printable


def add_fetch(verbs) -> None:
    verb = verbs.add_parser(
        "fetch", help="download the models and data of a scale from the hub, also for a machine that cannot reach it"
    )
    verb.add_argument(
        "scale", metavar="SCALE", help="pythia-160m to pythia-6.9b, or another scale with sources on the hub"
    )
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the scale")
    verb.add_argument("--released", action="store_true", help="also the checkpoints that the paper's authors published")
    verb.add_argument(
        "--to",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help="also copy them as plain files into this folder",
    )
    rows = {"type": positive_integer, "nargs": "?", "const": 1_000, "metavar": "ROWS"}
    verb.add_argument(
        "--check",
        default=argparse.SUPPRESS,
        help="compare our tokenisation of the first rows with the authors'",
        **rows,
    )
    verb.set_defaults(run=_fetch)


def add_pretrain(verbs) -> None:
    verb = verbs.add_parser("pretrain", help="train the embedded base model and tokenizer again")
    verb.add_argument("folder", type=Path)
    verb.add_argument(
        "--steps", type=positive_integer, default=10_000, help="optimizer steps, of all phases together (10000)"
    )
    verb.add_argument(
        "--width",
        type=positive_integer,
        default=argparse.SUPPRESS,
        help="of the hidden states, a multiple of 32 (64, with 282 thousand weights; 128 has 957 thousand)",
    )
    verb.set_defaults(run=_pretrain)


def _fetch(arguments: argparse.Namespace) -> int:
    from repro.engine import fetch
    from repro.models import starts
    from repro.study import scale

    budget = scale.find(arguments.scale, scale_changes(arguments))
    if "to" in arguments:  # told before gigabytes are downloaded
        writable_folder(arguments.to, "target", "choose another one")
    wanted = fetch.needs(budget, starts.STARTS.values() if arguments.released else ())
    if not wanted:
        say(f"scale {budget.name} has no source on the hub: nothing to download")
        return 0
    _show_needs({need: fetch.survey(need) for need in wanted})
    downloaded = fetch.fetch_all(wanted, lambda need: print(f"complete: {need.source}", flush=True))
    say(f"commits and files: {fetch.record(fetch.home(), downloaded)}")
    if budget.corpus == "tldr":
        say(", ".join(f"{what} {rows:,}" for what, rows in fetch.counts(budget).items()))
    _say_how_to_carry(downloaded, fetch.home())
    if "to" in arguments:
        paths = fetch.copy(downloaded, arguments.to)
        fetch.record(arguments.to, downloaded)
        words = " ".join(f"{field}={path}" for field, path in paths.items())
        say(f"copied to {arguments.to}; use them with --set {words}")
    return _compare(fetch.agreements(budget, arguments.check)) if "check" in arguments else 0


def _show_needs(found) -> None:
    table = Table("field", "source", "files", "size", "to download", box=None, header_style="dim")
    for need, content in found.items():
        table.add_row(
            need.field, Text(need.source), str(len(content.files)), _bytes(content.size), _bytes(content.missing)
        )
    console.print(table)
    say(f"{_bytes(sum(each.missing for each in found.values()))} to download")


def _say_how_to_carry(downloaded, home: Path) -> None:
    from repro.engine import fetch

    say(
        f"{_bytes(fetch.size(downloaded))} in {home}; for a machine without a network: "
        f"rsync -a {home}/ THERE:.cache/huggingface/, and there "
        "export HF_HUB_OFFLINE=1 (and HF_HOME=FOLDER for another folder)"
    )


def _compare(agreements) -> int:
    """Print the agreements; exit code 1 if a column differs from the authors'."""
    table = Table("file", "column", "rows", "equal", "first difference", box=None, header_style="dim")
    found = list(agreements)
    for each in found:
        table.add_row(
            Text(printable(each.file)), each.column, str(each.rows), str(each.same), Text(printable(each.first))
        )
    console.print(table)
    return int(any(each.same < each.rows for each in found))


def _bytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.2f} MB"


def _pretrain(arguments: argparse.Namespace) -> int:
    from repro.stages import base

    width = getattr(arguments, "width", base.WIDTH)
    if width % base.HEAD:
        raise UserError(f"--width {width}: it must be a multiple of {base.HEAD}, which is an attention head's width")
    folder = writable_folder(arguments.folder, "target", "choose another one")
    base.make_embedded_base(folder, arguments.steps, width)
    return 0
