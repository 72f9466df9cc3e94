"""What an installed wheel is: one top-level name, all files that it reads, and studies from a folder that is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.faults.study import WORDS
from tests.paths import ROOT

SOURCES = ("repro", "pyproject.toml", "README.md", "LICENSE")
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built of a copy, since a build leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
        _ = shutil.copytree(source, folder / name, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs a module of the wheel in an empty folder; the other libraries are those of the tests."""
    site, place = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    subprocess.run([*PIP, "install", "--no-deps", "--target", site, wheel], check=True)

    def run(*words):
        own = {"PYTHONPATH": str(site), "MLFLOW_TRACKING_URI": "", "REPRO_CACHE": ""}
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=place, env=os.environ | own, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_wheel_claims_one_name_and_holds_all_files_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"repro"}
    tracked = subprocess.run(["git", "ls-files", "repro"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert set(tracked) - names == set()


def test_the_verbs_run_where_no_checkout_is(installed):
    assert "whiten_adv" in installed("repro", "details")
    assert "arms shift_and_scale, scale_only, off" in installed("repro", "plan", "whiten_adv", "--scale", "smoke")


@pytest.mark.nightly
def test_a_study_runs_where_no_checkout_is(installed):
    told = installed("repro", *WORDS)
    assert "report: reports/build/score_position-" in told and "Undecided" in told
