"""The verb `check`: whether the MLflow store and the cache are whole."""

import argparse

from repro.api.folders import cache_path
from repro.api.terminal import console


def add_check(verbs) -> None:
    verb = verbs.add_parser("check", help="say whether the MLflow store and the cache are whole; changes nothing")
    verb.set_defaults(run=_check)


def _check(_: argparse.Namespace) -> int:
    """A line for the store and one for the cache, each with what is not whole in it below; 1 where there is anything."""
    from repro.tracking.check import check

    found = check(cache_path())
    for each in found:
        console.print(str(each), highlight=False, markup=False)
    return 1 if any(each.troubles for each in found) else 0
