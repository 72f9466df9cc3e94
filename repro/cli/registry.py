"""The verbs `details` and `docs`: show the registry of details in the terminal; write it to `docs/details.md`."""

import argparse
import json
import sys

from repro.api.terminal import console


def add_details(verbs) -> None:
    verb = verbs.add_parser("details", help="list every detail and its variants")
    verb.add_argument("name", nargs="?", default="", metavar="NAME", help="everything on one detail or check")
    verb.add_argument("--json", action="store_true", help="as JSON")
    verb.set_defaults(run=_details)


def add_docs(verbs) -> None:
    verb = verbs.add_parser(
        "docs", help="write docs/details.md from the registry, and the atlas into pages that quote it"
    )
    verb.add_argument("--check", action="store_true", help="write nothing; exit with code 1 if a page is stale")
    verb.set_defaults(run=_docs)


def _details(arguments: argparse.Namespace) -> int:
    from repro.cli import catalogue

    chosen = [catalogue.find(arguments.name)] if arguments.name else list(catalogue.entries().values())
    if arguments.json:
        print(json.dumps([catalogue.record(entry) for entry in chosen], indent=1))
    elif arguments.name:
        console.print(catalogue.card(*chosen), soft_wrap=False, width=min(console.width, catalogue.READABLE))
    else:
        console.print(catalogue.listing(console.width), soft_wrap=False)
    return 0


def _docs(arguments: argparse.Namespace) -> int:
    from repro.cli import docs

    if not arguments.check:
        print("\n".join(f"wrote {page}" for page in docs.write()) or "every page is up to date")
    elif stale := docs.stale():
        print(f"stale: {', '.join(map(str, stale))}; written again by: make docs", file=sys.stderr)
        return 1
    return 0
