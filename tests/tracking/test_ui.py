"""Which study MLflow's pages are opened on; `test_remote.py` opens them."""

import sqlite3

import pytest

from repro.__main__ import main
from repro.tracking import store
from tests.recorded import publish


@pytest.fixture
def local(own_store):
    return own_store


def test_without_a_detail_it_is_the_study_that_was_last_started(local, tiny_study, tiny_cache):
    publish(tiny_study, tiny_cache)
    later = local.create_experiment("kl_coef-tiny", tags={"detail": "kl_coef", "scale": "tiny"})
    local.create_experiment("gamma-tiny", tags={"detail": "gamma", "scale": "tiny"})
    assert store.find_study("", "mini").name == "whiten_adv-tiny"
    local.create_run(later)
    assert store.find_study("", "mini").name == "kl_coef-tiny"
    assert store.find_study("whiten_adv", "tiny").name == "whiten_adv-tiny"
    local.delete_experiment(later)
    assert store.find_study("", "mini").name == "whiten_adv-tiny"


def test_a_study_that_is_not_recorded_is_told_with_those_that_are(local, capsys):
    assert main(["ui"]) == 2
    assert "holds no study; run one" in capsys.readouterr().err
    local.create_experiment("gamma-mini", tags={"detail": "gamma", "scale": "mini"})
    assert main(["ui", "gama"]) == 2
    told = capsys.readouterr().err
    assert "there is no recorded study gama-mini; did you mean 'gamma-mini'? known: gamma-mini" in told


def test_no_store_is_made_for_a_look_at_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert main(["ui"]) == 2
    assert "there is no MLflow store sqlite:///mlflow.db yet; run a study" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["ui"], ["figures"], ["run", "gamma", "--scale", "smoke"], ["atlas", "gamma"]])
def test_an_older_store_is_refused_and_left_as_it_is(local, tmp_path, monkeypatch, capsys, words):
    with sqlite3.connect(tmp_path / "mlflow.db") as tables:
        tables.execute("update alembic_version set version_num = '451aebb31d03'")
        tables.execute("drop table logged_models")
    before = (tmp_path / "mlflow.db").read_bytes()
    assert main(words) == 2
    assert "mlflow db upgrade" in capsys.readouterr().err
    assert (tmp_path / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize("words", [["figures"], ["report", "gamma"], ["inspect", "off"]])
def test_no_store_is_made_for_a_report(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert main(words) == 2
    assert "there is no MLflow store" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.db"))
