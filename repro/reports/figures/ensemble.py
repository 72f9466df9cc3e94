"""How far the members of an ensemble of reward models agree during training, with each other and with the gold score."""

import pandas as pd

from repro.reports.figures.chart import Chart, still_lines
from repro.reports.figures.curves import POINTS, curve_panels, stretches
from repro.reports.figures.layout import in_order
from repro.reports.figures.numbers import number
from repro.reports.figures.sheet import Sheet
from repro.reports.figures.takeaways import LAST, listed
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

SPREAD, RANKS = "objective/members_spread", "objective/members_rank_correlation"
ALONE, TOGETHER = "objective/members_gold_correlation", "objective/members_combined_gold_correlation"
PANELS = (SPREAD, RANKS, ALONE, TOGETHER)


def member_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, step [episodes], value of the arms that are paid by an ensemble."""
    curves = study.curves[study.curves["metric"].isin(PANELS)]
    return in_order(stretches(curves, POINTS), PANELS, study.arms)


def draw_members(data: pd.DataFrame, study: Study) -> Sheet | None:
    """A panel per metric: each ensemble's mean with its 95 % t interval, seeds faint below them; correlations on one axis."""
    figure, panels = curve_panels(data, study, "episodes")
    correlations = [axes for metric, axes in panels.items() if metric != SPREAD]
    ends = [axes.get_ylim() for axes in correlations]
    for axes in correlations:
        axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    return figure


def takeaway(data: pd.DataFrame, study: Study) -> str:
    """What the last tenth of training says of each ensemble."""
    last = data[data["step"] >= (1 - LAST) * data["step"].max()]
    means = last.pivot_table(index="arm", columns="metric", values="value", sort=False).reindex(columns=PANELS)
    spread = listed(f"{number(row[SPREAD])} ({arm})" for arm, row in means.iterrows())
    said = f"At the end of training the members' scores of a response are {spread} apart"
    known = means.dropna(subset=[ALONE, TOGETHER])
    if known.empty:
        return f"{said}."
    words = listed(f"{number(row[TOGETHER])} instead of {number(row[ALONE])} ({arm})" for arm, row in known.iterrows())
    return f"{said}, and all together follow the gold score by a correlation of {words} of a member alone."


CHARTS = (
    Chart(
        "members",
        "Agreement of the ensemble's members",
        "Of each batch of episodes: the standard deviation between the members' scores of a response, each member less its "
        "mean over the batch, in points of score; the rank correlation (Spearman) of two members; and the correlation "
        "(Pearson) with the gold score, of one member as a mean over them, and of the score that the ensemble makes of theirs. "
        "Where members err apart, they follow the gold score better together than alone. Thick lines are means over seeds, "
        "bands their 95 % t intervals.",
        member_data,
        draw_members,
        takeaway,
        still=lambda data: still_lines(data, "is {} in every run at every step"),
    ),
)
