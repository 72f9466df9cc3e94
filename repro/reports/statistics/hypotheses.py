"""Compares the predictions for each arm with the observed differences."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from repro.reports.statistics.pairing import rows_of
from repro.reports.statistics.student import ROUNDING
from repro.reports.statistics.words import AS_PREDICTED, CONTRADICTED, NOT_RESOLVED

PREDICTED = {"up": 1, "down": -1, "same": 0}


def predictions(
    summary: pd.DataFrame,
    arms: tuple[str, ...],
    expected: dict[str, str | dict[str, str]],
    primary: str,
    smallest_effect: float,
    identical: Collection[str] = (),
) -> pd.DataFrame:
    """Each prediction with the observed difference and the result, one row per metric and arm.

    Only the primary metric has a smallest effect, so "same" can be confirmed there; elsewhere it can be contradicted. Of an
    arm that is `identical` to the reference "same" is certain, and any other prediction wrong.
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
    result = [
        _of_identical(r.predicted)
        if r.arm in identical and (r.mean == 0 or r.metric == primary)
        else agreement(r.predicted, r.low, r.high, m)
        for r, m in zip(frame.itertuples(), margin, strict=True)
    ]
    return frame.assign(result=result)


def _of_identical(predicted: str) -> str:
    """The result of a prediction about an arm in which nothing changed."""
    return AS_PREDICTED if predicted == "same" else CONTRADICTED


def agreement(predicted: str, low: float, high: float, margin: float) -> str:
    """The result, one of `words.RESULTS`, from a prediction and the interval of the difference.

    An interval without a width resolves nothing, as it decides nothing: t measures by the spread, and there is none.
    """
    if high - low < ROUNDING:
        return NOT_RESOLVED
    within = -margin <= low and high <= margin
    if predicted == "same":
        if within:
            return AS_PREDICTED
        return CONTRADICTED if low > 0 or high < 0 else NOT_RESOLVED
    observed = int(low > 0) - int(high < 0)
    if observed == 0:
        return NOT_RESOLVED
    return AS_PREDICTED if observed == PREDICTED[predicted] else CONTRADICTED


def _direction(effect: str | dict[str, str], arm: str) -> str:
    """The direction in which a metric was expected to go in this arm; empty where nothing was expected of the arm."""
    return effect if isinstance(effect, str) else effect.get(arm, "")
