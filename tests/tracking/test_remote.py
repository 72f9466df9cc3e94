"""A real tracking server on this machine's loopback: a study is recorded, reported, browsed and copied over HTTP."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlflow.pyfunc
import pytest
from mlflow import MlflowClient

from repro.__main__ import main
from repro.engine import pipeline
from repro.errors import UserError
from repro.reports.reading import studies
from repro.tracking import attach, registry, ui
from tests.paths import ROOT
from tests.ports import free_port
from tests.recorded import artifacts, everything, parent, points, publish, runs

pytestmark = pytest.mark.nightly  # a server takes long to start


@pytest.fixture(scope="module")
def server(empty_store, tmp_path_factory):
    """Address of a server that keeps runs in sqlite and hands out artifacts itself."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with ui.server(f"sqlite:///{folder}/mlflow.db", free_port()) as (address, _):
            patch.setenv("MLFLOW_TRACKING_URI", address)
            yield address


@pytest.fixture(scope="module")
def remote(server, tiny_study, tiny_cache, tmp_path_factory):
    """A client of the server, which holds the whole study and its report."""
    page = tmp_path_factory.mktemp("page")
    (page / "index.html").write_text("the page")
    publish(tiny_study, tiny_cache)
    attach.publish_report("whiten_adv", "tiny", page, "Undecided.")
    return MlflowClient(tracking_uri=server)


@pytest.fixture
def local(own_store):
    """A client of the sqlite store of a machine without a network, which is the one in use."""
    return own_store


def test_a_server_holds_what_a_file_does(remote, local, tiny_study, tiny_cache):
    publish(tiny_study, tiny_cache)
    for arm, run in runs(remote).items():
        same = runs(local)[arm]
        assert points(remote, run) == points(local, same) != []
        assert (run.data.params, run.inputs.to_dictionary()) == (same.data.params, same.inputs.to_dictionary())
        assert artifacts(remote, run) == artifacts(local, same)
        assert artifacts(local, same) - {"data.json"} == {"config.json", "episodes.json", "samples.json"}
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert artifacts(remote, parent(remote)) == {"report"}


def test_publishing_to_a_server_twice_changes_nothing(remote, tiny_study, tiny_cache):
    before = everything(remote)
    publish(tiny_study, tiny_cache)
    assert everything(remote) == before


def test_a_password_in_the_address_is_nowhere_in_the_store_nor_on_a_page(
    server, tiny_study, tiny_cache, tmp_path, monkeypatch, capfd
):
    address = server.replace("//", "//somebody:s3cretword@")
    shutil.copytree(tiny_cache, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    again = replace(tiny_study, scale=replace(tiny_study.scale, name="secret"))
    publish(again, tmp_path / "cache")
    assert main(["figures"]) == 0 and main(["ui", "whiten_adv", "--scale", "secret"]) == 0
    assert "s3cretword" not in "".join(capfd.readouterr())
    pages = [file for file in (tmp_path / "reports").rglob("*") if file.is_file()]
    assert any(file.name == "verdict.json" for file in pages)
    assert not [file for file in pages if b"s3cretword" in file.read_bytes()]
    store = MlflowClient(tracking_uri=server)
    experiment = store.get_experiment_by_name("whiten_adv-secret")
    found = store.search_runs([experiment.experiment_id])
    assert len(found) == 3 and "s3cretword" not in repr([experiment, *map(dict, found)])
    for run in found:
        folder = Path(store.download_artifacts(run.info.run_id, ""))
        assert not [file for file in folder.rglob("*") if file.is_file() and b"s3cretword" in file.read_bytes()]
    store.delete_experiment(experiment.experiment_id)


def test_a_report_is_built_from_a_server(remote, server):
    study = studies.read_study("whiten_adv", "tiny", server)
    assert (study.arms, study.seeds) == (("shift_and_scale", "off"), (1,))
    assert {len(samples) for samples in study.samples.values()} == {4} and len(study.samples) == 2
    assert {"objective/kl", "loss/policy"} <= set(study.curves["metric"])


def test_a_server_registers_the_policies_too(remote, tmp_path):
    for _ in range(2):
        told = registry.register_policies("whiten_adv", "tiny", {"off": "undecided"}, tmp_path)
    assert told.seeds == {"whiten_adv-tiny-off": ["1"], "whiten_adv-tiny-shift_and_scale": ["1"]}
    (version,) = remote.search_model_versions("name = 'whiten_adv-tiny-off'")
    assert (version.run_id, version.tags["verdict"]) == (runs(remote)["off"].info.run_id, "undecided")


def test_a_policy_is_loaded_from_a_server(remote, tiny_study, tiny_cache):
    run = runs(remote)["off"]
    (text,) = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/policy").predict("SUBREDDIT: r/AskReddit")
    assert text
    assert pipeline.keys(tiny_study.arms["off"], tiny_study.scale, 1)["ppo"] == run.data.tags["stage.ppo"]


def test_a_study_is_brought_from_a_server_and_to_one(remote, server, local, tmp_path, monkeypatch, capsys):
    assert (main(["import", server]), capsys.readouterr().err) == (0, "")
    for arm, run in runs(local).items():
        assert points(local, run) == points(remote, runs(remote)[arm])
        assert (
            artifacts(local, run) - {"data.json"} == {"config.json", "episodes.json", "samples.json"}
            and len(run.outputs.model_outputs) == 1
        )
    assert Path(local.download_artifacts(parent(local).info.run_id, "report/index.html")).read_text() == "the page"
    before = everything(remote)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert main(["import", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["whiten_adv-tiny", "2"]
    assert everything(remote) == before
    remote.rename_experiment(parent(remote).info.experiment_id, "another-name")
    try:
        assert main(["import", str(tmp_path)]) == 0
        for arm, run in runs(remote).items():
            assert points(remote, run) == points(local, runs(local)[arm])
            assert (
                artifacts(remote, run) - {"data.json"} == {"config.json", "episodes.json", "samples.json"}
                and len(run.outputs.model_outputs) == 1
            )
    finally:
        copied = remote.get_experiment_by_name("whiten_adv-tiny").experiment_id
        remote.rename_experiment(copied, "copied")
        remote.delete_experiment(copied)
        remote.rename_experiment(remote.get_experiment_by_name("another-name").experiment_id, "whiten_adv-tiny")


# ---------------------------------------------------------------------------------------------- the pages on a study


def test_the_address_of_a_study_on_a_server_is_told(remote, server, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(ui.webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    assert main(["ui", "whiten_adv", "--scale", "tiny"]) == 0
    address = capsys.readouterr().out.strip()
    experiment = remote.get_experiment_by_name("whiten_adv-tiny").experiment_id
    assert address.startswith(f"{server}/#/experiments/{experiment}/runs?") and opened == [address]
    assert main(["ui"]) == 0
    assert f"/experiments/{experiment}/" in capsys.readouterr().out


def test_a_port_that_is_taken_is_told(server, local, tiny_study, tiny_cache):
    publish(tiny_study, tiny_cache)
    port = int(server.rpartition(":")[2])
    with pytest.raises(UserError, match=f"port {port} is in use, .*; choose another one: make ui PORT={port + 1}"):
        ui.show("whiten_adv", "tiny", port, print)


def test_pages_are_served_until_an_interrupt_and_leave_nothing_running(local, tiny_study, tiny_cache, tmp_path):
    publish(tiny_study, tiny_cache)
    port = free_port()
    words = [sys.executable, "-m", "repro", "ui", "--port", str(port)]
    place = os.environ | {"PYTHONPATH": str(ROOT)}
    place.pop("DISPLAY", None)
    shown = subprocess.Popen(words, cwd=tmp_path, env=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    experiment = local.get_experiment_by_name("whiten_adv-tiny").experiment_id
    assert shown.stdout.readline().startswith(f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs?")
    assert shown.stdout.readline() == "press Ctrl-C to stop the server\n"
    shown.send_signal(signal.SIGINT)
    assert shown.communicate(timeout=60) == ("", "")
    assert shown.returncode == 0
    until = time.monotonic() + 10
    while time.monotonic() < until and answers(port):
        time.sleep(0.1)
    assert not answers(port)


def answers(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
