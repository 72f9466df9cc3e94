"""The paper's published values (hollow marks) beside our reference runs at its scales (filled marks).

The marks are in `paper.csv`, each with where it comes from: a table, or a figure off which it was read by eye. Runs of a
scale that the paper does not have are left out: what a toy task gives says nothing about TL;DR.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro import record
from repro.reports.figures import chart, layout, style
from repro.reports.pages import markup
from repro.reports.reading.studies import read_outlines, recorded_scales
from repro.reports.reading.study import Study

MARKS = Path(__file__).parent / "paper.csv"
SCALE = re.compile(r"pythia-(\d+(?:\.\d+)?)([mb])(?:-|$)")
BILLIONS = {"m": 1e-3, "b": 1.0}
CALIBRATION = "rm/calibration"
OWN = "ours"
NO_PART = {"policy": "", "at": np.nan, "low": np.nan, "high": np.nan, "note": ""}
# What a mark is of, by shape; where it comes from, by filling: the paper's half or not at all, ours wholly.
SHAPES = {"PPO": "o", "SFT": "v", "OpenAI PPO": "*", "TL;DR": "s", "CNN/DM": "D"}
SIZES = {1.0: "o", 2.8: "s", 6.9: "^"}
GREYS = {"table": "#3a3a3a", "figure": "#8a8a8a"}
SOURCES = {"table": "paper, table", "figure": "paper, read off a figure"}
FILLED = style.PALETTE[1:]
FILLINGS = {"table": "bottom", "figure": "none"}
HOLLOW = {"markersize": 6.5, "markeredgewidth": 1.3, "linestyle": ""}
APART = 0.012  # in log10 of the size: how far marks of one size stand beside each other


@dataclass(frozen=True)
class Panel:
    """One panel over model sizes: its title, unit, the metrics that share its axis, and who is meant by each."""

    title: str
    unit: str
    policies: dict[str, str]  # our metric -> what it is of

    @property
    def label(self) -> str:
        """The title with the unit in brackets."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


PANELS = (
    Panel("win rate against the reference", "share", {"test/win_rate": "PPO", "sft_test/win_rate": "SFT"}),
    Panel(
        "reward model, pair accuracy",
        "share",
        {"rm/validation_accuracy": "TL;DR", "rm/cnndm_accuracy": "CNN/DM"},
    ),
    Panel("KL to the SFT policy", "nats", {"test/kl": "PPO"}),
    Panel("response length", "tokens", {"test/length": "PPO", "sft_test/length": "SFT"}),
    Panel("ROUGE-L of the SFT policy", "", {"sft_test/rouge_l": "SFT"}),
)


def build(uri: str, out: Path) -> Path:
    """Writes `index.html` and `figures/` into the folder `out`; the path of `index.html`."""
    theirs, own, page = marks(), runs(uri), out / "index.html"
    data = pd.concat([frame for frame in (theirs, own) if not frame.empty], ignore_index=True)
    scaled, calibrated = data[~data["metric"].eq(CALIBRATION)], data[data["metric"].eq(CALIBRATION)]
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name, rows, draw in (("by_size", scaled, by_size), ("calibration", calibrated, calibration)):
        with style.context():
            chart.save(draw(rows), out / "figures" / name)
        chart.write_csv(rows, out / "figures" / f"{name}.csv")
    charts = [
        markup.picture("by_size", "By model size", BY_SIZE, out / "figures"),
        markup.picture("calibration", "Calibration of the reward models", CALIBRATED, out / "figures"),
    ]
    page.write_text(
        markup.render(
            "paper.html.j2",
            charts=charts,
            own=[row | {"label": _what(row)} for row in own[own["metric"] != CALIBRATION].to_dict("records")],
            marks=[row | {"label": _what(row), "source": SOURCES[row["source"]]} for row in theirs.to_dict("records")],
            scales=sorted(own["scale"].unique()),
            judges=sorted(own["judge"].unique()),
        ),
        encoding="utf-8",
    )
    return page


def marks() -> pd.DataFrame:
    """metric, policy, size [10^9 parameters], at [score margin], seed, value, low, high, source, note: the paper's."""
    return pd.read_csv(MARKS, dtype={"note": str, "size": float, "seed": "Int64"}).fillna({"note": ""})


def size_of(scale: str) -> float:
    """Parameters [10^9] of the model of one of the paper's scales, budgets aside; NaN for any other scale."""
    found = SCALE.match(scale)
    return float(found[1]) * BILLIONS[found[2]] if found else np.nan


def runs(uri: str) -> pd.DataFrame:
    """As `marks`, with scale and judge: what our runs of the paper's recipe at its scales measured, one row per seed."""
    scales = [scale for scale in recorded_scales(uri) if not np.isnan(size_of(scale))]
    frames = [_measured(study) for scale in scales for study in read_outlines(scale, uri)[0]]
    columns = [*marks().columns, "scale", "judge"]
    if not frames:
        return pd.DataFrame(columns=columns)
    every = pd.concat(frames, ignore_index=True)
    # Every study of a scale has the paper's recipe as its reference: mostly the very same runs.
    return every.drop_duplicates(["scale", "metric", "at", "seed"])[columns].reset_index(drop=True)


def _measured(study: Study) -> pd.DataFrame:
    """The metrics of a study's reference runs that the paper reports; only of runs with the paper's choices."""
    policies = {metric: policy for panel in PANELS for metric, policy in panel.policies.items()}
    seeds = study.runs.loc[study.runs["reference"] & (study.runs["recipe"] == "{}"), "seed"]
    own = study.finals[(study.finals["arm"] == study.reference) & study.finals["seed"].isin(seeds)].dropna()
    bins = own[own["metric"].str.fullmatch(rf"{CALIBRATION}/\d+(\.\d+)?")]
    binned = bins.assign(
        at=bins["metric"].str.removeprefix(f"{CALIBRATION}/").astype(float), metric=CALIBRATION, policy="TL;DR"
    )
    plain = own[own["metric"].isin(policies)]
    plain = plain.assign(policy=plain["metric"].map(policies))
    frame = pd.concat([plain, binned], ignore_index=True)
    rest = {"size": size_of(study.scale), "scale": study.scale, "judge": study.tags[record.JUDGE], "source": OWN}
    missing = {name: value for name, value in NO_PART.items() if name not in frame}
    return frame.assign(**rest, **missing)


# Figures


def by_size(data: pd.DataFrame) -> Figure:
    """A panel per quantity over the size of the model, on a log axis."""
    figure, (*panels, key) = layout.grid(len(PANELS) + 1, columns=3, width=3.7, height=2.9)
    for axes, panel in zip(panels, PANELS, strict=True):
        rows = data[data["metric"].isin(panel.policies)]
        for row in rows[rows["source"] != OWN].itertuples():
            _mark(axes, row, _beside(row, panel))
        for place, scale in enumerate(_scales(data)):
            for row in rows[rows.get("scale", OWN) == scale].itertuples():
                _fill(axes, row, _beside(row, panel), FILLED[place % len(FILLED)])
        axes.set(xscale="log", xlabel="model size [10⁹ parameters]", ylabel=panel.unit, title=panel.title)
        _ticks(axes, sorted(rows["size"].unique()))
    key.axis("off")
    key.legend(handles=_key(data, SHAPES), loc="center left", labelspacing=0.8)
    return figure


def calibration(data: pd.DataFrame) -> Figure:
    """Accuracy by the margin of the two scores, beside what a calibrated model would have."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    margin = np.linspace(0, max(7.0, data["at"].max()), 100)
    axes.plot(margin, 1 / (1 + np.exp(-margin)), color="#555555", linewidth=1, linestyle=(0, (4, 2)))
    for row in data[data["source"] != OWN].itertuples():
        axes.plot(row.at, row.value, SIZES[row.size], **_look(row.source))
    for place, scale in enumerate(_scales(data)):
        for _, rows in data[data.get("scale", OWN) == scale].groupby("seed"):
            ordered = rows.sort_values("at")
            axes.plot(ordered["at"], ordered["value"], color=FILLED[place % len(FILLED)], linewidth=0.9, alpha=0.8)
    axes.set(xlabel="difference of the two scores", ylabel="pair accuracy [share]", ylim=(0.45, 1.02))
    shapes = {f"{size:g} × 10⁹ parameters": marker for size, marker in SIZES.items()}
    key = _key(data.assign(policy=[f"{size:g} × 10⁹ parameters" for size in data["size"]]), shapes)
    figure.legend(handles=key, loc="outside right upper")
    return figure


def _mark(axes: Axes, row, x: float) -> None:
    """One of the paper's: a hollow mark, a range as a line, both where both are known."""
    axes.vlines(x, row.low, row.high, color=GREYS[row.source], linewidth=1.6)
    value = row.value if not np.isnan(row.value) else (row.low + row.high) / 2
    axes.plot(x, value, SHAPES[row.policy], **_look(row.source))


def _look(source: str) -> dict:
    """How a mark of the paper's from such a source is drawn, but for its shape."""
    return {"color": GREYS[source], "fillstyle": FILLINGS[source], "markerfacecoloralt": "white", **HOLLOW}


def _fill(axes: Axes, row, x: float, colour: str) -> None:
    """One of our runs."""
    axes.plot(
        x, row.value, SHAPES[row.policy], color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.6
    )


def _beside(row, panel: Panel) -> float:
    """Where a mark stands: at its size, but the seeds of a size and the metrics of a panel beside each other."""
    seed = 0.0 if pd.isna(row.seed) else (int(row.seed) - 1) % 4 - 1.5
    return row.size * 10 ** (APART * (seed + 2 * list(panel.policies).index(row.metric)))


def _scales(data: pd.DataFrame) -> list[str]:
    """Our scales, the smallest model first."""
    own = data[data["source"] == OWN]
    return [] if own.empty else list(own.sort_values(["size", "scale"])["scale"].unique())


def _ticks(axes: Axes, sizes: Sequence[float]) -> None:
    """Each size that is there as a tick, but none that would lie on another."""
    kept: list[float] = []
    for size in sorted(sizes, key=lambda size: size not in SIZES):  # the paper's first
        if all(abs(np.log10(size / other)) > 0.09 for other in kept):
            kept.append(size)
    axes.set_xticks(kept, [f"{size:g}" for size in kept])
    axes.minorticks_off()
    axes.set_xlim(min(sizes) / 1.35, max(sizes) * 1.35)


def _key(data: pd.DataFrame, shapes: dict[str, str]) -> list[Line2D]:
    """A legend of the shapes, fillings and colours that are shown."""
    own, dark = _scales(data), "#3a3a3a"
    handles = [
        Line2D([], [], color=dark, marker=shapes[what], label=what, fillstyle="none", **HOLLOW)
        for what in shapes
        if what in set(data["policy"])
    ]
    handles += [
        Line2D([], [], marker="h", label=words, **_look(source))
        for source, words in SOURCES.items()
        if source in set(data["source"])
    ]
    return handles + [
        Line2D([], [], color=FILLED[place % len(FILLED)], marker="h", linestyle="", label=f"ours, {scale}")
        for place, scale in enumerate(own)
    ]


def _what(row: dict) -> str:
    """The name of a mark."""
    margin = "" if pd.isna(row["at"]) else f" at a difference of {row['at']:g}"
    label = next((panel.label for panel in PANELS if row["metric"] in panel.policies), "pair accuracy [share]")
    return f"{row['policy']}: {label}{margin}"


BY_SIZE = (
    "The paper's marks are grey: half filled where a table gives them, hollow where they were read off a figure by eye, which "
    "is good to about a hundredth of the axis. A vertical line is the range over seeds, or one standard deviation to either "
    "side; without a mark of its own it carries one in its middle. Ours are filled, one per seed. Sizes stand on a log axis, "
    "and seeds a little beside each other."
)
CALIBRATED = (
    "How often the reward model prefers what people preferred, by how far apart its two scores are; dashed, what a "
    "calibrated Bradley-Terry model would have. Of the paper's curves only the first and the last bin were read."
)
