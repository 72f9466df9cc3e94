"""The SFT policy and the policy after PPO on the test posts, seed by seed."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from repro import record
from repro.reports.figures import style, takeaways
from repro.reports.figures.chart import Chart, still_lines, varying
from repro.reports.figures.differences import REFERENCES, ROW, name_rows
from repro.reports.figures.layout import in_order
from repro.reports.figures.sheet import Sheet, room, sheet
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics import student
from repro.reports.statistics.findings import Findings

OUTCOMES = ("win_rate", "gold", "score")  # before and after PPO: of sampled responses where they were measured
EVEN = 0.5  # the win rate of a policy as good as the references


def before_after_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, before (SFT policy), after (PPO) and the references' own value, where it has one."""
    wide = study.finals.pivot(index=["arm", "seed"], columns="metric", values="value")
    frames = {}
    for name in OUTCOMES:
        pairs = [(f"test/{name}", f"sft_test/{name}") for name in (f"sampled_{name}", name)]
        metric = next((after for after, before in pairs if {after, before} <= set(wide.columns)), None)
        if metric:
            even = EVEN if name == "win_rate" else np.nan
            references = wide.get(REFERENCES.get(metric), pd.Series(even, index=wide.index))
            row = {"metric": metric, "before": wide[f"sft_{metric}"], "after": wide[metric], "references": references}
            frames[metric] = pd.DataFrame(row).reset_index()
    empty = pd.DataFrame(columns=["metric", "arm", "seed", "before", "after", "references"])
    return _with_ceiling(in_order(pd.concat([empty, *frames.values()]), tuple(frames), study.arms), study)


def _with_ceiling(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The rows with the ceiling's value of their metric and seed, where the study has a ceiling that is one in this metric."""
    own = study.ceiling[study.ceiling["metric"].isin(record.CEILING_METRICS)]
    own = own[own["metric"].isin(rows["metric"])].rename(columns={"value": "ceiling"})
    return rows if own.empty else rows.merge(own, on=["metric", "seed"], how="left")


def draw_before_after(data: pd.DataFrame, study: Study) -> Sheet | None:
    """A panel per metric that varies, a row per arm: the mean before and after PPO, and each seed as a line below."""
    metrics = varying(data, ("before", "after"))
    if not metrics:
        return None
    titles = {metric: terms.name(metric) for metric in metrics}
    figure, panels = sheet(titles, ROW * len(study.arms) + 0.1, left=room(study.arms))
    for metric, axes in panels.items():
        rows = data[data["metric"] == metric]
        for height, arm in enumerate(study.arms):
            _row(axes, height, rows[rows["arm"] == arm], arm, study)
        level = rows["references"].mean()
        if np.isfinite(level):
            axes.axvline(level, color="#666666", linewidth=1.2, linestyle=(0, (1, 1.5)))
        if "ceiling" in rows:
            mark_ceiling(axes, rows.drop_duplicates("seed")["ceiling"].dropna())
        name_rows(axes, study.arms)
        axes.set(xlabel=terms.unit(metric) or "no unit", ylabel="")
        style.few_ticks(axes, "x")
        style.quiet(axes)
    return figure


def _row(axes: Axes, height: int, seeds: pd.DataFrame, arm: str, study: Study) -> None:
    """An arm's row: an arrow from the mean before PPO to the mean after it, and a thin line for each seed."""
    both = seeds.dropna(subset=["before", "after"])
    colour, marker = style.colours(study.arms)[arm], style.markers(study.arms)[arm]
    spread = height + 0.16 + 0.22 * np.linspace(0, 1, max(1, len(both)))
    for y, (before, after) in zip(spread, both[["before", "after"]].to_numpy(), strict=False):
        axes.plot([before, after], [y, y], color=colour, alpha=style.faint(len(both)), **style.SEED)
    if both.empty:
        return
    start, end = both["before"].mean(), both["after"].mean()
    axes.plot([start, end], [height - 0.1] * 2, color=colour, linewidth=2, dashes=style.dash(arm, study.arms))
    axes.plot(start, height - 0.1, "o", color="white", markeredgecolor=colour, markersize=6.5, markeredgewidth=1.4)
    axes.plot(end, height - 0.1, marker=marker, color=colour, markersize=7)


def mark_ceiling(axes: Axes, values: pd.Series) -> None:
    """The ceiling: a dashed line at its mean over seeds, in a band that is its 95 % t interval."""
    if values.empty:
        return
    low, high = student.t_interval(values)
    if np.isfinite(low):
        axes.axvspan(low, high, color=style.CEILING, alpha=0.18, zorder=0, linewidth=0)
    axes.axvline(values.mean(), color=style.CEILING, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1)
    note = {"xytext": (-3, 1), "textcoords": "offset points", **style.NOTE}
    axes.annotate("ceiling", (values.mean(), 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", **note)


CHARTS = (
    Chart(
        "before_after",
        "Before and after PPO",
        "Open circles are the SFT policy, filled marks the same policy after PPO, means over seeds; faint lines below them are "
        "single seeds. All are measured on the same test posts; the dotted line is the references' own value, or a win rate "
        "of one half.",
        before_after_data,
        draw_before_after,
        takeaways.before_after,
        still=lambda data: still_lines(data, columns=("before", "after")),
    ),
)
