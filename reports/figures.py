"""The figures of a report: each is a tidy frame and a drawing of that frame alone, so its CSV says all it shows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import statistics, student, style
from reports.read import Study
from reports.statistics import Findings

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
PAIRED = (
    "objective/score",
    "objective/gold",
    "eval/win_rate",
    "objective/kl",
    "objective/length",
    "objective/entropy",
)
OUTCOMES = ("win_rate", "gold", "score")  # before and after PPO: of sampled responses where they were measured
# Where a tested metric was looked at on the way: on validation posts, else on the posts that PPO learns from.
ON_THE_WAY = ("eval/", "objective/")
# Where the reference summaries were measured too.
REFERENCES = dict.fromkeys(("test/gold", "test/sampled_gold"), "test/reference_gold")
EVEN = 0.5  # the win rate of a policy as good as the references
LONG_NAME = 9  # characters of an arm past which its name takes two lines
POINTS = 64  # of a curve of thousands of updates: more would not be seen, and make a heavy page
MARKS = 5  # of an arm's mean along its curve, so that arms tell apart in grey
WIDE = 50  # a positive curve whose peak is this many times its median is drawn on a log axis


@dataclass(frozen=True)
class Chart:
    """One figure: its file name, words, data (empty where a study has none) and how that data is drawn."""

    name: str
    title: str
    caption: str
    data: Callable[[Study, Findings], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Study], Figure]


def save_all(charts: Sequence[Chart], study: Study, findings: Findings, folder: Path) -> list[Chart]:
    """Writes `<name>.png`, `.svg` and `.csv` of every chart that the study has data for, and gives those charts."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for chart in charts:
        data = chart.data(study, findings)
        if not data.empty:
            with style.context():
                save(chart.draw(data, study), folder / chart.name)
            data.to_csv(folder / f"{chart.name}.csv", index=False)
            drawn.append(chart)
    return drawn


def save(figure: Figure, stem: Path) -> None:
    """Writes a figure as PNG and SVG without a date or a version in it, so that equal data gives equal files."""
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine(None)  # laid out once, not again for each file: finding the places is half of the time
    figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


def tested(study: Study) -> list[str]:
    """The policy's recorded metrics on the test posts: the usual ones in order, then whatever else was measured."""
    recorded = {metric for metric in study.finals["metric"] if metric.startswith("test/")} - set(REFERENCES.values())
    return [m for m in FINALS if m in recorded] + sorted(recorded - set(FINALS))


# Learning curves


def curve_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, step [episodes], value of the panels that were recorded.

    The primary metric's own values are among them, at the last step, where a panel shows it on the way.
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
    return next((way + name for way in ON_THE_WAY if metric != name and way + name in PANELS), "")


def draw_curves(data: pd.DataFrame, study: Study) -> Figure:
    """A grid with one panel per metric: seeds thin, the arm's mean thick with its 95 % t interval."""
    curves = data[data["metric"].isin(PANELS)]
    figure, panels = curve_panels(curves, study, "episodes")
    judged = data[data["metric"] == study.primary]
    if study.primary in panels:
        panels[study.primary].set_title(f"{style.name(study.primary)} \N{MIDDLE DOT} verdict, on its mean")
    elif not judged.empty:
        _mark_verdict(panels[on_the_way(study.primary)], judged, study)
    if "objective/kl" in panels:
        _mark_cap(panels["objective/kl"], float(study.tags.get("kl_cap", "nan")))
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
        axes.set(title=style.name(metric), xlabel=steps, ylabel=style.unit(metric))
        frame_limits(axes, rows["value"])
        style.few_ticks(axes)
    seeds = data.groupby("arm")["seed"].nunique()
    told = {arm: f", {n} seeds" for arm, n in seeds.items()} if seeds.nunique() > 1 else {}
    legend(figure, tuple(arm for arm in study.arms if arm in seeds.index), study.arms, told=told)
    return figure, dict(zip(metrics, axes_of, strict=True))


def bands(rows: pd.DataFrame) -> pd.DataFrame:
    """metric, arm, step, n, mean, low, high: over an arm's seeds with its 95 % t interval, while all of them run."""
    by_step = statistics.complete_steps(rows).groupby(["metric", "arm", "step"])["value"]
    told = by_step.agg(n="count", mean="mean", sd="std").reset_index()
    half = statistics.half_width(told["sd"], told["n"])
    return told.assign(low=told["mean"] - half, high=told["mean"] + half).drop(columns="sd")


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
    """What the verdict rests on, right of the curves that lead to it: each arm's mean with its 95 % t interval."""
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


def _mark_cap(axes: Axes, cap: float) -> None:
    """The KL [nats] past which a run counts as one that ran away, where any run came near it."""
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


def interval(
    axes: Axes, span: tuple[float, float], height: float, ends: tuple[float, float], color: str, **look: float
) -> None:
    """A horizontal interval between the ends of the axis, with an arrow head where it goes on past them."""
    axes.hlines(height, max(span[0], ends[0]), min(span[1], ends[1]), color=color, **look)
    for cut, end, head in ((span[0] < ends[0], ends[0], "<"), (span[1] > ends[1], ends[1], ">")):
        if cut:
            axes.plot(end, height, marker=head, color=color, markersize=4, clip_on=False)


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


def frame_limits(axes: Axes, values: pd.Series) -> None:
    """Limits from the seeds themselves, since the t interval of a few seeds can be many times wider than they are."""
    values = values.dropna()
    if values.empty:
        return
    if values.min() > 0 and values.max() > WIDE * values.median():
        axes.set_yscale("log")
        return
    axes.set_ylim(padded(values))


def padded(values: pd.Series) -> tuple[float, float]:
    """The stretch of an axis that holds the values, with a margin."""
    low, high = values.min(), values.max()
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


# Paired differences along the curve


def paired_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, step [episodes], value: arm - reference within a seed, at every step that both recorded."""
    apart = statistics.step_by_step(study.curves[study.curves["metric"].isin(PAIRED)], study.reference)
    return in_order(stretches(apart.rename(columns={"difference": "value"}), POINTS), PAIRED, study.arms)


def draw_paired(data: pd.DataFrame, study: Study) -> Figure:
    """The grid of curves, of differences: a line at zero is the reference."""
    figure, panels = curve_panels(data, study, "episodes")
    for metric, axes in panels.items():
        axes.axhline(0, color="#555555", linewidth=0.9)
        axes.set_ylabel(f"difference{style.bracketed(metric)}")
    return figure


# Paired differences at the end


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
        title = style.name(metric) + (" \N{MIDDLE DOT} verdict" if metric == study.primary else "")
        axes.set(title=title, xlabel=f"difference{style.bracketed(metric)}", ylabel="")
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


# Before and after PPO


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
        axes.set(title=style.name(metric), xlabel="", ylabel=style.unit(metric))
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


# Shared


def grid(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, each width x height [inches], at most `columns` side by side."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in panels[count:]:
        spare.remove()
    return figure, list(panels[:count])


def legend(
    figure: Figure,
    shown: tuple[str, ...],
    arms: tuple[str, ...],
    others: Sequence[Line2D] = (),
    told: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """One legend above all panels with the arms that are shown, the reference named as such, then the other lines.

    `told` is what is said behind an arm's name.
    """
    lines = [
        Line2D(
            [],
            [],
            color=style.colours(arms)[arm],
            dashes=style.dash(arm, arms),
            marker=style.markers(arms)[arm],
            markersize=5,
            linewidth=2,
            label=(f"{arm} (reference)" if arm == arms[0] else arm) + told.get(arm, ""),
        )
        for arm in shown
    ]
    handles = [*lines, *others]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(5, len(handles)), handlelength=4.5)


def in_order(frame: pd.DataFrame, metrics: tuple[str, ...], arms: tuple[str, ...]) -> pd.DataFrame:
    """The rows by metric as listed, then by arm (reference first), seed and step."""
    rank = {"metric": {m: i for i, m in enumerate(metrics)}, "arm": {a: i for i, a in enumerate(arms)}}
    keys = [k for k in ("metric", "arm", "seed", "step") if k in frame]
    return frame.sort_values(keys, key=lambda c: c.map(rank[c.name]) if c.name in rank else c, ignore_index=True)


CHARTS = (
    Chart(
        "learning_curves",
        "Learning curves",
        "Each seed is a thin line; thick lines are means over an arm's seeds while all of them run, bands their 95 % "
        "t intervals (cut off at the panel's edge where they are wider than the seeds). A cross is a run that ended "
        "early. The verdict rests on none of these curves but on the primary metric as it was declared before the runs; "
        "where a panel shows that on the way, its value on the test posts stands right of the dotted line. A dashed line in "
        "the panel of the KL is the cap past which a run counts as one that ran away. A curve of more "
        f"than {POINTS} steps is drawn as the means of as many stretches. Where arms have different numbers of seeds the "
        "legend says so: their means are of other runs, and only the paired differences compare them.",
        curve_data,
        draw_curves,
    ),
    Chart(
        "paired_curves",
        "Difference to the reference along the way",
        "Arm minus reference within each seed, at each step: thin lines are seeds, thick ones their mean, bands its 95 % "
        "t interval pointwise: each is for its own step alone, and a curve that leaves zero somewhere is no finding.",
        paired_data,
        draw_paired,
    ),
    Chart(
        "paired_differences",
        "Differences to the reference, seed by seed",
        "Small marks are single seeds, the large mark their mean with its 95 % t interval. The shaded band is the "
        "smallest effect of interest on the primary metric.",
        difference_data,
        draw_differences,
    ),
    Chart(
        "before_after",
        "Before and after PPO",
        "Open circles are the SFT policy, filled marks the policy that PPO made of it, one line per seed, all on the "
        "same test posts.",
        before_after_data,
        draw_before_after,
    ),
)
