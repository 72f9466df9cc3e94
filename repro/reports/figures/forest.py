"""Figures on all studies: each variant's effect as a forest plot, its effect on the KL, and the seeds needed.

Where many variants make no difference, they share one row of the forest plot, and a second plot has a row for each.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro.reports.figures import seeds_needed, style
from repro.reports.figures.chart import save, write_csv
from repro.reports.figures.layout import better, interval
from repro.reports.figures.numbers import difference, span
from repro.reports.reading import terms
from repro.reports.statistics.survey import Survey
from repro.reports.statistics.words import MOVED

# A verdict by shape first, so that it reads in grey; a word that survives Holm's correction is filled.
LOOKS = {
    "better": ("^", "#00795a"),
    "worse": ("v", "#c2500a"),
    "no difference": ("s", "#0072b2"),
    "undecided": ("o", "#6f6f6f"),
    "identical": ("|", "#1a1a1a"),
}
# The range of differences that random numbers alone cause.
LUCK = {"color": "#0072b2", "linewidth": 1.1, "linestyle": (0, (1, 1.5))}
FEW = 12  # variants without a difference that have rows of their own among the others
MARKS = len(LOOKS) + 2  # of a legend: with the control's range, and what does not survive Holm's correction
ABOVE = 0.38  # how far above its interval a variant's name is on a phone, in rows
# In fractions of a scatter's axes: the width of a letter, what a name keeps free at its ends and above and below, how far
# above or below a point its name stands, and how near to the origin a point is not worth a name.
LETTER, GAP, APART, RISE, CENTRE = 0.0082, 0.012, 0.028, 0.036, 0.1
# The look of a name, whose ground hides the lines that it crosses, and its place beside its point.
NAME = {"fontsize": 7.5, "bbox": {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5}}
SIDES = {
    "right": {"xytext": (6, 0), "ha": "left", "va": "center"},
    "left": {"xytext": (-6, 0), "ha": "right", "va": "center"},
    "above": {"xytext": (0, 11), "ha": "center", "va": "center"},
    "below": {"xytext": (0, -11), "ha": "center", "va": "center"},
}


@dataclass(frozen=True)
class Format:
    """The sizes of a forest plot: inches of its width, its frame, a row and the margin, then of the names and the legend."""

    width: float
    frame: float
    row: float
    margin: float  # of long names and of the numbers beside the axes the layout leaves out a letter or two
    letters: float  # points
    align: str
    pad: float  # points between the axis and the names
    above: float  # rows from an interval to its name
    columns: int  # of the legend
    numbers: bool  # whether mean, interval and n stand at the right


DESK = Format(11, 1.6, 0.185, 0.25, 7.5, "right", 9, 0.0, MARKS, numbers=True)
PHONE = Format(3.75, 2.2, 0.34, 0.06, 8.5, "left", -3, ABOVE, 2, numbers=False)


@dataclass(frozen=True)
class Plot:
    """One figure over all studies: its file name, words, data (empty where there is none) and how that is drawn.

    Where it would be too small on a phone, `narrow` draws it for one.
    """

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    draw: Callable[[pd.DataFrame], Figure]
    narrow: Callable[[pd.DataFrame], Figure] | None = None

    @property
    def narrow_name(self) -> str:
        """The file name of the one for a phone."""
        return f"{self.name}_narrow"


def plots(survey: Survey) -> list[Plot]:
    """A forest plot per primary metric, the effect on it beside that on the KL, and the seeds needed."""
    found = []
    for family in survey.families:
        primary = family["primary"]
        stem, words = re.sub(r"\W+", "_", primary), terms.said(primary)
        axis = f"difference in {terms.said(primary)}{terms.bracketed(primary)}"
        own = survey.effects[survey.effects["primary"] == primary]
        higher = bool(own["higher_is_better"].all())
        along, up = f"{axis}, within a seed\n{better(higher)}", f"{axis}; {better(higher, 'down', 'up')}"
        found += [
            Plot(
                f"forest_{stem}",
                f"Effect of every variant on the {words}",
                FOREST,
                data := forest_data(survey, primary),
                partial(forest, axis=along),
                partial(forest, axis=along, narrow=True),
            ),
            Plot(
                f"forest_{stem}_no_difference",
                f"Variants without a difference in the {words}",
                NO_DIFFERENCE,
                without_difference(data),
                partial(forest_of_each, axis=along),
                partial(forest_of_each, axis=along, narrow=True),
            ),
            Plot(
                f"kl_{stem}",
                f"Effect on the {words} and on the KL",
                SCATTER,
                kl_data(survey, primary),
                partial(scatter, axis=up),
            ),
        ]
    more = seeds_needed.CAPTION, seeds_needed.data(survey), seeds_needed.draw
    return [*found, Plot("seeds_needed", "How many seeds are needed", *more)]


def save_all(survey: Survey, folder: Path) -> list[Plot]:
    """Writes `<name>.png`, `.svg` and `.csv` of every plot that has data, and gives those plots."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [plot for plot in plots(survey) if not plot.data.empty]
    for plot in drawn:
        with style.context():
            save(plot.draw(plot.data), folder / plot.name)
            if plot.narrow:
                save(plot.narrow(plot.data), folder / plot.narrow_name)
        write_csv(plot.data, folder / f"{plot.name}.csv")
    return drawn


def limits(rows: pd.DataFrame, pairs: pd.DataFrame) -> tuple[float, float]:
    """The stretch of the axis that holds the smallest effects, nine in ten of the intervals' ends at either side, and
    as many of the seeds, with a margin: a few variants far off would leave no room for the others.
    """
    band = np.nan_to_num(1.5 * rows["smallest_effect"].max())
    seeds = pairs["difference"].astype(float)
    low = np.nanmin([-band, rows["low"].quantile(0.1, "lower"), seeds.quantile(0.05, "lower")])
    high = np.nanmax([band, rows["high"].quantile(0.9, "higher"), seeds.quantile(0.95, "higher")])
    margin = 0.06 * (high - low) or 1.0  # where all of it is zero
    return min(low, 0.0) - margin, max(high, 0.0) + margin


# The forest plot


def forest_data(survey: Survey, primary: str) -> pd.DataFrame:
    """detail, arm, n, mean, low, high, p, adjusted, verdicts and each seed's difference, the largest mean first.

    A control stands above them all.
    """
    rows = survey.effects[(survey.effects["primary"] == primary) & (survey.effects["n"] > 0)]
    seeds = survey.pairs.pivot(index=["detail", "arm"], columns="seed", values="difference")
    columns = ["detail", "arm", "reference", "n", "mean", "low", "high", "p", "adjusted", "verdict", "corrected"]
    rows = rows[[*columns, "identical", "control", "smallest_effect"]].join(
        seeds.add_prefix("seed "), on=["detail", "arm"]
    )
    order = ["control", "mean", "detail", "arm"]
    return rows.sort_values(order, ascending=[False, False, True, True], ignore_index=True)


def share_a_row(data: pd.DataFrame) -> pd.Series:
    """[variants] bool: those without a difference, where they are more than a few."""
    still = ~data["control"] & data["verdict"].isin(("identical", "no difference"))
    return still & (still.sum() > FEW)


def without_difference(data: pd.DataFrame) -> pd.DataFrame:
    """The variants that share a row of the forest plot, below the control; none where each has its own."""
    others = share_a_row(data)
    return data[data["control"] | others].reset_index(drop=True) if others.any() else data[:0]


def forest(data: pd.DataFrame, axis: str = "difference", narrow: bool = False) -> Figure:
    """One row for each variant, or for each that makes a difference or may and one for all others."""
    others = share_a_row(data)
    return _forest(data[~others], data.loc[others, "mean"], axis, narrow)


def forest_of_each(data: pd.DataFrame, axis: str = "difference", narrow: bool = False) -> Figure:
    """One row for each variant."""
    return _forest(data, pd.Series(dtype=float), axis, narrow)


def _forest(data: pd.DataFrame, others: pd.Series, axis: str, narrow: bool) -> Figure:
    """One row for each variant: seeds faint, mean and 95 % t interval above them, the numbers at the right.

    The means of `others`, if any, share a row between those of better and of worse variants. A narrow figure has names
    above the intervals, and no numbers.
    """
    place = int((data["control"] | (data["mean"] > 0)).sum()) if len(others) else len(data)
    heights = np.arange(len(data)) + (np.arange(len(data)) >= place)
    count = len(data) + bool(len(others))
    size = PHONE if narrow else DESK
    figure = Figure(figsize=(size.width, size.frame + size.row * count), layout="constrained")
    figure.get_layout_engine().set(w_pad=size.margin)
    axes = figure.subplots()
    ends = _variants(axes, data, heights, size.numbers)
    names = [f"{row.detail} = {row.arm}" for row in data.itertuples()]
    if len(others):
        _others(axes, others, place, data["smallest_effect"].max())
        heights, names = np.append(heights, place), [*names, f"{len(others)} variants: no difference"]
        if size.numbers:
            _numbers(axes, place, f"means from {span(others.min(), others.max())}")
    axes.set_yticks(heights - size.above, names, fontsize=size.letters, ha=size.align)
    axes.tick_params(axis="y", length=0, pad=size.pad)
    axes.set(xlim=ends, ylim=(count - 0.4, -0.6), xlabel=axis)
    if narrow:
        style.few_ticks(axes, "x")
    axes.tick_params(axis="x", top=True, labeltop=True)
    style.quiet(axes)
    _key(
        figure,
        [*data["verdict"], *["no difference"] * bool(len(others))],
        control=data["control"].any(),
        columns=size.columns,
    )
    return figure


def _variants(axes: Axes, data: pd.DataFrame, heights: np.ndarray, numbers: bool) -> tuple[float, float]:
    """Each variant's row at its height, over what all rows share; the ends of the axis."""
    seeds = data.filter(like="seed ").to_numpy(float)  # [variants, seeds]
    ends = limits(data, pd.DataFrame({"difference": seeds.ravel()}))
    band = data["smallest_effect"].fillna(0.0)  # NaN for a study that did not record it
    axes.barh(heights, 2 * band, left=-band, height=1, **style.BAND)
    axes.axvline(0, **style.ZERO_LINE)
    _noise(axes, data, seeds)
    for height, row, differences in zip(heights, data.itertuples(), seeds, strict=True):
        below = np.full(len(differences), height + 0.3)
        axes.plot(differences, below, "o", color="#1a1a1a", alpha=0.4, markersize=2.6, markeredgewidth=0)
        _interval(axes, row, height, ends)
        if numbers:
            _numbers(axes, height, f"n {row.n}", *_effect(row))
    return ends


def _others(axes: Axes, means: pd.Series, height: int, band: float) -> None:
    """The means of many variants in one row."""
    marker, colour = LOOKS["no difference"]
    axes.barh(height, 2 * band, left=-band, height=1, **style.BAND)
    axes.plot(means, np.full(len(means), height), marker, color=colour, alpha=0.35, markersize=5, markeredgewidth=0)


def _noise(axes: Axes, data: pd.DataFrame, seeds: np.ndarray) -> None:
    """Lines through all rows at the range of the control's single seeds, and a line below the control's rows."""
    controls = int(data["control"].sum())  # they come first
    if controls:
        luck = seeds[:controls][np.isfinite(seeds[:controls])]
        for end in (luck.min(), luck.max()):
            axes.axvline(end, **LUCK)
        axes.axhline(controls - 0.5, color="#8a8a8a", linewidth=0.8)


def _interval(axes: Axes, row, height: int, ends: tuple[float, float]) -> None:
    """A variant's mean and interval; an arrow head where the interval goes on past the axis."""
    marker, colour = LOOKS[row.verdict]
    interval(axes, (row.low, row.high), height, ends, color=colour, linewidth=1.3)
    face = colour if row.corrected == row.verdict else "white"
    look_of = {"marker": marker, "color": colour, "markerfacecolor": face, "markersize": 6, "markeredgewidth": 1.2}
    # A mean past the axis stands at its edge; the number is complete.
    axes.plot(np.clip(row.mean, *ends), height, clip_on=False, **look_of)


def _effect(row) -> tuple[str, str]:
    """A variant's mean and interval as texts."""
    return ("identical", "") if row.identical else (difference(row.mean, row.low, row.high), span(row.low, row.high))


def _numbers(axes: Axes, height: int, *texts: str) -> None:
    """Numbers of a row, in columns right of the axes."""
    for place, words in zip((1.015, 1.065, 1.155), texts):
        look = {"va": "center", "fontsize": 7, "color": "#333333"}
        axes.annotate(words, (place, height), xycoords=("axes fraction", "data"), annotation_clip=False, **look)


def _key(figure: Figure, shown: list[str], control: bool = False, columns: int = MARKS) -> None:
    """A legend of the marks that are shown."""
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6, label=word)
        for word, (marker, colour) in LOOKS.items()
        if word in shown
    ]
    if control:
        handles.append(Line2D([], [], **LUCK, label="single seeds of the control"))
    if {"better", "worse"} & set(shown):
        handles.append(
            Line2D([], [], color="#333333", marker="^", markerfacecolor="white", linestyle="", label="not after Holm")
        )
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, handletextpad=0.2, columnspacing=1.2)


# The effect beside the KL


def kl_data(survey: Survey, primary: str) -> pd.DataFrame:
    """detail, arm, kl [nats] and mean: both relative to the reference, of variants that have both."""
    rows = survey.effects[survey.effects["primary"] == primary]
    columns = ["detail", "arm", "n", "kl", "mean", "verdict", "corrected", "identical", "smallest_effect"]
    return rows.reindex(columns=columns).dropna(subset=["kl", "mean"]).reset_index(drop=True)


def scatter(data: pd.DataFrame, axis: str = "difference") -> Figure:
    """A point per variant; named are those that survive Holm's correction, and those farthest out."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    band = data["smallest_effect"].max()
    axes.axhspan(-band, band, **style.BAND)
    axes.axhline(0, **style.ZERO_LINE)
    axes.axvline(0, **style.ZERO_LINE)
    for row in data.itertuples():
        marker, colour = LOOKS[row.verdict]
        face = colour if row.corrected == row.verdict else "white"
        axes.plot(row.kl, row.mean, marker=marker, color=colour, markerfacecolor=face, markersize=6.5, alpha=0.9)
    if data["kl"].abs().max() > 20 * max(data["kl"].abs().median(), 0.05):
        style.symmetric_log(axes, 1.0)
    axes.set(xlabel="difference in KL to the SFT policy [nats]", ylabel=axis)
    axes.margins(0.12)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # settled, so that names know where the points are
    _name(axes, data)
    _key(figure, list(data["verdict"]))
    return figure


def _name(axes: Axes, data: pd.DataFrame) -> None:
    """Names beside points, where they lie on no other name and on no other point.

    First of those that survive Holm's correction, then of those farthest from the origin.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    points = to_axes.transform(data[["kl", "mean"]].to_numpy(float))  # [variants, 2] in fractions of the axes
    far = np.abs(points - to_axes.transform((0.0, 0.0))).max(axis=1)
    survive = (data["verdict"].isin(MOVED) & (data["corrected"] == data["verdict"])).to_numpy()
    taken = points
    for i in np.lexsort((-far, ~survive))[: int((survive | (far > CENTRE)).sum())]:
        words = f"{data['detail'][i]} = {data['arm'][i]}"
        others = np.delete(taken, i, axis=0)
        for side, start, height in _places(points[i, 0], points[i, 1], LETTER * len(words)):
            end = start + LETTER * len(words)
            beside = (others[:, 0] > start - GAP) & (others[:, 0] < end + GAP)
            crossed = beside & (np.abs(others[:, 1] - height) < APART)
            if 0 <= start and end <= 1 and 0 < height < 1 and not crossed.any():
                axes.annotate(words, data.loc[i, ["kl", "mean"]], textcoords="offset points", **NAME, **SIDES[side])
                along = np.linspace(start, end, 12)
                taken = np.vstack([taken, np.column_stack([along, np.full(12, height)])])
                break


def _places(x: float, y: float, length: float) -> list[tuple[str, float, float]]:
    """Where a name beside a point may be: on which side, and in fractions of the axes its left end and its height."""
    centred = x - length / 2
    return [("right", x, y), ("left", x - length, y), ("above", centred, y + RISE), ("below", centred, y - RISE)]


FOREST = (
    "Each variant against the paper's choice: faint dots are single seeds, the mark is their mean, the line its 95 % "
    "t interval over seeds, with an arrow head where it extends past the axis, which holds nine in ten intervals; "
    "the numbers at the right, left out on a phone, are complete. Shape and colour are the verdict without "
    "correction; a hollow triangle does not survive Holm's. The yellow band is the smallest effect of interest. Where "
    "many variants make no difference, their means share one row, and the next plot has a row for each. Where the "
    "control was run it comes first, and dotted lines through all rows mark the range of its single seeds: the differences "
    "between runs that differ only in random numbers; a mean over seeds lies closer to zero. The interval of a sequential "
    "study is over all its looks, and wider than a 95 % interval."
)
NO_DIFFERENCE = (
    "The variants that share a row of the plot above, whose 95 % intervals lie within the smallest effect of interest at "
    "either side, or whose runs are the reference's number for number. Marks are as above."
)
SCATTER = (
    "Each variant's mean difference in the policy's distance from the SFT policy and in the primary metric, from the "
    "same runs. A variant on the horizontal line changes only the KL; one above it on the vertical line "
    "has a higher score at the same KL. The axis is logarithmic past one nat where variants differ by orders of magnitude."
)
