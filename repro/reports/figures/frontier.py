"""Score against the KL to the SFT policy, during training and at its end.

The same score at less KL is better, so arms are compared at equal KL as well as at equal training.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro.reports.figures import curves, layout, style
from repro.reports.figures.chart import Chart
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics import pairing, student
from repro.reports.statistics.findings import Findings

# Scores: the curve during training, and the value on the test posts; both of sampled responses, as is the KL.
SCORES = {
    "score": ("objective/score", "test/sampled_score"),
    "gold": ("objective/gold", "test/sampled_gold"),
    "win_rate": ("eval/win_rate", "test/sampled_win_rate"),
}
TRAINING_KL, TEST_KL = "objective/kl", "test/kl"
STRETCHES = 10  # points of a path; single batches would show only noise
COLUMNS = ["part", "metric", "arm", "seed", "step", "kl", "value"]


def data(study: Study, findings: Findings) -> pd.DataFrame:
    """part (way, end or start), metric, arm, seed, step, kl [nats], value; the start is the SFT policy's, at no KL."""
    return pd.concat([on_the_way(study), at_the_end(study)], ignore_index=True)[COLUMNS]


def on_the_way(study: Study) -> pd.DataFrame:
    """The same columns for the part way: means over stretches of the training."""
    kl = study.curves[study.curves["metric"] == TRAINING_KL][["arm", "seed", "step", "value"]]
    frames = [pd.DataFrame(columns=COLUMNS)]
    for metric, _ in SCORES.values():
        rows = study.curves[study.curves["metric"] == metric]
        both = rows.merge(kl, on=["arm", "seed", "step"], suffixes=("", "_kl")).dropna(subset=["value", "value_kl"])
        if not both.empty:
            value = curves.stretches(both[["metric", "arm", "seed", "step", "value"]], STRETCHES)
            kl_means = curves.stretches(both.assign(value=both["value_kl"]), STRETCHES)
            frames.append(value.assign(part="way", kl=kl_means["value"]))
    return _joined(frames, [curve for curve, _ in SCORES.values()], study)


def at_the_end(study: Study) -> pd.DataFrame:
    """The same columns for the parts start and end: the SFT policy and the trained one on the test posts."""
    wide = study.finals.pivot(index=["arm", "seed"], columns="metric", values="value")
    frames = [pd.DataFrame(columns=COLUMNS)]
    for _, metric in SCORES.values():
        if {metric, TEST_KL} <= set(wide):
            after = pd.DataFrame({"kl": wide[TEST_KL], "value": wide[metric]}).reset_index().assign(part="end")
            frames.append(after.assign(metric=metric, step=np.nan).dropna(subset=["kl", "value"]))
        if {metric, TEST_KL, f"sft_{metric}"} <= set(wide):
            before = wide[f"sft_{metric}"].rename("value").reset_index().assign(part="start", kl=0.0)
            frames.append(before.assign(metric=metric, step=np.nan).dropna(subset="value"))
    return _joined(frames, [final for _, final in SCORES.values()], study)


def _joined(frames: list[pd.DataFrame], metrics: list[str], study: Study) -> pd.DataFrame:
    """The frames as one, in the order of the metrics, then of the arms."""
    known = [frame for frame in frames if not frame.empty]
    return layout.in_order(pd.concat(known), tuple(metrics), study.arms) if known else frames[0]


def draw(rows: pd.DataFrame, study: Study) -> Figure:
    """A panel per score: above, the paths that training took; below, where it ended, on the test posts."""
    way, end = rows[rows["part"] == "way"], rows[rows["part"] != "way"]
    shown = [part for part in (way, end) if not part.empty]
    columns = max(part["metric"].nunique() for part in shown)
    figure, panels = layout.grid(columns * len(shown), columns=columns, width=11.1 / 3, height=3.1)
    for row, part in enumerate(shown):
        metrics = list(part["metric"].unique())
        for axes, metric in zip(panels[row * columns :], metrics, strict=False):
            _panel(axes, part[part["metric"] == metric], study)
            axes.set(title=_title(metric), xlabel=terms.label(TRAINING_KL), ylabel=terms.unit(metric))
        for spare in panels[row * columns + len(metrics) : (row + 1) * columns]:
            spare.remove()
    layout.legend(figure, tuple(arm for arm in study.arms if arm in set(rows["arm"])), study.arms)
    return figure


def _title(metric: str) -> str:
    """A panel's title: the score, and on which posts."""
    if metric.startswith("test/"):
        return f"{terms.name(metric.replace('sampled_', ''))} \N{MIDDLE DOT} end, test posts"
    return f"{terms.name(metric).removesuffix(' on validation posts')} \N{MIDDLE DOT} during training"


def _panel(axes: Axes, rows: pd.DataFrame, study: Study) -> None:
    """One score against the KL: paths, or ends with the start that they share."""
    mark = _path if (rows["part"] == "way").all() else _end
    for arm in study.arms:
        own = rows[(rows["arm"] == arm) & (rows["part"] != "start")]
        mark(axes, own, arm, study.arms)
    start = rows.loc[rows["part"] == "start", "value"]
    if not start.empty:
        axes.plot(0, start.mean(), "o", color=style.SFT, markerfacecolor="white", markersize=7, zorder=3)
        axes.annotate("SFT", (0, start.mean()), (7, -3), textcoords="offset points", fontsize=7.5, va="top")
    axes.set(xlim=layout.padded(rows["kl"]), ylim=layout.padded(rows["value"]))
    style.few_ticks(axes)
    if rows["kl"].max() > layout.WIDE * rows["kl"].abs().median():
        style.symmetric_log(axes, max(1.0, float(rows["kl"].median())))


def _path(axes: Axes, rows: pd.DataFrame, arm: str, arms: tuple[str, ...]) -> None:
    """One arm's way, every seed thin, their mean thick with its last point marked."""
    colour = style.colours(arms)[arm]
    for _, seed in rows.groupby("seed"):
        axes.plot(seed["kl"], seed["value"], color=colour, linewidth=0.6, alpha=0.35)
    mean = pairing.complete_steps(rows).groupby("step")[["kl", "value"]].mean()
    axes.plot(mean["kl"], mean["value"], color=colour, linewidth=2, dashes=style.dash(arm, arms))
    look = {"marker": style.markers(arms)[arm], "color": colour, "markeredgecolor": "white", "zorder": 3}
    axes.plot(mean["kl"].tail(1), mean["value"].tail(1), linestyle="", markersize=8, **look)


def _end(axes: Axes, rows: pd.DataFrame, arm: str, arms: tuple[str, ...]) -> None:
    """Where one arm ended: seeds small, their mean large, its 95 % t intervals in both directions as a cross."""
    look = {"color": style.colours(arms)[arm], "marker": style.markers(arms)[arm], "linestyle": ""}
    if rows.empty:
        return
    axes.plot(rows["kl"], rows["value"], markersize=3.5, alpha=0.45, **look)
    axes.plot(rows["kl"].mean(), rows["value"].mean(), markersize=8, markeredgecolor="white", zorder=3, **look)
    axes.vlines(rows["kl"].mean(), *student.t_interval(rows["value"]), color=look["color"], linewidth=1.3)
    axes.hlines(rows["value"].mean(), *student.t_interval(rows["kl"]), color=look["color"], linewidth=1.3)


# At equal KL


def at_equal_kl(study: Study) -> pd.DataFrame:
    """metric, arm, n, mean, sd, low, high: an arm's last stretch less the reference's path at the same KL, within a seed.

    The path is read by straight lines between its stretches, sorted by KL; a seed whose arm ends nearer to or farther
    from the SFT policy than the reference ever was has nothing to be compared with, and is not in n.
    """
    way = on_the_way(study)
    rows = [
        {"metric": metric, "arm": arm, "seed": seed, "difference": last["value"] - at}
        for (metric, seed), own in way.groupby(["metric", "seed"], sort=False)
        for arm, last, at in _compared(own, study)
    ]
    return pairing.intervals(pd.DataFrame(rows, columns=["metric", "arm", "seed", "difference"]).dropna())


def _compared(rows: pd.DataFrame, study: Study) -> list[tuple[str, pd.Series, float]]:
    """Arm, its last stretch, and the reference's value at that KL, of one metric and seed; NaN off the path."""
    path = rows[rows["arm"] == study.reference].sort_values("kl")
    ends = rows[rows["arm"] != study.reference].groupby("arm", sort=False).tail(1)
    if path.empty:
        return []
    kl, value = path["kl"].to_numpy(float), path["value"].to_numpy(float)
    return [(row["arm"], row, np.interp(row["kl"], kl, value, np.nan, np.nan)) for _, row in ends.iterrows()]


CHARTS = (
    Chart(
        "score_against_kl",
        "Score against the KL to the SFT policy",
        f"Up and left is better: a higher score, at less KL. Top row: training, as means over {STRETCHES} equally long parts "
        "of it, the last one marked; thin lines are seeds, thick ones an arm's mean. Bottom row: after training, on the test "
        "posts; small marks are seeds, large ones their mean, the cross its 95 % t intervals in both directions, cut off at "
        "the panel's edge. A reward-model score that rises with the KL while the gold score falls is over-optimisation.",
        data,
        draw,
    ),
)
