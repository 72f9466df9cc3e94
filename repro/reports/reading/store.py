"""Opens the MLflow store without changing it, and finds the experiments of studies and their runs."""

import gc
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.store.db import utils as schema
from mlflow.store.db.db_types import DATABASE_ENGINES
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from repro import record
from repro.errors import UserError, not_recorded

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one bar per run says nothing

RUNS_AT_ONCE = 200  # of one query: while it reads, the library needs many times the memory of the result


def open_store(uri: str) -> MlflowClient:
    """A client of an existing store; MLflow itself would create a missing one and migrate an older one."""
    if uri.startswith(tuple(DATABASE_ENGINES)):
        try:
            url = make_url(uri)
            if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
                raise UserError(
                    f"there is no MLflow store at {uri}; run a study first, or set MLFLOW_TRACKING_URI to one"
                )
            _require_this_schema(url)
        except (ArgumentError, ImportError) as error:  # an ImportError: no driver for that database
            raise UserError(f"MLFLOW_TRACKING_URI names no store that can be opened: {error}") from None
    return MlflowClient(tracking_uri=uri)


def _require_this_schema(url: URL) -> None:
    """UserError where a database is not a store of the MLflow that is installed. A URL prints without its password."""
    engine = create_engine(url)
    try:
        found, expected = schema._get_schema_version(engine), schema._get_latest_schema_revision()
    except SQLAlchemyError as error:
        raise UserError(f"{url} cannot be read as an MLflow store: {str(error).splitlines()[0]}") from None
    finally:
        engine.dispose()
    if not found:
        raise UserError(f"{url} has no tables of MLflow; run a study first, or set MLFLOW_TRACKING_URI to a store")
    if found != expected:
        scripts = ScriptDirectory.from_config(schema._get_alembic_config(db_url=""))
        older = found in {each.revision for each in scripts.walk_revisions()}
        remedy = f"copy the store and run `mlflow db upgrade {url}`" if older else "install that version of MLflow"
        raise UserError(
            f"the store {url} was written by {'an older' if older else 'a newer'} version of MLflow (schema {found}; "
            f"this one has {expected}); {remedy}"
        )


def all_experiments(client: MlflowClient) -> list[Experiment]:
    """Every study's experiment that is not deleted, by name."""
    found: list[Experiment] = []
    token: str | None = ""
    while token is not None:
        page = client.search_experiments(page_token=token or None)
        found, token = found + list(page), page.token or None
    return sorted(
        (each for each in found if {record.DETAIL, record.SCALE} <= each.tags.keys()), key=lambda each: each.name
    )


def study_of(experiment: Experiment) -> tuple[str, str]:
    """The detail and scale that an experiment is about."""
    return experiment.tags[record.DETAIL], experiment.tags[record.SCALE]


def chosen_of(experiments: Sequence[Experiment]) -> dict[tuple[str, str], Experiment]:
    """The experiment of each detail and scale; of two, the one named after them, where new runs go."""
    ordered = sorted(
        experiments, key=lambda each: (each.name == record.study_name(*study_of(each)), each.last_update_time or 0)
    )
    return {study_of(each): each for each in ordered}


def twin_of(experiment: Experiment, chosen: Experiment) -> str:
    """A sentence on a second experiment with the tags of the same study."""
    return (
        f"the experiment {experiment.name} has the tags of {record.study_name(*study_of(experiment))} too; "
        f"only {chosen.name} is read: delete one, or import it into the other"
    )


def unknown_study(client: MlflowClient, detail: str, scale: str, found: Sequence[Experiment]) -> UserError:
    """The error for an unknown study: it names the recorded ones, or how to restore a deleted one."""
    name = record.study_name(detail, scale)
    deleted = client.get_experiment_by_name(name)
    if deleted is not None and deleted.lifecycle_stage == "deleted":
        remedy = f"mlflow experiments restore --experiment-id {deleted.experiment_id}"
        return UserError(f"the study {name} is deleted; restore it with: {remedy}")
    return UserError(not_recorded(name, detail, {each.name: study_of(each) for each in found}))


def runs_of(client: MlflowClient, experiments: list[str]) -> list[Run]:
    """Every run of an arm and seed in these experiments that is not deleted; a ceiling is no arm."""
    return [run for run in labelled_runs(client, experiments) if run.data.tags.get(record.ROLE) != record.CEILING]


def labelled_runs(client: MlflowClient, experiments: list[str], having: str = "") -> list[Run]:
    """Every run that is not deleted and has a label and a seed, a ceiling's too; `having` is a condition of MLflow's search."""
    found: list[Run] = []
    token: str | None = "" if experiments else None
    with collector_off():
        while token is not None:
            page = client.search_runs(experiments, having, max_results=RUNS_AT_ONCE, page_token=token or None)
            found, token = found + list(page), page.token or None
    return [
        run
        for run in found
        if record.ARM in run.data.tags and re.fullmatch(r"-?\d+", run.data.tags.get(record.SEED, ""))
    ]


@contextmanager
def collector_off() -> Iterator[None]:
    """Garbage collection off during queries, which create many small objects: collecting takes 2/3 of their time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def age(run: Run) -> tuple[int, int, str]:
    """Sort key of runs: the later requested, started one is larger."""
    return record.requested(run.data.tags), run.info.start_time, run.info.run_id
