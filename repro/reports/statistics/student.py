"""Student's t interval for the mean of paired differences, and the verdict from an interval."""

import numpy as np
import pandas as pd
from pandas.api.typing import SeriesGroupBy
from scipy import stats

from repro.reports.statistics.words import BETTER, NO_DIFFERENCE, UNDECIDED, WORSE

CONFIDENCE = 0.95
ROUNDING = 1e-12  # differences below this are rounding errors


def t_interval(values: pd.Series) -> tuple[float, float]:
    """The 95 % Student-t interval of the mean, mean -+ t(0.975, n-1) sd / sqrt(n); NaN for fewer than two values."""
    if values.count() < 2:
        return np.nan, np.nan
    half = half_width(values.std(ddof=1), values.count())
    return values.mean() - half, values.mean() + half


def t_intervals(groups: SeriesGroupBy) -> pd.DataFrame:
    """A row for each group of values: n, mean, sd, low, high, as `t_interval`, and what the groups are named by."""
    rows = groups.agg(n="count", mean="mean", sd="std").reset_index()
    half = half_width(rows["sd"], rows["n"])
    return rows.assign(low=rows["mean"] - half, high=rows["mean"] + half)


def half_width(sd: np.ndarray | float, n: np.ndarray | int, error: float = 1 - CONFIDENCE) -> np.ndarray | float:
    """Half the Student-t interval of a mean that misses it with probability `error`, t(1 - error/2, n-1) sd / sqrt(n),
    elementwise; NaN for n below two.
    """
    return stats.t.isf(error / 2, n - 1) * sd / np.sqrt(n)


def verdict(
    low: np.ndarray | float, high: np.ndarray | float, smallest_effect: float, higher_is_better: bool
) -> np.ndarray:
    """better, worse, no difference or undecided, elementwise, from the ends of intervals of arm - reference.

    "No difference" comes first: an interval wholly within +-smallest_effect holds only differences that do not matter, even
    if it excludes zero. An interval of NaN (fewer than two seeds) is undecided, and so is one of width zero, because t needs
    the spread of the differences.
    """
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    up, down = (BETTER, WORSE) if higher_is_better else (WORSE, BETTER)
    within = (-smallest_effect <= low) & (high <= smallest_effect)
    return np.select(
        [high - low < ROUNDING, within, low > 0, high < 0], [UNDECIDED, NO_DIFFERENCE, up, down], UNDECIDED
    )
