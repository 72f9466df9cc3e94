"""The check of store and cache: what is whole is said to be, each trouble is found and named, and nothing is changed."""

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from mlflow import MlflowClient

from repro.__main__ import main
from repro.engine import artefacts
from repro.engine.dag import dag_of
from repro.stages import stage
from repro.stages.checkpoint import FORMAT
from repro.tracking import track
from tests.recorded import publish, runs


@pytest.fixture(scope="module")
def whole(tiny_study, tiny_cache, empty_store, tmp_path_factory):
    """A working directory with the whole study, in a store and a cache."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(tiny_cache, folder / "cache")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        publish(tiny_study, folder / "cache")
    return folder


@pytest.fixture
def place(whole, tmp_path, monkeypatch):
    """A copy of it that is the working directory; the artifacts of its runs lie in the first."""
    shutil.copytree(whole / "cache", tmp_path / "cache")
    shutil.copy(whole / "mlflow.db", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("REPRO_CACHE", "")
    return tmp_path


@pytest.fixture
def store(place):
    return MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")


def digests(folder):
    """Everything below a folder; of files the content, where this process may have them open."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
        if path.suffix not in (".lock",)
    }


def checked(place, capsys):
    """(exit code, lines) of the verb, which leaves everything as it was."""
    before = digests(place)
    code = main(["check"])
    told = capsys.readouterr()
    assert digests(place) == before and told.err == ""
    return code, told.out.splitlines()


def troubles(place, capsys):
    code, lines = checked(place, capsys)
    assert code == 1
    return [line.strip() for line in lines if line.startswith("  ")]


def test_what_is_whole_is_said_to_be(place, capsys):
    code, lines = checked(place, capsys)
    assert code == 0
    assert lines == [
        "store sqlite:///mlflow.db (studies: 1, runs: 2): whole",
        f"cache cache (artefacts: {len(list((place / 'cache').glob('*/done.json')))}): whole",
    ]


def test_nothing_at_all_is_whole_and_nothing_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("REPRO_CACHE", "")
    code, lines = checked(tmp_path, capsys)
    assert code == 0 and [line.rpartition(", ")[2] for line in lines] == ["which is not there yet: whole"] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_store_alone_is_checked_without_its_cache(place, capsys):
    shutil.rmtree(place / "cache")
    code, (store, cache) = checked(place, capsys)
    assert code == 0 and store.endswith("runs: 2): whole") and cache == "cache cache, which is not there yet: whole"


def test_points_that_are_there_twice_lacking_or_others_are_found(place, store, capsys):
    off, reference = (runs(store)[arm].info.run_id for arm in ("off", "shift_and_scale"))
    with closing(sqlite3.connect(place / "mlflow.db")) as tables, tables:
        double = "insert into metrics select key, value, timestamp - 9000, run_uuid, step, is_nan from metrics"
        columns = "(key, value, timestamp, run_uuid, step, is_nan)"
        double = double.replace("metrics select", f"metrics {columns} select", 1)
        tables.execute(f"{double} where run_uuid = ? and key = 'sft/loss' and step < 9", [off])
        tables.execute("delete from metrics where run_uuid = ? and key = 'rm/loss' and step > 8", [reference])
        tables.execute("update metrics set value = value + 1 where run_uuid = ? and key = 'loss/policy'", [reference])
    twice, lacking, other = sorted(troubles(place, capsys), key=lambda line: " twice" not in line)
    assert twice.startswith(
        "run off seed 1 of whiten_adv-tiny has points of sft/loss twice, of an attempt that was killed"
    )
    assert "shift_and_scale seed 1 of whiten_adv-tiny lacks points of rm/loss that its journal has" in lacking
    assert "has other points of loss/policy than its journal in the cache" in other


def test_runs_that_are_half_published_are_found_and_failed_ones_are_whole(
    tiny_study, tiny_cache, own_store, tmp_path, capsys
):
    shutil.copytree(tiny_cache, tmp_path / "cache")
    dag = dag_of(tiny_study, tmp_path / "cache")
    key = next(key for key, job in dag.jobs.items() if job.label == "evaluate off seed 1")
    dag.done -= {key for key, job in dag.jobs.items() if job.stage == "evaluate"}
    dag.fail(key, "ValueError: no")
    tracker = track.Tracker(tiny_study, dag, "the command")
    tracker.update()
    capsys.readouterr()  # what MLflow says of the policy that it packs
    (said,) = troubles(tmp_path, capsys)
    assert said.startswith(
        "run shift_and_scale seed 1 of whiten_adv-tiny is half published (running); its study's command"
    )
    own_store.set_tag(runs(own_store)["shift_and_scale"].info.run_id, "importing", "x")
    assert troubles(tmp_path, capsys) == [
        f"{said.partition(' is ')[0]} is half imported; the same import, repeated, completes it"
    ]


def test_a_run_that_is_there_twice_and_one_without_its_files_are_found(place, store, capsys):
    off = runs(store)["off"]
    store.create_run(off.info.experiment_id, tags={**off.data.tags, "outcome": "failed"})
    with closing(sqlite3.connect(place / "mlflow.db")) as tables, tables:
        tables.execute("update runs set artifact_uri = '/gone' where run_uuid = ?", [off.info.run_id])
    said = troubles(place, capsys)
    assert sum("is recorded twice (" in line for line in said) == 2
    assert sum("has no samples.json" in line for line in said) == 1


def test_a_damaged_store_is_found(place, capsys):
    file = place / "mlflow.db"
    content = bytearray(file.read_bytes())
    content[content.rfind(b"whiten_adv-tiny")] ^= 0x55
    file.write_bytes(content)
    (said,) = troubles(place, capsys)
    assert said.startswith(f"{file} is damaged: ") and "let the studies fill a new one from the cache" in said
    file.write_text("Dear Sir or Madam\n" * 300)
    assert "file is not a database" in troubles(place, capsys)[0]


def test_another_versions_store_is_found(place, capsys):
    with closing(sqlite3.connect(place / "mlflow.db")) as tables, tables:
        tables.execute("update alembic_version set version_num = 'fff1'")
    assert "was written by another version of MLflow (schema fff1; " in troubles(place, capsys)[0]


def test_what_a_killed_process_had_begun_to_write_is_found_and_left(place, capsys):
    file, kept = place / "mlflow.db", place / "kept"
    with closing(sqlite3.connect(file)) as tables:
        tables.execute("pragma cache_size = 1")  # so that a transaction reaches the file before it ends
        tables.execute("create table more (key text)")
        tables.executemany("insert into more values (?)", [("x" * 4_000,)] * 50)
        kept.mkdir()
        for name in ("mlflow.db", "mlflow.db-journal"):
            shutil.copy(place / name, kept)
    for name in ("mlflow.db", "mlflow.db-journal"):
        (kept / name).rename(place / name)
    (said,) = troubles(place, capsys)
    assert said.startswith(f"{file}-journal has what a killed process had not finished")


def test_a_store_that_is_being_made_or_was_left_half_made_beside_it_is_found(place, capsys):
    (place / "mlflow.db.12345678.partial").touch()
    (said,) = troubles(place, capsys)
    assert said.startswith(f"{place}/mlflow.db.12345678.partial is left over from a process that was killed; ")


def test_artefacts_that_were_changed_are_found(place, capsys):
    folders = sorted(file.parent for file in (place / "cache").glob("*/done.json"))
    (folders[0] / stage.RESULT).write_text("{}")
    (folders[1] / stage.RESULT).unlink()
    (folders[2] / stage.DONE).write_text("torn")
    said = troubles(place, capsys)
    assert [line.partition(": ")[2] for line in said[:2]] == [
        "1 changed (result.json); the next study that needs it makes it again",
        "1 missing (result.json); the next study that needs it makes it again",
    ]
    assert said[2].endswith("done.json cannot be read; the next study that needs it makes it again")


def test_what_killed_stages_left_is_found_and_what_runs_is_not(place, capsys):
    cache = place / "cache"
    for name in ("ppo-1.partial", "ppo-2.partial", "sft-1.earlier"):
        (cache / name).mkdir()
    checkpoint = cache / "ppo-2.partial" / stage.CHECKPOINTS / "step-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / stage.DONE).write_text(json.dumps({"step": 1, "format": FORMAT}))
    (cache / "jobs").mkdir(exist_ok=True)
    (cache / "jobs" / "x.123.partial").touch()
    with artefacts._lock(cache / "sft-1"):
        said = [line.removeprefix("cache/").partition(" is left over from a ") for line in troubles(place, capsys)]
    assert [(name, how) for name, _, how in said] == [
        ("ppo-1.partial", "stage that was killed; its study's command, repeated, makes it anew"),
        ("ppo-2.partial", "stage that was killed; its study's command, repeated, goes on from its checkpoint"),
        ("jobs/x.123.partial", "process that was killed; remove it"),
    ]
