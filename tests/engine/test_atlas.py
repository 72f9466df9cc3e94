"""The atlas: many studies on one dag, each shared stage once, taken up where it was left."""

import json
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from repro.__main__ import main
from repro.engine import atlas, launch
from repro.engine.dag import Dag, jobs_of
from repro.errors import UserError
from repro.stages import stage
from repro.tracking.atlas_tracker import AtlasTracker

DETAILS = ("whiten_adv", "sft_epochs")
TINY = {
    "model": "gpt-neox:32/2/2/64",
    "posts": "64",
    "validation_posts": "8",
    "test_posts": "16",
    "comparisons": "32",
    "episodes": "64",
    "sft_batch": "16",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory of its own, with an empty store and cache."""
    folder = tmp_path_factory.mktemp("atlas")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Absolute: MLflow would take the relative one for that of another test's folder.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("REPRO_CACHE", "")
        yield folder


def found(place):
    return atlas.studies(DETAILS, "smoke", ["1"], TINY, place / "cache")


def words(*more):
    return ["atlas", *DETAILS, "--scale", "smoke", "--seeds", "1", *more, "--set", *map("=".join, TINY.items())]


def test_studies_with_the_least_left_to_run_come_first(place):
    # whiten_adv has two variants of PPO alone, sft_epochs two of everything from SFT on.
    assert [study.detail.name for study in found(place)] == ["whiten_adv", "sft_epochs"]


def test_the_board_holds_each_stage_once_and_the_references_first(place):
    studies = found(place)
    jobs = list(atlas.dag_of(studies, place / "cache").jobs.values())
    reference = jobs_of(studies[0], arms=[studies[0].detail.reference])
    assert {job.key for job in jobs[: len(reference)]} == reference.keys()
    assert {job.key for job in jobs} == set().union(*(jobs_of(study) for study in studies))
    runs = {name: sum(job.stage == name for job in jobs) for name in ("data", "sft", "rm", "ppo")}
    # The reference and two variants of either detail; sft_epochs alone has SFT of its own.
    assert runs == {"data": 1, "sft": 3, "rm": 3, "ppo": 5}


def test_a_plan_says_what_is_left_and_how_long_it_takes_and_runs_nothing(place, capsys):
    assert main(words("--plan")) == 0
    told = capsys.readouterr().out
    assert "2 details, 4 variants beside the reference; 0 of " in told and "about " in told
    assert list((place / "cache").glob("*-*")) == [] and not (place / "mlflow.db").exists()


def test_an_atlas_that_was_interrupted_goes_on_and_ends_with_its_page(place, capsys, monkeypatch):
    def interrupt(dag, *_):
        if sum(dag.jobs[key].stage == "evaluate" for key in dag.done) >= 2:
            raise KeyboardInterrupt

    follow = Dag.finish
    with monkeypatch.context() as patch:
        patch.setattr(Dag, "finish", lambda dag, key: (follow(dag, key), interrupt(dag)))
        assert main(words()) == 130
    capsys.readouterr()
    before = {
        path.name: (path / stage.DONE).stat().st_mtime_ns
        for path in (place / "cache").glob("*-*[0-9a-f]")
        if path.is_dir()
    }
    assert main(words()) == 0
    out = capsys.readouterr().out
    page = (
        place
        / "reports"
        / "build"
        / next(p.name for p in (place / "reports" / "build").iterdir() if p.is_dir())
        / "index.html"
    )
    assert out.splitlines()[-2:] == [f"atlas: {page.relative_to(place)}", "index: reports/build/index.html"]
    assert out.count("index: ") == out.count("atlas: ") == 1
    after = {name: (place / "cache" / name / stage.DONE).stat().st_mtime_ns for name in before}
    assert after == before
    told = json.loads(page.with_name("atlas.json").read_text())
    assert sorted(told["studied"]) == sorted(DETAILS)


def test_every_study_of_the_atlas_is_tracked_as_its_own(place):
    store = MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")
    experiments = {e.tags["detail"]: e for e in store.search_experiments() if "detail" in e.tags}
    assert experiments.keys() == set(DETAILS)
    for name, experiment in experiments.items():
        runs = [run for run in store.search_runs([experiment.experiment_id]) if "arm" in run.data.tags]
        assert len(runs) == 3 and {run.info.status for run in runs} == {"FINISHED"}, name
        assert {run.data.tags["hypothesis"] for run in runs} != {""}


def test_a_store_that_does_not_answer_is_waited_for(place, monkeypatch):
    studies, opened = found(place), []
    dag = atlas.dag_of(studies, place / "cache")

    def opens(study, *_):
        opened.append(study.detail.name)
        if len(opened) == 1:
            raise UserError("the store cannot be used")
        return SimpleNamespace(update=lambda: None, trouble="", ended=False)

    monkeypatch.setattr("repro.tracking.track.Tracker", opens)
    trackers = AtlasTracker(studies, dag, "the command")
    trackers.update()
    assert (trackers.trouble, trackers.open, len(trackers.waiting)) == ("the store cannot be used", [], 2)
    trackers.update()
    assert (trackers.trouble, len(trackers.open), len(trackers.waiting)) == ("", 1, 1)
    assert opened == [studies[0].detail.name] * 2


def test_an_interrupt_before_anything_is_tracked_is_told_as_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(words()) == 130
    assert capsys.readouterr().err == "interrupted; the same command continues from here\n"


def test_a_detail_that_is_none_is_refused(place, capsys):
    assert main(["atlas", "whitten_adv"]) == 2
    assert "did you mean 'whiten_adv'" in capsys.readouterr().err
