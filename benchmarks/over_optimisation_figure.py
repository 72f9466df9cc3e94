"""The figure of over-optimisation: two panels over d = sqrt(KL), gold score and reward model's score, less the SFT policy's.

A tidy frame and a drawing of only that frame and the fits; it is written as SVG, PNG and CSV in the style of all figures.
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.over_optimisation_fits import Fit
from repro.reports.figures import chart, layout, style
from repro.reports.figures.numbers import number

BY_SCORE, BY_REWARD, PPO = "best of n by score", "best of n by PPO's reward", "PPO"
POINTS = {BY_SCORE: "points", BY_REWARD: "points_by_reward"}  # method -> its rows in the file
LOOK = {
    BY_SCORE: {"color": style.PALETTE[1], "marker": style.MARKERS[0]},
    BY_REWARD: {"color": style.PALETTE[3], "marker": style.MARKERS[2]},
    PPO: {"color": style.PALETTE[2], "marker": style.MARKERS[1]},
}
PANELS = {"gold": "Gold score", "score": "Reward model's score"}
UNITS = {"gold": "gain over the SFT policy [points]", "score": "gain over the SFT policy [the score's unit]"}
SIZE = (12.0, 5.6)  # inches; letters of 13 points are then read from a talk's last row
RC = {"font.size": 13, "axes.titlesize": 15, "axes.labelsize": 13, "xtick.labelsize": 12, "ytick.labelsize": 12}
STRETCHES = 10  # parts of a training: single batches would show only noise
HALO = [patheffects.withStroke(linewidth=3, foreground="white")]
COLUMNS = ["part", "method", "at", "seed", "metric", "kl", "d", "gain"]


def frame(found: Mapping) -> pd.DataFrame:
    """part (end or way), method, at (n or KL coefficient), seed, metric, kl [nats], d [sqrt nats], gain over the SFT policy.

    The SFT policy of best-of-n is its own best of one, on the same posts; that of PPO is the baseline on the test posts.
    """
    rows = [*_of_best(found["best_of_n"]), *_of_ppo(found["ppo"])]
    data = pd.DataFrame(rows, columns=["part", "method", "at", "seed", "metric", "kl", "gain"])
    return data.assign(d=np.sqrt(data["kl"].clip(lower=0)))[COLUMNS]


def _of_best(seeds: list[dict]) -> list[tuple]:
    return [
        ("end", method, str(row["n"]), each["seed"], metric, row["kl"], row[metric] - each[points][0][metric])
        for method, points in POINTS.items()
        for each in seeds
        for row in each[points]
        for metric in PANELS
    ]


def _of_ppo(runs: list[dict]) -> list[tuple]:
    rows = []
    for each in runs:
        for metric in PANELS:
            start = each[f"sft_{metric}"]
            rows.append(("end", PPO, each["arm"], each["seed"], metric, each["kl"], each[metric] - start))
            for stretch in np.array_split(np.arange(len(each["way"])), min(STRETCHES, len(each["way"]))):
                kl, value = (np.mean([each["way"][i][name] for i in stretch]) for name in ("kl", metric))
                rows.append(("way", PPO, each["arm"], each["seed"], metric, kl, value - start))
    return rows


def means(data: pd.DataFrame, method: str, metric: str) -> pd.DataFrame:
    """at, kl, d, gain: means over seeds of where a method ends, by d."""
    own = data[(data["part"] == "end") & (data["method"] == method) & (data["metric"] == metric)]
    return own.groupby("at", sort=False)[["kl", "d", "gain"]].mean().reset_index().sort_values("d")


def save(found: Mapping, fits: Mapping[str, Fit], stem: Path) -> None:
    """Writes the figure as SVG and PNG, and what it shows as CSV."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    data = frame(found)
    with style.context(), mpl.rc_context(RC):
        chart.save(draw(data, fits), stem)
    chart.write_csv(data, stem.with_suffix(".csv"))


def draw(data: pd.DataFrame, fits: Mapping[str, Fit]) -> Figure:
    """Both panels; the fitted curves are in that of the gold score."""
    figure = Figure(figsize=SIZE, layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 2, sharex=True), PANELS.items()):
        axes.axhline(0, color=style.SFT, linewidth=1)
        if metric == "gold":
            for method, fit in fits.items():
                _curve(axes, fit, data.loc[data["method"] == method, "d"].max(), LOOK[method]["color"])
        _ways(axes, data[(data["part"] == "way") & (data["metric"] == metric)])
        own = data[(data["part"] == "end") & (data["metric"] == metric)]
        for method in LOOK:
            _seeds(axes, own[own["method"] == method], method)
            _ends(axes, means(data, method, metric), method, metric)
        axes.set(title=title, xlabel="d = √KL to the SFT policy [√nats]", ylabel=UNITS[metric])
        axes.set(xlim=layout.padded(own["d"]), ylim=_with_room(own["gain"]))
        _names(axes, fits if metric == "gold" else {})
    return figure


def _curve(axes: Axes, fit: Fit, farthest: float, colour: str) -> None:
    """The fitted curve as far as there are points, with the bootstrap's interval as a band."""
    d = np.linspace(0, farthest, 200)
    axes.plot(d, fit.at(d), color=colour, linewidth=2.4, zorder=3)
    if len(fit.each) > 1:
        axes.fill_between(d, *fit.band(d), color=colour, alpha=0.15, linewidth=0)


def _ways(axes: Axes, rows: pd.DataFrame) -> None:
    """A thin line for each arm of PPO: the mean over seeds of the batches that it trained on, by parts of the training."""
    for _, arm in rows.groupby("at", sort=False):
        arm = arm.assign(part=arm.groupby("seed").cumcount())
        mean = arm.groupby("part")[["kl", "gain"]].mean()
        axes.plot(np.sqrt(mean["kl"].clip(lower=0)), mean["gain"], color=LOOK[PPO]["color"], linewidth=0.8, alpha=0.6)


def _with_room(values: pd.Series) -> tuple[float, float]:
    """Limits of the values, with room below for the names and above for the numbers of arms."""
    low, high = layout.padded(values)
    return low - (high - low) / 4, high + (high - low) / 10


def _seeds(axes: Axes, rows: pd.DataFrame, method: str) -> None:
    """Where each seed ends, small and faint."""
    look = {"alpha": style.faint(rows["seed"].nunique()), "markersize": 4, "linestyle": "", "zorder": 2}
    axes.plot(rows["d"], rows["gain"], **LOOK[method], **look)


def _ends(axes: Axes, ends: pd.DataFrame, method: str, metric: str) -> None:
    """A method's means over seeds; each says its n or its KL coefficient."""
    look = LOOK[method]
    line = "-" if method != PPO and metric == "score" else ""
    axes.plot(ends["d"], ends["gain"], linestyle=line, markersize=9, markeredgecolor="white", zorder=5, **look)
    told = {"color": look["color"], "fontsize": 12, "path_effects": HALO, "zorder": 6, "textcoords": "offset points"}
    for place, (at, d, gain) in enumerate(ends[["at", "d", "gain"]].itertuples(index=False)):
        if method == BY_SCORE:  # best-of-n by PPO's reward stands at the same KL, and needs no numbers of its own
            axes.annotate(at, (d, gain), xytext=(0, -9), ha="center", va="top", **told)
        elif method == PPO:  # arms can end side by side, so that each has a line to its number
            arrow = {"arrowstyle": "-", "color": look["color"], "linewidth": 0.8, "shrinkB": 5}
            aside = 34 * (place - (len(ends) - 1) / 2)
            where = (
                {"xytext": (aside, 34), "va": "bottom"} if metric == "gold" else {"xytext": (aside, -44), "va": "top"}
            )
            axes.annotate(at, (d, gain), ha="center", arrowprops=arrow, **where, **told)


def _names(axes: Axes, fits: Mapping[str, Fit]) -> None:
    """What is what, in the colours of the lines, in the corner that the curves leave free."""
    words = {BY_SCORE: f"{BY_SCORE}, numbers are n", BY_REWARD: BY_REWARD, PPO: "PPO, by KL coefficient"}
    for place, (method, name) in enumerate(words.items()):
        fitted = f":  R = {formula(fits[method])}" if method in fits else ""
        told = {"transform": axes.transAxes, "ha": "left", "va": "bottom", "color": LOOK[method]["color"]}
        told |= {"fontweight": "bold", "fontsize": 11, "path_effects": HALO, "zorder": 7}
        axes.text(0.02, 0.02 + place * 0.06, name + fitted, **told)


def formula(fit: Fit) -> str:
    """The fitted curve with its numbers, such as d (0.62 − 0.11 d)."""
    sign = "−" if fit.beta >= 0 else "+"
    bent = fit.curve.formula.partition("β ")[2].rstrip(")")
    return f"d ({number(fit.alpha)} {sign} {number(abs(fit.beta))} {bent})"
