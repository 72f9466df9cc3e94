"""The metrics of a study's runs as tidy frames: curves, and final values."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from repro import record
from repro.reports.reading.store import collector_off
from repro.reports.reading.terms import CURVES

CURVE = ["detail", "arm", "seed", "step", "metric", "value"]  # columns of a study's curves
OF_CURVE = ["metric", "arm", "seed"]  # what tells a curve from the others
INFINITE = 1e300  # MLflow stores an infinity as the largest float


def curves_of(client: MlflowClient, runs: pd.DataFrame, kept: dict[str, Run]) -> pd.DataFrame:
    """Every curve as arm, seed, step, metric, value; a step that was logged twice keeps its last attempt's value."""
    having: dict[str, list[str]] = {}
    for run_id in runs["run_id"]:
        for name in kept[run_id].data.metrics:
            if name.startswith(CURVES):
                having.setdefault(name, []).append(run_id)
    with collector_off():
        points = [
            (run_id, point.step, name, point.value, point.timestamp)
            for name, run_ids in having.items()
            for run_id, point in _history(client, run_ids, name)
        ]
    frame = pd.DataFrame(points, columns=["run_id", "step", "metric", "value", "timestamp"])
    frame = frame.merge(runs[["run_id", "arm", "seed"]], on="run_id").drop(columns="run_id")
    frame = _once(frame.sort_values([*OF_CURVE, "step", "timestamp"], kind="stable", ignore_index=True))
    return _finite(frame.drop(columns="timestamp")).reset_index(drop=True)


def _once(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with one point for each step of a curve: where an earlier version published a lost attempt too, the last's."""
    twice = frame[frame.duplicated([*OF_CURVE, "step"])][OF_CURVE].drop_duplicates()
    if twice.empty:
        return frame
    doubled = frame.reset_index().merge(twice)  # with their places in the frame
    kept = [
        curve["index"].to_numpy()[record.last_attempt(list(zip(curve["step"], curve["timestamp"])))]
        for _, curve in doubled.groupby(OF_CURVE)
    ]
    return frame.drop(np.setdiff1d(doubled["index"], np.concatenate(kept)))


def _history(client: MlflowClient, run_ids: list[str], metric: str) -> Iterator[tuple[str, Metric]]:
    """(run id, point) of a metric in these runs.

    A database is asked for all runs at once, since each query scans the metric's points of every run in the store; run by
    run takes five times as long. A server has no such call.
    """
    store = client._tracking_client.store
    if hasattr(store, "get_metric_history_bulk"):
        for point in store.get_metric_history_bulk(run_ids, metric, max_results=None):
            yield point.run_id, point
    else:
        for run_id in run_ids:
            yield from ((run_id, point) for point in client.get_metric_history(run_id, metric))


def finals_of(runs: pd.DataFrame, kept: dict[str, Run]) -> pd.DataFrame:
    """Every single value as arm, seed, metric, value."""
    rows = [
        (row.arm, row.seed, name, value)
        for row in runs.itertuples()
        for name, value in sorted(kept[row.run_id].data.metrics.items())
        if not name.startswith(CURVES)
    ]
    return _finite(pd.DataFrame(rows, columns=["arm", "seed", "metric", "value"]))


def _finite(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with infinite values as missing values."""
    values = frame["value"].astype(float)
    return frame.assign(value=values.mask(values.abs() > INFINITE, np.nan))
