"""Every variant of every detail, to the end of a small run: minutes long, so `make test` leaves it to `make test-all`."""

import os
import sqlite3
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from repro.details import DETAILS
from tests.paths import ROOT


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_every_variant_runs_to_its_end_without_a_number_that_is_not_finite(tmp_path):
    words = [sys.executable, "-m", "repro", "atlas", "--scale", "smoke", "--seeds", "1"]
    place = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "", "REPRO_CACHE": ""}
    done = subprocess.run(words, cwd=tmp_path, env=place, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    store = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    ran = {
        (run.data.tags["detail"], run.data.tags["arm"]): run
        for experiment in store.search_experiments()
        for run in store.search_runs([experiment.experiment_id], max_results=1000)
        if "arm" in run.data.tags
    }
    assert ran.keys() == {(detail.name, label) for detail in DETAILS.values() for label in detail.variants}
    for run in ran.values():
        assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "finished")
    with sqlite3.connect(tmp_path / "mlflow.db") as tables:
        lost = tables.execute("select distinct key from latest_metrics where key like 'nonfinite/%'").fetchall()
    assert lost == []
    assert (tmp_path / "reports" / "build" / "atlas-smoke" / "index.html").exists()
