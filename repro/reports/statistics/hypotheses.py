"""Compares the predictions for each arm with the observed differences."""

import numpy as np
import pandas as pd

from repro.reports.statistics.pairing import rows_of

PREDICTED = {"up": 1, "down": -1, "same": 0}


def predictions(
    summary: pd.DataFrame,
    arms: tuple[str, ...],
    expected: dict[str, str | dict[str, str]],
    primary: str,
    smallest_effect: float,
) -> pd.DataFrame:
    """Each prediction with the observed difference and the result, one row per metric and arm.

    Only the primary metric has a smallest effect, so "same" can be confirmed there; elsewhere it can be contradicted.
    """
    rows = [
        rows_of(summary, metric, arms).assign(metric=metric, predicted=[_direction(effect, arm) for arm in arms])
        for metric, effect in expected.items()
    ]
    if not rows:
        return pd.DataFrame(columns=["arm", "metric", "predicted", "n", "mean", "low", "high", "result"])
    frame = pd.concat(rows, ignore_index=True)
    frame = frame[frame["predicted"] != ""].reset_index(drop=True)
    margin = np.where(frame["metric"] == primary, smallest_effect, 0.0)
    result = [agreement(r.predicted, r.low, r.high, m) for r, m in zip(frame.itertuples(), margin, strict=True)]
    return frame.assign(result=result)


def agreement(predicted: str, low: float, high: float, margin: float) -> str:
    """The result "as predicted", "opposite" or "not resolved", from a prediction and the interval of the difference."""
    within = -margin <= low and high <= margin
    if predicted == "same":
        if within:
            return "as predicted"
        return "opposite" if low > 0 or high < 0 else "not resolved"
    observed = int(low > 0) - int(high < 0)
    if observed == 0:
        return "not resolved"
    return "as predicted" if observed == PREDICTED[predicted] else "opposite"


def _direction(effect: str | dict[str, str], arm: str) -> str:
    """The direction in which a metric was expected to go in this arm; empty where nothing was expected of the arm."""
    return effect if isinstance(effect, str) else effect.get(arm, "")
