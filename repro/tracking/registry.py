"""Final policies in MLflow's model registry: a registered model for each arm of a study, a version of it for each seed.

`mlflow.transformers.load_model("models:/whiten_adv-mini-off@seed-1")` loads one. A version refers to the policy that its run
has logged, so nothing is copied.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run as Recorded
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from repro import record
from repro.errors import few
from repro.tracking.address import store_uri
from repro.tracking.store import client, find_study, runs_of, store_lock, usable_store

REFERENCE = "reference"  # in the place of the reference arm's verdict


@dataclass
class Registered:
    """Name of each registered model -> its seeds, and the runs without a policy in the store, as `off seed 1`."""

    seeds: dict[str, list[str]] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        models = [f"{name} (seed{'s' * (len(seeds) > 1)} {' '.join(seeds)})" for name, seeds in self.seeds.items()]
        why = "no policy in the store, it was too large or could not be packed"
        lacking = f"; {few(self.without)}: {why}" if self.without else ""
        return f"registered: {', '.join(models) or 'nothing'}{lacking}"


def model_name(detail: str, scale: str, arm: str) -> str:
    """The name of an arm's registered model; MLflow takes neither a slash nor a colon."""
    return re.sub("[/:]", "_", f"{record.study_name(detail, scale)}-{arm}")


def alias(seed: str) -> str:
    """The alias of the version of a seed, which stays with the newest of them."""
    return f"seed-{seed}"


def register_policies(detail: str, scale: str, words: Mapping[str, str], folder: Path) -> Registered:
    """Register the final policy of every recorded arm and seed; what is registered already gets its tags and alias again.

    `words` are the arms' verdicts. UserError where the store cannot be used, or holds no such study; `folder` is where
    studies lock a store that is no file.
    """
    told = Registered()
    mlflow.set_tracking_uri(store_uri())  # where MLflow's registry looks for the policy that a version refers to
    with usable_store(writing=True), store_lock(folder):
        store, experiment = client(), find_study(detail, scale)
        for found in _newest(runs_of(store, experiment.experiment_id)):
            run = store.get_run(found.info.run_id)  # a search leaves out what a run has put out
            arm, seed = run.data.tags[record.ARM], run.data.tags[record.SEED]
            if not run.outputs.model_outputs:
                told.without.append(f"{arm} seed {seed}")
                continue
            name = model_name(detail, scale, arm)
            _register(store, name, run, words.get(arm, run.data.tags.get(record.ROLE, REFERENCE)))
            told.seeds.setdefault(name, []).append(seed)
    return told


def _newest(found: list[Recorded]) -> list[Recorded]:
    """Of each arm and seed the run that was asked for last, of those that are complete; as reports choose them."""
    complete = [run for run in found if record.ARM in run.data.tags and record.is_set(run.data.tags, record.COMPLETE)]
    complete.sort(key=lambda run: (record.requested(run.data.tags), run.info.start_time))
    kept = {(run.data.tags[record.ARM], int(run.data.tags[record.SEED])): run for run in complete}
    return [kept[place] for place in sorted(kept)]


def _register(store: MlflowClient, name: str, run: Recorded, verdict: str) -> None:
    """The version of a run's policy, made where there is none, with its tags and alias."""
    told, model = run.data.tags, run.outputs.model_outputs[-1].model_id
    source = f"models:/{model}"
    shared = {each: told[each] for each in (record.DETAIL, record.SCALE, record.ARM)} | {record.VERDICT: verdict}
    of_run = {each: told[each] for each in (record.SEED, record.OUTCOME)}
    if not store.search_registered_models(f"name = '{name}'"):
        note = f"Final policies of `{told[record.DETAIL]} = {told[record.ARM]}`, a version for each seed."
        store.create_registered_model(name, description=f"{note} {told.get(record.QUESTION, '')}")
    versions = {version.source: version for version in store.search_model_versions(f"name = '{name}'")}
    if source not in versions:
        versions[source] = store.create_model_version(name, source, run.info.run_id, model_id=model)
    known, registered = versions[source], store.get_registered_model(name)
    for key, value in (shared | of_run).items():
        if known.tags.get(key) != value:
            store.set_model_version_tag(name, known.version, key, value)
    for key, value in shared.items():
        if registered.tags.get(key) != value:
            store.set_registered_model_tag(name, key, value)
    _link(store, model, {"name": name, "version": known.version})
    if str(registered.aliases.get(alias(told[record.SEED]))) != str(known.version):
        store.set_registered_model_alias(name, alias(told[record.SEED]), known.version)


def _link(store: MlflowClient, model: str, version: Mapping[str, str | int]) -> None:
    """Have the page of a policy name its version, as MLflow's own function for registering does."""
    known = json.loads(store.get_logged_model(model).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    if version not in known:
        store.set_logged_model_tags(model, {MLFLOW_MODEL_VERSIONS: json.dumps([*known, version])})
