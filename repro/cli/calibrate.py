"""The verb `calibrate`: test the statistics on runs that differ only in their random numbers."""

import argparse
from pathlib import Path

from repro import record
from repro.api.execution import execute
from repro.api.folders import cache_folder, writable_folder
from repro.api.terminal import print_failures
from repro.cli.options import command_of

CALIBRATION = Path("docs") / "calibration.md"
LARGER = "mini"  # where it is recorded there, by the metric that decides
CALIBRATION_SEEDS = [str(seed) for seed in range(1, 101)]
CALIBRATION_METRICS: tuple[str, ...] = ("test/sampled_win_rate", "test/gold", "test/score", "test/length", "test/kl")


def add_calibrate(verbs) -> None:
    verb = verbs.add_parser("calibrate", help="test the statistics on runs that differ only in their random numbers")
    verb.add_argument("--seeds", nargs="+", default=[], metavar="N", help="training seeds (1 to 100)")
    verb.set_defaults(run=_calibrate)


def _calibrate(arguments: argparse.Namespace) -> int:
    """Run the control detail at the smallest scale over many seeds, and write the page on how the statistics behave."""
    from repro.engine import launch
    from repro.engine.dag import dag_of
    from repro.reports.pages import calibration
    from repro.reports.reading import studies as read
    from repro.study import ablation
    from repro.tracking.store import store_uri, usable_store

    study, cache = ablation.load(record.CONTROL_DETAIL, "smoke", arguments.seeds or CALIBRATION_SEEDS), cache_folder()
    writable_folder(CALIBRATION.parent, "documentation", "run this in a checkout with a writable one")
    dag = dag_of(study, cache)
    execute(study, dag, launch.local(study.scale), command_of(arguments, "calibrate"))
    print_failures(dag)
    with usable_store():
        asked = [(read.read_outline(record.CONTROL_DETAIL, study.scale.name, store_uri()), CALIBRATION_METRICS)]
        if LARGER in read.recorded_scales(store_uri()):
            larger, _ = read.read_outlines(LARGER, store_uri())
            asked += [(each, (each.primary,)) for each in larger if each.detail == record.CONTROL_DETAIL]
    print(f"calibration: {calibration.build(asked, ablation.LOOKS, CALIBRATION)}")
    return 1 if dag.failed else 0
