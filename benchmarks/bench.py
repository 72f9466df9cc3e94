"""Speed: how near PPO and the stages come to their matrix products alone, measured on the same cores in the same minute.

`make bench`, or `python -m benchmarks.bench --part ppo --shapes S M --threads 2`. Three parts: updates of PPO at fixed shapes
with random weights and responses of full length, the worst case; the stages of a scale, on one thread as a worker runs
them, with a share of the budget; and two workers side by side. Speed and bound are measured in turn.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import bound
from benchmarks.isolated import Isolated
from benchmarks.load import Shape, setting_of, update
from benchmarks.render import computer
from benchmarks.stages import Timed, run_stages
from benchmarks.turns import Spread
from repro.cli.parser import Parser
from repro.engine.flops import Network, network_of
from repro.engine.machine import cores, described
from repro.errors import UserError
from repro.study.scale import SCALES

SHAPES = {
    "S": Shape("gpt-neox:64/2/2/256", 1_024, 64, 24),
    "M": Shape("gpt-neox:256/6/4/1024", 4_096, 64, 24),
    "14m": Shape("gpt-neox:128/6/4/512", 50_304, 128, 53),
}
TINY = Shape("gpt-neox:32/2/2/64", 64, 12, 4)
PARTS = ("ppo", "stages", "workers")
EPOCHS = 4
TARGET = 1.9  # times the episodes of one worker that two have to make
WIDTH = 128  # of a table that goes to a file

# ---------------------------------------------------------------------------------------------- PPO at fixed shapes


def network_in(shape: Shape) -> Network:
    return replace(network_of(shape.network), vocabulary=shape.vocabulary)


@cache
def _built(shape: Shape, batch: int) -> tuple:
    """Networks and random numbers of a process, after an update that warms up."""
    built = setting_of(shape, batch), torch.Generator().manual_seed(0)
    update(built[0], shape, batch, built[1], EPOCHS)
    return built


def one_update(shape: Shape, batch: int) -> float:
    """Seconds of an update of PPO in this process."""
    setting, generator = _built(shape, batch)
    began = time.perf_counter()
    update(setting, shape, batch, generator, EPOCHS)
    return time.perf_counter() - began


def measure_ppo(shape: Shape, batch: int, threads: int, repetitions: int) -> dict:
    """Updates and their bound in turn, each in a process of its own, so that neither's memory is the other's."""
    products = bound.ppo_products(network_in(shape), batch, shape.query, shape.response, EPOCHS)
    with Isolated(threads) as ours, Isolated(threads) as plain:
        ours(_built_only, shape, batch)
        pairs = [(plain(bound.measured, products), ours(one_update, shape, batch)) for _ in range(repetitions)]
        peak = ours.peak_gib()
    return {
        "flops": pairs[0][0].flops,
        "plain_rate": asdict(Spread.of([each.rate for each, _ in pairs])),
        "bound_seconds": asdict(Spread.of([each.seconds for each, _ in pairs])),
        "seconds": asdict(Spread.of([seconds for _, seconds in pairs])),
        "share_of_bound": asdict(Spread.of([each.seconds / seconds for each, seconds in pairs])),
        "episodes_per_second": asdict(Spread.of([batch / seconds for _, seconds in pairs])),
        "peak_gib": peak,
        "threads": threads,
        "shape": asdict(shape) | {"batch": batch},
    }


def _built_only(shape: Shape, batch: int) -> None:
    """`_built` without its result, which stays in the process and need not be pickled."""
    _built(shape, batch)


# ---------------------------------------------------------------------------------------------- workers side by side


def episodes_a_second(shape: Shape, batch: int, seconds: float) -> float:
    """Of updates one after another until the time is over."""
    _built(shape, batch)
    began, updates = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < seconds or not updates:
        one_update(shape, batch)
        updates += 1
    return updates * batch / taken if updates > 1 else batch / (time.perf_counter() - began)


def measure_workers(shape: Shape, batch: int, seconds: float, repetitions: int) -> dict:
    """One process of one thread alone, then two side by side, in turn: how many times the episodes two make."""
    alone, both = [], []
    with Isolated(1) as one, Isolated(1) as other:
        for started in [each.start(_built_only, shape, batch) for each in (one, other)]:
            started.result()
        for _ in range(repetitions):
            alone.append(one(episodes_a_second, shape, batch, seconds))
            running = [each.start(episodes_a_second, shape, batch, seconds) for each in (one, other)]
            both.append(sum(each.result() for each in running))
        peak = max(one.peak_gib(), other.peak_gib())
    return {
        "alone": asdict(Spread.of(alone)),
        "side_by_side": asdict(Spread.of(both)),
        "ratio": asdict(Spread.of([two / single for single, two in zip(alone, both)])),
        "target": TARGET,
        "peak_gib": peak,
        "shape": asdict(shape) | {"batch": batch},
    }


# ---------------------------------------------------------------------------------------------- tables


def ppo_table(results: dict[str, dict]) -> Table:
    table = Table("shape", "GFLOP", "plain GFLOP/s", "bound [s]", "measured [s]", "of the bound", "episodes/s", "GiB")
    for name, found in results.items():
        table.add_row(
            name,
            f"{found['flops'] / 1e9:.1f}",
            Spread(**found["plain_rate"]).scaled(1e-9).told(0),
            Spread(**found["bound_seconds"]).told(),
            Spread(**found["seconds"]).told(),
            Spread(**found["share_of_bound"]).scaled(100).told(0) + " %",
            Spread(**found["episodes_per_second"]).told(1),
            f"{found['peak_gib']:.2f}",
        )
    return table


def stages_table(found: dict) -> Table:
    table = Table("stage", "GFLOP", "plain GFLOP/s", "bound [s]", "measured [s]", "of the bound", "GiB so far")
    for name, each in found["stages"].items():
        timed = Timed(**each)
        counted = [f"{timed.flops / 1e9:.1f}", f"{timed.rate / 1e9:.0f}", f"{timed.bound_seconds:.2f}"]
        share = f"{timed.share:.0%}" if timed.flops else ""
        table.add_row(
            name, *(counted if timed.flops else [""] * 3), f"{timed.seconds:.1f}", share, f"{timed.peak_gib:.2f}"
        )
    return table


def workers_table(found: dict) -> Table:
    table = Table("processes of one thread", "episodes/s", "times one", "at least")
    table.add_row("1", Spread(**found["alone"]).told(1), "", "")
    table.add_row(
        "2", Spread(**found["side_by_side"]).told(1), Spread(**found["ratio"]).told(), f"{found['target']:.1f}"
    )
    return table


# ---------------------------------------------------------------------------------------------- the command


def run(arguments: argparse.Namespace, show: Callable[[str, Table], None]) -> dict:
    """The parts that were asked for; each is shown as soon as it is there."""
    found, parts, batch = {}, arguments.part or PARTS, arguments.batch
    times = arguments.repetitions or (1 if arguments.quick else 3)
    if "ppo" in parts:
        shapes = {"tiny": TINY} if arguments.quick else {name: SHAPES[name] for name in arguments.shapes}
        found["ppo"] = {name: measure_ppo(shape, batch, arguments.threads, times) for name, shape in shapes.items()}
        title = f"PPO: an update of {batch} episodes, {arguments.threads} threads, median (smallest to largest)"
        show(title, ppo_table(found["ppo"]))
    if "stages" in parts:
        scale = "smoke" if arguments.quick else arguments.scale
        found["stages"] = run_stages(scale, arguments.budget)
        told = f"scale {scale}, {found['stages']['budget']:.0%} of its budget, one thread, nothing cached"
        show(told, stages_table(found["stages"]))
    if "workers" in parts:
        shape, seconds = (TINY, 0.1) if arguments.quick else (SHAPES["S"], 4.0)
        found["workers"] = measure_workers(shape, batch, seconds, times)
        show("two workers on two cores", workers_table(found["workers"]))
    return found


def parser() -> Parser:
    parsed = Parser(prog="python -m benchmarks.bench", description=__doc__.splitlines()[0])
    parsed.add_argument("--part", nargs="+", choices=PARTS, help="some parts only")
    parsed.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parsed.add_argument("--batch", type=int, default=64, help="episodes of an update")
    parsed.add_argument("--threads", type=int, default=cores(), help="of PPO at the shapes")
    parsed.add_argument("--repetitions", type=int, default=0, help="of speed and bound in turn; 3 by default")
    parsed.add_argument("--scale", default="mini", choices=[n for n, s in SCALES.items() if s.corpus == "embedded"])
    parsed.add_argument("--budget", type=float, default=0.25, help="share of the scale's texts and episodes")
    parsed.add_argument(
        "--quick", action="store_true", help="tiny shapes and the scale smoke: that it runs, not how fast"
    )
    parsed.add_argument("--json", default="", metavar="FILE", help="write all figures there too")
    return parsed


def main(words: list[str] | None = None) -> int:
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)

    def show(title: str, table: Table) -> None:
        table.title = title
        console.print(table)

    try:
        arguments = parser().parse_args(words)
        if arguments.batch < 1 or arguments.threads < 1 or not 0 < arguments.budget <= 1:
            raise UserError("--batch and --threads must be at least 1, --budget above 0 and at most 1")
        found = run(arguments, show)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    about = described(Path(__file__).parents[1])
    console.print(f"{computer(about)}, float32", highlight=False)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"kind": "bench", "about": about} | found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
