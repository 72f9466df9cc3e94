"""What stands beside the t interval from six seeds on: inter-quartile means, bootstraps and sign flips."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from repro.reports.statistics.student import CONFIDENCE, ROUNDING

# Seeds for what stands beside the t interval: of five, sign flips cannot reach p < .05 (2/2^5 = .062; 2/2^6 = .031), the
# inter-quartile mean is that of three values, and not even five out of five puts the improvement's interval above 1/2.
ENOUGH_SEEDS = 6
RESAMPLES = 2000  # of a bootstrap; its ends then move by about a twentieth of the interval
BATCH = 250  # of those at a time, which bounds memory
GENERATOR = 2403_17031  # the same numbers give the same page


def levels(primary: pd.DataFrame, arms: tuple[str, ...]) -> pd.DataFrame:
    """Inter-quartile mean of each arm's own values [arm, seed, value] of the primary metric, over all its seeds."""
    own = primary.groupby(["arm", "seed"])["value"].mean().dropna()
    return pd.DataFrame([{"arm": arm, "n": len(v)} | _iqm(v) for arm, v in by_arm(own, arms)])


def robust(paired: pd.DataFrame, arms: tuple[str, ...], higher_is_better: bool) -> pd.DataFrame:
    """One row per arm on the primary metric's differences: inter-quartile mean, P(improvement), sign-flip p.

    They ask what one seed far from the others cannot decide. All are NaN with fewer than `ENOUGH_SEEDS`.
    """
    columns = ["arm", "n", "iqm", "iqm_low", "iqm_high", "p_improvement", "p_low", "p_high", "sign_flip_p"]
    own = paired.set_index(["arm", "seed"])["difference"]
    rows = [
        {"arm": arm, "n": len(v), "sign_flip_p": float(sign_flip_p(v.to_numpy()))}
        | _iqm(v)
        | _improvement(v, higher_is_better)
        for arm, v in by_arm(own, arms)
    ]
    return pd.DataFrame(rows, columns=columns)


def iqm(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the middle half: a quarter of the values, rounded down, is left out at each end (Agarwal et al. 2021)."""
    return stats.trim_mean(values, 0.25, axis=axis)


def sign_flip_p(values: np.ndarray) -> np.ndarray:
    """Two-sided p of the mean of [..., n] under all (to thirteen seeds; past that, random) flips of the values' signs.

    It assumes that a difference is as likely to have either sign, not its distribution; NaN below `ENOUGH_SEEDS`.
    """
    if values.shape[-1] < ENOUGH_SEEDS:
        return np.full(values.shape[:-1], np.nan)
    how = {"permutation_type": "samples", "vectorized": True, "axis": -1, "batch": BATCH, "rng": GENERATOR}
    return stats.permutation_test((values,), np.mean, **how).pvalue


def bootstrap(values: np.ndarray, statistic: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile bootstrap interval of a statistic of [..., n] that takes an axis; NaN where all are equal."""
    how = {"n_resamples": RESAMPLES, "method": "percentile", "axis": -1, "batch": BATCH, "rng": GENERATOR}
    ends = stats.bootstrap((values,), statistic, confidence_level=CONFIDENCE, **how).confidence_interval
    return tuple(np.where(np.ptp(values, axis=-1) < ROUNDING, np.nan, end)[()] for end in ends)


def _iqm(values: pd.Series) -> dict[str, float]:
    """Inter-quartile mean with its bootstrap interval."""
    if len(values) < ENOUGH_SEEDS:
        return dict.fromkeys(("iqm", "iqm_low", "iqm_high"), np.nan)
    low, high = bootstrap(values.to_numpy(), iqm)
    return {"iqm": float(iqm(values.to_numpy())), "iqm_low": low, "iqm_high": high}


def _improvement(values: pd.Series, higher_is_better: bool) -> dict[str, float]:
    """Share of seeds in which the arm is the better one, a tie counting half, with its exact binomial interval.

    Within a seed, not over all pairs of runs (U / n^2, which is for arms that share nothing): seeds differ by more than
    arms do, and the noise that the two runs share would count. A tie widens the interval at both ends.
    """
    n = len(values)
    if n < ENOUGH_SEEDS:
        return dict.fromkeys(("p_improvement", "p_low", "p_high"), np.nan)
    won = int((values > ROUNDING).sum() if higher_is_better else (values < -ROUNDING).sum())
    tied = int((values.abs() <= ROUNDING).sum())
    return {"p_improvement": (won + tied / 2) / n, "p_low": share(won, n)[0], "p_high": share(won + tied, n)[1]}


def share(count: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's exact 95 % interval of a share, `count` of `n`; NaN of none."""
    return tuple(stats.binomtest(count, n).proportion_ci(CONFIDENCE)) if n else (np.nan, np.nan)


def by_arm(values: pd.Series, arms: tuple[str, ...]) -> list[tuple[str, pd.Series]]:
    """The values [arm, seed] of each arm in order; none for an arm that has none."""
    return [(arm, values[values.index.get_level_values("arm") == arm]) for arm in arms]
