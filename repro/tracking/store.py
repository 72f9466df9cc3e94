"""The MLflow store in use: its client, its studies, and the errors for a store that cannot be used."""

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

# A store that does not answer is tried again at the next update; retries here would keep the workers idle.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing about a study leaves the machine unasked

METRICS_AT_ONCE, PARAMS_AT_ONCE, RUNS_AT_ONCE = 1_000, 100, 1_000  # MLflow's limits on what one call may carry
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError, ImportError)  # an ImportError: no driver for that database


def client() -> MlflowClient:
    """A client of the store in use, which is created where there is none.

    UserError for a store of another MLflow version, which MLflow would migrate.
    """
    if is_sqlite(store_uri()) and sqlite_path(store_uri()).name:
        file = sqlite_path(store_uri()).resolve()
        if not file.is_file() or _is_incomplete(file):
            _make_tables(file)
        require_schema(file)
    return MlflowClient(tracking_uri=store_uri())


def _make_tables(file: Path) -> None:
    """Create a sqlite store under a temporary name and rename it, so that a killed process leaves no incomplete store.

    The caller holds `store_lock`; so files with such a temporary name are left over from killed processes.
    """
    for left in file.parent.glob(f"{file.name}.*.partial*"):
        left.unlink()
    partial = file.with_name(f"{file.name}.{uuid4().hex[:8]}.partial")
    uri = make_url(store_uri()).set(database=str(partial)).render_as_string(hide_password=False)
    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    partial.replace(file)


def _is_incomplete(file: Path) -> bool:
    """Whether a sqlite file is empty, or left by a process that was killed while MLflow created its tables.

    Such a file has only tables of MLflow, no run and no experiment: MLflow adds the first experiment after all tables.
    """
    try:
        # Not read-only, so that sqlite rolls back the unfinished transaction of a killed process.
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as tables:
            names = {name for (name,) in tables.execute("select name from sqlite_master where type = 'table'")}
            for table in {"experiments", "runs"} & names:
                if tables.execute(f"select 1 from {table} limit 1").fetchone():
                    return False
    except sqlite3.Error:
        return False
    import mlflow.store.db.utils  # noqa: F401  it imports every module that declares tables
    from mlflow.store.db.base_sql_model import Base

    known = Base.metadata.tables.keys() | {"alembic_version"}
    return all(name in known or name.startswith("_alembic_tmp") for name in names)


@cache
def require_schema(file: Path) -> None:
    """UserError unless a sqlite file is an MLflow store of the installed version."""
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as tables:
            tables.execute("select experiment_id from experiments limit 1")
            (schema,) = tables.execute("select version_num from alembic_version").fetchone()
    except (sqlite3.Error, TypeError):
        raise UserError(f"{file} is not an MLflow store; give a file that MLflow wrote, such as mlflow.db") from None
    wanted = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations")).get_current_head()
    if schema != wanted:
        raise UserError(
            f"{file} was written by another version of MLflow (schema {schema}; {mlflow.__version__} reads {wanted}); "
            "copy it and upgrade the copy: mlflow db upgrade sqlite:////PATH/OF/THE/COPY"
        )


@contextmanager
def usable_store() -> Iterator[None]:
    """Errors of the store inside the block become a UserError."""
    try:
        yield
    except STORE_ERRORS as error:
        raise UserError(
            f"the MLflow store {store_uri()} cannot be used: {first_sentence(error)}; set MLFLOW_TRACKING_URI to "
            "one that can, and repeat the command: finished stages are not computed again"
        ) from None


def first_sentence(error: Exception) -> str:
    """The first sentence of an error's message."""
    return re.split(r"\n|\. ", str(error).strip())[0]


def is_sqlite(uri: str) -> bool:
    """Whether the store is a sqlite file on this machine rather than a server."""
    return uri.startswith("sqlite:")


def sqlite_path(uri: str) -> Path:
    """The path of a sqlite store's file."""
    return Path(make_url(uri).database or "")


def store_lock(folder: Path) -> FileLock:
    """The lock to hold while a study is opened: two processes must not create the tables of one sqlite file at once."""
    return FileLock(f"{sqlite_path(store_uri()) if is_sqlite(store_uri()) else folder / 'store'}.lock")


def open_experiment(detail: str, scale: str) -> tuple[MlflowClient, Experiment]:
    """The client and the study's experiment, which is created where there is none; called before any worker starts."""
    store, name = client(), record.study_name(detail, scale)
    found = store.get_experiment_by_name(name)
    if found and found.lifecycle_stage == "deleted":
        raise UserError(
            f"the MLflow experiment {name} is deleted; restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or delete it permanently (mlflow gc)"
        )
    if not found:
        location = {"artifact_location": Path(record.ARTIFACTS).resolve().as_uri()} if is_sqlite(store_uri()) else {}
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
    """The experiment of a recorded study: of the last started one if `detail` is empty. A UserError names those recorded."""
    _require_file()
    with usable_store():
        store = client()
        known = {each.name: each for each in studies(store)}
        if not known:
            raise UserError(
                f"the MLflow store {store_uri()} holds no study; run one, for example make ablation DETAIL=whiten_adv"
            )
        if not detail:
            return _last_started(store, list(known.values()))
        name = record.study_name(detail, scale)
        if name not in known:
            raise UserError(f"there is no recorded study {name}; {nearest(name, known)}")
        return known[name]


def store_is_missing() -> bool:
    """Whether the store is a file that is not there yet."""
    if not is_sqlite(store_uri()):
        return False
    file = sqlite_path(store_uri()).resolve()
    return not file.is_file() or _is_incomplete(file)


def _require_file() -> None:
    if store_is_missing():  # a reader does not create the store
        raise UserError(
            f"there is no MLflow store {store_uri()} yet; run a study, for example make ablation DETAIL=whiten_adv"
        )


def _last_started(store: MlflowClient, known: list[Experiment]) -> Experiment:
    by_id = {each.experiment_id: each for each in known}
    newest = store.search_runs(list(by_id), order_by=["attributes.start_time DESC"], max_results=1)
    return by_id[newest[0].info.experiment_id] if newest else known[0]


def runs_of(store: MlflowClient, experiment: str) -> list[Run]:
    """Every run of an experiment that is not deleted, the parent run included."""
    found, token = [], None
    while page := store.search_runs([experiment], "", ViewType.ACTIVE_ONLY, RUNS_AT_ONCE, page_token=token):
        found, token = found + list(page), page.token
        if not token:
            break
    return found


def require_store(cache: Path) -> None:
    """UserError where the store cannot be used, before anything is computed."""
    with usable_store(), store_lock(cache):
        client().search_experiments(max_results=1)
