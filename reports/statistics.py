"""Paired comparisons over seeds: differences, Student-t intervals, verdict words, checks of predictions.

The unit is the training seed: arms share seeds, data and the stages that a detail cannot touch, so the difference
arm - reference is taken within a seed. Everything here is a pure function of tidy frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

if TYPE_CHECKING:
    from reports.read import Study

CONFIDENCE = 0.95
POWER = 0.8
MOST_SEEDS = 1000  # past this a study of seeds is not the instrument
ROUNDING = 1e-12  # what is left of differences of equal numbers
PREDICTED = {"up": 1, "down": -1, "same": 0}


@dataclass(frozen=True)
class Findings:
    """What a study's numbers say: differences [metric, arm, seed], their intervals, verdicts, predictions, counts."""

    differences: pd.DataFrame
    intervals: pd.DataFrame
    verdicts: pd.DataFrame
    predictions: pd.DataFrame
    tally: pd.DataFrame


def analyse(study: Study) -> Findings:
    """All comparisons of a study, each arm against its reference."""
    values = pd.concat([study.curves, study.finals.assign(step=0)], ignore_index=True)
    paired = differences(values, study.reference)
    summary = intervals(paired)
    arms = study.arms[1:]
    return Findings(
        differences=paired,
        intervals=summary,
        verdicts=verdicts(summary, arms, study.primary, study.smallest_effect, study.higher_is_better).assign(
            identical=[identical(study.finals, arm, study.reference, study.primary) for arm in arms]
        ),
        predictions=predictions(summary, arms, study.moves, study.primary, study.smallest_effect),
        tally=tally(study.runs, values[values["metric"] == study.primary], study.arms, study.seeds),
    )


def differences(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Arm - reference for each metric and seed, from tidy values (metric, arm, seed, step, value).

    A curve is averaged over the steps that both arms have, so a run that ended early is compared with the same
    stretch of its reference; a single value has one step.
    """
    table = values.pivot(index=["metric", "seed", "step"], columns="arm", values="value")
    table = table.reindex(columns=table.columns.union([reference]))  # a reference that failed has no values at all
    apart = table.sub(table[reference], axis=0).drop(columns=reference)
    tidy = apart.melt(ignore_index=False, var_name="arm", value_name="difference").dropna().reset_index()
    return tidy.groupby(["metric", "arm", "seed"], as_index=False, sort=True)["difference"].mean()


def t_interval(values: pd.Series) -> tuple[float, float]:
    """The 95 % Student-t interval of the mean, mean -+ t(0.975, n-1) sd / sqrt(n); NaN for fewer than two values."""
    n = values.count()
    if n < 2:
        return np.nan, np.nan
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return values.mean() - half, values.mean() + half


def intervals(paired: pd.DataFrame) -> pd.DataFrame:
    """n, mean, sd and 95 % interval of the paired differences of each metric and arm; as `t_interval`, for all at once."""
    rows = paired.groupby(["metric", "arm"])["difference"].agg(n="count", mean="mean", sd="std").reset_index()
    half = stats.t.ppf((1 + CONFIDENCE) / 2, rows["n"] - 1) * rows["sd"] / np.sqrt(rows["n"])
    return rows.assign(low=rows["mean"] - half, high=rows["mean"] + half)


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
    return word if word not in ("better", "worse") or adjusted < 1 - CONFIDENCE else "undecided"


def identical(finals: pd.DataFrame, arm: str, reference: str, primary: str) -> bool:
    """Whether every final value of an arm equals the reference's, in every seed in which both have the primary one."""
    wide = finals.pivot(index=["arm", "seed"], columns="metric", values="value")
    wide = wide.dropna(subset=[primary]) if primary in wide else wide.head(0)
    if not {arm, reference} <= set(wide.index.unique("arm")):
        return False
    ours, theirs = wide.loc[arm], wide.loc[reference]
    both = ours.index.intersection(theirs.index)
    return len(both) > 0 and ours.loc[both].equals(theirs.loc[both])


def verdict(low: float, high: float, smallest_effect: float, higher_is_better: bool) -> str:
    """better, worse, no difference or undecided, from a 95 % interval of arm - reference.

    "No difference" is asked first: an interval wholly within +-smallest_effect is one nobody would act on, even where
    it leaves out zero. An interval that is not a number (fewer than two seeds) decides nothing.
    """
    if -smallest_effect <= low and high <= smallest_effect:
        return "no difference"
    if low > 0:
        return "better" if higher_is_better else "worse"
    if high < 0:
        return "worse" if higher_is_better else "better"
    return "undecided"


def seeds_needed(sd: float, effect: float) -> float:
    """Fewest seeds with which a two-sided paired t test at 5 % shows `effect` with 80 % power at this spread.

    power(n) = P(|T| > t(0.975, n-1)) with T noncentral t, n-1 degrees of freedom, noncentrality effect sqrt(n) / sd.
    NaN where spread or effect is unknown or zero; infinity where `MOST_SEEDS` are not enough.
    """
    if not (sd > 0 and effect > 0):
        return np.nan
    n = np.arange(2, MOST_SEEDS + 1)
    critical = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    shift = effect * np.sqrt(n) / sd
    power = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    enough = n[power >= POWER]
    return float(enough[0]) if enough.size else np.inf


def verdicts(
    summary: pd.DataFrame, arms: tuple[str, ...], primary: str, smallest_effect: float, higher_is_better: bool
) -> pd.DataFrame:
    """One row per arm on the primary metric: n, mean, sd, low, high, verdict, seeds_needed; n is 0 without a pair."""
    rows = _rows(summary, primary, arms)
    words = [verdict(r.low, r.high, smallest_effect, higher_is_better) for r in rows.itertuples()]
    needed = [seeds_needed(r.sd, smallest_effect) for r in rows.itertuples()]
    return rows.assign(verdict=words, seeds_needed=needed)


def predictions(
    summary: pd.DataFrame,
    arms: tuple[str, ...],
    moves: dict[str, str | dict[str, str]],
    primary: str,
    smallest_effect: float,
) -> pd.DataFrame:
    """Each predicted movement beside what happened, one row per metric and arm.

    Only the primary metric has a smallest effect, so "same" can be confirmed there; elsewhere it can be contradicted.
    """
    rows = [
        _rows(summary, metric, arms).assign(metric=metric, predicted=[_direction(move, arm) for arm in arms])
        for metric, move in moves.items()
    ]
    if not rows:
        return pd.DataFrame(columns=["arm", "metric", "predicted", "n", "mean", "low", "high", "result"])
    frame = pd.concat(rows, ignore_index=True)
    frame = frame[frame["predicted"] != ""].reset_index(drop=True)
    margin = np.where(frame["metric"] == primary, smallest_effect, 0.0)
    result = [agreement(r.predicted, r.low, r.high, m) for r, m in zip(frame.itertuples(), margin, strict=True)]
    return frame.assign(result=result)


def agreement(predicted: str, low: float, high: float, margin: float) -> str:
    """as predicted, opposite or not resolved, for a predicted direction and the interval of the difference."""
    within = -margin <= low and high <= margin
    if predicted == "same":
        if within:
            return "as predicted"
        return "opposite" if low > 0 or high < 0 else "not resolved"
    observed = int(low > 0) - int(high < 0)
    if observed == 0:
        return "not resolved"
    return "as predicted" if observed == PREDICTED[predicted] else "opposite"


def tally(runs: pd.DataFrame, primary: pd.DataFrame, arms: tuple[str, ...], seeds: tuple[int, ...]) -> pd.DataFrame:
    """Per arm (reference first): seeds by outcome, seeds never run, and seeds that count towards the verdict.

    A seed counts when the primary metric (tidy values) exists for it in the arm and in the reference, whatever its
    outcome: a diverged run that was evaluated counts, a finished one without a number does not.
    """
    measured = primary.dropna(subset="value").groupby("arm")["seed"].agg(set)
    rows = []
    for arm in arms:
        ran = runs[runs["arm"] == arm]
        outcomes = {word: sorted(group) for word, group in ran.groupby("outcome")["seed"]}
        counted = measured.get(arm, set()) & measured.get(arms[0], set())
        rows.append(
            {
                "arm": arm,
                "planned": len(seeds),
                "outcomes": outcomes,
                "absent": sorted(set(seeds) - set(ran["seed"])),
                "counted": sorted(counted),
            }
        )
    return pd.DataFrame(rows)


def complete_steps(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of each metric and arm at steps that all its seeds reached, so a mean is always of the same runs."""
    seeds = curves.groupby(["metric", "arm"])["seed"].transform("nunique")
    here = curves.dropna(subset="value").groupby(["metric", "arm", "step"])["seed"].transform("nunique")
    return curves[here.reindex(curves.index) == seeds]


def _direction(move: str | dict[str, str], arm: str) -> str:
    """Where the arm was predicted to move a metric; nothing where nothing was predicted of it."""
    return move if isinstance(move, str) else move.get(arm, "")


def _rows(summary: pd.DataFrame, metric: str, arms: tuple[str, ...]) -> pd.DataFrame:
    """A metric's intervals, one row per arm in order, with n 0 for an arm that has no pair."""
    rows = summary[summary["metric"] == metric].set_index("arm").reindex(list(arms))
    return rows.assign(n=rows["n"].fillna(0).astype(int)).drop(columns="metric").rename_axis("arm").reset_index()
