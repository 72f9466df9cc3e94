"""Win rate by length: longer summaries win more often, so policies are also compared as if theirs were equally long.

As the paper does (section on the effect of length): the win against the reference summary over the logarithm of how many
times longer than it the summary is, and a logistic regression of the one on the other, read where both are equally long.
"""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.tools.sm_exceptions import ConvergenceWarning, PerfectSeparationWarning

from repro.reports.figures import layout, style, takeaways
from repro.reports.figures.chart import Chart
from repro.reports.figures.checks import first_users
from repro.reports.figures.differences import ROW, name_rows
from repro.reports.figures.sheet import Entry, Sheet, entries, room, sheet
from repro.reports.reading.study import Study
from repro.reports.statistics import student
from repro.reports.statistics.findings import Findings

WIN_RATE, CONTROLLED = "test/win_rate", "test/length_controlled_win_rate"
SFT = "SFT"
BIN = 0.25  # width in natural logarithms: a bin's summaries differ in length by about a quarter
FEWEST = 20  # comparisons that a bin needs to be drawn, and a run to be fitted
GRID = 41  # points of a fitted curve
# Panels: their parts of the data, and their titles.
PANELS = {"over": ("bin", "fit"), "often": ("bin",), "beside": ("as it is", "equal length")}
TITLES = {
    "over": "win rate by length",
    "often": "how often each length is written",
    "beside": "as it is, and at equal length",
}
COLUMNS = ["part", "policy", "seed", "ratio", "posts", "win_rate"]


def controlled(study: Study) -> Study:
    """The study with each run's win rate at equal length among its final values, and that of the SFT policy before it."""
    compared = comparisons(study)
    rows = []
    for (policy, arm, seed), own in compared.groupby(["policy", "arm", "seed"], sort=False):
        metric = CONTROLLED if policy != SFT else f"sft_{CONTROLLED}"
        rows.append({"arm": arm, "seed": seed, "metric": metric, "value": at(fit(own), 0.0)})
    known = pd.DataFrame(rows, columns=["arm", "seed", "metric", "value"])
    return replace(study, finals=pd.concat([study.finals, known], ignore_index=True)) if rows else study


def comparisons(study: Study) -> pd.DataFrame:
    """policy (an arm, or SFT), arm, seed, ratio (log of summary length over reference length), win (1, 0.5 or 0).

    One row per summary; an SFT policy is listed with every arm that started from it.
    """
    unit = unit_of(study)
    frames = [pd.DataFrame(columns=["policy", "arm", "seed", "ratio", "win"])]
    for (arm, seed), table in study.samples.items():
        frames += [
            side.assign(policy=policy, arm=arm, seed=seed).dropna()
            for policy, side in ((arm, _policy(table, unit)), (SFT, _sft(table, unit)))
        ]
    known = [frame for frame in frames if not frame.empty]
    return pd.concat(known, ignore_index=True) if known else frames[0]


def unit_of(study: Study) -> str:
    """What lengths are counted in: tokens, or words where a run did not record the references' tokens."""
    return "tokens" if all("reference_length" in table for table in study.samples.values()) else "words"


def _policy(table: pd.DataFrame, unit: str) -> pd.DataFrame:
    """ratio and win of a policy's own summaries; empty where they were not judged."""
    if "win" not in table:
        return table.head(0)
    ratio = _lengths(table, unit, "summary", "length") / _lengths(table, unit, "reference", "reference_length")
    return pd.DataFrame({"ratio": np.log(ratio), "win": table["win"].astype(float)})


def _sft(table: pd.DataFrame, unit: str) -> pd.DataFrame:
    """The same of the SFT policy's summaries; its win is by gold score, else by reward model, where it was not recorded."""
    judge = next((name for name in ("gold", "score") if {f"sft_{name}", f"reference_{name}"} <= set(table)), "")
    if not judge or (unit == "tokens" and "sft_length" not in table):
        return table.head(0)
    ratio = _lengths(table, unit, "sft_summary", "sft_length") / _lengths(table, unit, "reference", "reference_length")
    apart = np.sign(table[f"sft_{judge}"].astype(float) - table[f"reference_{judge}"].astype(float))
    return pd.DataFrame({"ratio": np.log(ratio), "win": table.get("sft_win", (apart + 1) / 2)})


def _lengths(table: pd.DataFrame, unit: str, text: str, tokens: str) -> pd.Series:
    """How long each text is, at least 1."""
    counted = table[tokens] if unit == "tokens" else [len(str(written).split()) for written in table[text]]
    return pd.Series(counted, index=table.index, dtype=float).clip(lower=1)


def fit(rows: pd.DataFrame) -> tuple[float, float]:
    """Intercept and slope of a logistic regression of the win on the log length ratio, a tie counting half.

    (NaN, NaN) where there is nothing to read off: fewer than `FEWEST` comparisons, all won or all lost, one length ratio,
    lengths that tell wins and losses apart without an exception, or no summary as long as its reference or longer, or none
    as short or shorter.
    """
    ratio, win = rows["ratio"].to_numpy(float), rows["win"].to_numpy(float)
    if len(rows) < FEWEST or len(set(win)) < 2 or len(set(ratio)) < 2 or not ratio.min() <= 0 <= ratio.max():
        return np.nan, np.nan
    design = np.column_stack([np.ones_like(ratio), ratio])
    with warnings.catch_warnings():
        warnings.simplefilter("error", PerfectSeparationWarning)
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            intercept, slope = map(float, GLM(win, design, family=Binomial()).fit().params)
        except (PerfectSeparationWarning, ConvergenceWarning):
            return np.nan, np.nan
    return intercept, slope


def at(line: tuple[float, float], ratio: np.ndarray | float) -> np.ndarray | float:
    """The win rate that a fitted regression gives at log length ratios."""
    return 1 / (1 + np.exp(-(line[0] + line[1] * ratio)))


# The figure


def data(study: Study, findings: Findings) -> pd.DataFrame:
    """part, policy, seed, ratio, posts, win_rate: bins (of all seeds), fits by seed, and the raw and controlled rates."""
    compared = comparisons(study)
    first = first_users(study, "sft")
    own = compared[compared["policy"] != SFT]
    sft = compared[compared["policy"] == SFT].merge(first, on=["arm", "seed"])
    shown = pd.concat([own, sft], ignore_index=True)
    parts = [_binned(shown), *fitted_curves(shown), _rates(study)]
    known = [part for part in parts if not part.empty]
    return pd.concat(known, ignore_index=True)[COLUMNS] if not shown.empty else pd.DataFrame(columns=COLUMNS)


def _binned(rows: pd.DataFrame) -> pd.DataFrame:
    """Win rate and comparisons by policy and bin, all seeds together."""
    middle = (rows["ratio"].astype(float) / BIN).round() * BIN
    by_bin = rows.assign(ratio=middle).groupby(["policy", "ratio"], sort=True)["win"]
    return by_bin.agg(posts="count", win_rate="mean").reset_index().assign(part="bin", seed=np.nan)


def fitted_curves(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Each seed's fitted curve, all of a policy's at the same ratios, so that their mean is one of curves."""
    curves = []
    for policy, own in rows.groupby("policy", sort=False):
        fits = {seed: (fit(part), len(part)) for seed, part in own.groupby("seed", sort=False)}
        fits = {seed: found for seed, found in fits.items() if np.isfinite(found[0]).all()}
        grid = _shared_grid(own[own["seed"].isin(fits)])
        for seed, (line, posts) in fits.items():
            row = {"part": "fit", "policy": policy, "seed": seed, "ratio": grid, "posts": posts}
            curves.append(pd.DataFrame(row | {"win_rate": at(line, grid)}))
    return curves


def _shared_grid(rows: pd.DataFrame) -> np.ndarray:
    """Ratios that lie among every seed's, one in a hundred of which is left out at each end; empty where none does."""
    if rows.empty:
        return np.empty(0)
    ends = rows.groupby("seed")["ratio"].agg(lambda ratio: np.quantile(ratio.astype(float), (0.01, 0.99)))
    low, high = max(low for low, _ in ends), min(high for _, high in ends)
    return np.linspace(low, high, GRID) if low < high else np.empty(0)


def _rates(study: Study) -> pd.DataFrame:
    """Each run's win rate as it is, and at equal length."""
    parts = {WIN_RATE: "as it is", CONTROLLED: "equal length"}
    rows = study.finals[study.finals["metric"].isin(parts)].dropna(subset="value")
    labelled = rows.assign(part=rows["metric"].map(parts), ratio=np.nan, posts=np.nan)
    return labelled.rename(columns={"arm": "policy", "value": "win_rate"})[COLUMNS]


def rows_of(rows: pd.DataFrame, key: str) -> pd.DataFrame:
    """The rows of a panel."""
    return rows[rows["part"].isin(PANELS[key])]


def draw(rows: pd.DataFrame, study: Study) -> Sheet:
    """Win rate over length, how often each length is written, and the win rate as it is beside that at equal length."""
    titles = {key: title for key, title in TITLES.items() if set(PANELS[key]) & set(rows["part"])}
    before = Entry("SFT policy, before PPO", style.SFT, (1, 1))
    legend = [*entries(study.arms, study.arms), *([before] if SFT in set(rows["policy"]) else [])]
    figure, panels = sheet(titles, max(2.0, ROW * len(study.arms)), legend, left=max(0.85, room(study.arms)))
    binned = rows[rows["part"] == "bin"]
    words = f"ln(length ratio), in {unit_of(study)}"
    if "over" in panels:
        _over_length(panels["over"], rows, binned, study)
        panels["over"].set(xlabel=words, ylabel="win rate [share]", ylim=(-0.03, 1.03))
    if "often" in panels:
        _how_often(panels["often"], binned, study)
        panels["often"].set(xlabel=words, ylabel="summaries [share]", ylim=(0, None))
    if "beside" in panels:
        _beside(panels["beside"], rows, study)
        panels["beside"].set(xlabel="win rate [share]")
    for axes in panels.values():
        style.few_ticks(axes, "x")
    return figure


def _over_length(over: Axes, rows: pd.DataFrame, binned: pd.DataFrame, study: Study) -> None:
    """Bins as marks as large as their count, the mean of the seeds' fits as a line."""
    over.axhline(0.5, **style.HALF_LINE)
    over.axvline(0, **style.ZERO_LINE)
    for policy in (SFT, *study.arms):
        colour, marker, dash = _look(policy, study)
        own = binned[binned["policy"] == policy]
        enough = own[own["posts"] >= FEWEST]
        size = 10 + 60 * enough["posts"] / max(1, binned["posts"].max())
        over.scatter(enough["ratio"], enough["win_rate"], s=size, color=colour, marker=marker, alpha=0.5, linewidths=0)
        fits = rows[(rows["part"] == "fit") & (rows["policy"] == policy)]
        if len(fits):
            mean = fits.groupby("ratio")["win_rate"].mean()
            over.plot(mean.index, mean, color=colour, linewidth=2, dashes=dash)


def _how_often(axes: Axes, binned: pd.DataFrame, study: Study) -> None:
    """The share of each policy's summaries in every bin of length."""
    axes.axvline(0, **style.ZERO_LINE)
    for policy in (SFT, *study.arms):
        colour, _, dash = _look(policy, study)
        own = binned[binned["policy"] == policy]
        axes.step(
            own["ratio"], own["posts"] / own["posts"].sum(), where="mid", color=colour, linewidth=1.4, dashes=dash
        )


def _beside(axes: Axes, rows: pd.DataFrame, study: Study) -> None:
    """An arm per row: an open mark for the mean win rate, seeds and their mean with its interval for that at equal length."""
    axes.axvline(0.5, **style.HALF_LINE)
    shown = rows.loc[rows["part"].isin(("as it is", "equal length")), "win_rate"]
    ends = layout.padded(shown) if len(shown) else (0.0, 1.0)
    for height, arm in enumerate(study.arms):
        own = rows[rows["policy"] == arm].set_index("seed")
        raw, equal = (own.loc[own["part"] == part, "win_rate"] for part in PANELS["beside"])
        raw = raw[raw.index.isin(equal.index)] if len(equal) else raw
        colour, marker, _ = _look(arm, study)
        look = {"color": colour, "marker": marker, "linestyle": ""}
        axes.plot(raw.mean(), height - 0.12, markersize=7, markerfacecolor="white", **look)
        axes.hlines(height - 0.12, *sorted((raw.mean(), equal.mean())), color=colour, linewidth=0.8)
        axes.plot(equal.mean(), height - 0.12, markersize=7, **look)
        axes.plot(equal, np.full(len(equal), height + 0.2), markersize=3.5, alpha=0.45, **look)
        layout.interval(axes, student.t_interval(equal), height + 0.2, ends, color=colour, linewidth=1.3, alpha=0.8)
    name_rows(axes, study.arms)
    axes.set(xlim=ends)
    style.quiet(axes)


def _look(policy: str, study: Study) -> tuple[str, str, tuple]:
    """Colour, marker and dashes of an arm, or of the SFT policy."""
    if policy == SFT:
        return style.SFT, "o", (1, 1)
    return style.colours(study.arms)[policy], style.markers(study.arms)[policy], style.dash(policy, study.arms)


CHARTS = (
    Chart(
        "win_rate_by_length",
        "Win rate by length",
        "How often a near-greedy summary wins against its reference, by the logarithm of the length ratio, how many "
        f"times longer it is; at the vertical line both are equally long. Marks are bins {BIN} wide with {FEWEST} "
        "comparisons or more of all seeds together, the larger the more of them; lines are logistic regressions, the "
        "mean of the seeds' own over ratios that all of them have: where marks leave a line, it does not describe "
        "them. Then how frequent each length is, and the mean raw win rate (open) beside the win rate at equal "
        "length, from the regression (filled), of the seeds that have both, with every seed and the 95 % t interval of the "
        "latter; an arrow head where that extends past the axis.",
        data,
        draw,
        takeaways.win_rate_by_length,
        rows_of,
    ),
)
