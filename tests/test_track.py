"""What is published: everything, once, whatever happens on the way."""

import json
import math
import multiprocessing
import shutil
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from repro import launch, pipeline, stage, track
from repro.ablation import Ablation
from repro.detail import Pick, Recipe
from repro.details import DETAILS, WHITEN_ADV
from repro.errors import UserError
from repro.stage import Budget, Work


@pytest.fixture(scope="module")
def study(tiny_scale):
    """Two arms of whiten_adv, one seed."""
    arms = {label: Recipe().but(WHITEN_ADV, label) for label in ("shift_and_scale", "off")}
    return Ablation(WHITEN_ADV, "Does it matter?", arms, (1,), tiny_scale, "test/win_rate", True, 0.05)


@pytest.fixture(scope="module")
def cache(study, tmp_path_factory):
    """The artefacts of the whole study."""
    folder = tmp_path_factory.mktemp("cache")
    for recipe in study.arms.values():
        pipeline.run(recipe, study.scale, 1, folder, warn=pytest.fail)
    return folder


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A sqlite store with its tables: making them takes seconds."""
    file = tmp_path_factory.mktemp("store") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """A client of a store of one's own, in a working directory of one's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    return MlflowClient(tracking_uri=uri)


def publish(study, cache):
    track.Tracker(study, launch.board_of(study, cache), "the command").close()


def runs(store):
    """Arm -> its run."""
    experiment = store.get_experiment_by_name("whiten_adv-tiny")
    found = store.search_runs([experiment.experiment_id])
    assert len(found) == len({run.data.tags["arm"] for run in found})
    return {run.data.tags["arm"]: run for run in found}


def points(store, run):
    """(metric, step, value, time) of every point of a run, repeated ones too."""
    return sorted(
        (name, point.step, point.value, point.timestamp)
        for name in run.data.metrics
        for point in store.get_metric_history(run.info.run_id, name)
    )


def everything(store):
    """All that the store says of the study."""
    return {arm: (run.to_dictionary(), points(store, run), artifacts(store, run)) for arm, run in runs(store).items()}


def artifacts(store, run):
    return {file.path for file in store.list_artifacts(run.info.run_id)}


def journalled(folder):
    return sorted(
        (name, line["step"], value, int(line["time"] * 1000))
        for line in stage.read_journal(folder)
        for name, value in line["metrics"].items()
    )


# ------------------------------------------------------------------------------------------------ what is there


@pytest.fixture(scope="module")
def published(study, cache, empty_store, tmp_path_factory):
    """A client of a store with the whole study."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("published")
        shutil.copy(empty_store, folder / "mlflow.db")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        publish(study, cache)
        yield MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")


def test_a_run_says_every_choice_and_every_budget(study, published):
    for arm, run in runs(published).items():
        choices = {name: run.data.params[name] for name in DETAILS}
        assert choices == {name: detail.reference for name, detail in DETAILS.items()} | {"whiten_adv": arm}
        assert run.data.params["seed"] == "1" and run.data.params["scale.episodes"] == "48"
        assert run.data.params["scale.tokenizer"] == study.scale.tokenizer.name  # its folder is of this machine


def test_a_run_says_what_was_asked_and_what_it_is_made_of(study, published):
    for arm, run in runs(published).items():
        tags = run.data.tags
        assert (tags["detail"], tags["arm"], tags["seed"], tags["scale"]) == ("whiten_adv", arm, "1", "tiny")
        assert tags["hypothesis"] == WHITEN_ADV.hypothesis and json.loads(tags["moves"]) == dict(WHITEN_ADV.moves)
        keys = pipeline.keys(study.arms[arm], study.scale, 1)
        assert {name: tags[f"stage.{name}"] for name in keys} == keys
        assert json.loads(tags["stage_seconds"]).keys() == keys.keys()
        assert tags["commit"] and tags["command"] == "the command" and tags["outcome"] == "finished"
        assert run.info.status == "FINISHED"


def test_a_run_has_every_number_of_its_stages(study, cache, published):
    for arm, run in runs(published).items():
        keys = pipeline.keys(study.arms[arm], study.scale, 1)
        curves = [point for key in keys.values() for point in journalled(cache / key)]
        finals = {}
        for key in keys.values():
            finals |= json.loads((cache / key / stage.RESULT).read_text())["metrics"]
        told = points(published, run)
        assert {point[0] for point in curves} > {"objective/kl", "loss/policy", "sft/loss", "rm/loss", "eval/win_rate"}
        assert sorted(point for point in told if point[0] not in finals) == sorted(curves)
        assert {name: value for name, _, value, _ in told if name in finals} == finals


def test_a_run_names_its_data_and_keeps_its_samples_and_its_policy(published):
    for run in runs(published).values():
        inputs = {each.dataset.name: each.dataset.digest for each in run.inputs.dataset_inputs}
        splits = {"posts/train", "posts/validation", "posts/test", "pairs/train", "pairs/validation", "pairs/probe"}
        assert inputs.keys() == splits
        assert len(set(inputs.values())) == 6
        assert artifacts(published, run) == {"checkpoint", "samples.json"}
        assert len(published.load_table(run.info.experiment_id, "samples.json", [run.info.run_id])) == 4


# --------------------------------------------------------------------------------------------- again, and again


def test_publishing_twice_changes_nothing(study, cache, store):
    publish(study, cache)
    before = everything(store)
    publish(study, cache)
    assert everything(store) == before


def test_a_study_that_goes_back_to_earlier_runs_is_the_one_that_a_report_takes(study, cache, store):
    publish(study, cache)
    other = replace(study, scale=replace(study.scale, ppo_learning_rate=0.001))
    publish(other, cache)
    publish(study, cache)
    experiment = store.get_experiment_by_name("whiten_adv-tiny")
    found = store.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    last_asked = {run.data.tags["arm"]: run for run in sorted(found, key=lambda run: int(run.data.tags["asked"]))}
    assert len(found) == 2 * len(last_asked)
    assert {run.data.tags["complete"] for run in last_asked.values()} == {"true"}


@pytest.mark.parametrize("at", ["log_inputs", "log_artifacts", "log_table", "set_terminated"])
def test_an_interrupted_publication_is_completed(at, study, cache, store, published, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, at, interrupted)
        with pytest.raises(KeyboardInterrupt):
            publish(study, cache)
    publish(study, cache)
    for arm, run in runs(store).items():
        whole = runs(published)[arm]
        assert points(store, run) == points(published, whole)
        assert len(run.inputs.dataset_inputs) == 6
        assert artifacts(store, run) == {"checkpoint", "samples.json"}
        assert (run.info.status, run.data.tags["complete"]) == ("FINISHED", "true")


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_study_that_goes_on_later_takes_up_its_runs(study, cache, store, published):
    board = launch.board_of(study, cache)
    late = {key for key, job in board.jobs.items() if job.stage in ("ppo", "evaluate")}
    board.done -= late
    tracker = track.Tracker(study, board, "the command")
    tracker.close()
    assert {run.info.status for run in runs(store).values()} == {"KILLED"}
    first = {arm: run.info.run_id for arm, run in runs(store).items()}
    publish(study, cache)
    assert {arm: run.info.run_id for arm, run in runs(store).items()} == first
    assert {run.info.status for run in runs(store).values()} == {"FINISHED"}
    for arm, run in runs(store).items():
        assert points(store, run) == points(published, runs(published)[arm])


def test_a_failed_run_says_why_until_it_succeeds(study, cache, store):
    board = launch.board_of(study, cache)
    key = next(key for key, job in board.jobs.items() if job.label == "evaluate off seed 1")
    board.done.remove(key)
    board.fail(key, "ValueError: no")
    track.Tracker(study, board, "the command").close()
    failed = runs(store)["off"]
    assert (failed.info.status, failed.data.tags["outcome"], failed.data.tags["error"]) == (
        "FAILED",
        "failed",
        "ValueError: no",
    )
    assert runs(store)["shift_and_scale"].info.status == "FINISHED"
    publish(study, cache)
    cured = runs(store)["off"]
    assert cured.info.run_id == failed.info.run_id and "error" not in cured.data.tags
    assert (cured.info.status, cured.data.tags["outcome"]) == ("FINISHED", "finished")


# ------------------------------------------------------------------------------------------- while a stage runs


@pytest.fixture
def running(study, cache, tmp_path):
    """A board on which one PPO stage runs, and what that stage logs with."""
    board = launch.board_of(study, cache)
    board.cache = tmp_path / "cache"
    board.cache.mkdir()
    key = next(key for key, job in board.jobs.items() if job.label == "ppo off seed 1")
    board.done, board.running = set(), {key: 0.0}
    folder = stage.partial_folder(board.cache / key)
    folder.mkdir()
    return board, Work("ppo", Pick(Recipe(), "ppo"), Budget(study.scale, ()), "auto", 1, {}, folder)


def test_curves_grow_while_a_stage_runs(study, store, running):
    board, work = running
    tracker = track.Tracker(study, board, "the command")
    seen = []
    for step in range(3):
        work.log(step, {"objective/kl": float(step)})
        tracker.update()
        seen.append(len(store.get_metric_history(runs(store)["off"].info.run_id, "objective/kl")))
    assert seen == [1, 2, 3]
    assert "objective/kl" not in runs(store)["shift_and_scale"].data.metrics


def test_a_stage_that_begins_again_is_told_from_its_beginning(study, store, running):
    board, work = running
    tracker = track.Tracker(study, board, "the command")
    for step in range(5):
        work.log(step, {"objective/kl": 0.0})
    tracker.update()
    (work.out / stage.JOURNAL).unlink()
    work.log(0, {"objective/kl": 1.0})
    work.log(1, {"objective/kl": 1.0})
    tracker.update()
    told = store.get_metric_history(runs(store)["off"].info.run_id, "objective/kl")
    assert [(p.step, p.value) for p in sorted(told, key=lambda p: p.timestamp) if p.value] == [(0, 1.0), (1, 1.0)]


def test_numbers_that_are_not_finite_are_counted_and_never_published(study, store, running):
    board, work = running
    for step, value in enumerate((1.0, math.nan, math.inf, -math.inf)):
        work.log(step, {"loss/total": value, "objective/kl": 0.5})
    track.Tracker(study, board, "the command").close()
    run = runs(store)["off"]
    assert all(math.isfinite(value) and abs(value) < 1e300 for _, _, value, _ in points(store, run))
    assert run.data.metrics["nonfinite/loss/total"] == 3.0 and "nonfinite/objective/kl" not in run.data.metrics
    assert len(store.get_metric_history(run.info.run_id, "loss/total")) == 1


# ---------------------------------------------------------------------------------------------- troubled stores


def test_a_store_that_goes_away_and_comes_back_misses_nothing(study, cache, store, published, monkeypatch):
    tracker = track.Tracker(study, launch.board_of(study, cache), "the command")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", gone)
        tracker.update()
        assert tracker.trouble == "the server is down"
        with pytest.raises(UserError, match="the server is down; .* nothing is computed twice"):
            tracker.close()
    tracker.update()
    tracker.close()
    assert tracker.trouble == ""
    for arm, run in runs(store).items():
        assert points(store, run) == points(published, runs(published)[arm])


def gone(*_, **__):
    raise MlflowException("the server is down. Try again\nlater")


def test_a_deleted_experiment_is_not_written_to(study, cache, store):
    publish(study, cache)
    store.delete_experiment(store.get_experiment_by_name("whiten_adv-tiny").experiment_id)
    with pytest.raises(UserError, match="is deleted; restore it .* or remove it"):
        publish(study, cache)


@pytest.mark.parametrize("uri", ["nonsense", "spam://eggs", "sqlite:////proc/none/mlflow.db", "http://127.0.0.1:1"])
def test_a_store_that_cannot_be_used_is_told_in_one_line(uri, study, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="cannot be used") as told:
        publish(study, cache)
    assert uri in str(told.value) and "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_two_processes_that_open_a_fresh_store_together_make_each_run_once(study, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=publish, args=(study, cache)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    store = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert [run.info.status for run in runs(store).values()] == ["FINISHED", "FINISHED"]
