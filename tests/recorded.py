"""The tiny study in an MLflow store: published, and all that the store then says of it."""

import json
import os
import sqlite3
import time
from contextlib import closing

from repro import record
from repro.engine.dag import dag_of
from repro.stages import stage
from repro.tracking import track


def publish(study, cache):
    track.Tracker(study, dag_of(study, cache), "the command").close()


def publish_to(uri, study, cache):
    """The same in a process whose environment is another's."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    publish(study, cache)


def recorded(store):
    """The runs of the study's arms and seeds, and apart from them those that they hang under."""
    found = store.search_runs([store.get_experiment_by_name("whiten_adv-tiny").experiment_id])
    parents = [run for run in found if run.data.tags.get("role") == "study"]
    return [run for run in found if run not in parents], parents


def runs(store):
    """Arm -> its run; every arm has one."""
    found = {run.data.tags["arm"]: run for run in recorded(store)[0]}
    assert found.keys() == {"shift_and_scale", "off"} and len(found) == len(recorded(store)[0])
    return found


def parent(store):
    """The run that they hang under."""
    (found,) = recorded(store)[1]
    return found


def points(store, run):
    """(metric, step, value, time) of every point of a run, repeated ones too.

    Of a file they are read at once: MLflow asks for each of a hundred metrics, which takes a second.
    """
    if store.tracking_uri.startswith("sqlite:///"):
        with closing(sqlite3.connect(store.tracking_uri.removeprefix("sqlite:///"))) as tables:
            wanted = "select key, step, value, timestamp from metrics where run_uuid = ?"
            found = tables.execute(wanted, [run.info.run_id]).fetchall()
        return sorted(point for point in found if point[0] in run.data.metrics)
    return sorted(
        (name, point.step, point.value, point.timestamp)
        for name in run.data.metrics
        for point in store.get_metric_history(run.info.run_id, name)
    )


def everything(store):
    """All that the store says of the study."""
    found = runs(store) | {"": parent(store)}
    experiment = store.get_experiment_by_name("whiten_adv-tiny")
    models = {each.model_id: dict(each) for each in store.search_logged_models([experiment.experiment_id])}
    said = {arm: (run.to_dictionary(), points(store, run), artifacts(store, run)) for arm, run in found.items()}
    return said, models, dict(experiment)


def artifacts(store, run):
    """The files of a run; how the tree that runs the tests differs from its commit is nothing that they are about."""
    return {file.path for file in store.list_artifacts(run.info.run_id)} - {record.CHANGES}


def keep_publishing(uri, study, cache, key):
    """Publish a study on whose dag this stage runs, until the process is killed."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    dag = dag_of(study, cache)
    dag.running = {key: 0.0}
    tracker = track.Tracker(study, dag, "the command")
    while True:
        tracker.update()
        time.sleep(0.05)


def journalled(run, cache):
    """(metric, step, value, time) of all journals and results of a run's stages, as `points` has them."""
    found = []
    keys = [run.data.tags[tag] for name in record.STAGES if (tag := record.stage_tag(name)) in run.data.tags]
    for folder in (cache / key for key in keys):
        for line in stage.read_journal(folder):
            found += [(name, line["step"], value, int(line["time"] * 1000)) for name, value in line["metrics"].items()]
        when = int(json.loads((folder / stage.DONE).read_text())["finished"] * 1000)
        result = json.loads((folder / stage.RESULT).read_text())["metrics"]
        found += [(name, 0, value, when) for name, value in result.items()]
    return sorted(found)
