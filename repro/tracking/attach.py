"""Adds to recorded runs what is made from them: the report of a study, and the judgement of a run's summaries."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.entities import Run as Recorded
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from repro import record
from repro.tracking import present
from repro.tracking.parent_run import describe_study, find_parent
from repro.tracking.store import client, find_study, store_lock, store_uri, usable_store


def publish_report(
    detail: str,
    scale: str,
    folder: Path,
    verdict: str,
    numbers: Mapping[str, float] = {},
    words: Mapping[str, str] = {},
) -> None:
    """Store a built report with its study's parent run, and the verdict in MLflow's descriptions; it replaces an earlier one.

    `numbers` become metrics of the parent run; `words` (arm -> verdict) its tags `verdict.ARM`, and the whole verdict its tag
    `verdict`. UserError where the store cannot be used, or holds no run of such a study.
    """
    # Studies that end together build the same pages, and publish them.
    with usable_store(writing=True), store_lock(folder.parent):
        store, experiment = client(), find_study(detail, scale)
        parent, tags = find_parent(store, experiment)
        drop_report(parent)
        store.log_artifacts(parent.info.run_id, str(folder), present.REPORT)
        text, verdict = verdict, present.verdict_with_link(verdict, experiment.experiment_id, parent.info.run_id)
        describe_study(store, experiment, parent, present.study_note(tags, verdict))
        _log_verdict(
            store, parent, numbers, {record.VERDICT: text} | {record.verdict_tag(arm): words[arm] for arm in words}
        )
        store.set_tag(parent.info.run_id, record.REPORTED, str(time.time_ns()))


def _log_verdict(store: MlflowClient, parent: Recorded, numbers: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """Numbers and words of a verdict, as metrics and tags of the parent run; a number that is there already adds no point."""
    when, known = int(time.time() * 1000), parent.data.metrics
    metrics = [Metric(name, value, when, 0) for name, value in numbers.items() if known.get(name) != value]
    store.log_batch(parent.info.run_id, metrics=metrics, tags=[RunTag(*each) for each in tags.items()])


def publish_judgement(run_id: str, judgement: Mapping[str, Any]) -> None:
    """Store a judgement with the run whose summaries it is about; it replaces an earlier one.

    UserError where the store cannot be used.
    """
    text = json.dumps(judgement, indent=1, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    with usable_store(writing=True):
        store = client()
        if store.get_run(run_id).data.tags.get(record.JUDGEMENT_DIGEST) == digest:
            return
        store.log_text(run_id, text, record.JUDGEMENT)
        when = int(time.time() * 1000)
        metrics = [Metric(name, value, when, 0) for name, value in judgement["metrics"].items()]
        store.log_batch(run_id, metrics=metrics)
        store.set_tag(run_id, record.JUDGEMENT_DIGEST, digest)  # last, so that an interrupted publication is repeated


def drop_report(parent: Recorded) -> None:
    """Remove a study's report, if there is one: a newer one may have fewer files."""
    drop(parent, present.REPORT)


def drop(run: Recorded, path: str) -> None:
    """Remove a file or folder from a run's artifacts."""
    get_artifact_repository(run.info.artifact_uri, tracking_uri=store_uri()).delete_artifacts(path)
