"""The effect that the verdict is about: each arm's paired difference on the primary metric, with the verdict's interval."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from repro.reports.figures import layout, style, takeaways
from repro.reports.figures.chart import Chart
from repro.reports.figures.differences import ROW, band, effect_row, name_rows
from repro.reports.figures.numbers import number
from repro.reports.figures.sheet import Sheet, room, sheet
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

COLUMNS = ["metric", "arm", "seed", "difference", "mean", "low", "high"]


def data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, difference, and of the arm mean, low, high: the verdict's, wider for a sequential study."""
    pairs = findings.differences[findings.differences["metric"] == study.primary]
    rows = pairs.merge(findings.verdicts[["arm", "mean", "low", "high"]], on="arm")
    return layout.in_order(rows[COLUMNS], (study.primary,), study.arms)


def limits(rows: pd.DataFrame, smallest: float) -> tuple[float, float]:
    """The stretch of the axis that holds zero, every seed, every interval and the smallest effect of interest."""
    shown = pd.concat([rows["difference"], rows["low"], rows["high"]]).dropna().tolist()
    edges = [-1.5 * smallest, 1.5 * smallest] if np.isfinite(smallest) else []
    return layout.padded(pd.Series([0.0, *shown, *edges]))


def draw(rows: pd.DataFrame, study: Study) -> Sheet | None:
    """A row per arm: its mean with the verdict's interval, seeds below, and the smallest effect; none where all is zero."""
    if not rows["difference"].any():
        return None
    arms, title = study.arms[1:], f"effect on the {terms.said(study.primary)}"
    figure, panels = sheet({study.primary: title}, ROW * len(arms) + 0.1, left=room(arms), bottom=0.75)
    axes = panels[study.primary]
    axes.axvline(0, **style.ZERO_LINE)
    for height, arm in enumerate(arms):
        effect_row(axes, height, rows[rows["arm"] == arm], arm, study)
    band(axes, study.smallest_effect)
    name_rows(axes, arms)
    _label(axes, study)
    axes.set_xlim(limits(rows, study.smallest_effect))
    style.few_ticks(axes, "x")
    style.quiet(axes)
    return figure


def _label(axes: Axes, study: Study) -> None:
    """What the axis counts, and which side of it is the better one."""
    better = layout.better(study.higher_is_better)
    band = f", band ±{number(study.smallest_effect)}" if np.isfinite(study.smallest_effect) else ""
    axes.set_xlabel(f"difference{terms.bracketed(study.primary)}\n{better}{band}", loc="right")


CHARTS = (
    Chart(
        "effect",
        "Effect on the primary metric",
        "Arm minus reference within each seed: the large mark is the mean, the line the interval that the verdict rests on, "
        "small marks are single seeds. The shaded band is the smallest effect of interest.",
        data,
        draw,
        takeaways.effect,
        still=lambda rows: [] if rows["difference"].any() else ["There is no interval to draw."],
    ),
)
