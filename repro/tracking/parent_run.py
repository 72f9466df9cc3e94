"""The run that a study's runs hang under: where MLflow's pages say what the study asks and found."""

from collections.abc import Iterable, Mapping

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.entities import Run as Recorded

from repro import record
from repro.errors import UserError
from repro.tracking import present
from repro.tracking.store import runs_of

PARENT = "mlflow.parentRunId"


def study_run(
    store: MlflowClient,
    experiment: Experiment,
    found: Iterable[Recorded],
    told: Mapping[str, str],
    places: set[tuple[str, str]],
) -> Recorded:
    """The run that a study's runs hang under, made unless it is there, named after all its (arm, seed).

    It is for finding one's way: its runs say everything themselves, and who reads runs by arm and seed passes it over.
    """
    runs = [run for run in found if {record.ARM, record.SEED} <= run.data.tags.keys()]
    name = present.study_name(told[record.DETAIL], places | {_place(run) for run in runs})
    parents = [run for run in found if run.data.tags.get(record.ROLE) == record.STUDY]
    tags = {record.ROLE: record.STUDY} | {each: told[each] for each in record.HEADING}
    parent = parents[-1] if parents else store.create_run(experiment.experiment_id, tags=tags, run_name=name)
    if parent.info.run_name != name:
        store.update_run(parent.info.run_id, name=name)
    for run in runs:
        if PARENT not in run.data.tags:  # it was recorded before runs had one
            store.set_tag(run.info.run_id, PARENT, parent.info.run_id)
    better = record.is_set(told, record.HIGHER_IS_BETTER)
    for key, value in present.experiment_tags(told[record.PRIMARY], better, experiment.creation_time).items():
        if experiment.tags.get(key) != value:
            store.set_experiment_tag(experiment.experiment_id, key, value)
    if not {present.NOTE} <= parent.data.tags.keys() & experiment.tags.keys():
        note = present.study_note(told, "There is no report yet.")
        describe_study(store, experiment, parent, parent.data.tags.get(present.NOTE, note))
    return parent


def _place(run: Recorded) -> tuple[str, str]:
    return run.data.tags[record.ARM], run.data.tags[record.SEED]


def describe_study(store: MlflowClient, experiment: Experiment, parent: Recorded, note: str) -> None:
    store.set_tag(parent.info.run_id, present.NOTE, note)
    store.set_experiment_tag(experiment.experiment_id, present.NOTE, note)


def gather(store: MlflowClient, experiment: Experiment) -> tuple[Recorded, Mapping[str, str]]:
    """The run that all runs of a recorded study hang under, and the newest one's tags; UserError where there is none."""
    found = runs_of(store, experiment.experiment_id)
    told = [run.data.tags for run in found if {record.ARM, record.SEED, *record.HEADING} <= run.data.tags.keys()]
    if not told:
        raise UserError(f"the study {experiment.name} has no run of an arm and seed; start it")
    return study_run(store, experiment, found, told[0], set()), told[0]
