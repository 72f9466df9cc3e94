"""Fills the tables of docs/performance.md from the files that the benchmarks wrote; no figure there is typed by hand.

`python -m benchmarks.render FILE.json ...`: each file's tables take the place of what stands between the marker comments of
its kind. `make bench JSON=bench.json`, `make bench-peer JSON=peer.json` and `make bench-commits OTHER=... JSON=commits.json`
write such files.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.markers import between_markers
from benchmarks.stages import Timed
from benchmarks.turns import Spread
from repro.errors import UserError

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def source(about: dict) -> str:
    """On what and when: said with every table."""
    commit = f"commit {about['commit']}, " if about["commit"] else ""
    return f"{computer(about)}; {commit}{about['date'][:10]}."


def computer(about: dict) -> str:
    """Its processor, how many of its cores were used, and torch's version."""
    cores = f"{about['cores']} core{'s' * (about['cores'] != 1)}"
    return f"{about['processor']}, {cores}, torch {about['torch']}"


def of(spread: dict, digits: int = 2, factor: float = 1.0) -> str:
    return Spread(**spread).scaled(factor).told(digits)


# ---------------------------------------------------------------------------------------------- the tables


def ppo(found: dict) -> str:
    head = [
        "shape",
        "GFLOP",
        "plain GFLOP/s",
        "bound [s]",
        "measured [s]",
        "share of the bound [%]",
        "episodes/s",
        "GiB",
    ]
    return table(
        head,
        (
            [
                f"{name} ({each['shape']['network'].split(':')[1]}/{each['shape']['vocabulary']}, "
                f"{each['shape']['query']} + {each['shape']['response']})",
                f"{each['flops'] / 1e9:.1f}",
                of(each["plain_rate"], 0, 1e-9),
                of(each["bound_seconds"]),
                of(each["seconds"]),
                of(each["share_of_bound"], 0, 100),
                of(each["episodes_per_second"], 1),
                f"{each['peak_gib']:.2f}",
            ]
            for name, each in found["ppo"].items()
        ),
    )


def stages(found: dict) -> str:
    timed = {name: Timed(**each) for name, each in found["stages"]["stages"].items()}
    told = f"Scale {found['stages']['scale']} with {found['stages']['budget']:.0%} of its budget, one thread.\n\n"
    return told + table(
        ["stage", "GFLOP", "plain GFLOP/s", "bound [s]", "measured [s]", "share of the bound", "GiB so far"],
        (
            [name, f"{t.flops / 1e9:.1f}", f"{t.rate / 1e9:.0f}", f"{t.bound_seconds:.2f}", f"{t.seconds:.1f}"]
            + [f"{t.share:.0%}", f"{t.peak_gib:.2f}"]
            if t.flops
            else [name, "", "", "", f"{t.seconds:.1f}", "", f"{t.peak_gib:.2f}"]
            for name, t in timed.items()
        ),
    )


def workers(found: dict) -> str:
    each = found["workers"]
    return table(
        ["one process [episodes/s]", "two side by side", "ratio", "at least"],
        [[of(each["alone"], 1), of(each["side_by_side"], 1), of(each["ratio"]), f"{each['target']:.1f}"]],
    )


def peer(found: dict) -> str:
    def row(what: str, load: dict, name: str, side: dict) -> list[str]:
        rate, ratio, busy = (side.get(key) for key in ("episodes_per_second", "ratio", "ratio_busy"))
        told = [what, str(load["load"]["threads"]), str(load["rounds"]), name, of(side["seconds"])]
        told += [of(rate, 1) if rate else "", f"{side['peak_gib']:.2f}", of(ratio) if ratio else ""]
        return told + [of(busy) if busy else ""]

    head = ["load", "threads", "rounds", "side", "seconds", "episodes/s", "GiB", "first is faster by", "by CPU time"]
    rows = [
        row(what, load, name, side) for what, load in found["loads"].items() for name, side in load["sides"].items()
    ]
    most = max(load["others_share_of_cores"] for load in found["loads"].values())
    return table(head, rows) + f"\n\nOthers kept at most {most:.0%} of the cores busy meanwhile."


def chains(found: dict) -> str:
    """What `peer` tells, and how much faster each stage of a chain is, round by round."""
    rows = []
    for what, load in found["loads"].items():
        ours, theirs = (side["runs"] for side in load["sides"].values())
        for name in ours[0].get("stages", ()):
            ratios = [b["stages"][name] / a["stages"][name] for a, b in zip(ours, theirs)]
            taken = (Spread.of([run["stages"][name] for run in runs]).told(1) for runs in (ours, theirs))
            rows.append([what, name, *taken, Spread.of(ratios).told()])
    told = table(["load", "stage", "first [s]", "second [s]", "first is faster by"], rows)
    return f"{peer(found)}\n\n{told}" if rows else peer(found)


KINDS: dict[str, dict[str, Callable[[dict], str]]] = {
    "bench": {"ppo": ppo, "stages": stages, "workers": workers},
    "peer": {"loads": peer},
    "commits": {"loads": chains},
}


def filled(text: str, file: Path) -> str:
    """The page with a file's tables; a UserError where it is not one of a benchmark."""
    try:
        found = json.loads(file.read_text())
        tables = KINDS[found["kind"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file} is no file of `make bench JSON=...` or `make bench-peer JSON=...`") from None
    for part, made in tables.items():
        if part in found:
            content = f"{made(found)}\n\n{source(found['about'])}"
            text = between_markers(PAGE, text, f"{found['kind']}-{part}", content)
    return text


def main(words: list[str] | None = None) -> int:
    files = sys.argv[1:] if words is None else words
    try:
        if not files:
            raise UserError("name the files, as python -m benchmarks.render bench.json peer.json")
        text = PAGE.read_text()
        for file in files:
            text = filled(text, Path(file))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    PAGE.write_text(text)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
