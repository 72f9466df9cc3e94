"""PPO here beside TRL's PPOTrainer, or one checkout of this project beside another, in turn in the same minutes.

`make bench-peer` compares with TRL 1.12.0, the last that has PPO, at the shapes S, M and 14m. `make bench-commits OTHER=FOLDER
WHAT=rm:mini` compares the working tree with another checkout or commit: updates of PPO at a shape (ppo:S), the stages rm, sft
and ppo of a scale (rm:mini), or all stages of one arm and seed (chain:mini).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.bench import EPOCHS, SHAPES, WIDTH
from benchmarks.render import computer
from benchmarks.turns import Side, Spread, disturbed, ratios, seconds_of, take_turns
from repro.cli.parser import Parser, pairs_of
from repro.engine.machine import commit, cores, described
from repro.errors import UserError
from repro.study.scale import SCALES, find

HERE = Path(__file__).resolve().parent
PEER = HERE.parent / ".venv-peer" / "bin" / "python"
UPDATES = {"S": 8, "M": 2, "14m": 1}  # of a process, after the one that warms up: a few seconds' worth
STAGES = ("sft", "rm", "ppo")
BATCH = 64
NOISY = 0.05  # of the cores: from there on others' work shows in the figures

# ---------------------------------------------------------------------------------------------- what is timed


def load_of(what: str, arguments: argparse.Namespace) -> dict:
    """A load in the words that the scripts understand; a UserError says what may be asked for."""
    kind, _, of = what.partition(":")
    threads = arguments.threads
    if kind == "ppo" and of in SHAPES:
        size = {"batch": arguments.batch, "epochs": EPOCHS, "updates": arguments.updates or UPDATES[of]}
        size |= {"micro_batch": arguments.micro_batch} if arguments.micro_batch else {}
        return {"kind": "updates", "shape": asdict(SHAPES[of]), **size, "threads": threads or cores()}
    if of not in SCALES or kind not in (*STAGES, "chain"):
        raise UserError(
            f"--what {what!r} is unknown; it is ppo:SHAPE ({', '.join(SHAPES)}), {', '.join(STAGES)} or chain:SCALE "
            f"({', '.join(name for name, scale in SCALES.items() if scale.corpus == 'embedded')})"
        )
    changes = pairs_of("--set", arguments.set, "field=value, as episodes=64")
    scale = find(of, changes)
    load = {"scale": of, "changes": changes, "seed": 1, "threads": threads or scale.threads, "cache": arguments.cache}
    return load | ({"kind": "chain"} if kind == "chain" else {"kind": "stage", "stage": kind})


# ---------------------------------------------------------------------------------------------- who is timed


def sides_of(arguments: argparse.Namespace, stack: ExitStack) -> list[Side]:
    """This project first; then another checkout, if one is named, and the peer, unless it is left out."""
    sides = [_checkout("ours", arguments.ours, stack)]
    if arguments.other:
        sides.append(_checkout("other", arguments.other, stack))
    if not arguments.no_peer:
        if not PEER.exists():
            raise UserError("the peer has no environment yet; make bench-peer sets it up, --no-peer does without")
        command = (str(PEER), "-P", str(HERE / "peer.py"))
        sides.append(Side("TRL", command, HERE, {"TRL_EXPERIMENTAL_SILENCE": "1"}))
    if len(sides) < 2:
        raise UserError("there is nothing to compare with; name --other FOLDER, or leave out --no-peer")
    return sides


def _checkout(role: str, given: str, stack: ExitStack) -> Side:
    folder = Path(given).expanduser().resolve()
    if not folder.is_dir():
        folder = _exported(given, stack)
    if not (folder / "repro" / "__init__.py").exists():
        raise UserError(f"{given} is no checkout of this project; name its folder, or a commit")
    load = folder / "benchmarks" / "load.py"
    if not load.exists():
        raise UserError(f"{given} has no benchmarks/load.py, which runs what is timed; name a commit from 6c6ae30 on")
    # This interpreter and its libraries for both, so that nothing differs but the source.
    command = (sys.executable, "-P", str(load))
    return Side(role, command, folder, {"PYTHONPATH": str(folder)})


def _exported(revision: str, stack: ExitStack) -> Path:
    """A commit's files in a folder that goes with the stack."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    files = subprocess.run(["git", "-C", str(HERE.parent), "archive", revision], capture_output=True)
    if files.returncode:
        raise UserError(f"{revision!r} is neither a folder nor a commit of this project")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=files.stdout, check=True)
    return folder


def named(side: Side, given: Mapping[str, str], found: list[dict]) -> str:
    """A side's name with the version of its source."""
    if side.name == "TRL":
        return f"TRL {found[0]['trl']}"
    inside = side.folder.is_relative_to(tempfile.gettempdir())
    return f"{side.name} ({given[side.name] if inside else commit(side.folder) or side.folder.name})"


# ---------------------------------------------------------------------------------------------- figures


def figures(load: dict, found: dict[str, list[dict]], rounds: int) -> dict:
    """What a load's rounds say: for each side seconds, rate and memory, and how many times as fast the first is."""
    first, batch = next(iter(found)), load.get("batch")
    sides = {}
    for name, runs in found.items():
        seconds = seconds_of(runs)
        told = {"seconds": asdict(Spread.of(seconds)), "busy": asdict(Spread.of(seconds_of(runs, "busy")))}
        if batch:
            told["episodes_per_second"] = asdict(Spread.of([batch / each for each in seconds]))
        told["process_seconds"] = asdict(Spread.of([run["process_seconds"] for run in runs]))
        told["peak_gib"] = max(run["peak_gib"] for run in runs)
        if name != first:
            told["ratio"] = asdict(ratios(found[first], runs))
            told["ratio_busy"] = asdict(ratios(found[first], runs, "busy"))
        sides[name] = told | {"runs": runs}
    told = {name: value for name, value in load.items() if name != "cache"}
    return {"load": told, "rounds": rounds, "sides": sides, "others_share_of_cores": disturbed(found)}


def table_of(results: dict[str, dict]) -> Table:
    table = Table("load", "side", "seconds", "episodes/s", "GiB", "first is faster by", "by CPU time")
    for what, result in results.items():
        for name, side in result["sides"].items():
            rate, ratio, busy = (side.get(key) for key in ("episodes_per_second", "ratio", "ratio_busy"))
            table.add_row(
                f"{what}, {result['load']['threads']} thr.",
                name,
                Spread(**side["seconds"]).told(),
                Spread(**rate).told(1) if rate else "",
                f"{side['peak_gib']:.2f}",
                Spread(**ratio).told() if ratio else "",
                Spread(**busy).told() if busy else "",
            )
    return table


def run(arguments: argparse.Namespace, console: Console, results: dict[str, dict]) -> None:
    """Every load in turn over all sides: adds the figures of each, by what was asked for, as soon as they are there."""
    with ExitStack() as stack:
        arguments.cache = str(Path(arguments.cache or stack.enter_context(tempfile.TemporaryDirectory())).resolve())
        loads = {what: load_of(what, arguments) for what in arguments.what}
        sides = sides_of(arguments, stack)
        foreign = [what for what, load in loads.items() if load["kind"] != "updates" and not arguments.no_peer]
        if foreign:
            raise UserError(f"TRL has nothing like {foreign[0]}; give --no-peer --other FOLDER, or ppo:SHAPE")
        for what, load in loads.items():
            console.print(f"{what}, {load['threads']} thread{'s' * (load['threads'] > 1)}", highlight=False)
            for side in sides if load["kind"] == "stage" else ():
                side.run(load | {"kind": "prepare"})
            found = take_turns(sides, load, arguments.rounds, lambda line: console.print(f"  {line}", highlight=False))
            names = [named(side, vars(arguments), found[side.name]) for side in sides]
            results[what] = figures(load, dict(zip(names, found.values())), arguments.rounds)


def parser() -> Parser:
    parsed = Parser(prog="python -m benchmarks.bench_peer", description=__doc__.splitlines()[0])
    parsed.add_argument("--what", nargs="+", default=["ppo:S", "ppo:M", "ppo:14m"], metavar="KIND:SIZE")
    parsed.add_argument("--rounds", type=int, default=5)
    parsed.add_argument("--updates", type=int, default=0, help="of PPO in each process; by default as the shape needs")
    parsed.add_argument("--batch", type=int, default=BATCH, help="episodes of an update at a shape")
    parsed.add_argument(
        "--micro-batch", type=int, default=0, help="episodes of a forward pass at a shape (default: all)"
    )
    parsed.add_argument("--threads", type=int, default=0, help="all cores at a shape, as the scale says of a stage")
    parsed.add_argument("--ours", default=str(HERE.parent), help="the checkout that is timed, a folder or a commit")
    parsed.add_argument("--other", default="", help="another checkout to compare it with, a folder or a commit")
    parsed.add_argument("--no-peer", action="store_true", help="leave TRL out")
    parsed.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of the scale")
    parsed.add_argument("--cache", default="", help="keep what stages are made from in this folder")
    parsed.add_argument("--json", default="", metavar="FILE", help="write all figures there too")
    return parsed


def main(words: list[str] | None = None) -> int:
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    results: dict[str, dict] = {}
    try:
        arguments = parser().parse_args(words)
        for name in ("rounds", "batch"):
            if getattr(arguments, name) < 1:
                raise UserError(f"--{name} must be at least 1")
        if arguments.micro_batch < 0 or arguments.batch % (arguments.micro_batch or 1):
            raise UserError(f"--micro-batch must divide the {arguments.batch} episodes of an update")
        run(arguments, console, results)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # loads that were finished are told all the same
        print("interrupted", file=sys.stderr)
        if not results:
            return 130
    about = described(HERE.parent)
    console.print(table_of(results))
    console.print(
        f"{computer(about)}; median (smallest to largest) of {arguments.rounds} rounds in turn",
        highlight=False,
    )
    most = max(result["others_share_of_cores"] for result in results.values())
    if most > NOISY:
        console.print(f"others kept up to {most:.0%} of the cores busy meanwhile: repeat it on quiet ones")
    if arguments.json:
        kind = "commits" if arguments.no_peer else "peer"
        Path(arguments.json).write_text(json.dumps({"kind": kind, "about": about, "loads": results}, indent=1))
    return 0 if len(results) == len(arguments.what) else 130


if __name__ == "__main__":
    sys.exit(main())
