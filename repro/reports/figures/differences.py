"""Differences to the reference on the test posts, seed by seed."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from repro.reports.figures import style, takeaways
from repro.reports.figures.chart import ZERO, Chart, still_lines, varying
from repro.reports.figures.layout import in_order
from repro.reports.figures.sheet import Sheet, name_lines, room, sheet
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

FINALS = (
    "test/sampled_win_rate",
    "test/win_rate",
    "test/length_controlled_win_rate",
    "test/sampled_gold",
    "test/gold",
    "test/score",
    "test/kl",
    "test/length",
    "test/eos_rate",
    "test/rouge_l",
    "test/wrong_facts",
    "test/covered_facts",
    "test/judge_agreement",
)
ROW = 0.62  # inches of an arm's row: a name of two lines, or of three
# Where the reference summaries were measured too.
REFERENCES = dict.fromkeys(("test/gold", "test/sampled_gold"), "test/reference_gold")


def tested(study: Study) -> list[str]:
    """The policy's recorded metrics on the test posts: the usual ones in order, then whatever else was measured."""
    recorded = {metric for metric in study.finals["metric"] if metric.startswith("test/")} - set(REFERENCES.values())
    return [m for m in FINALS if m in recorded] + sorted(recorded - set(FINALS))


def compared(study: Study) -> tuple[str, ...]:
    """The metrics whose differences are shown, the primary one first: one list, so that figure, sentence and table agree."""
    return tuple(dict.fromkeys((study.primary, *tested(study))))


def difference_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, difference to the reference, and of the arm n, mean, sd, low, high of these differences."""
    rows = findings.differences.merge(findings.intervals, on=["metric", "arm"])
    return in_order(rows[rows["metric"].isin(compared(study))], compared(study), study.arms)


def draw_differences(data: pd.DataFrame, study: Study) -> Sheet | None:
    """A panel per metric that varies: every seed's difference a dot, the mean with its 95 % t interval beside them."""
    metrics, arms = varying(data, ("difference",), ZERO), study.arms[1:]
    if not metrics:
        return None
    verdict = {study.primary: " \N{MIDDLE DOT} verdict"}
    titles = {metric: terms.name(metric) + verdict.get(metric, "") for metric in metrics}
    figure, panels = sheet(titles, ROW * len(arms) + 0.1, left=room(arms))
    for metric, axes in panels.items():
        _differences(axes, data[data["metric"] == metric], study)
        if metric == study.primary:
            band(axes, study.smallest_effect)
        axes.set(xlabel=f"difference{terms.bracketed(metric)}", ylabel="")
        style.few_ticks(axes, "x")
        style.quiet(axes)
    return figure


def band(axes: Axes, smallest: float) -> None:
    """The differences that are too small to matter, where a study says which these are."""
    if np.isfinite(smallest):
        axes.axvspan(-smallest, smallest, **style.BAND)


def _differences(axes: Axes, rows: pd.DataFrame, study: Study) -> None:
    """One arm per row: dots below, mean and interval above, a line at zero."""
    axes.axvline(0, **style.ZERO_LINE)
    for height, arm in enumerate(study.arms[1:]):
        effect_row(axes, height, rows[rows["arm"] == arm], arm, study)
    name_rows(axes, study.arms[1:])


def effect_row(axes: Axes, height: int, rows: pd.DataFrame, arm: str, study: Study) -> None:
    """An arm's row: the mean with its interval, and below them the seeds; `rows` has difference, mean, low, high."""
    look = {"color": style.colours(study.arms)[arm], "marker": style.markers(study.arms)[arm]}
    axes.plot(rows["difference"], np.full(len(rows), height + 0.24), linestyle="", alpha=0.45, markersize=4, **look)
    for row in rows.head(1).itertuples():
        axes.hlines(height - 0.1, row.low, row.high, color=look["color"], linewidth=2)
        axes.plot(row.mean, height - 0.1, linestyle="", markersize=7, **look)


def name_rows(axes: Axes, arms: tuple[str, ...]) -> None:
    """The names of arms beside their rows, the first at the top."""
    axes.set_yticks(range(len(arms)), [name_lines(arm) for arm in arms], linespacing=0.95)
    axes.set_ylim(len(arms) - 0.45, -0.55)


CHARTS = (
    Chart(
        "paired_differences",
        "Differences to the reference, seed by seed",
        "Small marks are single seeds, the large mark their mean with its 95 % t interval; on the primary "
        "metric it is the verdict's interval, and the shaded band the smallest effect of interest.",
        difference_data,
        draw_differences,
        takeaways.paired_differences,
        still=lambda data: still_lines(data, "does not differ from the reference's in any seed", ("difference",), ZERO),
    ),
)
