"""What rounds of feedback are about: the newest policy's samples, and how well its reward model orders them."""

import pandas as pd
from matplotlib.axes import Axes

from repro.reports.figures import style
from repro.reports.figures.chart import Chart, still_lines, varying
from repro.reports.figures.curves import HEIGHT, NO_UNIT, bands
from repro.reports.figures.layout import frame_limits, in_order
from repro.reports.figures.numbers import number
from repro.reports.figures.sheet import Sheet, entries, sheet
from repro.reports.figures.takeaways import listed
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

ACCURACY = "feedback/rm_accuracy"
PANELS = (
    ACCURACY,
    "feedback/rm_margin",
    "feedback/gold",
    "feedback/annotator_score",  # where a named reward model compares
    "feedback/equal_pairs",
)
APART = 0.6  # of the way from one round to the next, over which the arms of a round are spread


def rounds_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, step [round], value of the arms that have more than one round."""
    curves = study.curves[study.curves["metric"].isin(PANELS)]
    return in_order(curves[["metric", "arm", "seed", "step", "value"]], PANELS, study.arms)


def draw_rounds(data: pd.DataFrame, study: Study) -> Sheet | None:
    """A panel per metric that varies: at each round each arm's mean with its 95 % t interval, seeds faint beside it."""
    metrics = varying(data)
    if not metrics:
        return None
    shown = [arm for arm in study.arms if arm in set(data["arm"])]
    figure, panels = sheet({metric: terms.name(metric) for metric in metrics}, HEIGHT, entries(shown, study.arms))
    means = bands(data)
    for metric, axes in panels.items():
        rows = data[data["metric"] == metric]
        for place, arm in enumerate(shown):
            shift = APART * ((place + 0.5) / len(shown) - 0.5)
            own = means[(means["metric"] == metric) & (means["arm"] == arm)]
            _arm(axes, rows[rows["arm"] == arm], own, shift, arm, study)
        rounds = sorted(rows["step"].unique())
        axes.set(xlabel="round", ylabel=terms.unit(metric) or NO_UNIT, xlim=(rounds[0] - 0.5, rounds[-1] + 0.5))
        frame_limits(axes, rows["value"])
        style.few_ticks(axes, "y")
        axes.set_xticks(rounds)
    return figure


def _arm(axes: Axes, seeds: pd.DataFrame, means: pd.DataFrame, shift: float, arm: str, study: Study) -> None:
    """An arm's rounds, `shift` to the right of their number."""
    colour, marker = style.colours(study.arms)[arm], style.markers(study.arms)[arm]
    dots = {"linestyle": "", "marker": marker, "markersize": 3, "markeredgewidth": 0, "alpha": 0.45}
    axes.plot(seeds["step"] + shift + 0.04, seeds["value"], color=colour, **dots)
    axes.vlines(means["step"] + shift, means["low"], means["high"], color=colour, linewidth=1.4)
    look = {"color": colour, "marker": marker, "markersize": 6, "dashes": style.dash(arm, study.arms)}
    axes.plot(means["step"] + shift, means["mean"], **look)


def takeaway(data: pd.DataFrame, study: Study) -> str:
    """How often the reward model is right about the samples of the policy that it has trained, round by round."""
    known = data[data["metric"] == ACCURACY]
    if known.empty:
        return "All pairs of samples were equal, so that there was nothing to compare."
    means = known.groupby(["arm", "step"], sort=False)["value"].mean().unstack("step").sort_index(axis="columns")
    words = listed(f"{', then '.join(map(number, row.dropna()))} ({arm})" for arm, row in means.iterrows())
    return (
        "Of pairs that the newest policy sampled, the reward model that it was trained against orders as the annotators do "
        f"{words}."
    )


CHARTS = (
    Chart(
        "rounds",
        "Rounds of feedback",
        "At the start of each round the policy is sampled twice for each validation post. Shown are the share of pairs of "
        "different texts in which the reward model of the round before prefers the summary that the annotators prefer, and "
        "by how much; the samples' gold score; and the share of pairs that are one text. Large marks are means over seeds with "
        "their 95 % t intervals, small ones seeds.",
        rounds_data,
        draw_rounds,
        takeaway,
        still=lambda data: still_lines(data, "is {} in every run in every round"),
    ),
)
