"""The MLflow store in use: its client, its studies, and the errors for a store that cannot be used."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils import get_results_from_paginated_fn
from sqlalchemy.exc import SQLAlchemyError

from repro import record
from repro.errors import UserError, not_recorded
from repro.tracking.address import shown, store_uri, without_secrets
from repro.tracking.locks import STUDIES_SECONDS, held
from repro.tracking.opening import explained, require_open
from repro.tracking.sqlite_file import (
    Fault,
    code_of,
    fault_of,
    is_incomplete,
    is_sqlite,
    make_tables,
    require_schema,
    sqlite_path,
)

# A store that does not answer is tried again at the next update; retries here would keep the workers idle.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing about a study leaves the machine unasked
logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # it logs an error's traceback, and raises the error too

METRICS_AT_ONCE, PARAMS_AT_ONCE, FOUND_AT_ONCE = 1_000, 100, 1_000  # MLflow's limits on what one call may carry
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError, ImportError)  # an ImportError: no driver for that database


def client() -> MlflowClient:
    """A client of the store in use, which is created where there is none.

    UserError for a store of another MLflow version, which MLflow would migrate.
    """
    if is_sqlite(store_uri()) and sqlite_path(store_uri()).name:
        file = sqlite_path(store_uri()).resolve()
        if not file.is_file() or is_incomplete(file):
            make_tables(file, store_uri())
        require_schema(file)
    return MlflowClient(tracking_uri=store_uri())


@contextmanager
def usable_store(writing: bool = False) -> Iterator[None]:
    """Errors of the store become UserErrors; one is raised at once where it cannot be opened or, if `writing`, written."""
    require_open(store_uri(), writing)
    with explained(store_uri()):
        try:
            yield
        except STORE_ERRORS as error:
            raise Fault(why(error)) from None


def why(error: BaseException) -> str:
    """An error of the store in words, and what to do."""
    chain = [error, error.__cause__, getattr(error.__cause__ or error, "orig", None)]
    of_sqlite = [each for each in chain if code_of(each)]
    if of_sqlite:
        return str(fault_of(of_sqlite[0]))
    return (
        f"{first_sentence(error)}; set MLFLOW_TRACKING_URI to one that can, and repeat the command: finished stages are "
        "not computed again"
    )


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error's message, without the store's password."""
    return without_secrets(re.split(r"\n|\. ", str(error).strip())[0], store_uri())


def store_lock(folder: Path, seconds: float = STUDIES_SECONDS) -> AbstractContextManager[None]:
    """Held while a study's runs or policies are looked for and made, so that two processes never make the same.

    Beside a sqlite file, or in a folder that studies share. Another study that holds it is waited for.
    """
    place = sqlite_path(store_uri()) if is_sqlite(store_uri()) else folder / "store"
    return held(place.with_name(f"{place.name}.lock"), seconds)


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
        found = store.get_experiment(
            store.create_experiment(name, _artifact_location(), {record.DETAIL: detail, record.SCALE: scale})
        )
    return store, found


def _artifact_location() -> str | None:
    """Where a new experiment's artifacts go: beside a sqlite file, so that both move together; a server chooses itself."""
    if not is_sqlite(store_uri()):
        return None
    return (sqlite_path(store_uri()).resolve().parent / record.ARTIFACTS).as_uri()


def studies(store: MlflowClient) -> list[Experiment]:
    """The experiments of a store that are studies."""
    found: list[Experiment] = get_results_from_paginated_fn(
        lambda number, token: store.search_experiments(max_results=number, page_token=token), FOUND_AT_ONCE
    )
    return [each for each in found if {record.DETAIL, record.SCALE} <= each.tags.keys()]


def recorded_studies() -> list[tuple[str, str]]:
    """(detail, scale) of each study that the store holds; UserError where there is no store yet."""
    with usable_store():
        _require_file()
        return sorted((each.tags[record.DETAIL], each.tags[record.SCALE]) for each in studies(client()))


def find_study(detail: str, scale: str) -> Experiment:
    """The experiment of a recorded study: of the last started one if `detail` is empty. A UserError names those recorded."""
    with usable_store():
        _require_file()
        store = client()
        known = {each.name: each for each in studies(store)}
        if not known:
            raise UserError(
                f"the MLflow store {shown(store_uri())} holds no study; run one, for example make ablation DETAIL=whiten_adv"
            )
        if not detail:
            return _last_started(store, list(known.values()))
        name = record.study_name(detail, scale)
        if name not in known:
            tags = {each: (study.tags[record.DETAIL], study.tags[record.SCALE]) for each, study in known.items()}
            raise UserError(not_recorded(name, detail, tags))
        return known[name]


def store_is_missing() -> bool:
    """Whether the store is a file that is not there yet."""
    if not is_sqlite(store_uri()):
        return False
    file = sqlite_path(store_uri()).resolve()
    return not file.is_file() or is_incomplete(file)


def _require_file() -> None:
    if store_is_missing():  # a reader does not create the store
        raise UserError(
            f"there is no MLflow store {shown(store_uri())} yet; run a study, for example make ablation DETAIL=whiten_adv"
        )


def _last_started(store: MlflowClient, known: list[Experiment]) -> Experiment:
    by_id = {each.experiment_id: each for each in known}
    newest = store.search_runs(list(by_id), order_by=["attributes.start_time DESC"], max_results=1)
    return by_id[newest[0].info.experiment_id] if newest else known[0]


def runs_of(store: MlflowClient, experiment: str) -> list[Run]:
    """Every run of an experiment that is not deleted, the parent run included."""
    return get_results_from_paginated_fn(
        lambda number, token: store.search_runs([experiment], "", ViewType.ACTIVE_ONLY, number, page_token=token),
        FOUND_AT_ONCE,
    )


def require_store(cache: Path) -> None:
    """UserError where the store cannot be used, before anything is computed."""
    with usable_store(writing=True), store_lock(cache):
        client().search_experiments(max_results=1)
