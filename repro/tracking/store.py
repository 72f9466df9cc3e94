"""The MLflow store in use: its address, its studies, and what a person is told when it cannot be used."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

import mlflow
from alembic.script import ScriptDirectory
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from repro import record
from repro.detail import nearest
from repro.errors import UserError
from repro.tracking.address import store_uri

# The journals wait for a store that does not answer; waiting here would keep the workers idle.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing about a study leaves the machine unasked

METRICS_AT_ONCE, PARAMS_AT_ONCE, RUNS_AT_ONCE = 1_000, 100, 1_000  # MLflow's limits on what one call may carry
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError, ImportError)  # an ImportError: no driver for that database


def client() -> MlflowClient:
    """A client of the store in use, made now if need be; UserError for one of another version, which MLflow would migrate."""
    if is_file(store_uri()) and database(store_uri()).name:
        file = database(store_uri()).resolve()
        if not file.is_file() or _is_half_made(file):
            _make_tables(file)
        require_schema(file)
    return MlflowClient(tracking_uri=store_uri())


def _make_tables(file: Path) -> None:
    """Make a sqlite store under another name and rename it: killed in the meantime, it leaves none, and no half of one.

    Whoever calls it holds `alone`, so that what lies there under such a name is of processes that are no more.
    """
    for left in file.parent.glob(f"{file.name}.*.partial*"):
        left.unlink()
    partial = file.with_name(f"{file.name}.{uuid4().hex[:8]}.partial")
    uri = make_url(store_uri()).set(database=str(partial)).render_as_string(hide_password=False)
    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    partial.replace(file)


def _is_half_made(file: Path) -> bool:
    """Whether a sqlite file is empty, or was left by a process that was killed while MLflow made its tables in it.

    Then it has tables of MLflow alone, no run and no experiment: MLflow makes the first one when all tables are there.
    """
    try:
        # Not read-only: what a killed process had begun to write is rolled back first.
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as tables:
            names = {name for (name,) in tables.execute("select name from sqlite_master where type = 'table'")}
            for held in {"experiments", "runs"} & names:
                if tables.execute(f"select 1 from {held} limit 1").fetchone():
                    return False
    except sqlite3.Error:
        return False
    import mlflow.store.db.utils  # noqa: F401  it reads every module that declares tables, which are known only then
    from mlflow.store.db.base_sql_model import Base

    known = Base.metadata.tables.keys() | {"alembic_version"}
    return all(name in known or name.startswith("_alembic_tmp") for name in names)


@cache
def require_schema(file: Path) -> None:
    """UserError where a sqlite file is no MLflow store of the version that is installed."""
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as tables:
            tables.execute("select experiment_id from experiments limit 1")
            (schema,) = tables.execute("select version_num from alembic_version").fetchone()
    except (sqlite3.Error, TypeError):
        raise UserError(f"{file} is not an MLflow store; give the file that MLflow wrote, as mlflow.db") from None
    wanted = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations")).get_current_head()
    if schema != wanted:
        raise UserError(
            f"{file} was written by another version of MLflow (schema {schema}; {mlflow.__version__} reads {wanted}); "
            "take a copy of it, and give: mlflow db upgrade sqlite:////PATH/OF/THE/COPY"
        )


@contextmanager
def usable_store() -> Iterator[None]:
    """What goes wrong with the store inside becomes a UserError."""
    try:
        yield
    except STORE_ERRORS as error:
        raise UserError(
            f"the MLflow store {store_uri()} cannot be used: {gist(error)}; set MLFLOW_TRACKING_URI to "
            "one that can, and give the same command: nothing is computed twice"
        ) from None


def gist(error: Exception) -> str:
    """An error's first sentence."""
    return re.split(r"\n|\. ", str(error).strip())[0]


def is_file(uri: str) -> bool:
    """Whether a store is a sqlite file of this machine, and no server's."""
    return uri.startswith("sqlite:")


def database(uri: str) -> Path:
    """The file of a sqlite store."""
    return Path(make_url(uri).database or "")


def alone(folder: Path) -> FileLock:
    """Held while a study is opened: of several processes on a fresh sqlite file only one can make its tables."""
    return FileLock(f"{database(store_uri()) if is_file(store_uri()) else folder / 'store'}.lock")


def open_experiment(detail: str, scale: str) -> tuple[MlflowClient, Experiment]:
    """The client, and the study's experiment, made now if need be: before any worker starts."""
    store, name = client(), record.study_name(detail, scale)
    found = store.get_experiment_by_name(name)
    if found and found.lifecycle_stage == "deleted":
        raise UserError(
            f"the MLflow experiment {name} is deleted; restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or remove it for good (mlflow gc)"
        )
    if not found:
        location = {"artifact_location": Path(record.ARTIFACTS).resolve().as_uri()} if is_file(store_uri()) else {}
        found = store.get_experiment(
            store.create_experiment(name, tags={record.DETAIL: detail, record.SCALE: scale}, **location)
        )
    return store, found


def studies(store: MlflowClient) -> list[Experiment]:
    """The experiments of a store that are studies."""
    found, token = [], None
    while page := store.search_experiments(page_token=token):
        found, token = found + list(page), page.token
        if not token:
            break
    return [each for each in found if {record.DETAIL, record.SCALE} <= each.tags.keys()]


def recorded_studies() -> list[tuple[str, str]]:
    """(detail, scale) of each study that the store holds; UserError where there is no store yet."""
    _require_file()
    with usable_store():
        return sorted((each.tags[record.DETAIL], each.tags[record.SCALE]) for each in studies(client()))


def find_study(detail: str, scale: str) -> Experiment:
    """A recorded study; without a detail, the one that was last started. UserError names the recorded ones."""
    _require_file()
    with usable_store():
        store = client()
        known = {each.name: each for each in studies(store)}
        if not known:
            raise UserError(
                f"the MLflow store {store_uri()} holds no study; run one, as make ablation DETAIL=whiten_adv"
            )
        if not detail:
            return _last_started(store, list(known.values()))
        name = record.study_name(detail, scale)
        if name not in known:
            raise UserError(f"there is no recorded study {name}; {nearest(name, known)}")
        return known[name]


def _require_file() -> None:
    if not is_file(store_uri()):
        return
    file = database(store_uri()).resolve()
    if not file.is_file() or _is_half_made(file):  # who reads makes none
        raise UserError(f"there is no MLflow store {store_uri()} yet; run a study, as make ablation DETAIL=whiten_adv")


def _last_started(store: MlflowClient, known: list[Experiment]) -> Experiment:
    by_id = {each.experiment_id: each for each in known}
    newest = store.search_runs(list(by_id), order_by=["attributes.start_time DESC"], max_results=1)
    return by_id[newest[0].info.experiment_id] if newest else known[0]


def runs_of(store: MlflowClient, experiment: str) -> list[Run]:
    """Every run of an experiment that is not deleted, its parent too."""
    found, token = [], None
    while page := store.search_runs([experiment], "", ViewType.ACTIVE_ONLY, RUNS_AT_ONCE, page_token=token):
        found, token = found + list(page), page.token
        if not token:
            break
    return found


def require_store(cache: Path) -> None:
    """UserError where the store cannot be used, before anything is spent."""
    with usable_store(), alone(cache):
        client().search_experiments(max_results=1)
