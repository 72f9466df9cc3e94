"""Studies brought from another store: all of them, once, from wherever their files lie now, and what is told of the rest."""

import hashlib
import shutil
import sqlite3
from pathlib import Path

import mlflow.transformers
import pytest
from mlflow import MlflowClient

from repro.__main__ import main
from repro.engine.dag import dag_of
from repro.errors import UserError
from repro.tracking import attach, track, transfer
from tests.recorded import artifacts, everything, parent, points, publish, recorded, runs


@pytest.fixture(scope="module")
def elsewhere(tiny_study, tiny_cache, empty_store, tmp_path_factory):
    """The folder of a store with the whole study and its report."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("elsewhere")
        shutil.copy(empty_store, folder / "mlflow.db")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        publish(tiny_study, tiny_cache)
        (folder / "report").mkdir()
        (folder / "report" / "index.html").write_text("the page")
        attach.publish_report("whiten_adv", "tiny", folder / "report", "Better.")
        return folder


@pytest.fixture
def here(own_store):
    """A client of the store in use, which is empty; its experiments have other ids than those elsewhere."""
    own_store.create_experiment("another")
    return own_store


def other(folder):
    return MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")


def bring(folder):
    """Run -> (what became of it, what could not be read)."""
    return {each.run: (each.status, each.trouble) for each in transfer.import_studies(str(folder), Path("cache"))}


def test_a_newer_report_and_its_verdict_come_too(tiny_study, tiny_cache, empty_store, here, tmp_path, monkeypatch):
    source = tmp_path / "source"
    for name, verdict in (("page.html", "Better."), ("later.html", "Worse.")):
        (source / verdict).mkdir(parents=True)
        (source / verdict / name).write_text("the page")
    shutil.copy(empty_store, source / "mlflow.db")
    for verdict in ("Better.", "Worse."):
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{source}/mlflow.db")
            patch.chdir(source)
            publish(tiny_study, tiny_cache)
            attach.publish_report("whiten_adv", "tiny", source / verdict, verdict)
        bring(source)
    ours = parent(here)
    assert ": Worse." in ours.data.tags["mlflow.note.content"]
    assert (
        here.get_experiment(ours.info.experiment_id).tags["mlflow.note.content"]
        == ours.data.tags["mlflow.note.content"]
    )
    assert [file.path for file in here.list_artifacts(ours.info.run_id, "report")] == ["report/later.html"]
    assert set(bring(source).values()) == {("already present", "")}
    assert parent(here).data.tags == ours.data.tags


def test_a_study_comes_whole(elsewhere, here):
    before = digest(elsewhere / "mlflow.db")
    assert bring(elsewhere) == {"shift_and_scale seed 1": ("imported", ""), "off seed 1": ("imported", "")}
    assert same_study(other(elsewhere), here)
    assert digest(elsewhere / "mlflow.db") == before


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def same_study(there, here):
    """Whether all is the same in both stores but for ids and places."""
    ours = runs(here) | {"": parent(here)}
    for arm, theirs in (runs(there) | {"": parent(there)}).items():
        assert points(here, ours[arm]) == points(there, theirs)
        assert ours[arm].data.params == theirs.data.params
        assert ours[arm].inputs.to_dictionary() == theirs.inputs.to_dictionary()
        assert times(ours[arm]) == times(theirs)
        assert tags(ours[arm]) == tags(theirs)
        assert files(here, ours[arm]) == files(there, theirs)
        assert [policy(here, o) for o in ours[arm].outputs.model_outputs] == [
            policy(there, o) for o in theirs.outputs.model_outputs
        ]
    return True


def times(run):
    return run.info.run_name, run.info.status, run.info.start_time, run.info.end_time


def tags(run):
    """All but those that say where it is."""
    told = dict(run.data.tags) | {"mlflow.parentRunId": ""}
    home = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return told | {"mlflow.note.content": told["mlflow.note.content"].replace(home, "")}


def files(store, run):
    folder = Path(store.download_artifacts(run.info.run_id, ""))
    return {str(file.relative_to(folder)): digest(file) for file in folder.rglob("*") if file.is_file()}


def policy(store, output):
    found = store.get_logged_model(output.model_id)
    folder = Path(found.artifact_location.removeprefix("file://"))
    weights = {file.name: digest(file) for file in folder.rglob("*.safetensors")}
    return found.name, found.tags, found.status, sorted((m.key, m.value) for m in found.metrics), weights


def test_what_was_brought_is_used_as_if_it_had_been_made_here(elsewhere, here, tiny_study, tiny_cache):
    bring(elsewhere)
    home = parent(here).info
    place = f"#/experiments/{home.experiment_id}/runs/{home.run_id}/artifacts/report/index.html"
    assert place in parent(here).data.tags["mlflow.note.content"]
    assert place in here.get_experiment(home.experiment_id).tags["mlflow.note.content"]
    assert Path(here.download_artifacts(home.run_id, "report/index.html")).read_text() == "the page"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(here).values()} == {home.run_id}
    pipe = mlflow.transformers.load_model(f"runs:/{runs(here)['off'].info.run_id}/policy")
    assert pipe("SUBREDDIT: r/AskReddit", return_full_text=False)[0]["generated_text"]
    before = everything(here)
    publish(tiny_study, tiny_cache)
    assert everything(here) == before


def test_twice_changes_nothing(elsewhere, here):
    bring(elsewhere)
    before = everything(here)
    assert set(bring(elsewhere / "mlflow.db").values()) == {("already present", "")}
    assert everything(here) == before


def test_a_store_that_was_moved_is_read_with_the_files_beside_it(elsewhere, here, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(elsewhere, moved)
    with sqlite3.connect(moved / "mlflow.db") as tables:
        for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
            tables.execute(f"update {table} set {column} = replace({column}, '{elsewhere}', '/gone')")
    assert set(bring(f"sqlite:///{moved}/mlflow.db").values()) == {("imported", "")}
    whole = other(elsewhere)
    for arm, run in runs(here).items():
        assert files(here, run) == files(whole, runs(whole)[arm]) != {}
        assert [policy(here, output)[4] for output in run.outputs.model_outputs] != [{}]


def test_numbers_come_without_the_files_and_the_files_later(elsewhere, here, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(elsewhere, copy)
    with sqlite3.connect(copy / "mlflow.db") as tables:
        for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
            tables.execute(f"update {table} set {column} = replace({column}, '{elsewhere}', '/gone')")
    (copy / "mlartifacts").rename(copy / "put aside")
    assert main(["import", str(copy)]) == 1
    told = capsys.readouterr()
    assert [line.split() for line in told.out.splitlines()][1] == ["whiten_adv-tiny", "2"]
    assert "not read: whiten_adv-tiny off seed 1: its files are not at file:///gone/" in told.err
    for arm, run in runs(here).items():
        assert points(here, run) == points(other(elsewhere), runs(other(elsewhere))[arm])
    (copy / "put aside").rename(copy / "mlartifacts")
    assert set(bring(copy).values()) == {("completed", "")}
    assert same_study(other(elsewhere), here)


def test_a_run_that_is_more_complete_there_completes_the_one_here(elsewhere, here, tiny_study, tiny_cache):
    publish_half(tiny_study, tiny_cache)
    first = {arm: run.info.run_id for arm, run in runs(here).items()}
    assert {run.info.status for run in runs(here).values()} == {"KILLED"}
    assert set(bring(elsewhere).values()) == {("completed", "")}
    assert {arm: run.info.run_id for arm, run in runs(here).items()} == first
    for arm, run in runs(here).items():
        whole = runs(other(elsewhere))[arm]
        assert points(here, run) == points(other(elsewhere), whole)
        assert (run.info.status, run.data.tags["complete"]) == ("FINISHED", "true")
        assert artifacts(here, run) == artifacts(other(elsewhere), whole)


def publish_half(study, cache):
    """As a study that was interrupted before PPO."""
    dag = dag_of(study, cache)
    dag.done -= {key for key, job in dag.jobs.items() if job.stage in ("ppo", "evaluate")}
    track.Tracker(study, dag, "the command").close()


def test_a_run_that_is_more_complete_here_is_left_alone(
    here, empty_store, tmp_path, tiny_study, tiny_cache, monkeypatch
):
    with monkeypatch.context() as patch:
        (tmp_path / "half").mkdir()
        patch.chdir(tmp_path / "half")
        shutil.copy(empty_store, "mlflow.db")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/half/mlflow.db")
        publish_half(tiny_study, tiny_cache)
    publish(tiny_study, tiny_cache)
    before = everything(here)
    assert set(bring(tmp_path / "half").values()) == {("newer here", "")}
    assert everything(here) == before


@pytest.mark.parametrize("at", ["log_artifacts", "finalize_logged_model", "log_batch", "set_terminated", "delete_tag"])
def test_an_interrupted_import_is_completed(at, elsewhere, here, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, at, interrupted)
        with pytest.raises(KeyboardInterrupt):
            bring(elsewhere)
    assert {trouble for _, trouble in bring(elsewhere).values()} == {""}
    assert same_study(other(elsewhere), here)
    assert len(recorded(here)[0]) == 2


def test_points_of_a_lost_attempt_that_an_earlier_version_left_do_not_come(elsewhere, here, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(elsewhere, copy)
    with sqlite3.connect(copy / "mlflow.db") as tables:
        tables.execute(
            "insert into metrics (key, value, timestamp, run_uuid, step, is_nan) "
            "select key, value + 1, timestamp - 600000, run_uuid, step + 100 * (step > 20), is_nan from metrics "
            "where key in ('sft/loss', 'objective/kl')"
        )
    assert set(bring(copy).values()) == {("imported", "")}
    for arm, run in runs(here).items():
        assert points(here, run) == points(other(elsewhere), runs(other(elsewhere))[arm])


def test_a_run_here_with_points_of_a_lost_attempt_is_replaced_by_the_one_that_comes(
    elsewhere, here, tiny_study, tiny_cache
):
    publish_half(tiny_study, tiny_cache)
    lost = runs(here)["off"].info.run_id
    here.set_tag(lost, "attempt.sft", "1.0")
    here.log_metric(lost, "sft/loss", 9.0, 1_000, 4)
    assert set(bring(elsewhere).values()) == {("completed", "")}
    assert runs(here)["off"].info.run_id != lost
    for arm, run in runs(here).items():
        assert points(here, run) == points(other(elsewhere), runs(other(elsewhere))[arm])


def test_the_command_says_what_came(elsewhere, here, capsys):
    assert main(["import", str(elsewhere)]) == 0
    assert main(["import", str(elsewhere)]) == 0
    told = capsys.readouterr()
    lines = [line for line in told.out.splitlines() if "whiten_adv-tiny" in line]
    assert [line.split() for line in lines] == [["whiten_adv-tiny", "2"]] * 2
    assert lines[0].index("2") < lines[1].index("2")  # imported, then already present
    assert told.err == ""


def test_a_run_that_says_too_little_is_left_out_and_told(elsewhere, here, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(elsewhere, copy)
    other(copy).delete_tag(runs(other(copy))["off"].info.run_id, "record")
    assert bring(copy)["off seed 1"] == ("skipped", "it has no tags of an arm and seed")


def test_a_study_that_was_deleted_here_is_left_out_and_told(elsewhere, here):
    bring(elsewhere)
    here.delete_experiment(here.get_experiment_by_name("whiten_adv-tiny").experiment_id)
    ((fate, trouble),) = bring(elsewhere).values()
    assert fate == "skipped" and "is deleted; restore it" in trouble


# ------------------------------------------------------------------------------------------------- what is refused


def refused(words, match):
    with pytest.raises(UserError, match=match) as told:
        transfer.import_studies(str(words), Path("cache"))
    assert "\n" not in str(told.value)


def test_what_is_no_store_is_refused(here, tmp_path):
    (tmp_path / "letter.db").write_text("Dear Sir or Madam" * 100)
    with sqlite3.connect(tmp_path / "other.db") as tables:
        tables.execute("create table experiments (experiment_id integer)")
    before = digest(tmp_path / "other.db")
    refused(tmp_path / "none", "there is no MLflow store .*none; give an mlflow.db, its folder, or a server's")
    refused(tmp_path / "letter.db", "letter.db is not an MLflow store")
    refused(tmp_path / "other.db", "other.db is not an MLflow store")
    refused("http://127.0.0.1:1", "the MLflow store http://127.0.0.1:1 cannot be read")
    assert digest(tmp_path / "other.db") == before


def test_a_store_of_another_version_is_refused_and_not_migrated(elsewhere, here, tmp_path):
    old = tmp_path / "old.db"
    shutil.copy(elsewhere / "mlflow.db", old)
    with sqlite3.connect(old) as tables:
        tables.execute("update alembic_version set version_num = '451aebb31d03'")
        tables.execute("drop table logged_models")
    before = digest(old)
    refused(old, "another version of MLflow .schema 451aebb31d03; .* mlflow db upgrade")
    assert digest(old) == before


def test_the_store_in_use_and_an_empty_one_are_refused(here, empty_store):
    refused("mlflow.db", "is the store in use; give another one")
    refused(Path.cwd(), "is the store in use; give another one")
    refused(empty_store, "holds no study; there is nothing to import")
