"""Sequential studies: tested at several numbers of seeds (looks), with an error for each look.

A verdict that is asked for again and again is wrong more often than one that is asked for once. The looks are therefore
declared before the first run, and share the 5 %: look k judges at an error of its own, and the errors of all looks add up to
5 %. All arms of the study share a look's error equally. However looks and arms depend on each other, at most one study in
twenty has a false word in any arm at any look; docs/calibration.md has how many do.

An arm's share does not grow when others are decided. In Holm's procedure it would, because a hypothesis that was rightly
rejected never was at risk of a wrong rejection. But one interval decides between several words here, and an arm of which
"better" is right was at risk of "no difference" until then. With twelve arms whose effect is the smallest of interest, Holm's
procedure had a false word in one study of eight.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from repro.reports.statistics import student
from repro.reports.statistics.words import IDENTICAL, UNDECIDED, VERDICTS

ERROR = 1 - student.CONFIDENCE
HISTORY = ["look", "arm", "n", "mean", "sd", "low", "high", "error", "verdict"]


def errors(looks: Sequence[int]) -> list[float]:
    """The share of the 5 % error that each look spends, in proportion to its new seeds; the shares add up to 5 %."""
    return [ERROR * (seeds - before) / looks[-1] for seeds, before in zip(looks, (0, *looks))]


@dataclass(frozen=True)
class Rule:
    """What decides a verdict: the looks, the smallest effect of interest, and which direction is better."""

    looks: tuple[int, ...]
    smallest_effect: float
    higher_is_better: bool = True

    def words(self, paired: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[..., n] differences -> [...] verdicts at an error, and the ends of their intervals."""
        n, centre = paired.shape[-1], paired.mean(axis=-1)
        spread = paired.std(axis=-1, ddof=1) if n > 1 else np.full_like(centre, np.nan)
        half = student.half_width(spread, n, error)
        low, high = centre - half, centre + half
        return student.verdict(low, high, self.smallest_effect, self.higher_is_better), low, high


def history(
    paired: pd.DataFrame,
    ended: Mapping[str, Collection[int]],
    rule: Rule,
    identical: Callable[[str, int], bool] = lambda arm, look: False,
) -> pd.DataFrame:
    """One row per look that was reached and arm that was undecided before it, from differences (arm, seed).

    `ended` has every arm of the study. A look is reached when each undecided one has ended on seeds 1 to `look`. `n` is how
    many of these have a pair, and `error` what the arm's interval was taken at. `identical(arm, look)` is whether the arm
    equals the reference in all values up to the look: then it is decided and runs no further seed, and must not keep the
    others' next look waiting.
    """
    rows, left = [], list(ended)
    for look, error in zip(rule.looks, errors(rule.looks)):
        if not left or not all(set(ended[arm]) >= set(range(1, look + 1)) for arm in left):
            break
        known = paired[paired["seed"] <= look]
        values = {arm: known.loc[known["arm"] == arm, "difference"].to_numpy() for arm in left}
        found = [{"look": look} | _judged(arm, values[arm], error / len(ended), rule) for arm in left]
        found = [row | {"verdict": IDENTICAL} if identical(row["arm"], look) else row for row in found]
        rows += found
        left = [row["arm"] for row in found if row["verdict"] == UNDECIDED]
    return pd.DataFrame(rows, columns=HISTORY)


def _judged(arm: str, differences: np.ndarray, error: float, rule: Rule) -> dict:
    row = {"arm": arm, "n": len(differences), "error": error}
    if not len(differences):
        return row | dict.fromkeys(("mean", "sd", "low", "high"), np.nan) | {"verdict": UNDECIDED}
    word, low, high = rule.words(differences, error)
    spread = differences.std(ddof=1) if len(differences) > 1 else np.nan
    return row | {"mean": differences.mean(), "sd": spread, "low": low, "high": high, "verdict": str(word)}


def verdicts(looks: pd.DataFrame, paired: pd.DataFrame, arms: Sequence[str], rule: Rule) -> pd.DataFrame:
    """One row per arm: the look that decided about it, else the last one, with the columns of `statistics.verdicts`.

    `p` may be compared with those of other studies: the smallest over the looks, each divided by its look's part of 5 %.
    """
    last = (
        looks.drop_duplicates("arm", keep="last").set_index("arm").reindex(list(arms)).rename_axis("arm").reset_index()
    )
    counts = paired.groupby("arm")["difference"].count().reindex(list(arms), fill_value=0).to_numpy()
    known = last["look"].notna().to_numpy()
    return last.assign(
        n=np.where(known, last["n"], counts).astype(int),
        verdict=last["verdict"].fillna(UNDECIDED),
        reason=[_reason(row, rule) for row in last.itertuples()],
        seeds_needed=np.nan,
        more_seeds=0.0,
        p=[_p(looks[looks["arm"] == arm], rule) for arm in arms],
    )


def _reason(row, rule: Rule) -> str:
    """Why an arm is undecided: the next look has not been reached, or no look is left."""
    if row.verdict in VERDICTS and row.verdict != UNDECIDED:
        return ""
    reached = 0 if np.isnan(row.look) else row.look
    later = [look for look in rule.looks if look > reached]
    if not later:
        return f"all looks are used up, the last one at {rule.looks[-1]} seeds"
    return f"the {'next' if reached else 'first'} look is at {later[0]} seeds"


def _p(looks: pd.DataFrame, rule: Rule) -> float:
    """Two-sided p over all looks at one arm, at most 1; NaN before the first, and where no look had a spread to go by."""
    part, sd = dict(zip(rule.looks, errors(rule.looks))), looks["sd"].astype(float)
    t = looks["mean"] / (sd.where(sd >= student.ROUNDING) / np.sqrt(looks["n"].astype(float)))
    p = 2 * stats.t.sf(t.abs().astype(float), looks["n"].astype(float) - 1)
    return float(min(1.0, np.nanmin(p * ERROR / looks["look"].map(part)))) if np.isfinite(p).any() else np.nan


def simulated(paired: np.ndarray, rule: Rule, arms: int) -> tuple[np.ndarray, np.ndarray]:
    """[n, seeds] differences of n arms, of studies of so many -> [n] the word that each ends with, and after how many seeds."""
    words, seeds = np.full(len(paired), UNDECIDED, dtype=object), np.full(len(paired), rule.looks[-1])
    for look, error in zip(rule.looks, errors(rule.looks)):
        now, _, _ = rule.words(paired[:, :look], error / arms)
        ends = (words == UNDECIDED) & (now != UNDECIDED)
        words[ends], seeds[ends] = now[ends], look
    return words, seeds
