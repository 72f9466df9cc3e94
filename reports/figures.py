"""The figures of a report: each is a tidy frame and a drawing of that frame alone, so its CSV says all it shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import statistics, style
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
    "test/win_rate",
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
OUTCOMES = ("test/win_rate", "test/gold", "test/score")
TRAJECTORIES = ("objective/score", "objective/gold")
REFERENCES = {"test/gold": "test/reference_gold"}  # where the reference summaries were measured too
EVEN = 0.5  # the win rate of a policy as good as the references
LONG_NAME = 12  # characters of an arm past which its name takes two lines
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
    figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


def tested(study: Study) -> list[str]:
    """The policy's recorded metrics on the test posts: the usual ones in order, then whatever else was measured."""
    recorded = {metric for metric in study.finals["metric"] if metric.startswith("test/")} - {REFERENCES["test/gold"]}
    return [m for m in FINALS if m in recorded] + sorted(recorded - set(FINALS))


# Learning curves


def curve_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, step [episodes], value of the panels that were recorded."""
    return in_order(study.curves[study.curves["metric"].isin(PANELS)], PANELS, study.arms)


def draw_curves(data: pd.DataFrame, study: Study) -> Figure:
    """A grid with one panel per metric: seeds thin, the arm's mean thick with its 95 % t interval."""
    return curve_panels(data, study, "episodes")


def curve_panels(data: pd.DataFrame, study: Study, steps: str) -> Figure:
    """The grid of curves; `steps` is what the horizontal axis counts."""
    metrics = list(data["metric"].unique())
    figure, axes_of = grid(len(metrics), columns=3, width=3.7, height=2.5)
    for axes, metric in zip(axes_of, metrics, strict=True):
        rows = data[data["metric"] == metric]
        _curves(axes, rows, study.arms)
        _mark_early_ends(axes, rows, study)
        axes.set(title=style.label(metric), xlabel=steps, ylabel="")
        frame_limits(axes, rows["value"])
    legend(figure, tuple(arm for arm in study.arms if arm in set(data["arm"])), study.arms)
    return figure


def _curves(axes: Axes, rows: pd.DataFrame, arms: tuple[str, ...]) -> None:
    """Every seed as a thin line, and the mean over an arm's seeds while all of them run."""
    look = {
        "data": rows,
        "x": "step",
        "y": "value",
        "hue": "arm",
        "hue_order": arms,
        "palette": style.colours(arms),
        "legend": False,
        "ax": axes,
    }
    sns.lineplot(**look, units="seed", estimator=None, linewidth=0.6, alpha=0.4)
    mean = look | {"data": statistics.complete_steps(rows)}
    sns.lineplot(
        **mean,
        style="arm",
        style_order=arms,
        dashes=style.dashes(arms),
        linewidth=2,
        errorbar=statistics.t_interval,
        err_kws={"alpha": 0.13, "linewidth": 0},
    )


def _mark_early_ends(axes: Axes, rows: pd.DataFrame, study: Study) -> None:
    """A cross where a seed's curve stops before the study's last step."""
    last = rows.dropna(subset="value").sort_values("step").groupby(["arm", "seed"]).tail(1)
    early = last[last["step"] < rows["step"].max()]
    for arm, colour in style.colours(study.arms).items():
        ends = early[early["arm"] == arm]
        axes.plot(ends["step"], ends["value"], linestyle="", marker="x", color=colour, markersize=6)


def frame_limits(axes: Axes, values: pd.Series) -> None:
    """Limits from the seeds themselves, since the t interval of a few seeds can be many times wider than they are."""
    values = values.dropna()
    if values.empty:
        return
    if values.min() > 0 and values.max() > WIDE * values.median():
        axes.set_yscale("log")
        return
    margin = 0.08 * (values.max() - values.min()) or 0.05 * abs(values.max()) or 1.0
    axes.set_ylim(values.min() - margin, values.max() + margin)


# Paired differences


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
        if metric == study.primary:
            axes.axvspan(-study.smallest_effect, study.smallest_effect, color="#f0e6c8", zorder=0, linewidth=0)
        title = style.label(metric) + (" \N{MIDDLE DOT} primary" if metric == study.primary else "")
        axes.set(title=title, xlabel=f"difference to {study.reference}", ylabel="")
        axes.locator_params(axis="x", nbins=5)
        style.quiet(axes)
    return figure


def _differences(axes: Axes, rows: pd.DataFrame, study: Study) -> None:
    """One arm per row: dots below, mean and interval above, a line at zero."""
    arms = study.arms[1:]
    axes.axvline(0, color="#555555", linewidth=0.9)
    for height, arm in enumerate(arms):
        values = rows.loc[rows["arm"] == arm, "difference"]
        low, high = statistics.t_interval(values)
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
    for metric in OUTCOMES:
        if {metric, f"sft_{metric}"} <= set(wide.columns):
            even = EVEN if metric == "test/win_rate" else np.nan
            references = wide.get(REFERENCES.get(metric), pd.Series(even, index=wide.index))
            frames.append(
                pd.DataFrame(
                    {"metric": metric, "before": wide[f"sft_{metric}"], "after": wide[metric], "references": references}
                ).reset_index()
            )
    empty = pd.DataFrame(columns=["metric", "arm", "seed", "before", "after", "references"])
    return in_order(pd.concat([empty, *frames]) if frames else empty, OUTCOMES, study.arms)


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
        axes.set(title=style.label(metric), xlabel="")
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


# Score against KL


def trajectory_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, step, kl [nats], value: what each score was at each distance from the SFT policy."""
    curves = study.curves
    wide = curves[curves["metric"].isin(("objective/kl", *TRAJECTORIES))].pivot(
        index=["arm", "seed", "step"], columns="metric", values="value"
    )
    scores = [name for name in TRAJECTORIES if name in wide.columns]
    if "objective/kl" not in wide.columns or not scores:
        return pd.DataFrame()
    tidy = (
        wide.rename(columns={"objective/kl": "kl"})
        .reset_index()
        .melt(id_vars=["arm", "seed", "step", "kl"], value_vars=scores, var_name="metric", value_name="value")
    )
    return in_order(tidy.dropna(), TRAJECTORIES, study.arms)


def draw_trajectories(data: pd.DataFrame, study: Study) -> Figure:
    """A panel per score: seeds thin, the arm's mean thick, its last point marked."""
    metrics = list(data["metric"].unique())
    figure, panels = grid(len(metrics), columns=2, width=5.2, height=3.6)
    for axes, metric in zip(panels, metrics, strict=True):
        rows = data[data["metric"] == metric]
        for arm in study.arms:
            _trajectory(axes, rows[rows["arm"] == arm], arm, study.arms)
        axes.set(title=style.label(metric), xlabel=style.label("objective/kl"), ylabel="")
    legend(figure, study.arms, study.arms)
    return figure


def _trajectory(axes: Axes, rows: pd.DataFrame, arm: str, arms: tuple[str, ...]) -> None:
    """One arm's path through KL and score, from its first update to its last."""
    colour, dash = style.colours(arms)[arm], style.dashes(arms)[arm]
    for _, seed in rows.groupby("seed"):
        axes.plot(seed["kl"], seed["value"], color=colour, linewidth=0.5, alpha=0.3)
    mean = statistics.complete_steps(rows).groupby("step")[["kl", "value"]].mean()
    axes.plot(mean["kl"], mean["value"], color=colour, linewidth=2, dashes=dash or (None, None))
    axes.plot(
        mean["kl"].tail(1),
        mean["value"].tail(1),
        linestyle="",
        marker=style.markers(arms)[arm],
        color=colour,
        markersize=8,
        markeredgecolor="white",
    )


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


def legend(figure: Figure, shown: tuple[str, ...], arms: tuple[str, ...]) -> None:
    """One legend above all panels with the arms that are shown, the reference named as such."""
    colours, dashes = style.colours(arms), style.dashes(arms)
    handles = [
        Line2D(
            [],
            [],
            color=colours[arm],
            dashes=dashes[arm] or (None, None),
            linewidth=2,
            label=f"{arm} (reference)" if arm == arms[0] else arm,
        )
        for arm in shown
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(4, len(shown)), handlelength=3.2)


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
        "early.",
        curve_data,
        draw_curves,
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
    Chart(
        "score_against_kl",
        "Score against distance from the SFT policy",
        "Each path runs from the first update to the last (marked). A reward-model score that climbs with the KL "
        "while the gold score falls is over-optimisation.",
        trajectory_data,
        draw_trajectories,
    ),
)
