"""Learning curves of every seed and arm, and their differences to the reference during training."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from repro import record
from repro.reports.figures import style, takeaways
from repro.reports.figures.chart import ZERO, Chart, still_lines, varying
from repro.reports.figures.layout import frame_limits, in_order, padded
from repro.reports.figures.numbers import count
from repro.reports.figures.sheet import PHONE, SLIDE, Shape, Sheet, entries, sheet
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics import student
from repro.reports.statistics.findings import Findings
from repro.reports.statistics.pairing import complete_steps, step_by_step

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
    "objective/spread_within_groups",  # these two only where a query has several responses
    "objective/spread_between_groups",
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
HEIGHT = 1.75  # inches of a panel's axes
ON_SLIDE = ("objective/score", "objective/kl")  # and the primary metric's curve, or the win rate's
TALL = 3.3  # inches of the axes on a slide
NO_UNIT = "no unit"
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


def rows_of(data: pd.DataFrame, key: str) -> pd.DataFrame:
    """The rows of a panel: a curve's, and those of the primary metric where they are drawn beside it."""
    return data[(data["metric"] == key) | (data["metric"].map(on_the_way) == key)]


def draw_curves(data: pd.DataFrame, study: Study, shape: Shape = PHONE, height: float = HEIGHT) -> Sheet | None:
    """A panel per metric that varies: each arm's mean with its 95 % t interval, seeds faint below them."""
    curves = data[data["metric"].isin(PANELS)]
    judged = data[data["metric"] == study.primary]
    verdict = {study.primary: " \N{MIDDLE DOT} verdict, on the mean of the curve"}
    figure, panels = curve_panels(curves, study, "episodes", verdict, shape=shape, height=height)
    if on_the_way(study.primary) in panels and not judged.empty:
        _mark_verdict(panels[on_the_way(study.primary)], judged, study)
    if "objective/kl" in panels:
        mark_cap(panels["objective/kl"], float(study.tags.get(record.KL_CAP, "nan")))
    return figure


def slide_data(study: Study, findings: Findings) -> pd.DataFrame:
    """The rows of `curve_data` of the few panels that a slide has room for."""
    data = curve_data(study, findings)
    shown = (*ON_SLIDE, on_the_way(study.primary) or "eval/win_rate")
    return data[
        data["metric"].isin(shown) | (data["metric"].map(on_the_way).isin(shown) & ~data["metric"].isin(PANELS))
    ]


def draw_slide(data: pd.DataFrame, study: Study) -> Sheet | None:
    """The panels of a slide side by side."""
    return draw_curves(data, study, SLIDE, TALL)


def curve_panels(
    data: pd.DataFrame,
    study: Study,
    steps: str,
    added: Mapping[str, str] = MappingProxyType({}),
    beside: Sequence[float] = (),
    shape: Shape = PHONE,
    height: float = HEIGHT,
) -> tuple[Sheet | None, dict[str, Axes]]:
    """The sheet of curves, and each metric's axes in it; none where no metric varies.

    `steps` is what the horizontal axis counts; `added` follows a metric's name in the title; differences vary `beside` zero.
    """
    metrics = varying(data, beside=beside)
    if not metrics:
        return None, {}
    seeds = data.groupby("arm")["seed"].nunique()
    suffixes = {arm: f", {count(n, 'seed')}" for arm, n in seeds.items()} if seeds.nunique() > 1 else {}
    shown = [arm for arm in study.arms if arm in seeds.index]
    titles = {metric: terms.name(metric) + added.get(metric, "") for metric in metrics}
    figure, axes_of = sheet(titles, height, entries(shown, study.arms, suffixes), shape=shape)
    means = bands(data)
    for metric, axes in axes_of.items():
        rows = data[data["metric"] == metric]
        lines(axes, rows, means[means["metric"] == metric], study)
        _mark_early_ends(axes, rows, study)
        axes.set(xlabel=steps, ylabel=terms.unit(metric) or NO_UNIT)
        frame_limits(axes, rows["value"])
        style.few_ticks(axes)
    return figure, axes_of


def bands(rows: pd.DataFrame) -> pd.DataFrame:
    """metric, arm, step, n, mean, sd, low, high: over an arm's seeds with its 95 % t interval, while all of them run."""
    return student.t_intervals(complete_steps(rows).groupby(["metric", "arm", "step"])["value"])


def lines(axes: Axes, rows: pd.DataFrame, means: pd.DataFrame, study: Study) -> None:
    """Each arm's mean over its seeds with its interval as a band, and the seeds as thin lines that do not hide these."""
    bare = rows["seed"].nunique() < 2  # then the seeds are all that there is
    for place, arm in enumerate(study.arms):
        colour = style.colours(study.arms)[arm]
        own = rows[rows["arm"] == arm].dropna(subset="value")
        if own.empty:
            continue
        for _, seed in own.groupby("seed"):
            axes.plot(seed["step"], seed["value"], color=colour, alpha=style.faint(own["seed"].nunique()), **style.SEED)
        mean = means[means["arm"] == arm]
        if not bare:
            # The edges tell bands that lie over one another apart.
            face, edge = (colour, 0.34 / rows["arm"].nunique()), (colour, 0.6)
            band = {"facecolor": face, "edgecolor": edge, "linewidth": 0.5, "zorder": 2.2}
            axes.fill_between(mean["step"], mean["low"], mean["high"], **band)
        look = {"color": colour, "marker": style.markers(study.arms)[arm], "markersize": 4.5, "markeredgewidth": 0}
        every = max(1, len(mean) // MARKS)
        apart = (place * every // len(study.arms), every)  # so that no arm's mark hides another's
        look |= {"dashes": style.dash(arm, study.arms), "markevery": apart, "linewidth": 2, "zorder": 3 - place / 100}
        axes.plot(mean["step"], mean["mean"], **look)


def _mark_verdict(axes: Axes, judged: pd.DataFrame, study: Study) -> None:
    """The primary metric on the test posts, right of its training curve: each arm's mean with its 95 % t interval."""
    start, end = axes.get_xlim()
    step = 0.05 * (end - start)
    ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= end]
    axes.axvline(end, color="#888888", linewidth=0.9, linestyle=(0, (1, 1.5)))
    reached = [judged["value"]]
    for place, arm in enumerate(study.arms):
        values = judged.loc[judged["arm"] == arm, "value"].dropna()
        reached.append(pd.Series(student.t_interval(values)))
        x, colour = end + (place + 1) * step, style.colours(study.arms)[arm]
        axes.vlines(x, *reached[-1], linewidth=1.6, color=colour)
        axes.plot(x, values.mean(), marker=style.markers(study.arms)[arm], markersize=5, color=colour)
    axes.set_xlim(start, end + (len(study.arms) + 1) * step)
    axes.set_xticks(ticks)
    while len(ticks) > 1 and not style.side_by_side(axes):
        ticks = ticks[::2]
        axes.set_xticks(ticks)
    words = {"xytext": (3, 1), "textcoords": "offset points", **style.NOTE}
    axes.annotate("test", (end, 1), xycoords=("data", "axes fraction"), va="bottom", **words)
    low, high = padded(pd.concat(reached))
    axes.set_ylim(min(low, axes.get_ylim()[0]), max(high, axes.get_ylim()[1]))


def mark_cap(axes: Axes, cap: float) -> None:
    """A line at the KL cap [nats], past which a run counts as run away, if the panel reaches it."""
    if axes.get_ylim()[1] > cap:
        axes.axhline(cap, color="#555555", linewidth=0.9, linestyle=(0, (4, 2)))
        axes.annotate("ran away", (1, cap), xycoords=("axes fraction", "data"), ha="right", va="bottom", **style.NOTE)


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


def draw_paired(data: pd.DataFrame, study: Study) -> Sheet | None:
    """The sheet of curves, of differences: a line at zero is the reference."""
    figure, panels = curve_panels(data, study, "episodes", beside=ZERO)
    for metric, axes in panels.items():
        axes.axhline(0, **style.ZERO_LINE)
        axes.set_ylabel(f"difference{terms.bracketed(metric)}")
    return figure


def still_curves(data: pd.DataFrame) -> list[str]:
    """A sentence for each panel that would show a flat line."""
    return still_lines(data[data["metric"].isin(PANELS)], "is {} in every run at every step")


CHARTS = (
    Chart(
        "learning_curves",
        "Learning curves",
        "Thick lines are means over an arm's seeds while all of them run, bands their 95 % t intervals, faint lines single "
        "seeds (bands are cut off at the panel's edge where they are wider than the seeds). A cross is a run that ended "
        "early, or goes on. The verdict is not based on these curves but on the primary metric that was declared before the "
        "runs; where a panel shows it during training, its value on the test posts is right of the dotted line. A dashed line "
        "in the panel of the KL is the cap, past which a run counts as run away. A curve of more "
        f"than {POINTS} steps is drawn as means over that many equal parts. Where arms have different numbers of seeds the "
        "legend says so: then their means are of different seeds, and only the paired differences compare them.",
        curve_data,
        draw_curves,
        takeaways.learning_curves,
        rows_of,
        still_curves,
    ),
    Chart(
        "paired_curves",
        "Difference to the reference during training",
        "Arm minus reference within each seed, at each step: thick lines are the mean, bands its 95 % t interval, faint "
        "lines single seeds. A band is pointwise: it holds for one step only, so a curve that leaves zero somewhere is not a "
        "finding.",
        paired_data,
        draw_paired,
        takeaways.paired_curves,
        still=lambda data: still_lines(data, "does not differ from the reference's at any step", beside=ZERO),
    ),
)
