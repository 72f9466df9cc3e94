"""Score against the KL to the SFT policy, during training and at its end.

The same score at less KL is better, so arms are compared at equal KL as well as at equal training.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from repro.reports.figures import curves, layout, style, takeaways
from repro.reports.figures.chart import Chart, still_lines, varying
from repro.reports.figures.sheet import Sheet, entries, sheet
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
WAYS = 2  # scores whose way is drawn, each with a panel for every arm
HEIGHT = 1.9  # inches of a panel's axes
FIFTHS = 5  # parts of the mean's way
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


def rows_of(rows: pd.DataFrame, key: str) -> pd.DataFrame:
    """The rows of a panel: a score's ends, or one arm's way and the reference's beside it."""
    metric, _, arm = key.partition(" ")
    own = rows[rows["metric"] == metric]
    return own[own["arm"].isin((arm, rows["arm"].iloc[0]))] if arm else own


def draw(rows: pd.DataFrame, study: Study) -> Sheet | None:
    """Panels of a score against the KL: the way of each arm through training, then where all arms ended."""
    titles = _panels(rows, study)
    if not titles:
        return None
    shown = [arm for arm in study.arms if arm in set(rows["arm"])]
    figure, panels = sheet(titles, HEIGHT, entries(shown, study.arms), left=0.95)
    for key, axes in panels.items():
        metric, _, arm = key.partition(" ")
        own = rows[rows["metric"] == metric]
        if arm:
            _way(axes, own, arm, study.arms)
        else:
            for each in study.arms:  # the SFT policy that they started from is too far off to be drawn with them
                _end(axes, own[(own["arm"] == each) & (own["part"] == "end")], each, study.arms)
        limits = own[own["part"] != "start"]
        axes.set(xlim=layout.padded(limits["kl"]), ylim=layout.padded(limits["value"]))
        axes.set(xlabel=terms.label(TRAINING_KL), ylabel=_score(metric) + terms.bracketed(metric))
        style.few_ticks(axes)
        if limits["kl"].max() > layout.WIDE * limits["kl"].abs().median():
            style.symmetric_log(axes, max(1.0, float(limits["kl"].median())))
    return figure


def _panels(rows: pd.DataFrame, study: Study) -> dict[str, str]:
    """Key -> title: each of two scores by arm on the way, and every score at the end, where score and KL vary."""
    way, end = (rows[(rows["part"] == "way") == is_way] for is_way in (True, False))
    moving = [metric for metric in varying(way) if metric in varying(way, ("kl",))][:WAYS]
    titles = {
        f"{metric} {arm}": f"{arm}, in training"
        for metric in moving
        for arm in study.arms
        if arm in set(way.loc[way["metric"] == metric, "arm"])
    }
    ended = end[end["part"] == "end"]
    apart = [metric for metric in varying(ended) if metric in varying(ended, ("kl",))]
    return titles | dict.fromkeys(apart, "at the end, on test posts")


def _score(metric: str) -> str:
    """A score's name without the posts that it is measured on."""
    return terms.name(metric).removesuffix(" on validation posts")


def _way(axes: Axes, rows: pd.DataFrame, arm: str, arms: tuple[str, ...]) -> None:
    """One arm's way: an arrow along its mean, its seeds faint, and the reference's mean in grey to compare it with."""
    if arm != arms[0]:
        grey = _mean_path(rows[rows["arm"] == arms[0]])
        axes.plot(grey["kl"], grey["value"], color="#9a9a9a", linewidth=1.6, zorder=2)
    own, colour = rows[rows["arm"] == arm], style.colours(arms)[arm]
    for _, seed in own.groupby("seed"):
        axes.plot(seed["kl"], seed["value"], color=colour, alpha=0.7 * style.faint(own["seed"].nunique()), **style.SEED)
    mean = _mean_path(own)
    axes.plot(mean["kl"], mean["value"], color=colour, linewidth=2.2, dashes=style.dash(arm, arms), zorder=3)
    axes.plot(mean["kl"].head(1), mean["value"].head(1), "o", color="white", markeredgecolor=colour, zorder=4)
    points = mean[["kl", "value"]].drop_duplicates().to_numpy()
    if len(points) > 1:
        look = {"arrowstyle": "-|>,head_width=.35,head_length=.7", "color": colour, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", points[-1], points[-2], arrowprops=look | {"linewidth": 1.5, "zorder": 5})


def _mean_path(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean of KL and score over an arm's seeds, by fifths of the training: shorter parts turn about at random."""
    means = pairing.complete_steps(rows).groupby("step")[["kl", "value"]].mean()
    return means.groupby(np.arange(len(means)) * FIFTHS // max(1, len(means))).mean()


def _end(axes: Axes, rows: pd.DataFrame, arm: str, arms: tuple[str, ...]) -> None:
    """Where one arm ended: seeds faint, their mean large, its 95 % t intervals in both directions as a cross."""
    look = {"color": style.colours(arms)[arm], "marker": style.markers(arms)[arm], "linestyle": ""}
    if rows.empty:
        return
    axes.plot(rows["kl"], rows["value"], markersize=3.5, alpha=style.faint(len(rows)), **look)
    axes.plot(rows["kl"].mean(), rows["value"].mean(), markersize=8, markeredgecolor="white", zorder=3, **look)
    axes.vlines(rows["kl"].mean(), *student.t_interval(rows["value"]), color=look["color"], linewidth=1.3)
    axes.hlines(rows["value"].mean(), *student.t_interval(rows["kl"]), color=look["color"], linewidth=1.3)


# At equal KL


def at_equal_kl(study: Study) -> pd.DataFrame:
    """metric, arm, n, mean, sd, low, high: an arm less the reference at the same KL, within a seed.

    The KL is that of whichever of the two ended nearer to the SFT policy, so that the difference changes its sign where
    the two change places. There stands its last stretch; the other's path is read by straight lines between its
    stretches, sorted by KL. A seed in which the other was never as near has no difference, and is not in n.
    """
    way = on_the_way(study)
    rows = [
        {"metric": metric, "arm": arm, "seed": seed, "difference": _less_at_equal_kl(path, paths[study.reference])}
        for (metric, seed), own in way.groupby(["metric", "seed"], sort=False)
        for paths in [dict(iter(own.groupby("arm", sort=False)))]
        for arm, path in paths.items()
        if arm != study.reference and study.reference in paths
    ]
    return pairing.intervals(pd.DataFrame(rows, columns=["metric", "arm", "seed", "difference"]).dropna())


def _less_at_equal_kl(path: pd.DataFrame, other: pd.DataFrame) -> float:
    """The value of a path less that of another one at the lower of their last KLs; NaN where one has no such KL."""
    kl = min(path["kl"].iloc[-1], other["kl"].iloc[-1])
    return _at(path, kl) - _at(other, kl)


def _at(path: pd.DataFrame, kl: float) -> float:
    """The value of a path at a KL: its last one where it ended there."""
    if path["kl"].iloc[-1] == kl:
        return float(path["value"].iloc[-1])
    path = path.sort_values("kl")
    return float(np.interp(kl, path["kl"].to_numpy(float), path["value"].to_numpy(float), np.nan, np.nan))


CHARTS = (
    Chart(
        "score_against_kl",
        "Score against the KL to the SFT policy",
        "Up and left is better: a higher score, at less KL. Panels of an arm are training: the arrow is the mean over seeds "
        f"by fifths of it, faint lines are seeds by {STRETCHES} parts, and the grey line is the reference's mean. "
        "Panels of the end are the trained policies on the test posts: small marks are seeds, large ones their mean, the cross "
        "its 95 % t intervals in both directions, cut off at the panel's edge. A reward-model score that rises with the KL "
        "while the gold score falls is over-optimisation.",
        data,
        draw,
        takeaways.score_against_kl,
        rows_of,
        still_lines,
    ),
)
