"""Kills and restarts: whatever happens, a run's points are those of its journals, each once and in their order."""

import json
import multiprocessing
import random
import shutil
import signal
import time

import pytest
from mlflow import MlflowClient

from repro import record
from repro.detail import Pick, Recipe
from repro.engine import artefacts
from repro.engine.dag import dag_of
from repro.stages import stage
from repro.stages.stage import Budget, StageContext
from repro.tracking import track
from tests.recorded import journalled, keep_publishing, points, publish, runs


class Work:
    """A PPO stage that runs, in a cache of its own: it logs steps, is killed, begins anew or goes on."""

    def __init__(self, study, cache, folder):
        self.dag = dag_of(study, cache)
        self.dag.cache = folder
        folder.mkdir()
        self.study, self.attempt = study, 0
        self.key = next(key for key, job in self.dag.jobs.items() if job.label == "ppo off seed 1")
        self.dag.done, self.dag.running = set(), {self.key: 0.0}
        self.out = artefacts.partial_folder(folder / self.key)
        self.begin()

    def begin(self):
        """From its beginning, as a stage without a checkpoint."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        self.attempt += 1

    def log(self, *steps):
        """Steps with a number that is the same in each attempt, and one that is measured."""
        context = StageContext("ppo", Pick(Recipe(), "ppo"), Budget(self.study.scale, ()), "auto", 1, {}, self.out)
        for step in steps:
            context.log(step, {"objective/kl": step / 7, "seconds/update": self.attempt + random.random()})

    def tracker(self):
        return track.Tracker(self.study, self.dag, "the command")

    def journal(self):
        """(metric, step, value) of its journal, in its order."""
        return [
            (name, line["step"], value)
            for line in stage.read_journal(self.out)
            for name, value in sorted(line["metrics"].items())
        ]


@pytest.fixture
def work(tiny_study, tiny_cache, own_store, tmp_path):
    return Work(tiny_study, tiny_cache, tmp_path / "work")


def stored(store, arm="off"):
    """(metric, step, value) of every point of the arm's one run, in the order of their times."""
    found = points(store, runs(store)[arm])
    return [(name, step, value) for name, step, value, _ in sorted(found, key=lambda p: (p[3], p[1], p[0]))]


def test_a_stage_that_begins_anew_has_the_points_of_its_last_attempt_alone(work, own_store):
    tracker = work.tracker()
    for steps in (range(5), range(3), range(8)):
        work.begin()
        work.log(*steps)
        tracker.update()
        assert (tracker.trouble, stored(own_store)) == ("", work.journal())
    tracker.close()
    assert stored(own_store) == work.journal() and runs(own_store)["off"].info.status == "KILLED"


def test_so_it_is_where_the_study_was_killed_with_it(work, own_store):
    for steps in (range(5), range(3), range(8)):
        work.begin()
        work.log(*steps)
        work.tracker().update()  # as if its process had been killed: it is never closed
        assert stored(own_store) == work.journal()
    assert runs(own_store)["off"].data.tags[record.attempt_tag("ppo")] == str(stage.read_journal(work.out)[0]["time"])


def test_a_stage_that_goes_on_from_a_checkpoint_keeps_its_run(work, own_store):
    work.log(0, 1, 2)
    work.tracker().update()
    first = {arm: run.info.run_id for arm, run in runs(own_store).items()}
    work.log(2, 3, 4)  # the step that it had logged already is not logged again
    work.tracker().update()
    assert {arm: run.info.run_id for arm, run in runs(own_store).items()} == first
    assert stored(own_store) == work.journal() and len(work.journal()) == 10


def test_only_the_run_that_had_its_points_is_replaced(work, own_store):
    work.log(0, 1)
    tracker = work.tracker()
    tracker.update()
    before = {arm: run.info.run_id for arm, run in runs(own_store).items()}
    work.begin()
    work.log(0)
    tracker.update()
    after = {arm: run.info.run_id for arm, run in runs(own_store).items()}
    assert after["shift_and_scale"] == before["shift_and_scale"] and after["off"] != before["off"]
    assert own_store.get_run(before["off"]).info.lifecycle_stage == "deleted"
    assert runs(own_store)["off"].data.params == own_store.get_run(before["off"]).data.params


def test_lines_of_one_moment_and_of_a_clock_that_goes_back_are_all_there_in_their_order(work, own_store):
    tracker = work.tracker()
    for step, when in enumerate((10.0, 10.0, 10.0001, 4.0, 11.0)):
        with (work.out / stage.JOURNAL).open("a") as journal:
            journal.write(json.dumps({"step": step, "time": when, "metrics": {"objective/kl": float(step)}}) + "\n")
        tracker.update()
    assert stored(own_store) == work.journal() and len(work.journal()) == 5


def test_a_run_of_an_earlier_version_with_points_of_unknown_attempts_is_replaced(work, own_store):
    work.log(0, 1)
    work.tracker().update()
    own_store.delete_tag(runs(own_store)["off"].info.run_id, record.attempt_tag("ppo"))
    work.begin()
    work.log(0, 1, 2)
    work.tracker().update()
    assert stored(own_store) == work.journal()


def test_a_run_whose_process_was_killed_while_it_was_made_is_made_again(work, own_store, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MlflowClient, "log_batch", interrupted)
        work.tracker()
    work.log(0)
    work.tracker().close()
    assert all("scale.episodes" in run.data.params for run in runs(own_store).values())


def interrupted(*_, **__):
    raise KeyboardInterrupt


# --------------------------------------------------------------------------------------- more than one process


def test_a_run_that_another_process_has_replaced_is_gone_on_with(work, own_store):
    one, other = work.tracker(), work.tracker()
    work.log(0, 1)
    one.update(), other.update()
    work.begin()
    work.log(0, 1, 2)
    one.update()
    work.log(3)
    other.update(), one.update()
    assert (one.trouble, other.trouble) == ("", "")
    assert stored(own_store) == work.journal()


def test_a_run_that_a_person_deletes_meanwhile_is_made_again(work, own_store):
    tracker = work.tracker()
    work.log(0, 1)
    tracker.update()
    own_store.delete_run(runs(own_store)["off"].info.run_id)
    work.log(2)
    tracker.update()
    assert (tracker.trouble, stored(own_store)) == ("", work.journal())


def test_of_two_caches_that_make_the_same_stage_one_is_published(tiny_study, tiny_cache, own_store, tmp_path):
    here, there = (Work(tiny_study, tiny_cache, tmp_path / name) for name in ("here", "there"))
    trackers = here.tracker(), there.tracker()
    for step in range(6):
        here.log(step), there.log(step)
        for tracker in trackers:
            tracker.update()
            assert tracker.trouble == ""
    for tracker in trackers:
        tracker.close()
    assert stored(own_store) in (here.journal(), there.journal())
    assert len(own_store.search_runs([runs(own_store)["off"].info.experiment_id], run_view_type=2)) < 8


# ------------------------------------------------------------------------------------------------- any moment

CALLS = ("create_run", "delete_run", "log_batch", "set_tag", "update_run", "search_runs", "log_text", "set_terminated")


def test_it_holds_wherever_between_two_calls_a_restart_is_killed(work, own_store, empty_store, tmp_path, monkeypatch):
    work.log(*range(4))
    work.tracker().update()
    lost = tmp_path / "mlflow.db"
    work.begin()
    work.log(*range(3))
    for survived in range(100):
        file = shutil.copy(lost, tmp_path / f"killed-{survived}.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        with monkeypatch.context() as patch:
            left = iter(range(survived))
            for name in CALLS:
                patch.setattr(MlflowClient, name, killed_after(left, getattr(MlflowClient, name)))
            try:
                work.tracker().close()
                break
            except KeyboardInterrupt:
                pass
        work.tracker().close()
        assert stored(MlflowClient(tracking_uri=f"sqlite:///{file}")) == work.journal(), (
            f"killed after {survived} calls"
        )
    assert survived > 10


def killed_after(left, call):
    def wrapped(*words, **named):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return call(*words, **named)

    return wrapped


def test_it_holds_for_processes_that_are_killed_at_any_time(tiny_study, tiny_cache, own_store, tmp_path):
    """SIGKILL while lost attempts are published; then the artefact that the last one made."""
    chance, cache = random.Random(4), tmp_path / "cache"
    shutil.copytree(tiny_cache, cache)
    dag = dag_of(tiny_study, cache)
    (key,) = [key for key, job in dag.jobs.items() if job.label == "ppo off seed 1"]
    (cache / key).rename(tmp_path / "made")
    lines = stage.read_journal(tmp_path / "made")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.recorded"])
    for _ in range(6):
        words = (own_store.tracking_uri, tiny_study, cache, key)
        process = context.Process(target=keep_publishing, args=words)
        process.start()
        attempt(artefacts.partial_folder(cache / key), lines, chance)
        time.sleep(chance.uniform(0, 1))
        process.kill()
        process.join(20)
        assert process.exitcode == -signal.SIGKILL
    shutil.rmtree(artefacts.partial_folder(cache / key))
    (tmp_path / "made").rename(cache / key)
    publish(tiny_study, cache)
    for arm, run in runs(own_store).items():
        assert (run.info.status, run.data.tags["complete"]) == ("FINISHED", "true")
        assert points(own_store, run) == journalled(run, cache), arm


def attempt(folder, lines, chance):
    """An attempt that logs some of the lines, at its own times, and is then lost."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for line in lines[: chance.randint(1, len(lines))]:
        with (folder / stage.JOURNAL).open("a") as journal:
            journal.write(json.dumps(line | {"time": time.time()}) + "\n")
        time.sleep(chance.uniform(0, 0.5))
