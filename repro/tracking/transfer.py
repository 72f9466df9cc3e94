"""Brings studies that were recorded in another MLflow store into the one in use, as often as one likes.

A run is the same run in both stores if its `record` tag says so. Copying it twice changes nothing, since MLflow keeps one
point for a metric, step, time and value; a copy that an interrupt left says so in its tag `importing`, and is completed.
"""

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
from mlflow.utils.file_utils import local_file_uri_to_path

from repro import record
from repro.errors import UserError
from repro.tracking import attach, parent_run, policy, present
from repro.tracking.store import (
    METRICS_AT_ONCE,
    PARAMS_AT_ONCE,
    STORE_ERRORS,
    alone,
    database,
    gist,
    is_file,
    open_experiment,
    require_schema,
    require_store,
    runs_of,
    store_uri,
    studies,
    usable_store,
)

IMPORTING = "importing"  # tag of a run that is being copied: the one that it is a copy of
LATE = (
    record.COMPLETE,
    record.OUTCOME,
    record.ERROR,
    parent_run.PARENT,
    present.NOTE,
)  # tags that a copy gets when all else is there
BROUGHT, COMPLETED, THERE, NEWER, LEFT_OUT = "brought", "completed", "there already", "newer here", "left out"
TESTED = "test/"  # how the metrics begin that a policy is judged by
FATES = (BROUGHT, COMPLETED, THERE, NEWER, LEFT_OUT)


@dataclass(frozen=True)
class Fate:
    """What became of one run of the other store; `trouble` says what of it could not be read."""

    study: str
    run: str
    fate: str
    trouble: str = ""


@dataclass(frozen=True)
class Source:
    """The other store."""

    uri: str
    client: MlflowClient

    @contextmanager
    def readable(self) -> Iterator[None]:
        """What goes wrong with it inside becomes a UserError."""
        try:
            yield
        except STORE_ERRORS as error:
            raise UserError(f"the MLflow store {self.uri} cannot be read: {gist(error)}") from None

    def fetch(self, written: str, beside: str, out: Path) -> Path:
        """The folder of files that were written at an address: a server's are downloaded into `out`.

        Where the address is of another machine or place, they lie `beside` the database that was copied with them.
        """
        if urlsplit(written).scheme not in ("", "file"):
            with self.readable():
                return Path(download_artifacts(written, tracking_uri=self.uri, dst_path=str(out)))
        folder = Path(local_file_uri_to_path(written))
        if not folder.is_dir() and is_file(self.uri):
            folder = database(self.uri).parent / record.ARTIFACTS / beside
        if not folder.is_dir():
            raise UserError(f"its files are not at {written}" + f", nor at {folder}" * is_file(self.uri))
        return folder


def bring(words: str, cache: Path) -> list[Fate]:
    """Copy every study of another store: `words` is an mlflow.db, the folder of one, or a server's address.

    UserError where there is none, it is the one in use, it is another version's, or it holds no study.
    """
    uri = _address(words)
    require_store(cache)
    source = Source(uri, MlflowClient(tracking_uri=uri))
    with source.readable():
        found = studies(source.client)
    if not found:
        raise UserError(f"the MLflow store {uri} holds no study; there is nothing to bring")
    fates = []
    for study in found:
        try:
            with usable_store(), alone(cache):
                fates += _bring_study(source, study)
        except UserError as error:
            fates.append(Fate(study.name, "", LEFT_OUT, str(error)))
    return fates


def _address(words: str) -> str:
    """The other store's URI, found out without opening it: MLflow would make or migrate its tables unasked."""
    uri = words.rstrip("/")
    if is_file(words) or "://" not in words:
        given = database(words) if is_file(words) else Path(words)
        file = given / "mlflow.db" if given.is_dir() else given
        if not file.is_file():
            raise UserError(
                f"there is no MLflow store {file}; give an mlflow.db, the folder of one, or a server's address"
            )
        require_schema(file)
        uri = f"sqlite:///{file.resolve()}"
    here = f"sqlite:///{database(store_uri()).resolve()}" if is_file(store_uri()) else store_uri().rstrip("/")
    if uri == here:
        raise UserError(f"{words} is the store in use; name another, or set MLFLOW_TRACKING_URI to the one to fill")
    return uri


def _bring_study(source: Source, study: Experiment) -> list[Fate]:
    with source.readable():
        theirs = runs_of(source.client, study.experiment_id)
    store, here = open_experiment(study.tags[record.DETAIL], study.tags[record.SCALE])
    ours = {_identity(run): run for run in runs_of(store, here.experiment_id)}
    fates = [
        _bring_run(source, run, store, here, [ours[_identity(run)]] if _identity(run) in ours else [])
        for run in reversed(theirs)  # as they were made, the oldest first
    ]
    parent, _ = parent_run.gather(store, store.get_experiment(here.experiment_id))
    note = store.get_run(parent.info.run_id).data.tags[present.NOTE]
    store.set_experiment_tag(here.experiment_id, present.NOTE, note)
    return [fate for fate, run in zip(fates, reversed(theirs)) if not _is_parent(run)]


def _bring_run(source: Source, run: Run, store: MlflowClient, here: Experiment, known: list[Run]) -> Fate:
    told = partial(Fate, here.name, run.info.run_name)
    if not _is_parent(run) and not {record.ARM, record.SEED, record.RECORD, *record.HEADING} <= run.data.tags.keys():
        return told(LEFT_OUT, "it does not say which arm and seed it is")
    fate = _fate(run, known[0]) if known else BROUGHT
    if fate in (THERE, NEWER):
        return told(fate)
    early = {name: value for name, value in run.data.tags.items() if name not in LATE} | {IMPORTING: run.info.run_id}
    for ours in known:
        store.set_tag(ours.info.run_id, IMPORTING, run.info.run_id)
    ours = known or [store.create_run(here.experiment_id, run.info.start_time, early, run.info.run_name)]
    try:
        return told(fate, Copy(source, run, store, ours[0]).make())
    except UserError as error:
        return told(LEFT_OUT, str(error))


def _is_parent(run: Run) -> bool:
    return run.data.tags.get(record.ROLE) == record.STUDY


def _identity(run: Run) -> str:
    """The same for the same run in any store; a study has one run that the others hang under."""
    return record.STUDY if _is_parent(run) else run.data.tags.get(record.RECORD, run.info.run_id)


def _fate(theirs: Run, ours: Run) -> str:
    """What is to become of a run that is here already."""
    if IMPORTING in ours.data.tags:
        return COMPLETED
    if _knows(theirs) == _knows(ours):
        return THERE
    return COMPLETED if _knows(theirs) > _knows(ours) else NEWER


def _knows(run: Run) -> tuple[bool, int]:
    """Complete runs know all; of others the one that ended later [ms], of a study's own the one with the later report [ns]."""
    if _is_parent(run):
        return True, int(run.data.tags.get(record.REPORTED, 0))
    complete = record.is_set(run.data.tags, record.COMPLETE)
    return complete, 0 if complete else run.info.end_time or 0


@dataclass(frozen=True)
class Copy:
    """One run on its way from the other store onto a run of the one in use."""

    source: Source
    theirs: Run
    store: MlflowClient
    ours: Run

    def make(self) -> str:
        """Copy all of it; what of its files could not be read. UserError where its numbers cannot be."""
        theirs, target, troubles = self.theirs, self.ours.info.run_id, []
        params = [Param(name, value) for name, value in theirs.data.params.items() if name not in self.ours.data.params]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self.store.log_batch(target, params=params[start : start + PARAMS_AT_ONCE])
        for files in (self._files, self._policy):
            try:
                files()
            except UserError as error:
                # A run that is not complete may not have come to write any.
                if _is_parent(theirs) or record.is_set(theirs.data.tags, record.COMPLETE):
                    troubles.append(str(error))
        self._metrics()
        self.store.log_inputs(target, datasets=theirs.inputs.dataset_inputs)
        self._tags()
        self._status()
        if not troubles:  # else the next import looks for the rest
            self.store.delete_tag(target, IMPORTING)
        return "; ".join(troubles)

    def _files(self) -> None:
        written, run = self.theirs.info.artifact_uri, self.theirs.info.run_id
        with TemporaryDirectory() as place:
            folder = self.source.fetch(written, f"{run}/artifacts", Path(place))
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
                policy.publish(self.store, self.ours.info.experiment_id, self.ours.info.run_id, model.tags, save)

    def _save(self, model: LoggedModel, folder: Path) -> None:
        with TemporaryDirectory() as place:
            beside = f"models/{model.model_id}/artifacts"
            shutil.copytree(self.source.fetch(model.artifact_location, beside, Path(place)), folder)

    def _metrics(self) -> None:
        """Every point, those that the policy was judged by with the policy."""
        run, target = self.theirs.info.run_id, self.ours.info.run_id
        with self.source.readable():
            told = [p for name in self.theirs.data.metrics for p in self.source.client.get_metric_history(run, name)]
        models = [each.model_id for each in self.store.get_run(target).outputs.model_outputs]
        judged = {"model_id": models[0]} if models else {}
        points = [
            Metric(p.key, p.value, p.timestamp, p.step, **(judged if p.key.startswith(TESTED) else {})) for p in told
        ]
        for start in range(0, len(points), METRICS_AT_ONCE):
            self.store.log_batch(target, metrics=points[start : start + METRICS_AT_ONCE])

    def _tags(self) -> None:
        """All of them; an address in a description becomes this store's."""
        kept = {name: value for name, value in self.theirs.data.tags.items() if name != parent_run.PARENT}
        there, here = (f"experiments/{i.experiment_id}/runs/{i.run_id}" for i in (self.theirs.info, self.ours.info))
        tags = [RunTag(name, value.replace(there, here)) for name, value in kept.items()]
        self.store.log_batch(self.ours.info.run_id, tags=tags)
        for stale in {record.OUTCOME, record.ERROR} & self.ours.data.tags.keys() - kept.keys():
            self.store.delete_tag(self.ours.info.run_id, stale)

    def _status(self) -> None:
        status, ended = self.theirs.info.status, self.theirs.info.end_time
        if ended is None:
            self.store.update_run(self.ours.info.run_id, status=status)
        else:
            self.store.set_terminated(self.ours.info.run_id, status, ended)
