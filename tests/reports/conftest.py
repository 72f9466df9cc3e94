"""A small MLflow store with a made-up study in it; made once in a session, since a fresh store costs seconds."""

import shutil

import pytest

from repro.reports.reading.studies import read_study
from repro.reports.reading.study import Study
from tests.reports.made_up import EFFECTS, Fake, experiment, log


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> str:
    """A store that no test writes to: three arms, three seeds, and an older twin of one run that was restarted."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    study = experiment(uri, "whiten_adv-mini")
    log(uri, study, Fake("off", 1, win_rate=0.99), start=1_000)
    for arm, rates in EFFECTS.items():
        for seed, rate in enumerate(rates, start=1):
            log(uri, study, Fake(arm, seed, win_rate=rate), start=2_000 + seed)
    return uri


@pytest.fixture(scope="module")
def store(pristine, tmp_path_factory) -> str:
    """A copy for the tests of one file, so that what they add to it is seen by no other's."""
    copy = tmp_path_factory.mktemp("store") / "mlflow.db"
    shutil.copy(pristine.removeprefix("sqlite:///"), copy)
    return f"sqlite:///{copy}"


@pytest.fixture(scope="session")
def study(pristine) -> Study:
    """The made-up study as the reports read it."""
    return read_study("whiten_adv", "mini", pristine)
