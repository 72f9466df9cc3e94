"""Differences to the reference on the test posts, seed by seed."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro.reports.figures import style
from repro.reports.figures.chart import Chart
from repro.reports.figures.layout import grid, in_order
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics import student
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
# Where the reference summaries were measured too.
REFERENCES = dict.fromkeys(("test/gold", "test/sampled_gold"), "test/reference_gold")


def tested(study: Study) -> list[str]:
    """The policy's recorded metrics on the test posts: the usual ones in order, then whatever else was measured."""
    recorded = {metric for metric in study.finals["metric"] if metric.startswith("test/")} - set(REFERENCES.values())
    return [m for m in FINALS if m in recorded] + sorted(recorded - set(FINALS))


def difference_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, difference to the reference on the primary metric first, then the other final ones."""
    metrics = tuple(dict.fromkeys((study.primary, *FINALS)))
    paired = findings.differences
    return in_order(paired[paired["metric"].isin(metrics)], metrics, study.arms)


def draw_differences(data: pd.DataFrame, study: Study) -> Figure:
    """A panel per metric: every seed's difference a dot, the mean with its 95 % t interval beside them."""
    metrics = list(data["metric"].unique())
    arms = study.arms[1:]
    figure, panels = grid(len(metrics), columns=3, width=3.7, height=1.15 + 0.42 * len(arms))
    for axes, metric in zip(panels, metrics, strict=True):
        _differences(axes, data[data["metric"] == metric], study)
        if metric == study.primary and np.isfinite(study.smallest_effect):
            axes.axvspan(-study.smallest_effect, study.smallest_effect, color="#f0e6c8", zorder=0, linewidth=0)
        title = terms.name(metric) + (" \N{MIDDLE DOT} verdict" if metric == study.primary else "")
        axes.set(title=title, xlabel=f"difference{terms.bracketed(metric)}", ylabel="")
        style.few_ticks(axes, "x")
        style.quiet(axes)
    return figure


def _differences(axes: Axes, rows: pd.DataFrame, study: Study) -> None:
    """One arm per row: dots below, mean and interval above, a line at zero."""
    arms = study.arms[1:]
    axes.axvline(0, color="#555555", linewidth=0.9)
    for height, arm in enumerate(arms):
        values = rows.loc[rows["arm"] == arm, "difference"]
        low, high = student.t_interval(values)
        look = {"color": style.colours(study.arms)[arm], "marker": style.markers(study.arms)[arm]}
        axes.plot(values, np.full(len(values), height + 0.22), linestyle="", alpha=0.45, markersize=4, **look)
        axes.hlines(height - 0.1, low, high, color=look["color"], linewidth=2)
        axes.plot(values.mean(), height - 0.1, linestyle="", markersize=7, **look)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.45, -0.55)


CHARTS = (
    Chart(
        "paired_differences",
        "Differences to the reference, seed by seed",
        "Small marks are single seeds, the large mark their mean with its 95 % t interval. The shaded band is the "
        "smallest effect of interest on the primary metric.",
        difference_data,
        draw_differences,
    ),
)
