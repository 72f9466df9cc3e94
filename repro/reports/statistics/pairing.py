"""Paired comparisons over seeds: differences to the reference, their Student-t intervals and p values."""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from repro.reports.statistics.student import CONFIDENCE, ROUNDING, t_intervals
from repro.reports.statistics.words import MOVED, UNDECIDED


def differences(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Arm - reference for each metric and seed, from tidy values (metric, arm, seed, step, value).

    A curve is averaged over the steps that both arms have, so a run that ended early is compared with the same
    stretch of its reference; a single value has one step.
    """
    return step_by_step(values, reference).groupby(["metric", "arm", "seed"], as_index=False)["difference"].mean()


def step_by_step(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """metric, seed, step, arm, difference: arm - reference at every step that both have, from tidy values."""
    table = values.pivot(index=["metric", "seed", "step"], columns="arm", values="value")
    table = table.reindex(columns=table.columns.union([reference]))  # a reference that failed has no values at all
    apart = table.sub(table[reference], axis=0).drop(columns=reference)
    return apart.melt(ignore_index=False, var_name="arm", value_name="difference").dropna().reset_index()


def intervals(paired: pd.DataFrame) -> pd.DataFrame:
    """metric, arm, n, mean, sd, low, high: of the paired differences of each metric and arm, with their 95 % interval."""
    return t_intervals(paired.groupby(["metric", "arm"])["difference"])


def paired_p(values: pd.Series) -> float:
    """Two-sided p of Student's paired t test on the differences of one arm.

    1 where all of them are zero; NaN for fewer than two, or where they agree in something else than zero: the test
    measures by their spread, and takes three equal differences, which coarse shares do give, for a certainty.
    """
    if values.count() < 2:
        return np.nan
    if values.std(ddof=1) < ROUNDING:
        return 1.0 if abs(values.mean()) < ROUNDING else np.nan
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def holm(p: pd.Series) -> pd.Series:
    """Holm's step-down adjustment of a family of p values, valid however they depend on each other; NaN stays NaN.

    The i-th smallest of m becomes the largest of (m - j + 1) p_j over j <= i, at most 1 (Holm 1979). A value that is
    missing is no test, and does not count in m.
    """
    known = p.dropna()
    if known.empty:
        return p
    return pd.Series(multipletests(known, method="holm")[1], index=known.index).reindex(p.index)


def corrected(word: str, adjusted: float) -> str:
    """A verdict once all are counted: better and worse need an adjusted p below 5 %, else they are undecided."""
    return word if word not in MOVED or adjusted < 1 - CONFIDENCE else UNDECIDED


def identical(finals: pd.DataFrame, arm: str, reference: str, primary: str) -> bool:
    """Whether every final value of an arm equals the reference's, in every seed in which both have the primary one."""
    wide = finals.pivot(index=["arm", "seed"], columns="metric", values="value")
    wide = wide.dropna(subset=[primary]) if primary in wide else wide.head(0)
    if not {arm, reference} <= set(wide.index.unique("arm")):
        return False
    ours, theirs = wide.loc[arm], wide.loc[reference]
    both = ours.index.intersection(theirs.index)
    return len(both) > 0 and ours.loc[both].equals(theirs.loc[both])


def complete_steps(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of each metric and arm at steps that all its seeds reached, so a mean is always of the same runs."""
    seeds = curves.groupby(["metric", "arm"])["seed"].transform("nunique")
    runs = curves.dropna(subset="value").groupby(["metric", "arm", "step"])["seed"].transform("nunique")
    return curves[runs.reindex(curves.index) == seeds]


def rows_of(summary: pd.DataFrame, metric: str, arms: tuple[str, ...]) -> pd.DataFrame:
    """A metric's intervals, one row per arm in order, with n 0 for an arm that has no pair."""
    rows = summary[summary["metric"] == metric].set_index("arm").reindex(list(arms))
    return rows.assign(n=rows["n"].fillna(0).astype(int)).drop(columns="metric").rename_axis("arm").reset_index()
