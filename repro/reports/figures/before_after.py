"""The SFT policy and the policy after PPO on the test posts, seed by seed."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro.reports.figures import style
from repro.reports.figures.chart import Chart
from repro.reports.figures.differences import REFERENCES
from repro.reports.figures.layout import grid, in_order
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

OUTCOMES = ("win_rate", "gold", "score")  # before and after PPO: of sampled responses where they were measured
EVEN = 0.5  # the win rate of a policy as good as the references
LONG_NAME = 9  # characters of an arm past which its name takes two lines


def before_after_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, before (SFT policy), after (PPO) and the references' own value, where it has one."""
    wide = study.finals.pivot(index=["arm", "seed"], columns="metric", values="value")
    frames = []
    for name in OUTCOMES:
        pairs = [(f"test/{name}", f"sft_test/{name}") for name in (f"sampled_{name}", name)]
        metric = next((after for after, before in pairs if {after, before} <= set(wide.columns)), None)
        if metric:
            even = EVEN if name == "win_rate" else np.nan
            references = wide.get(REFERENCES.get(metric), pd.Series(even, index=wide.index))
            frames.append(
                pd.DataFrame(
                    {"metric": metric, "before": wide[f"sft_{metric}"], "after": wide[metric], "references": references}
                ).reset_index()
            )
    empty = pd.DataFrame(columns=["metric", "arm", "seed", "before", "after", "references"])
    metrics = tuple(frame["metric"].iat[0] for frame in frames)
    return in_order(pd.concat([empty, *frames]) if frames else empty, metrics, study.arms)


def draw_before_after(data: pd.DataFrame, study: Study) -> Figure:
    """A panel per metric, a column per arm: each seed a line from the SFT policy to the policy after PPO."""
    metrics = list(data["metric"].unique())
    figure, panels = grid(len(metrics), columns=3, width=3.7, height=3.0)
    for axes, metric in zip(panels, metrics, strict=True):
        rows = data[data["metric"] == metric]
        _slopes(axes, rows, study)
        level = rows["references"].mean()
        if np.isfinite(level):
            axes.axhline(level, color="#888888", linewidth=1, linestyle=(0, (1, 1.5)))
            axes.annotate(
                "references",
                (1, level),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=7.5,
                color="#666666",
            )
        axes.set(title=terms.name(metric), xlabel="", ylabel=terms.unit(metric))
        axes.grid(visible=False, axis="x")
    return figure


def _slopes(axes: Axes, rows: pd.DataFrame, study: Study) -> None:
    """Seeds as lines SFT -> PPO, arms side by side."""
    for place, arm in enumerate(study.arms):
        seeds = rows[rows["arm"] == arm]
        ends = np.stack([seeds["before"], seeds["after"]])  # [2, seeds]
        colour, marker = style.colours(study.arms)[arm], style.markers(study.arms)[arm]
        axes.plot([place - 0.25, place + 0.25], ends, color=colour, linewidth=1, alpha=0.6)
        axes.plot(
            np.full(len(seeds), place - 0.25),
            ends[0],
            linestyle="",
            marker="o",
            color="white",
            markeredgecolor=colour,
            markersize=5,
        )
        axes.plot(np.full(len(seeds), place + 0.25), ends[1], linestyle="", marker=marker, color=colour, markersize=6)
    names = [arm.replace("_", "_\n", 1) if len(arm) > LONG_NAME else arm for arm in study.arms]
    axes.set_xticks(range(len(study.arms)), names)
    axes.set_xlim(-0.6, len(study.arms) - 0.4)


CHARTS = (
    Chart(
        "before_after",
        "Before and after PPO",
        "Open circles are the SFT policy, filled marks the same policy after PPO, one line per seed, all on the "
        "same test posts.",
        before_after_data,
        draw_before_after,
    ),
)
