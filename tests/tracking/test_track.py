"""What is published: everything, once, whatever happens on the way."""

import hashlib
import json
import math
import multiprocessing
import os
import platform
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlflow
import mlflow.transformers
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path

from repro import record
from repro.detail import Pick, Recipe
from repro.details import DETAILS, FEEDBACK_ROUNDS, REWARD_SOURCE, WHITEN_ADV
from repro.engine import artefacts, pipeline
from repro.engine.dag import dag_of
from repro.errors import UserError
from repro.models import pretrained
from repro.reports.reading.studies import read_study
from repro.stages import stage
from repro.stages.corpus import Corpus
from repro.stages.stage import Budget, StageContext
from repro.study.ablation import Ablation
from repro.tracking import attach, track
from repro.tracking import store as stores
from tests.fresh_python import printed
from tests.paths import ROOT
from tests.recorded import artifacts, everything, parent, points, publish, publish_to, recorded, runs


@pytest.fixture
def study(tiny_study):
    return tiny_study


@pytest.fixture
def cache(tiny_cache):
    return tiny_cache


@pytest.fixture
def store(own_store):
    return own_store


def journalled(folder):
    return sorted(
        (name, line["step"], value, int(line["time"] * 1000))
        for line in stage.read_journal(folder)
        for name, value in line["metrics"].items()
    )


# ------------------------------------------------------------------------------------------------ what is there


@pytest.fixture(scope="module")
def published(tiny_study, tiny_cache, empty_store, tmp_path_factory):
    """A client of a store with the whole study."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("published")
        shutil.copy(empty_store, folder / "mlflow.db")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        publish(tiny_study, tiny_cache)
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
        assert tags["hypothesis"] == WHITEN_ADV.hypothesis and json.loads(tags["moves"]) == dict(WHITEN_ADV.expected)
        keys = pipeline.keys(study.arms[arm], study.scale, 1)
        assert {name: tags[f"stage.{name}"] for name in keys} == keys
        assert json.loads(tags["stage_seconds"]).keys() == keys.keys()
        assert tags["commit"] and tags["command"] == "the command" and tags["outcome"] == "finished"
        assert tags["sources"] == "{}"  # nothing of it came from the hub
        assert run.info.status == "FINISHED"


def test_a_run_says_what_its_arm_does_and_one_of_an_earlier_version_is_told_when_it_is_asked_for_again(
    study, cache, store
):
    publish(study, cache)
    does = {label: WHITEN_ADV.variants[label].does for label in study.arms}
    first = runs(store)
    assert {arm: run.data.tags[record.DOES] for arm, run in first.items()} == does
    store.delete_tag(first["off"].info.run_id, record.DOES)
    store.set_tag(first["shift_and_scale"].info.run_id, record.DOES, "said otherwise then")
    publish(study, cache)  # of which everything is cached
    again = runs(store)
    assert {arm: run.info.run_id for arm, run in again.items()} == {arm: run.info.run_id for arm, run in first.items()}
    assert again["off"].data.tags[record.DOES] == does["off"]
    assert again["shift_and_scale"].data.tags[record.DOES] == "said otherwise then"
    told = read_study("whiten_adv", "tiny", store.tracking_uri)
    assert told.does == {"off": does["off"], "shift_and_scale": "said otherwise then"} and not told.amended


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


def test_a_run_of_several_rounds_has_the_last_ones_numbers_and_the_seconds_of_all(
    tiny_scale, tiny_run, store, tmp_path
):
    cache = shutil.copytree(tiny_run["data"].parent, tmp_path / "rounds")
    two = Recipe().but(FEEDBACK_ROUNDS, "2")
    folders = pipeline.run(two, tiny_scale, 1, cache, warn=pytest.fail)
    arms = {"1": Recipe(), "2": two}
    publish(Ablation(FEEDBACK_ROUNDS, "", arms, (1,), tiny_scale, "test/win_rate", True, 0.05), cache)
    (experiment,) = (each for each in store.search_experiments() if each.name.startswith("feedback_rounds"))
    found = {run.data.tags.get(record.ARM): run for run in store.search_runs([experiment.experiment_id])}
    seconds = {arm: json.loads(found[arm].data.tags[record.STAGE_SECONDS]) for arm in arms}
    assert seconds["2"].keys() == folders.keys() and seconds["2"].keys() - seconds["1"].keys() == {
        "feedback",
        "rm_round_1",
        "ppo_round_1",
    }
    last = json.loads((folders["rm"] / stage.RESULT).read_text())["metrics"]
    assert found["2"].data.metrics["rm/feedback_accuracy"] == last["rm/feedback_accuracy"]
    assert found["2"].data.metrics["rm/validation_accuracy"] == last["rm/validation_accuracy"]
    assert "feedback/gold" in found["2"].data.metrics and "feedback/gold" not in found["1"].data.metrics


def test_a_ceiling_is_recorded_beside_the_arms_and_as_none(study, cache, store, tmp_path):
    own = shutil.copytree(cache, tmp_path / "cache")
    gold = Recipe().but(REWARD_SOURCE, "gold")
    pipeline.run(gold, study.scale, 1, own, warn=pytest.fail)
    above = replace(study, ceiling={record.CEILING: gold})
    assert dag_of(above, own).over
    publish(above, own)
    found = {run.data.tags["arm"]: run for run in recorded(store)[0]}
    assert found.keys() == {"shift_and_scale", "off", "ceiling"}
    run = found["ceiling"]
    assert (run.info.run_name, run.data.tags["reference"]) == ("whiten_adv ceiling seed 1 tiny", "false")
    assert json.loads(run.data.tags["recipe"]) == {"reward_source": "gold"}
    assert "no arm of the comparison" in run.data.tags["mlflow.note.content"]
    assert parent(store).info.run_name == "whiten_adv tiny (2 arms x 1 seed)"
    read = read_study("whiten_adv", "tiny", store.tracking_uri)
    assert read.arms == ("shift_and_scale", "off") and read.troubles == ()
    reached = read.ceiling.set_index("metric")["value"]
    assert reached["test/win_rate"] == run.data.metrics["test/win_rate"]
    before = everything_of(store)
    publish(above, own)
    assert everything_of(store) == before
    publish(study, cache)  # asked without it, the study still has it
    assert not read_study("whiten_adv", "tiny", store.tracking_uri).ceiling.empty


def everything_of(store):
    """The runs with all that they say."""
    return [(run.to_dictionary(), points(store, run)) for run in recorded(store)[0]]


def test_a_run_names_its_data_and_keeps_its_samples_and_its_policy(published):
    for run in runs(published).values():
        contexts = {tag.value for each in run.inputs.dataset_inputs for tag in each.tags}
        inputs = {each.dataset.name: each.dataset.digest for each in run.inputs.dataset_inputs}
        splits = {"posts/train", "posts/validation", "posts/test", "pairs/train", "pairs/validation", "pairs/probe"}
        assert inputs.keys() == splits
        assert len(set(inputs.values())) == 6
        rows = {each.dataset.name: json.loads(each.dataset.profile)["num_rows"] for each in run.inputs.dataset_inputs}
        assert (rows["posts/train"], rows["posts/test"], rows["pairs/train"]) == (16, 4, 24)
        assert contexts == {"train", "validation", "test", "probe"}
        assert artifacts(published, run) - {"data.json"} == {"config.json", "episodes.json", "samples.json"}
        assert len(published.load_table(run.info.experiment_id, "samples.json", [run.info.run_id])) == 4


def test_of_the_runs_that_share_their_data_one_says_what_they_hold(study, cache, published):
    holders = [run for run in runs(published).values() if "data.json" in artifacts(published, run)]
    assert len(holders) == 1 < len(runs(published))
    told = mlflow.artifacts.load_text(f"{holders[0].info.artifact_uri}/data.json")
    assert told == (cache / holders[0].data.tags["stage.data"] / "checks.json").read_text()


def test_mlflow_loads_the_policy_with_its_tokenizer_and_it_ends(study, cache, published, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", published.tracking_uri)
    for arm, run in runs(published).items():
        keys = pipeline.keys(study.arms[arm], study.scale, 1)
        policy = pretrained.load_policy(cache / keys["ppo"] / "model")
        pipe = mlflow.transformers.load_model(f"runs:/{run.info.run_id}/policy")
        (answer,) = pipe("SUBREDDIT: r/AskReddit", return_full_text=False)
        asked = Corpus(cache / keys["data"]).tokenizer("SUBREDDIT: r/AskReddit", return_tensors="pt")
        whole = policy.generate(**asked, do_sample=False, max_new_tokens=study.scale.response_tokens)
        written = pipe.tokenizer.decode(whole[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        assert written and answer["generated_text"] == written
        told = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/policy").predict("SUBREDDIT: r/AskReddit")
        assert told == [written.strip()]  # MLflow strips what it serves


def test_a_policy_says_its_arm_and_scores_and_nothing_of_this_machine(cache, published):
    for arm, run in runs(published).items():
        (output,) = run.outputs.model_outputs
        policy = published.get_logged_model(output.model_id)
        assert (policy.name, policy.status, policy.tags["arm"]) == ("policy", "READY", arm)
        scores = {metric.key: metric.value for metric in policy.metrics}
        assert scores == {name: value for name, value in run.data.metrics.items() if name.startswith("test/")}
        files = Path(local_file_uri_to_path(policy.artifact_location))
        assert not any(str(cache) in file.read_text(errors="ignore") for file in files.rglob("*") if file.is_file())
        assert len(list(files.rglob("*.safetensors"))) == 1


@pytest.mark.parametrize("patch", ["", "--- a/repro/ops/loss.py\n+++ b/repro/ops/loss.py\n"])
def test_a_run_of_a_changed_tree_keeps_its_patch_and_one_of_a_commit_none(
    patch, study, cache, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(track, "changes_since_commit", lambda: patch)
    publish(study, cache)
    for run in runs(store).values():
        files = {file.path for file in store.list_artifacts(run.info.run_id)}
        assert (record.CHANGES in files) == bool(patch)
        if patch:
            kept = store.download_artifacts(run.info.run_id, record.CHANGES, str(tmp_path))
            assert Path(kept).read_text() == patch


def test_a_checkpoint_too_large_to_copy_is_named(study, cache, store, monkeypatch):
    monkeypatch.setattr(track, "LARGEST_CHECKPOINT", 1_000)
    publish(study, cache)
    for arm, run in runs(store).items():
        key = pipeline.keys(study.arms[arm], study.scale, 1)["ppo"]
        assert run.data.tags["checkpoint"] == str(cache / key / "model")
        assert run.outputs.model_outputs == [] and run.info.status == "FINISHED"


def test_a_run_says_what_it_was_made_with(study, published):
    pinned = hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    for run in runs(published).values():
        assert run.data.tags["lock"] == pinned[:16]
        assert float(run.data.tags["kl_cap"]) == study.scale.kl_cap
        assert f"{os.cpu_count()} cores" in run.data.tags["machine"]
        assert platform.node() not in run.data.tags["machine"]


# ---------------------------------------------------------------------------------------- as people look at it


def test_a_run_is_named_and_described_by_what_it_changes(published):
    off, reference = runs(published)["off"], runs(published)["shift_and_scale"]
    assert (off.info.run_name, reference.info.run_name) == (
        "whiten_adv=off seed 1 tiny",
        "whiten_adv=shift_and_scale seed 1 tiny",
    )
    said = off.data.tags["mlflow.note.content"]
    assert WHITEN_ADV.variants["off"].does in said and "instead of `shift_and_scale`" in said
    assert f"Outcome: **finished**, `test/win_rate` {off.data.metrics['test/win_rate']:.3f}." in said
    assert "the reference" in reference.data.tags["mlflow.note.content"]


def test_runs_hang_under_one_that_reports_do_not_see(published):
    assert parent(published).info.run_name == "whiten_adv tiny (2 arms x 1 seed)"
    assert parent(published).info.status == "FINISHED"
    assert not {"arm", "seed", "record"} & parent(published).data.tags.keys()
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(published).values()} == {parent(published).info.run_id}


def test_both_arms_have_their_curves_under_the_same_names(published):
    """So that MLflow's page of a comparison draws them into one chart, and colours them by run."""
    one, other = ({name for name, *_ in points(published, run)} for run in runs(published).values())
    assert one == other and {"objective/gold", "eval/win_rate", "sft/loss", "rm/loss"} < one


def test_the_saved_view_shows_what_runs_have_and_sorts_by_the_primary_metric(study, published):
    tags = published.get_experiment_by_name("whiten_adv-tiny").tags
    state = json.loads(json.loads(tags["mlflow.sharedViewState.study"])["state"])
    for run in runs(published).values():
        recorded = {"tags": run.data.tags, "params": run.data.params, "metrics": run.data.metrics}
        places = [column.replace("`", "").split(".", 1) for column in state["selectedColumns"]]
        assert [name for kind, name in places if name not in recorded[kind]] == []
    assert (state["orderByKey"], state["orderByAsc"]) == (f"metrics.`{study.primary}`", False)
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_report_is_kept_with_its_study_and_found_from_its_description(study, cache, store, tmp_path):
    publish(study, cache)
    before = everything(store)[:2]
    assert "There is no report yet." in parent(store).data.tags["mlflow.note.content"]
    for verdict in ("Undecided.", "Better, <b>by far</b>."):
        folder = report(tmp_path / "built", verdict)
        attach.publish_report("whiten_adv", "tiny", folder, verdict)
        note = parent(store).data.tags["mlflow.note.content"]
        assert note.startswith(f"**{study.question}** [Report](") and study.detail.hypothesis in note
        assert f": {verdict}\n" in note
        assert note == store.get_experiment_by_name("whiten_adv-tiny").tags["mlflow.note.content"]
        home = parent(store).info
        assert f"[Report](#/experiments/{home.experiment_id}/runs/{home.run_id}/artifacts/report/index.html?" in note
        kept = Path(store.download_artifacts(home.run_id, "report"))
        assert (kept / "index.html").read_text() == verdict and (kept / "figures" / "curve.svg").exists()
    publish(study, cache)
    assert parent(store).data.tags["mlflow.note.content"] == note
    after = everything(store)[:2]
    assert (after[0].pop(""), before[0].pop("")) and after == before


def test_a_newer_report_leaves_nothing_of_the_earlier_one(study, cache, store, tmp_path):
    publish(study, cache)
    attach.publish_report("whiten_adv", "tiny", report(tmp_path / "first", "Undecided."), "Undecided.")
    second = tmp_path / "second"
    second.mkdir()
    (second / "index.html").write_text("Better.")
    attach.publish_report("whiten_adv", "tiny", second, "Better.")
    kept = [file.path for file in store.list_artifacts(parent(store).info.run_id, "report")]
    assert kept == ["report/index.html"]


def test_the_parent_run_has_the_verdict_in_numbers_and_words_once(study, cache, store, tmp_path):
    publish(study, cache)
    numbers, words = {"difference/off": -0.25, "n/off": 1.0, "after_ppo/off": 0.5}, {"off": "worse"}
    for again in range(2):
        folder = report(tmp_path / str(again), "off is worse.")
        attach.publish_report("whiten_adv", "tiny", folder, "off is worse. " + "x" * 1_000, numbers, words)
    told = parent(store)
    assert told.data.metrics == numbers and told.data.tags["verdict.off"] == "worse"
    assert told.data.tags["verdict"] == "off is worse. " + "x" * 1_000
    assert [len(store.get_metric_history(told.info.run_id, name)) for name in numbers] == [1, 1, 1]
    attach.publish_report(
        "whiten_adv", "tiny", folder, "off is better.", numbers | {"difference/off": 0.25}, {"off": "better"}
    )
    assert parent(store).data.metrics["difference/off"] == 0.25 and parent(store).data.tags["verdict.off"] == "better"


def test_a_policy_that_cannot_be_packed_costs_nothing_else(study, cache, store, monkeypatch):
    def damaged(*_):
        raise ValueError("header too large")

    monkeypatch.setattr(track.policy, "save", damaged)
    publish(study, cache)
    for run in runs(store).values():
        assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "finished")
        assert run.data.tags["policy_trouble"] == "ValueError: header too large"
        assert "test/win_rate" in run.data.metrics


def report(folder, verdict):
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(verdict)
    (folder / "figures" / "curve.svg").write_text("<svg/>")
    return folder


def test_a_report_of_no_study_is_refused_and_so_is_one_for_no_store(study, cache, store, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="holds no study; run one"):
        attach.publish_report("whiten_adv", "tiny", tmp_path, "Better.")
    publish(study, cache)
    with pytest.raises(
        UserError, match=r"whiten_adv-mini; .* at scale tiny: add --scale tiny \(with make: SCALE=tiny\)"
    ):
        attach.publish_report("whiten_adv", "mini", tmp_path, "Better.")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="cannot be used"):
        attach.publish_report("whiten_adv", "tiny", tmp_path, "Better.")


def test_an_extended_study_keeps_the_run_that_its_runs_hang_under(study, cache, store):
    publish(study, cache)
    first = parent(store).info.run_id
    wider = replace(study, arms=dict(study.arms) | {"scale_only": Recipe().but(WHITEN_ADV, "scale_only")})
    publish(wider, cache)
    assert (parent(store).info.run_id, parent(store).info.status) == (first, "KILLED")
    assert parent(store).info.run_name == "whiten_adv tiny (3 arms x 1 seed)"
    publish(study, cache)
    assert (parent(store).info.run_id, parent(store).info.status) == (first, "FINISHED")
    assert parent(store).info.run_name == "whiten_adv tiny (3 arms x 1 seed)"


def test_runs_of_before_they_had_a_parent_get_one(study, cache, store):
    publish(study, cache)
    store.delete_run(parent(store).info.run_id)
    for run in runs(store).values():
        store.delete_tag(run.info.run_id, "mlflow.parentRunId")
    publish(study, cache)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(store).values()} == {parent(store).info.run_id}


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
    found = recorded(store)[0]
    last_asked = {run.data.tags["arm"]: run for run in sorted(found, key=lambda run: int(run.data.tags["asked"]))}
    assert len(found) == 2 * len(last_asked)
    assert {run.data.tags["complete"] for run in last_asked.values()} == {"true"}


@pytest.mark.parametrize("at", ["log_inputs", "log_model_artifacts", "log_outputs", "log_table", "set_terminated"])
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
        assert artifacts(store, run) - {"data.json"} == {"config.json", "episodes.json", "samples.json"}
        assert len(run.outputs.model_outputs) == 1
        assert (run.info.status, run.data.tags["complete"]) == ("FINISHED", "true")


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_study_that_goes_on_later_takes_up_its_runs(study, cache, store, published):
    dag = dag_of(study, cache)
    late = {key for key, job in dag.jobs.items() if job.stage in ("ppo", "evaluate")}
    dag.done -= late
    tracker = track.Tracker(study, dag, "the command")
    tracker.close()
    assert {run.info.status for run in runs(store).values()} == {"KILLED"}
    first = {arm: run.info.run_id for arm, run in runs(store).items()}
    publish(study, cache)
    assert {arm: run.info.run_id for arm, run in runs(store).items()} == first
    assert {run.info.status for run in runs(store).values()} == {"FINISHED"}
    for arm, run in runs(store).items():
        assert points(store, run) == points(published, runs(published)[arm])


def test_a_failed_run_says_why_until_it_succeeds(study, cache, store):
    dag = dag_of(study, cache)
    key = next(key for key, job in dag.jobs.items() if job.label == "evaluate off seed 1")
    dag.done.remove(key)
    dag.fail(key, "ValueError: no")
    track.Tracker(study, dag, "the command").close()
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
    """A dag on which one PPO stage runs, and what that stage logs with."""
    dag = dag_of(study, cache)
    dag.cache = tmp_path / "cache"
    dag.cache.mkdir()
    key = next(key for key, job in dag.jobs.items() if job.label == "ppo off seed 1")
    dag.done, dag.running = set(), {key: 0.0}
    folder = artefacts.partial_folder(dag.cache / key)
    folder.mkdir()
    return dag, StageContext("ppo", Pick(Recipe(), "ppo"), Budget(study.scale, ()), "auto", 1, {}, folder)


def test_curves_grow_while_a_stage_runs(study, store, running):
    dag, work = running
    tracker = track.Tracker(study, dag, "the command")
    seen = []
    for step in range(3):
        work.log(step, {"objective/kl": float(step)})
        tracker.update()
        seen.append(len(store.get_metric_history(runs(store)["off"].info.run_id, "objective/kl")))
    assert seen == [1, 2, 3]
    assert "objective/kl" not in runs(store)["shift_and_scale"].data.metrics


def test_a_stage_that_begins_again_is_told_from_its_beginning(study, store, running):
    dag, work = running
    tracker = track.Tracker(study, dag, "the command")
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
    dag, work = running
    for step, value in enumerate((1.0, math.nan, math.inf, -math.inf)):
        work.log(step, {"loss/total": value, "objective/kl": 0.5})
    track.Tracker(study, dag, "the command").close()
    run = runs(store)["off"]
    assert all(math.isfinite(value) and abs(value) < 1e300 for _, _, value, _ in points(store, run))
    assert run.data.metrics["nonfinite/loss/total"] == 3.0 and "nonfinite/objective/kl" not in run.data.metrics
    assert len(store.get_metric_history(run.info.run_id, "loss/total")) == 1


# ---------------------------------------------------------------------------------------------- troubled stores


def test_a_store_that_goes_away_and_comes_back_misses_nothing(study, cache, store, published, monkeypatch):
    tracker = track.Tracker(study, dag_of(study, cache), "the command")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", gone)
        tracker.update()
        assert tracker.trouble == "the server is down"
        with pytest.raises(UserError, match="the server is down; .* finished stages are not computed again"):
            tracker.close()
    tracker.update()
    tracker.close()
    assert tracker.trouble == ""
    for arm, run in runs(store).items():
        assert points(store, run) == points(published, runs(published)[arm])


def gone(*_, **__):
    raise MlflowException("the server is down. Try again\nlater")


def test_a_store_that_keeps_an_update_waiting_gets_half_of_the_time(study, cache, store, monkeypatch):
    tracker, now, calls = track.Tracker(study, dag_of(study, cache), "the command"), [100.0], []

    def slow(*_, **__):
        calls.append(now[0])
        now[0] += 20
        raise MlflowException("the server is down")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", slow)
        patch.setattr(track.time, "monotonic", lambda: now[0])
        for _ in range(30):
            tracker.update()
            now[0] += 1
    assert calls == [100.0, 140.0]  # 20 seconds of waiting, and then 20 for the workers


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """The file of a store that is not there yet."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mlflow.db"


def experiments():
    return [each.name for each in stores.client().search_experiments()]


def test_a_store_that_is_killed_while_it_is_born_leaves_none_and_the_next_study_makes_one(nowhere, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        stores.client()
    assert not nowhere.exists() and list(nowhere.parent.glob("mlflow.db.*.partial"))
    assert experiments() == ["Default"]
    assert not list(nowhere.parent.glob("mlflow.db.*.partial"))


@pytest.mark.parametrize(
    "killed",
    [
        "delete from experiments",
        "drop table alembic_version",
        "drop table latest_metrics",
        "drop table experiments",
        "",
    ],
)
def test_a_store_that_an_earlier_version_left_half_made_is_made_again(killed, empty_store, nowhere):
    if killed:
        shutil.copy(empty_store, nowhere)
        with closing(sqlite3.connect(nowhere)) as tables, tables:
            tables.execute("delete from experiments")
            tables.execute(killed)
    else:
        nowhere.touch()
    assert experiments() == ["Default"]


HALF_MADE = "delete from experiments; drop table alembic_version"


def test_a_process_that_has_opened_no_store_knows_a_half_made_one_too(empty_store, nowhere):
    shutil.copy(empty_store, nowhere)
    with closing(sqlite3.connect(nowhere)) as tables, tables:
        tables.executescript(HALF_MADE)
    code = "from repro.tracking import store; print([each.name for each in store.client().search_experiments()])"
    assert printed(code).strip() == "['Default']"


def test_who_reads_a_half_made_store_is_told_that_there_is_none_and_makes_none(empty_store, nowhere):
    shutil.copy(empty_store, nowhere)
    with closing(sqlite3.connect(nowhere)) as tables, tables:
        tables.executescript(HALF_MADE)
    before = nowhere.read_bytes()
    for read in (stores.recorded_studies, partial(stores.find_study, "whiten_adv", "mini")):
        with pytest.raises(UserError, match="there is no MLflow store .* yet; run a study"):
            read()
    assert nowhere.read_bytes() == before


def test_what_a_killed_process_had_begun_to_write_is_rolled_back_first(empty_store, nowhere, tmp_path):
    (tmp_path / "other").mkdir()
    busy = shutil.copy(empty_store, tmp_path / "other" / "mlflow.db")
    with closing(sqlite3.connect(busy)) as tables:
        tables.execute("delete from experiments")
        tables.commit()
        tables.execute("pragma cache_size = 1")  # so that a transaction reaches the file before it ends
        tables.execute("create table _alembic_tmp_metrics (key text)")
        tables.executemany("insert into _alembic_tmp_metrics values (?)", [("x" * 4_000,)] * 50)
        shutil.copy(f"{busy}-journal", f"{nowhere}-journal")
        shutil.copy(busy, nowhere)
    assert experiments() == ["Default"]
    with closing(sqlite3.connect(nowhere)) as tables:
        assert tables.execute("pragma integrity_check").fetchone() == ("ok",)
        assert not tables.execute("select 1 from sqlite_master where name = '_alembic_tmp_metrics'").fetchone()


@pytest.mark.parametrize(
    "holds",
    ["create table mine (number integer)", "create table runs (id integer); create table mine (number integer)"],
)
def test_a_file_of_something_else_is_refused_and_left_alone(holds, nowhere):
    with closing(sqlite3.connect(nowhere)) as tables, tables:
        tables.executescript(holds)
    before = nowhere.read_bytes()
    with pytest.raises(UserError, match="mlflow.db is not an MLflow store"):
        stores.client()
    assert nowhere.read_bytes() == before


def test_a_deleted_experiment_is_not_written_to(study, cache, store):
    publish(study, cache)
    store.delete_experiment(store.get_experiment_by_name("whiten_adv-tiny").experiment_id)
    with pytest.raises(UserError, match="is deleted; restore it .* or delete it"):
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
    monkeypatch.chdir(tmp_path)
    # Forked from one that has imported it all, so that they are as close to each other as they can be.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recorded"])
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    processes = [context.Process(target=publish_to, args=(uri, study, cache)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    store = MlflowClient(tracking_uri=uri)
    assert [run.info.status for run in runs(store).values()] == ["FINISHED", "FINISHED"]
