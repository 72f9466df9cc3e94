"""The calibration from the command line: A/A studies at the smallest scale, and the page on them."""

import os
import subprocess
import sys

import pytest

from tests.paths import ROOT


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_studies_without_a_difference_are_run_and_told_of(tmp_path):
    words = [sys.executable, "-m", "repro", "calibrate", "--seeds", *map(str, range(1, 7))]
    place = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "", "REPRO_CACHE": ""}
    done = subprocess.run(words, cwd=tmp_path, env=place, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "docs" / "calibration.md").read_text()
    assert "6 seeds" in page
    for image in ("differences", "false_positives", "power"):
        assert f"images/calibration_{image}.png" in page
        assert (tmp_path / "docs" / "images" / f"calibration_{image}.csv").exists()
