"""Imports the studies of another MLflow store into the one in use; importing twice changes nothing.

Two runs are the same run if their `record` tags are equal. MLflow stores one point for a metric, step, time and value, so
a second copy adds nothing. A copy that was interrupted has the tag `importing`, and the next import completes it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Experiment, LoggedModel, LoggedModelStatus, Metric, Param, Run, RunTag
from mlflow.utils import chunk_list
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from repro import record
from repro.errors import UserError
from repro.tracking import attach, parent_run, policy, present, runs
from repro.tracking.address import shown, store_uri
from repro.tracking.opening import explained, parsed, require_open
from repro.tracking.sqlite_file import Fault, is_sqlite, require_schema, require_whole, sqlite_path
from repro.tracking.store import (
    METRICS_AT_ONCE,
    PARAMS_AT_ONCE,
    STORE_ERRORS,
    first_sentence,
    open_experiment,
    require_store,
    runs_of,
    store_lock,
    studies,
    usable_store,
)

IMPORTING = "importing"  # tag of an incomplete copy: the id of the original run
# Tags that a copy gets after everything else.
WRITTEN_LAST = (record.COMPLETE, record.OUTCOME, record.ERROR, parent_run.PARENT, present.NOTE)
IMPORTED, COMPLETED, PRESENT, NEWER, SKIPPED = "imported", "completed", "already present", "newer here", "skipped"
OF_POLICY = "test/"  # prefix of the metrics of the final policy
STATUSES = (IMPORTED, COMPLETED, PRESENT, NEWER, SKIPPED)


@dataclass(frozen=True)
class Imported:
    """The result for one run of the other store; `trouble` says what of it could not be read."""

    study: str
    run: str
    status: str
    trouble: str = ""


@dataclass(frozen=True)
class Source:
    """The store to import from."""

    uri: str
    client: MlflowClient

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Errors of this store inside the block become a UserError."""
        with explained(self.uri, "read"):
            try:
                yield
            except STORE_ERRORS as error:
                raise Fault(first_sentence(error)) from None

    def fetch(self, address: str, relative: str, out: Path) -> Path:
        """The folder of the artifacts at an address; a server's are downloaded into `out`.

        The address may be of another machine; then they are expected at `relative`, in the artifact folder beside the database.
        """
        if urlsplit(address).scheme not in ("", "file"):
            with self.readable():
                return Path(download_artifacts(address, tracking_uri=self.uri, dst_path=str(out)))
        folder = Path(local_file_uri_to_path(address))
        if not folder.is_dir() and is_sqlite(self.uri):
            folder = sqlite_path(self.uri).parent / record.ARTIFACTS / relative
        if not folder.is_dir():
            raise UserError(f"its files are not at {address}" + f", nor at {folder}" * is_sqlite(self.uri))
        return folder


def import_studies(location: str, cache: Path) -> list[Imported]:
    """Copy every study of another store; `location` is an mlflow.db, its folder, or a server's address.

    UserError where there is no store, it is the one in use or of another MLflow version, or it holds no study.
    """
    uri = source_of(location)
    require_store(cache)
    source = Source(uri, MlflowClient(tracking_uri=uri))
    with source.readable():
        found = studies(source.client)
    if not found:
        raise UserError(f"the MLflow store {shown(uri)} holds no study; there is nothing to import")
    results: list[Imported] = []
    for study in found:
        try:
            with usable_store(writing=True), store_lock(cache):
                results += _import_study(source, study)
        except UserError as error:
            results.append(Imported(study.name, "", SKIPPED, str(error)))
    return results


def source_of(location: str) -> str:
    """The other store's URI; the store is not opened, since MLflow would create or migrate its tables.

    UserError where this one or the other cannot be used; nothing is made.
    """
    require_open(store_uri())
    uri = location.rstrip("/")
    if is_sqlite(location) or "://" not in location:
        with explained(location, "read"):
            given = Path(parsed(location).database or "") if is_sqlite(location) else Path(location)
        file = given / "mlflow.db" if os.path.isdir(given) else given
        if not os.path.isfile(file):  # unlike Path.is_file, no error for a name that is too long
            raise UserError(f"there is no MLflow store {file}; give an mlflow.db, its folder, or a server's address")
        uri = f"sqlite:///{file.resolve()}"
        with explained(uri, "read"):
            require_schema(file)
            require_whole(file)
    in_use = f"sqlite:///{sqlite_path(store_uri()).resolve()}" if is_sqlite(store_uri()) else store_uri().rstrip("/")
    if uri == in_use:
        raise UserError(
            f"{shown(location)} is the store in use; give another one, or set MLFLOW_TRACKING_URI to the one to import into"
        )
    require_open(uri, used="read")
    return uri


def _import_study(source: Source, study: Experiment) -> list[Imported]:
    with source.readable():
        theirs = runs_of(source.client, study.experiment_id)
    store, experiment = open_experiment(study.tags[record.DETAIL], study.tags[record.SCALE])
    ours = {_identity(run): run for run in runs_of(store, experiment.experiment_id)}
    results = [
        _import_run(source, run, store, experiment, ours.get(_identity(run)))
        for run in reversed(theirs)  # in the order of their creation
    ]
    parent, _ = parent_run.find_parent(store, store.get_experiment(experiment.experiment_id))
    note = store.get_run(parent.info.run_id).data.tags[present.NOTE]
    store.set_experiment_tag(experiment.experiment_id, present.NOTE, note)
    return [result for result, run in zip(results, reversed(theirs)) if not _is_parent(run)]


def _import_run(source: Source, run: Run, store: MlflowClient, experiment: Experiment, ours: Run | None) -> Imported:
    """Copy a run of the other store; `ours` is the same run in the store in use, if there is one."""
    result = partial(Imported, experiment.name, runs.label(run))
    if not _is_parent(run) and not {record.ARM, record.SEED, record.RECORD, *record.STUDY_TAGS} <= run.data.tags.keys():
        return result(SKIPPED, "it has no tags of an arm and seed")
    status = _status_of(run, ours) if ours else IMPORTED
    if status in (PRESENT, NEWER):
        return result(status)
    if ours and _has_other_points(run, ours):
        runs.discard(store, experiment.experiment_id, [ours.info.run_id])
        ours = None
    if ours:
        store.set_tag(ours.info.run_id, IMPORTING, run.info.run_id)
    else:
        early = {name: value for name, value in run.data.tags.items() if name not in WRITTEN_LAST}
        early[IMPORTING] = run.info.run_id
        ours = store.create_run(experiment.experiment_id, run.info.start_time, early, run.info.run_name)
    try:
        return result(status, Copy(source, run, store, ours).make())
    except UserError as error:
        return result(SKIPPED, str(error))


def _is_parent(run: Run) -> bool:
    return run.data.tags.get(record.ROLE) == record.STUDY


def _identity(run: Run) -> str:
    """What identifies a run in every store; a study has one parent run."""
    return record.STUDY if _is_parent(run) else run.data.tags.get(record.RECORD, run.info.run_id)


def _status_of(theirs: Run, ours: Run) -> str:
    """The status of a run that the store in use holds already."""
    if IMPORTING in ours.data.tags:
        return COMPLETED
    if _progress(theirs) == _progress(ours):
        return PRESENT
    return COMPLETED if _progress(theirs) > _progress(ours) else NEWER


def _has_other_points(theirs: Run, ours: Run) -> bool:
    """Whether a run here has points of an attempt at a stage that the run there does not have: they cannot be taken back."""
    if ours.data.tags.get(IMPORTING) == theirs.info.run_id or not ours.data.metrics:
        return False
    here, there = (runs.attempts_of(run.data.tags) for run in (ours, theirs))
    return not here or not here.items() <= there.items()


def _progress(run: Run) -> tuple[bool, int]:
    """How far a run is, to compare: complete or not, then the time of its end [ms], of a parent run that of its report [ns]."""
    if _is_parent(run):
        return True, int(run.data.tags.get(record.REPORTED, 0))
    complete = record.is_set(run.data.tags, record.COMPLETE)
    return complete, 0 if complete else run.info.end_time or 0


@dataclass(frozen=True)
class Copy:
    """Copies one run of the other store onto a run of the one in use."""

    source: Source
    theirs: Run
    store: MlflowClient
    ours: Run

    def make(self) -> str:
        """Copy all of the run; returns what of its files could not be read. UserError where its metrics cannot be read."""
        theirs, target, troubles = self.theirs, self.ours.info.run_id, []
        params = [Param(name, value) for name, value in theirs.data.params.items() if name not in self.ours.data.params]
        for part in chunk_list(params, PARAMS_AT_ONCE):
            self.store.log_batch(target, params=part)
        for files in (self._files, self._policy):
            try:
                files()
            except UserError as error:
                # A run that is not complete may have no files yet.
                if _is_parent(theirs) or record.is_set(theirs.data.tags, record.COMPLETE):
                    troubles.append(str(error))
        self._metrics()
        self.store.log_inputs(target, datasets=theirs.inputs.dataset_inputs)
        self._tags()
        self._status()
        if not troubles:  # otherwise the next import tries again
            self.store.delete_tag(target, IMPORTING)
        return "; ".join(troubles)

    def _files(self) -> None:
        address, run = self.theirs.info.artifact_uri, self.theirs.info.run_id
        with TemporaryDirectory() as place:
            folder = self.source.fetch(address, f"{run}/artifacts", Path(place))
            if _is_parent(self.theirs):
                attach.drop_report(self.ours)
            self.store.log_artifacts(self.ours.info.run_id, str(folder))

    def _policy(self) -> None:
        experiment, run = self.theirs.info.experiment_id, self.theirs.info.run_id
        with self.source.readable():
            found = self.source.client.search_logged_models([experiment], f"source_run_id = '{run}'")
        for model in found:
            if model.status == LoggedModelStatus.READY:
                save = partial(self._save, model)
                # What it is registered as is of their store.
                tags = {name: value for name, value in model.tags.items() if name != MLFLOW_MODEL_VERSIONS}
                policy.publish(self.store, self.ours.info.experiment_id, self.ours.info.run_id, tags, save)

    def _save(self, model: LoggedModel, folder: Path) -> None:
        with TemporaryDirectory() as place:
            relative = f"models/{model.model_id}/artifacts"
            shutil.copytree(self.source.fetch(model.artifact_location, relative, Path(place)), folder)

    def _metrics(self) -> None:
        """Every point of each stage's last attempt; those of the final policy are linked to it."""
        run, target = self.theirs.info.run_id, self.ours.info.run_id
        with self.source.readable():
            histories = [self.source.client.get_metric_history(run, name) for name in self.theirs.data.metrics]
        models = [each.model_id for each in self.store.get_run(target).outputs.model_outputs]
        of_policy = {"model_id": models[0]} if models else {}
        points = [
            Metric(p.key, p.value, p.timestamp, p.step, **(of_policy if p.key.startswith(OF_POLICY) else {}))
            for history in histories
            for p in (history[place] for place in record.last_attempt([(p.step, p.timestamp) for p in history]))
        ]
        for part in chunk_list(points, METRICS_AT_ONCE):
            self.store.log_batch(target, metrics=part)

    def _tags(self) -> None:
        """All tags; links in a description are changed to this store's run."""
        copied = {name: value for name, value in self.theirs.data.tags.items() if name != parent_run.PARENT}
        there, here = (f"experiments/{i.experiment_id}/runs/{i.run_id}" for i in (self.theirs.info, self.ours.info))
        tags = [RunTag(name, value.replace(there, here)) for name, value in copied.items()]
        self.store.log_batch(self.ours.info.run_id, tags=tags)
        for stale in {record.OUTCOME, record.ERROR} & self.ours.data.tags.keys() - copied.keys():
            self.store.delete_tag(self.ours.info.run_id, stale)

    def _status(self) -> None:
        status, ended = self.theirs.info.status, self.theirs.info.end_time
        if ended is None:
            self.store.update_run(self.ours.info.run_id, status=status)
        else:
            self.store.set_terminated(self.ours.info.run_id, status, ended)
