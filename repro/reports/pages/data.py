"""The page on a study's data: lengths, labels and policies by split, beside the paper's counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro import record
from repro.reports.figures import layout, style
from repro.reports.figures.chart import save, write_csv
from repro.reports.pages import markup
from repro.reports.pages.provenance import described
from repro.reports.reading.artifacts import read_data
from repro.reports.reading.study import Study

PAGE = "data.html"
# N+ detail 1: kind and split -> rows; where the paper has thousands alone, these are rounded.
PAPER = {
    ("posts", "train"): 116_722,
    ("posts", "validation"): 6_447,
    ("posts", "test"): 6_553,
    ("pairs", "train"): 92_858,
    ("pairs", "validation"): 83_800,
    ("pairs", "validation_cnndm"): 2_280,
}
ROUNDED = {("pairs", "validation"), ("pairs", "validation_cnndm")}
KINDS = {"posts": "posts", "pairs": "comparisons"}  # name in the artifact -> name for readers
# Columns of panels -> what is drawn in each, one over the other.
PANELS: dict[str, dict[str, tuple[str, ...]]] = {
    "posts": {"query": ("query",), "reference": ("reference",), "query + reference": ("query + reference",)},
    "pairs": {
        "query": ("query",),
        "summary": ("chosen", "rejected"),
        "query + summary": ("query + chosen", "query + rejected"),
    },
}
SIDES = {"chosen": style.PALETTE[1], "rejected": style.PALETTE[2]}
BINS = 64  # of a histogram at most
POLICIES = 16  # that a panel names; the others are summed up
NO_CONFIDENCE = -1  # where the labeller gave none
LENGTHS = ["kind", "split", "what", "tokens", "rows", "limit", "cut"]


@dataclass(frozen=True)
class Chart:
    """One figure: file name, words, data (empty where there is nothing to show) and how that data is drawn."""

    name: str
    title: str
    caption: str
    data: Callable[[Mapping], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]


def build(study: Study, out: Path) -> str:
    """Writes the page and its figures into a study's folder; the link to it, nothing where no run says what is in its data.

    Arms that change the data have a part of the page for each.
    """
    found, page = read_data(study), Path(out) / PAGE
    page.unlink(missing_ok=True)
    if not found:
        return ""
    shared = study.runs.groupby(record.stage_tag("data"), sort=False)
    users = {key: described(list(zip(rows["arm"], rows["seed"], strict=True)), study) for key, rows in shared}
    parts = [
        {"key": key, "users": users[key]} | part(checks, page.parent / "figures", place)
        for place, (key, checks) in enumerate(found.items())
    ]
    without_checks = [who for key, who in users.items() if key not in found]
    page.write_text(
        markup.render("data.html.j2", study=study, parts=parts, without_checks=without_checks), encoding="utf-8"
    )
    return PAGE


def part(data: Mapping, folder: Path, place: int) -> dict:
    """The values of the page for one data artefact; writes its figures, with a number from the second artefact on."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for chart in CHARTS:
        name, rows = chart.name + f"_{place + 1}" * (place > 0), chart.data(data)
        if not rows.empty:
            with style.context():
                save(chart.draw(rows), folder / name)
            write_csv(rows, folder / f"{name}.csv")
            drawn.append(markup.picture(name, chart.title, chart.caption, folder))
    return {
        "embedded": data["corpus"] == "embedded",
        "counts": counts(data),
        "lengths": lengths(data),
        "ends": ends(data),
        "labels": labels(data),
        "shared": overlaps(data),
        "charts": drawn,
    }


# The tables


def counts(data: Mapping) -> list[dict]:
    """Rows of each split, of how many that were given, and the paper's; None where either has no such split."""
    own = {(kind, split): checks for kind in KINDS for split, checks in data[kind].items()}
    places = [place for kind in KINDS for place in dict.fromkeys([*PAPER, *own]) if place[0] == kind]
    return [
        {"kind": KINDS[place[0]], "split": place[1], "paper": PAPER.get(place), "about": place in ROUNDED}
        | {name: own.get(place, {}).get(name) for name in ("rows", "given")}
        for place in places
    ]


def lengths(data: Mapping) -> list[dict]:
    """Per split and text: rows, median, 95th percentile and longest [tokens], the limit, and how many rows it cut."""
    return [
        {
            "kind": KINDS[kind],
            "split": split,
            "what": what,
            "rows": checks["rows"],
            "median": quantile(each["counts"], 0.5),
            "most": quantile(each["counts"], 0.95),
            "longest": len(each["counts"]) - 1,
            "limit": each["limit"],
            "cut": each.get("cut"),
        }
        for kind in KINDS
        for split, checks in data[kind].items()
        for what, each in checks["lengths"].items()
    ]


def quantile(rows_by_length: Sequence[int], share: float) -> int:
    """The shortest length that this share of the rows does not exceed [tokens]."""
    until = np.cumsum(rows_by_length)
    return int(np.searchsorted(until, share * until[-1]))


def ends(data: Mapping) -> list[dict]:
    """Per split: the share of its summaries that begin with a space, and of those that have an end of text."""
    return [
        {
            "kind": KINDS[kind],
            "split": split,
            "texts": checks["texts"],
            "start": checks["start_with_space"] / checks["texts"],
            "end": checks["end"] / checks["texts"],
        }
        for kind in KINDS
        for split, checks in data[kind].items()
    ]


def labels(data: Mapping) -> list[dict]:
    """Per split of comparisons: batches, policies and pairs of them, and what of them the training split does not have."""
    train = data["pairs"].get("train", {"policies": {}, "batches": {}, "policy_pairs": {}})
    return [
        {
            "split": split,
            "batches": dict(sorted(checks["batches"].items(), key=lambda each: -each[1])),
            "policies": len(checks["policies"]),
            "policy_pairs": len(checks["policy_pairs"]),
            "new_policies": _new({name: sum(n) for name, n in checks["policies"].items()}, train["policies"]),
            "new_pairs": _new(checks["policy_pairs"], train["policy_pairs"]),
            "new_batches": _new(checks["batches"], train["batches"]),
        }
        for split, checks in data["pairs"].items()
    ]


def _new(counted: Mapping[str, int], known: Mapping) -> float:
    """The share of what was counted that has a name which is not known."""
    return sum(n for name, n in counted.items() if name not in known) / sum(counted.values())


def overlaps(data: Mapping) -> dict:
    """The splits, and of each the posts that every other one has too, as (posts, of how many); None beside itself."""
    shared = {(row["of"], row["in"]): (row["posts"], row["all"]) for row in data["shared"]}
    named = {f"{kind}/{split}": f"{KINDS[kind]}, {split}" for kind in KINDS for split in data[kind]}
    rows = [{"name": name, "cells": [shared.get((one, other)) for other in named]} for one, name in named.items()]
    return {"names": list(named.values()), "rows": rows}


# The figures


def length_data(data: Mapping, kind: str) -> pd.DataFrame:
    """kind, split, what, tokens, rows of that many, limit [tokens] and rows that it cut (NaN where that is not known)."""
    frames = [
        pd.DataFrame({"tokens": range(len(each["counts"])), "rows": each["counts"]})
        .query("rows > 0")
        .assign(kind=kind, split=split, what=what, limit=each["limit"], cut=each.get("cut", np.nan))
        for split, checks in data[kind].items()
        for what, each in checks["lengths"].items()
    ]
    return pd.concat(frames, ignore_index=True)[LENGTHS] if frames else pd.DataFrame(columns=LENGTHS)


def draw_lengths(data: pd.DataFrame) -> Figure:
    """A row of panels per split, a column per text: which share of the rows has how many tokens, and the limit."""
    columns, splits = PANELS[data["kind"].iloc[0]], list(data["split"].unique())
    figure, panels = layout.grid(len(splits) * len(columns), columns=len(columns), width=3.7, height=2.2)
    for place, axes in enumerate(panels):
        split, (title, drawn) = splits[place // len(columns)], list(columns.items())[place % len(columns)]
        column = data[data["what"].isin(drawn)]
        own = column[column["split"] == split]
        alike = column[column["limit"] == own["limit"].iloc[0]]  # articles have another, and so an axis of their own
        _histograms(axes, own, drawn, max(alike["limit"].max(), alike["tokens"].max()))
        axes.set(title=f"{split}: {title}", xlabel="tokens", ylabel="" if place % len(columns) else "rows [share]")
    if "rejected" in set(data["what"]):
        _side_legend(figure)
    return figure


def _histograms(axes: Axes, rows: pd.DataFrame, drawn: Sequence[str], most: int) -> None:
    """The histograms of a panel, in equal bins up to `most` tokens, and a dashed line at their limit."""
    width = -(-most // BINS)
    edges = np.arange(0, most + 2 * width, width) - 0.5
    for what in drawn:
        own = rows[rows["what"] == what]
        share, _ = np.histogram(own["tokens"], edges, weights=own["rows"] / own["rows"].sum())
        colour = SIDES.get(what.removeprefix("query + "), style.PALETTE[0])
        axes.stairs(share, edges, color=colour, fill=True, alpha=0.18)
        axes.stairs(share, edges, color=colour, linewidth=1.3)
    limit = rows["limit"].iloc[0]
    axes.axvline(limit + 0.5, color="#555555", linewidth=1.1, linestyle=(0, (3, 2)))
    lost = rows.drop_duplicates("what").set_index("what")["cut"] / rows.groupby("what")["rows"].sum()
    cut = [f"{100 * share:.1f} %" for share in lost[list(drawn)] if share > 0]
    late = rows.loc[rows["tokens"] > most / 2, "rows"].sum() > rows["rows"].sum() / 2
    axes.annotate(
        f"limit {limit}" + f"\ncut {' and '.join(cut)}" * bool(cut),
        (0.03 if late else 0.97, 0.97),  # where there is more room
        xycoords="axes fraction",
        ha="left" if late else "right",
        va="top",
        fontsize=7.5,
        color="#555555",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
    axes.set(xlim=(-0.5, 1.02 * edges[-1]), ylim=(0, None))
    style.few_ticks(axes)


def confidence_data(data: Mapping) -> pd.DataFrame:
    """split, confidence, comparisons; those without a confidence are included if others of the split have one."""
    rows = [
        {"split": split, "confidence": value, "comparisons": checks["confidence"][str(value)]}
        for split, checks in data["pairs"].items()
        if set(checks["confidence"]) != {str(NO_CONFIDENCE)}
        for value in sorted(map(int, checks["confidence"]))
    ]
    return pd.DataFrame(rows, columns=["split", "confidence", "comparisons"])


def draw_confidence(data: pd.DataFrame) -> Figure:
    """A panel per split, a bar per confidence."""
    splits = list(data["split"].unique())
    figure, panels = layout.grid(len(splits), columns=3, width=3.7, height=2.6)
    for axes, split in zip(panels, splits, strict=True):
        rows = data[data["split"] == split]
        given = rows[rows["confidence"] != NO_CONFIDENCE]
        axes.bar(
            given["confidence"], given["comparisons"] / rows["comparisons"].sum(), color=style.PALETTE[1], width=0.8
        )
        none = rows.loc[rows["confidence"] == NO_CONFIDENCE, "comparisons"].sum()
        without = f" ({100 * none / rows['comparisons'].sum():.0f} % have none)" if none else ""
        axes.set(title=f"{split}{without}", xlabel="the labeller's confidence", ylabel="comparisons [share]")
        axes.set_xticks(range(1, 1 + max(9, given["confidence"].max())))
        axes.grid(visible=False, axis="x")
    return figure


def policy_data(data: Mapping) -> pd.DataFrame:
    """split, policy, and how often its summaries were chosen and rejected; the rarest of many are one row together."""
    frames = []
    for split, checks in data["pairs"].items():
        rows = pd.DataFrame(checks["policies"], index=["chosen", "rejected"]).T.rename_axis("policy").reset_index()
        rows = rows.iloc[np.argsort(-(rows["chosen"] + rows["rejected"]).to_numpy(), kind="stable")]
        many = rows.iloc[POLICIES:]
        rest = {"policy": f"{len(many)} others", "chosen": many["chosen"].sum(), "rejected": many["rejected"].sum()}
        shown = [rows.head(POLICIES), pd.DataFrame([rest] if len(many) else [], columns=rows.columns)]
        frames += [each.assign(split=split) for each in shown if not each.empty]
    columns = ["split", "policy", "chosen", "rejected"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def draw_policies(data: pd.DataFrame) -> Figure:
    """A panel per split, a bar per policy: its share of all summaries, chosen and rejected."""
    splits = list(data["split"].unique())
    most = data.groupby("split")["policy"].nunique().max()
    figure, panels = layout.grid(len(splits), columns=3, width=3.9, height=max(2.0, 1.0 + 0.22 * most))
    for axes, split in zip(panels, splits, strict=True):
        rows = data[data["split"] == split]
        shares = rows[list(SIDES)] / rows[list(SIDES)].to_numpy().sum()
        axes.barh(range(len(rows)), shares["chosen"], color=SIDES["chosen"], height=0.7)
        axes.barh(range(len(rows)), shares["rejected"], left=shares["chosen"], color=SIDES["rejected"], height=0.7)
        axes.set_yticks(range(len(rows)), rows["policy"], fontsize=7.5)
        axes.set(title=split, xlabel="summaries [share]", ylim=(most - 0.4, -0.6))
        style.quiet(axes)
        style.few_ticks(axes, "x")
    _side_legend(figure)
    return figure


def _side_legend(figure: Figure) -> None:
    """One legend above all panels with the two sides of a comparison."""
    handles = [Line2D([], [], color=colour, linewidth=5, label=side) for side, colour in SIDES.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)


CHARTS = (
    Chart(
        "data_post_lengths",
        "How long posts and references are",
        "Share of a split's posts by number of tokens, padding left out. The dashed line is the limit, with the share of "
        "rows that it cut: prompts were shortened until they fit, references lost what is past it, their end of text "
        "with it. References are counted as far as the longer row of both has room for them.",
        lambda data: length_data(data, "posts"),
        draw_lengths,
    ),
    Chart(
        "data_pair_lengths",
        "How long the summaries of comparisons are",
        "As above, of the two summaries that a labeller compared, and of each with its prompt; where two shares were cut, "
        "they are of chosen and of rejected. Where chosen summaries are longer, a reward model can learn length from them.",
        lambda data: length_data(data, "pairs"),
        draw_lengths,
    ),
    Chart(
        "data_confidence",
        "How sure the labellers were",
        "Share of a split's comparisons by the labeller's confidence, of those splits in which any was given.",
        confidence_data,
        draw_confidence,
    ),
    Chart(
        "data_policies",
        "Who wrote the summaries",
        f"Share of a split's summaries by the policy that wrote them, split into chosen and rejected; of more than "
        f"{POLICIES} policies the rarest are summed up. The paper's validation split is out of distribution: it has "
        "policies and batches that training has not (detail 6).",
        policy_data,
        draw_policies,
    ),
)
