"""How many seeds show an effect, or decide about one, at a spread of the paired differences."""

from collections.abc import Callable

import numpy as np
from scipy import stats

from repro.reports.statistics.student import CONFIDENCE, ROUNDING, half_width

POWER = 0.8
MOST_SEEDS = 1000  # past this a study of seeds is not the instrument


def power(n: np.ndarray | int, effect: float) -> np.ndarray | float:
    """How often a two-sided paired t test at 5 % excludes zero where the true mean is `effect` spreads, elementwise.

    P(|T| > t(0.975, n-1)) with T noncentral t, n-1 degrees of freedom, noncentrality effect sqrt(n).
    """
    critical = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    shift = effect * np.sqrt(n)
    return stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)


def seeds_needed(sd: float, effect: float) -> float:
    """Fewest seeds with which a two-sided paired t test at 5 % shows `effect` with 80 % power at this spread.

    NaN where spread or effect is unknown or zero; infinity where `MOST_SEEDS` are not enough.
    """
    return _first(lambda n: power(n, effect / sd) >= POWER, sd, effect)


def seeds_to_decide(sd: float, effect: float) -> float:
    """Fewest seeds whose interval is, at this spread, no wider than `effect`; NaN and infinity as in `seeds_needed`.

    Such an interval cannot hold both zero and an effect of either sign, so it decides wherever it lies; an interval
    that is undecided is always wider.
    """
    return _first(lambda n: 2 * half_width(sd, n) <= effect, sd, effect)


def _first(enough: Callable[[np.ndarray], np.ndarray], sd: float, effect: float) -> float:
    """The fewest seeds that are enough; NaN without a spread or an effect, infinity past `MOST_SEEDS`."""
    if not (sd > ROUNDING and effect > 0):
        return np.nan
    n = np.arange(2, MOST_SEEDS + 1)
    found = n[enough(n)]
    return float(found[0]) if found.size else np.inf
