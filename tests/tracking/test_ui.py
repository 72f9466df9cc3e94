"""Which study MLflow's pages are opened on; `test_remote.py` opens them."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import pytest

from repro.__main__ import main
from repro.tracking import store, ui
from tests.paths import ROOT
from tests.ports import free_port
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


SERVES = """
import sys
from repro.tracking import ui
with ui.server(sys.argv[1], int(sys.argv[2])) as (_, process):
    print(process.pid, flush=True)
    process.wait()
"""
# A command of MLflow that does what its server does: it starts another process, and waits.
STANDS_IN = """
import subprocess, sys
listens = "import socket, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(300)"
sys.exit(subprocess.call([sys.executable, "-c", "import sys; " + listens, sys.argv[sys.argv.index("--port") + 1]]))
"""


def answers(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.05)
    return condition()


def test_the_server_ends_with_the_process_that_started_it_however_that_ends(tmp_path):
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "__init__.py").touch()
    (tmp_path / "mlflow" / "__main__.py").write_text(STANDS_IN)
    port = free_port()
    code = [sys.executable, "-c", ui.WITH_STARTER, "server", "--port", str(port)]
    starter = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:], stdin=-1, start_new_session=True); time.sleep(300)"
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen([sys.executable, "-c", starter, *code], cwd=tmp_path)
        assert until(lambda: answers(port))
        process.send_signal(number)
        process.wait(20)
        assert until(lambda: not answers(port), 20)


@pytest.mark.nightly  # MLflow's own server takes long to start
def test_so_does_mlflows_own(own_store, tmp_path):
    words = [sys.executable, "-c", SERVES, own_store.tracking_uri, str(port := free_port())]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    group = int(process.stdout.readline())
    assert answers(port)
    words = [line for line in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines()]
    assert not any("--backend-store-uri" in line and str(port) in line for line in words)
    process.kill()
    process.communicate(timeout=20)
    assert until(lambda: not answers(port) and not alive(group), 20)


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
