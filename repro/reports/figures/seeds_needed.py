"""How many seeds would show the smallest effect of interest: the share of all variants for which a number is enough."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from repro.reports.statistics import sample_size
from repro.reports.statistics.survey import Survey

CAPTION = (
    "From the spread of each variant's paired differences, the fewest seeds with which a two-sided paired t test at 5 %, "
    "without any correction, shows the smallest effect of interest in 80 % of studies. A spread from few seeds is itself "
    "rough. Variants without a spread, identical ones among them, and those of studies that grow by looks are left out."
)


def data(survey: Survey) -> pd.DataFrame:
    """detail, arm, n, sd of the paired differences and the seeds that would show the smallest effect, fewest first."""
    columns = ["detail", "arm", "primary", "n", "sd", "smallest_effect", "seeds_needed"]
    rows = survey.effects.reindex(columns=columns).dropna(subset="seeds_needed")
    return rows.sort_values("seeds_needed", kind="stable", ignore_index=True)


def draw(rows: pd.DataFrame) -> Figure:
    """The share of variants for which a number of seeds is enough."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    share = 100 * np.arange(1, len(rows) + 1) / len(rows)
    finite = np.isfinite(rows["seeds_needed"])
    end = max(100.0, rows.loc[finite, "seeds_needed"].max() * 1.3 if finite.any() else 0.0)
    reached = share[finite][-1] if finite.any() else 0.0
    axes.step([2, *rows.loc[finite, "seeds_needed"], end], [0, *share[finite], reached], where="post", color="#0072b2")
    n = int(rows["n"].median())
    axes.axvline(n, color="#1a1a1a", linewidth=1, linestyle=(0, (4, 2)))
    axes.annotate(
        f" {n} seeds: the usual number here", (n, 0.97), xycoords=("data", "axes fraction"), fontsize=8, va="top"
    )
    axes.set(xscale="log", xlim=(2, end), ylim=(0, 101), ylabel="variants [%]")
    axes.set_xlabel(f"seeds that show the smallest effect with {100 * sample_size.POWER:.0f} % power")
    ticks = [n for n in (2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if n <= end]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    return figure
