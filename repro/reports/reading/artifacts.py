"""Reads the artifacts of runs: samples, checks of the data, and judgements."""

import json
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import mlflow.artifacts
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from sqlalchemy.engine import make_url

from repro import record
from repro.errors import UserError
from repro.reports.reading.store import open_store
from repro.reports.reading.study import Study

LOGGED = "mlflow.loggedArtifacts"  # tag in which MLflow says which tables a run has logged


def samples_of(
    uri: str, runs: pd.DataFrame, kept: dict[str, Run]
) -> tuple[dict[tuple[str, int], pd.DataFrame], tuple[str, ...]]:
    """The logged samples of each arm and seed, and what is missing or damaged of the runs that finished."""
    found, missing, troubles = {}, [], []
    for row in runs.itertuples():
        try:
            path = artifact(uri, kept[row.run_id], record.SAMPLES)
            found[row.arm, row.seed] = _sample(path)
        except UserError:
            missing += [f"{row.arm} seed {row.seed}"] if row.outcome == record.FINISHED else []
        except ValueError as error:
            troubles.append(
                f"{record.SAMPLES} of {row.arm} seed {row.seed} is damaged ({error}); its samples are left out"
            )
    if missing:
        which = ", ".join(missing)
        troubles.append(f"{record.SAMPLES} is missing for {which}: it was not logged, or is not where the store says")
    return found, tuple(troubles)


def gone(study: Study) -> list[str]:
    """The runs that once logged samples, of which the store's artifact files are not there."""
    without = study.runs[[(row.arm, row.seed) not in study.samples for row in study.runs.itertuples()]]
    client = open_store(study.uri)
    return [
        f"{row.arm} seed {row.seed}"
        for row in without.itertuples()
        for run in [client.get_run(row.run_id)]
        if f'"{record.SAMPLES}"' in run.data.tags.get(LOGGED, "") and not _is_there(study.uri, run)
    ]


def _is_there(uri: str, run: Run) -> bool:
    """Whether a run's samples can be found; whether they can be read is another question."""
    try:
        return artifact(uri, run, record.SAMPLES).is_file()
    except UserError:
        return False


def read_data(study: Study) -> dict[str, dict]:
    """Key of the data stage -> the checks of its data; runs of earlier versions have none."""
    client = open_store(study.uri)
    found: dict[str, dict] = {}
    for run in study.runs.to_dict("records"):
        key = run.get(record.stage_tag("data"))
        if isinstance(key, str) and key not in found:
            with suppress(UserError, ValueError):
                path = artifact(study.uri, client.get_run(run["run_id"]), record.DATA_CHECKS)
                checks = json.loads(path.read_text(encoding="utf-8"))
                found |= {key: checks} if isinstance(checks, dict) and record.DATA_CHECK_PARTS <= checks.keys() else {}
    return found


def read_config(study: Study) -> dict:
    """The configuration of the first run whose file is there: every choice of every arm, every field of the scale."""
    client = open_store(study.uri)
    for run_id in study.runs["run_id"]:
        with suppress(UserError, ValueError):
            found = json.loads(artifact(study.uri, client.get_run(run_id), record.CONFIG).read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return found
    return {}


def _sample(path: Path) -> pd.DataFrame:
    """A table of samples; text stays text even where it reads like a number. ValueError where the file is damaged."""
    try:
        table = pd.read_json(path, orient="split", dtype=False)
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(error) from None
    if missing := record.SAMPLE_COLUMNS - set(table.columns):
        raise ValueError(f"no column {', '.join(sorted(missing))}")
    return table


def artifact(uri: str, run: Run, name: str) -> Path:
    """An artifact of a run as a local file; UserError where the run has none of that name.

    A store has the absolute paths of its files. A copied or moved store has the files beside its database.
    """
    address = run.info.artifact_uri
    missing = UserError(
        f"run {run.info.run_name} has no artifact {name}; it was not logged, or its files are elsewhere"
    )
    local = urlsplit(address).scheme in ("", "file")
    folders = [Path(local_file_uri_to_path(address))] if local else []
    if uri.startswith("sqlite:"):  # a server keeps a folder for each experiment
        beside = Path(make_url(uri).database or "").parent / record.ARTIFACTS
        folders += [beside / run.info.run_id / "artifacts"]
        folders += [beside / run.info.experiment_id / run.info.run_id / "artifacts"]
    found = [folder / name for folder in folders if (folder / name).is_file()]
    if found:
        return found[0]
    if local:
        raise missing
    try:
        if name in {each.path for each in MlflowClient(tracking_uri=uri).list_artifacts(run.info.run_id)}:
            downloaded = mlflow.artifacts.download_artifacts(
                run_id=run.info.run_id, artifact_path=name, tracking_uri=uri
            )
            return Path(downloaded)
    except (MlflowException, OSError, ImportError):  # an ImportError: no driver for the kind of storage
        pass
    raise missing


def read_judgements(study: Study) -> tuple[dict[tuple[str, int], dict], tuple[str, ...]]:
    """(arm, seed) -> judgement of a run's summaries, for the runs that were judged; and sentences on damaged files."""
    client, found, troubles = open_store(study.uri), {}, []
    for row in study.runs[study.runs["judged"]].itertuples():
        try:
            judgement = json.loads(
                artifact(study.uri, client.get_run(row.run_id), record.JUDGEMENT).read_text(encoding="utf-8")
            )
            if missing := record.JUDGEMENT_PARTS - judgement.keys():
                raise ValueError(f"no {', '.join(sorted(missing))}")
            found[row.arm, row.seed] = judgement
        except (UserError, ValueError, AttributeError) as error:
            troubles.append(f"{record.JUDGEMENT} of {row.arm} seed {row.seed} cannot be read ({error}).")
    return found, tuple(troubles)
