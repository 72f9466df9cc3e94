"""Attaches to recorded runs what is made from them: a study's report, and a judge's word on a run."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.entities import Run as Recorded
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from repro import record
from repro.tracking import present
from repro.tracking.parent_run import describe_study, gather
from repro.tracking.store import client, find_study, store_uri, usable_store


def publish_report(detail: str, scale: str, folder: Path, verdict: str) -> None:
    """Keep a built report with its study, and have MLflow's pages say its verdict; again, it takes the earlier's place.

    UserError where the store cannot be used, or holds no run of such a study.
    """
    with usable_store():
        store, experiment = client(), find_study(detail, scale)
        parent, told = gather(store, experiment)
        drop_report(parent)
        store.log_artifacts(parent.info.run_id, str(folder), present.REPORT)
        verdict = present.reported(verdict, experiment.experiment_id, parent.info.run_id)
        describe_study(store, experiment, parent, present.study_note(told, verdict))
        store.set_tag(parent.info.run_id, record.REPORTED, str(time.time_ns()))


def publish_judgement(run_id: str, judgement: Mapping[str, Any]) -> None:
    """Keep with a run what a judge said of its summaries; again, it takes the earlier's place, or changes nothing.

    UserError where the store cannot be used.
    """
    text = json.dumps(judgement, indent=1, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    with usable_store():
        store = client()
        if store.get_run(run_id).data.tags.get(record.JUDGED) == digest:
            return
        store.log_text(run_id, text, record.JUDGEMENT)
        when = int(time.time() * 1000)
        metrics = [Metric(name, value, when, 0) for name, value in judgement["metrics"].items()]
        store.log_batch(run_id, metrics=metrics)
        store.set_tag(run_id, record.JUDGED, digest)  # last: an interrupted publication is not taken for a whole one


def drop_report(parent: Recorded) -> None:
    """Remove the report that a study has, if any: a newer one may have fewer files."""
    get_artifact_repository(parent.info.artifact_uri, tracking_uri=store_uri()).delete_artifacts(present.REPORT)
