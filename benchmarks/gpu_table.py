"""What `benchmarks/gpu_check.py` found, as targets that are met or not and as the table of docs/performance.md."""

import json
from pathlib import Path
from typing import Any

from benchmarks.markers import between_markers
from repro.errors import UserError

MARKER = "gpu-check"
UPDATE, WHOLE = 0.40, 0.30  # shares of the peak; of the whole step from 410m on
PEER = 3.0  # times TRL's episodes a second
LARGE = ("410m", "1b", "1.4b")
NOTHING = (
    "No GPU was at hand, so nothing is measured on one. On a machine with one, `make gpu-check` takes 5 minutes "
    "(`make gpu-check PY=python3` where torch and transformers are installed), and "
    "`python -m benchmarks.gpu_check --table` writes the table here."
)
HEAD = (
    "shape",
    "episodes/s",
    "share of the peak: update",
    "whole step",
    "sample [s]",
    "reference [s]",
    "critic [s]",
    "reward model [s]",
    "update [s]",
    "episodes an update, micro-batch",
    "peak memory [GiB], forecast",
    "TRL, episodes/s",
    "times TRL",
)
BELOW = (
    "A share of the peak is FLOPs / seconds / the device's peak of dense bfloat16: FLOPs of PPO's four epochs over the seconds "
    "of the update; those and the rollout's over the seconds of the whole step. FLOPs are matrix multiplications as "
    "`engine/flops.py` counts them, attention's included, none twice. Weights are random, queries full, and no response ends; "
    "TRL has fewer episodes an update where two of its updates would not end in their time."
)


def results(record: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Shape -> what was found, of the parts of this kind that passed."""
    named = {name.partition(" ")[2]: part for name, part in record["parts"].items() if name.partition(" ")[0] == kind}
    return {shape: part["result"] for shape, part in named.items() if part["status"] == "passed" and shape}


def targets(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Each with what was measured, and whether it is met, "yes" or "no": null where it was not measured on a GPU."""
    ours, theirs, shapes = results(record, "ppo"), results(record, "trl"), record["about"]["shapes"]
    found = [
        ("share of the peak in the update", shape, UPDATE, ours.get(shape, {}).get("update_utilisation"))
        for shape in shapes
    ]
    found += [
        ("share of the peak over a whole PPO step", shape, WHOLE, ours.get(shape, {}).get("utilisation"))
        for shape in shapes
        if shape in LARGE
    ]
    found += [
        ("times TRL's episodes a second", shape, PEER, _ratio(ours.get(shape), theirs.get(shape))) for shape in shapes
    ]
    return [_target(*each, judged=record["about"]["device"]["kind"] == "cuda") for each in found]


def _target(what: str, shape: str, least: float, measured: float | None, judged: bool) -> dict[str, Any]:
    met = ("yes" if measured >= least else "no") if judged and measured is not None else None
    return {"what": what, "shape": shape, "at_least": least, "measured": measured, "met": met}


def _ratio(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> float | None:
    return ours["episodes_per_second"] / theirs["episodes_per_second"] if ours and theirs else None


# ---------------------------------------------------------------------------------------------- Markdown


def table(record: dict[str, Any]) -> str:
    """All of it, without the markers."""
    ours, theirs = results(record, "ppo"), results(record, "trl")
    rows = [_row(shape, ours[shape], theirs.get(shape)) for shape in record["about"]["shapes"] if shape in ours]
    lines = [HEAD, ["---"] * len(HEAD), *rows] if rows else []
    blocks = [_about(record), "\n".join(f"| {' | '.join(line)} |" for line in lines), BELOW if rows else ""]
    blocks += [_tests(record), _targets(record), _not_run(record)]
    return "\n\n".join(block for block in blocks if block)


def _about(record: dict[str, Any]) -> str:
    about = record["about"]
    device, changed = about["device"], " with changes" if about["changed"] else ""
    on = (
        f"On {device['name']}"
        if device["kind"] == "cuda"
        else "Rehearsed on a CPU: no figure says anything about a GPU"
    )
    driver = f" (driver {device['driver']}, CUDA {device['cuda']})" if device.get("driver") else ""
    with_ = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{on}{driver}, {record['date'][:10]}, commit {about['commit'][:12]}{changed}, {with_}."


def _row(shape: str, ours: dict[str, Any], theirs: dict[str, Any] | None) -> list[str]:
    seconds = [f"{ours['seconds'][phase]:.2f}" for phase in ("sample", "reference", "critic", "reward model", "update")]
    memory = f"{ours['peak_gib']:.1f}, {ours['expected_gib']:.1f}" if ours["gpu"] else "—"
    peer = f"{theirs['episodes_per_second']:.2f} ({theirs['batch']} an update)" if theirs else "—"
    ratio = _ratio(ours, theirs)
    return [
        shape,
        f"{ours['episodes_per_second']:.2f}",
        _share(ours["update_utilisation"]),
        _share(ours["utilisation"]),
        *seconds,
        f"{ours['batch']}, {ours['micro_batch']}",
        memory,
        peer,
        f"{ratio:.1f}" if ratio else "—",
    ]


def _share(value: float | None) -> str:
    return "—" if value is None else f"{value:.0%}"


def _tests(record: dict[str, Any]) -> str:
    part = record["parts"].get("tests", {})
    found = part.get("result", {}).get("tests")
    if not found:
        return ""
    counted = {
        outcome: sum(test["outcome"] == outcome for test in found) for outcome in ("passed", "failed", "skipped")
    }
    told = ", ".join(f"{count} {outcome}" for outcome, count in counted.items() if count)
    failed = ", ".join(f"`{test['name']}`" for test in found if test["outcome"] == "failed")
    return f"Tests of `tests/gpu`: {told}." + (f" Failed: {failed}." if failed else "")


def _targets(record: dict[str, Any]) -> str:
    lines = ["| target | shape | at least | measured | met |", "|---|---|---|---|---|"]
    for each in record["targets"]:
        show = (lambda value: f"{value:.1f}") if each["at_least"] >= 1 else (lambda value: f"{value:.0%}")
        measured = "—" if each["measured"] is None else show(each["measured"])
        met = each["met"] or "not measured"
        lines.append(f"| {each['what']} | {each['shape']} | {show(each['at_least'])} | {measured} | {met} |")
    return "\n".join(lines)


def _not_run(record: dict[str, Any]) -> str:
    """The parts that failed or were not run, and why."""
    left = {name: part for name, part in record["parts"].items() if part["status"] != "passed"}
    lines = [
        f"- `{name}`: {part['status']}: {part.get('why', '').removeprefix('not run: ')}" for name, part in left.items()
    ]
    return "\n".join(["Not run, or failed:", "", *lines]) if lines else ""


def write_into(page: Path, out: Path) -> None:
    """Between the page's markers goes the table of that JSON, or what to do where there is none."""
    try:
        made = table(json.loads(out.read_text())) if out.exists() else NOTHING
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{out} is not a complete record of gpu_check; run it again with --fresh") from None
    page.write_text(between_markers(page, page.read_text() if page.exists() else "", MARKER, made))
