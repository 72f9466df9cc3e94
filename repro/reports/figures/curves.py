"""Learning curves of every seed and arm, and their differences to the reference during training."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro import record
from repro.reports.figures import style
from repro.reports.figures.chart import Chart
from repro.reports.figures.layout import frame_limits, grid, in_order, legend, padded
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics import student
from repro.reports.statistics.findings import Findings
from repro.reports.statistics.pairing import complete_steps, step_by_step
from repro.reports.statistics.student import half_width

PANELS = (
    "objective/score",
    "objective/gold",
    "eval/win_rate",
    "objective/kl",
    "objective/length",
    "objective/eos_rate",
    "objective/entropy",
    "loss/value",
    "policy/clip_fraction",
)
PAIRED = (
    "objective/score",
    "objective/gold",
    "eval/win_rate",
    "objective/kl",
    "objective/length",
    "objective/entropy",
)
# Prefixes under which a test metric is measured during training: on validation posts, else on the training posts.
DURING_TRAINING = ("eval/", "objective/")
POINTS = 64  # of a curve of thousands of updates: more would not be visible, and make the page large
MARKS = 5  # markers on an arm's mean, so that arms can be told apart in grey


def curve_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, step [episodes], value of the panels that were recorded.

    The primary metric's own values are among them, at the last step, where a panel shows it during training.
    """
    curves = study.curves[study.curves["metric"].isin(PANELS)]
    shown = in_order(stretches(curves, POINTS), PANELS, study.arms)
    if on_the_way(study.primary) not in set(shown["metric"]):
        return shown
    judged = study.finals[study.finals["metric"] == study.primary].assign(step=curves["step"].max())[shown.columns]
    return pd.concat([shown, in_order(judged, (study.primary,), study.arms)], ignore_index=True)


def on_the_way(metric: str) -> str:
    """The curve that shows a tested metric during training: the first that is a panel; nothing where none is."""
    name = metric.removeprefix("test/").removeprefix("sampled_")
    return next((way + name for way in DURING_TRAINING if metric != name and way + name in PANELS), "")


def draw_curves(data: pd.DataFrame, study: Study) -> Figure:
    """A grid with one panel per metric: seeds thin, the arm's mean thick with its 95 % t interval."""
    curves = data[data["metric"].isin(PANELS)]
    figure, panels = curve_panels(curves, study, "episodes")
    judged = data[data["metric"] == study.primary]
    if study.primary in panels:
        panels[study.primary].set_title(f"{terms.name(study.primary)} \N{MIDDLE DOT} verdict, on the mean of the curve")
    elif not judged.empty:
        _mark_verdict(panels[on_the_way(study.primary)], judged, study)
    if "objective/kl" in panels:
        mark_cap(panels["objective/kl"], float(study.tags.get(record.KL_CAP, "nan")))
    return figure


def curve_panels(data: pd.DataFrame, study: Study, steps: str) -> tuple[Figure, dict[str, Axes]]:
    """The grid of curves, and each metric's panel in it; `steps` is what the horizontal axis counts."""
    metrics = list(data["metric"].unique())
    figure, axes_of = grid(len(metrics), columns=3, width=3.7, height=2.5)
    means = bands(data)
    for axes, metric in zip(axes_of, metrics, strict=True):
        rows = data[data["metric"] == metric]
        lines(axes, rows, means[means["metric"] == metric], study)
        _mark_early_ends(axes, rows, study)
        axes.set(title=terms.name(metric), xlabel=steps, ylabel=terms.unit(metric))
        frame_limits(axes, rows["value"])
        style.few_ticks(axes)
    seeds = data.groupby("arm")["seed"].nunique()
    suffixes = {arm: f", {n} seeds" for arm, n in seeds.items()} if seeds.nunique() > 1 else {}
    legend(figure, tuple(arm for arm in study.arms if arm in seeds.index), study.arms, suffixes=suffixes)
    return figure, dict(zip(metrics, axes_of, strict=True))


def bands(rows: pd.DataFrame) -> pd.DataFrame:
    """metric, arm, step, n, mean, low, high: over an arm's seeds with its 95 % t interval, while all of them run."""
    by_step = complete_steps(rows).groupby(["metric", "arm", "step"])["value"]
    means = by_step.agg(n="count", mean="mean", sd="std").reset_index()
    half = half_width(means["sd"], means["n"])
    return means.assign(low=means["mean"] - half, high=means["mean"] + half).drop(columns="sd")


def lines(axes: Axes, rows: pd.DataFrame, means: pd.DataFrame, study: Study) -> None:
    """Every seed of one metric as a thin line, and each arm's mean over its seeds with its interval as a band."""
    faint = 0.13 / max(2, rows["arm"].nunique())  # so that many bands over one another do not hide the lines
    for place, arm in enumerate(study.arms):
        colour = style.colours(study.arms)[arm]
        for _, seed in rows[rows["arm"] == arm].dropna(subset="value").groupby("seed"):
            axes.plot(seed["step"], seed["value"], color=colour, linewidth=0.6, alpha=0.4)
        mean = means[means["arm"] == arm]
        axes.fill_between(mean["step"], mean["low"], mean["high"], color=colour, alpha=faint, linewidth=0)
        look = {"color": colour, "marker": style.markers(study.arms)[arm], "markersize": 4.5, "markeredgewidth": 0}
        every = max(1, len(mean) // MARKS)
        apart = (place * every // len(study.arms), every)  # so that no arm's mark hides another's
        axes.plot(mean["step"], mean["mean"], linewidth=2, dashes=style.dash(arm, study.arms), markevery=apart, **look)


def _mark_verdict(axes: Axes, judged: pd.DataFrame, study: Study) -> None:
    """The primary metric on the test posts, right of its training curve: each arm's mean with its 95 % t interval."""
    start, end = axes.get_xlim()
    step = 0.05 * (end - start)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= end])
    axes.axvline(end, color="#888888", linewidth=0.9, linestyle=(0, (1, 1.5)))
    reached = [judged["value"]]
    for place, arm in enumerate(study.arms):
        values = judged.loc[judged["arm"] == arm, "value"].dropna()
        reached.append(pd.Series(student.t_interval(values)))
        colour = style.colours(study.arms)[arm]
        axes.vlines(end + (place + 1) * step, *reached[-1], linewidth=1.6, color=colour)
        axes.plot(
            end + (place + 1) * step, values.mean(), marker=style.markers(study.arms)[arm], markersize=5, color=colour
        )
    axes.set_xlim(start, end + (len(study.arms) + 1) * step)
    words = {"xytext": (3, 2), "textcoords": "offset points", "fontsize": 7.5, "color": "#666666"}
    axes.annotate("test", (end, 1), xycoords=("data", "axes fraction"), va="bottom", **words)
    low, high = padded(pd.concat(reached))
    axes.set_ylim(min(low, axes.get_ylim()[0]), max(high, axes.get_ylim()[1]))


def mark_cap(axes: Axes, cap: float) -> None:
    """A line at the KL cap [nats], past which a run counts as run away, if the panel reaches it."""
    if axes.get_ylim()[1] > cap:
        axes.axhline(cap, color="#555555", linewidth=0.9, linestyle=(0, (4, 2)))
        axes.annotate("ran away", (1, cap), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7.5)


def _mark_early_ends(axes: Axes, rows: pd.DataFrame, study: Study) -> None:
    """A cross where a seed's curve stops before the study's last step."""
    last = rows.dropna(subset="value").sort_values("step").groupby(["arm", "seed"]).tail(1)
    early = last[last["step"] < rows["step"].max()]
    for arm, colour in style.colours(study.arms).items():
        ends = early[early["arm"] == arm]
        axes.plot(ends["step"], ends["value"], linestyle="", marker="x", color=colour, markersize=6)


def stretches(rows: pd.DataFrame, parts: int) -> pd.DataFrame:
    """metric, arm, seed, step, value: means over `parts` equally long stretches of a metric's steps, at their middle.

    A metric that has no more steps than parts is left as it is.
    """
    keys = ["metric", "arm", "seed", "step"]
    middle = rows.groupby("metric")["step"].transform(lambda steps: steps.map(_middles(steps, parts)))
    return rows.assign(step=middle).groupby(keys, as_index=False)["value"].mean()


def _middles(steps: pd.Series, parts: int) -> dict[float, float]:
    """Step -> the middle of the stretch that it falls in."""
    different = np.unique(steps)
    split = np.array_split(different, max(1, min(parts, len(different))))
    return {step: part.mean() for part in split for step in part}


def paired_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, step [episodes], value: arm - reference within a seed, at every step that both recorded."""
    apart = step_by_step(study.curves[study.curves["metric"].isin(PAIRED)], study.reference)
    return in_order(stretches(apart.rename(columns={"difference": "value"}), POINTS), PAIRED, study.arms)


def draw_paired(data: pd.DataFrame, study: Study) -> Figure:
    """The grid of curves, of differences: a line at zero is the reference."""
    figure, panels = curve_panels(data, study, "episodes")
    for metric, axes in panels.items():
        axes.axhline(0, color="#555555", linewidth=0.9)
        axes.set_ylabel(f"difference{terms.bracketed(metric)}")
    return figure


CHARTS = (
    Chart(
        "learning_curves",
        "Learning curves",
        "Each seed is a thin line; thick lines are means over an arm's seeds while all of them run, bands their 95 % "
        "t intervals (cut off at the panel's edge where they are wider than the seeds). A cross is a run that ended "
        "early. The verdict is not based on these curves but on the primary metric that was declared before the runs; "
        "where a panel shows it during training, its value on the test posts is right of the dotted line. A dashed line in "
        "the panel of the KL is the cap, past which a run counts as run away. A curve of more "
        f"than {POINTS} steps is drawn as means over that many equal parts. Where arms have different numbers of seeds the "
        "legend says so: then their means are of different seeds, and only the paired differences compare them.",
        curve_data,
        draw_curves,
    ),
    Chart(
        "paired_curves",
        "Difference to the reference during training",
        "Arm minus reference within each seed, at each step: thin lines are seeds, thick ones their mean, bands its 95 % "
        "t interval, pointwise: each holds for one step only, so a curve that leaves zero somewhere is not a finding.",
        paired_data,
        draw_paired,
    ),
)
