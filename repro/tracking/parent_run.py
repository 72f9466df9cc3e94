"""The parent run of a study's runs, which shows the study's question and verdict in MLflow's pages."""

from collections.abc import Iterable, Mapping

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.entities import Run as Recorded

from repro import record
from repro.errors import UserError
from repro.tracking import present
from repro.tracking.store import runs_of

PARENT = "mlflow.parentRunId"


def open_parent(
    store: MlflowClient,
    experiment: Experiment,
    found: Iterable[Recorded],
    plan: Mapping[str, str],
    arm_seeds: set[tuple[str, str]],
) -> Recorded:
    """A study's parent run, created where there is none; its name counts the arms and seeds of all runs.

    It only helps a person to find the study: every tag and metric is in the child runs, and reports skip the parent.
    """
    runs = [run for run in found if {record.ARM, record.SEED} <= run.data.tags.keys()]
    arms = {_arm_and_seed(run) for run in runs if run.data.tags.get(record.ROLE) != record.CEILING}
    name = present.study_name(plan[record.DETAIL], plan[record.SCALE], arm_seeds | arms)
    parents = [run for run in found if run.data.tags.get(record.ROLE) == record.STUDY]
    tags = {record.ROLE: record.STUDY} | {each: plan[each] for each in record.STUDY_TAGS}
    parent = parents[-1] if parents else store.create_run(experiment.experiment_id, tags=tags, run_name=name)
    if parent.info.run_name != name:
        store.update_run(parent.info.run_id, name=name)
    for run in runs:
        if PARENT not in run.data.tags:  # recorded by a version without parent runs
            store.set_tag(run.info.run_id, PARENT, parent.info.run_id)
    better = record.is_set(plan, record.HIGHER_IS_BETTER)
    for key, value in present.experiment_tags(plan[record.PRIMARY], better, experiment.creation_time).items():
        if experiment.tags.get(key) != value:
            store.set_experiment_tag(experiment.experiment_id, key, value)
    if not {present.NOTE} <= parent.data.tags.keys() & experiment.tags.keys():
        note = present.study_note(plan, "There is no report yet.")
        describe_study(store, experiment, parent, parent.data.tags.get(present.NOTE, note))
    return parent


def _arm_and_seed(run: Recorded) -> tuple[str, str]:
    return run.data.tags[record.ARM], run.data.tags[record.SEED]


def describe_study(store: MlflowClient, experiment: Experiment, parent: Recorded, note: str) -> None:
    """Set the description that MLflow shows of the parent run and of the experiment."""
    store.set_tag(parent.info.run_id, present.NOTE, note)
    store.set_experiment_tag(experiment.experiment_id, present.NOTE, note)


def find_parent(store: MlflowClient, experiment: Experiment) -> tuple[Recorded, Mapping[str, str]]:
    """The parent run of a recorded study and the tags of its newest run; UserError where the study has no run."""
    found = runs_of(store, experiment.experiment_id)
    tags = [run.data.tags for run in found if {record.ARM, record.SEED, *record.STUDY_TAGS} <= run.data.tags.keys()]
    if not tags:
        raise UserError(f"the study {experiment.name} has no runs; start it")
    return open_parent(store, experiment, found, tags[0], set()), tags[0]
