"""The only module that writes MLflow: it publishes what the stages left in their folders.

A stage's journal is the record; the store is a copy of it. So a crash of the store loses nothing, workers need no
MLflow, and publishing twice changes nothing: a run is found by its `record` tag, points carry the journal's own time
and step.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from repro import pipeline, stage
from repro.ablation import Ablation
from repro.details import DETAILS
from repro.errors import UserError
from repro.launch import Board
from repro.pipeline import STAGES

# The journals wait for a store that does not answer; waiting here would keep the workers idle.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

DEFAULT_STORE = "sqlite:///mlflow.db"
ARTIFACTS = Path("mlartifacts")
BATCH, PARAMS_AT_ONCE = 1_000, 100  # MLflow's limits on metrics and on parameters in one call
LARGEST_CHECKPOINT = 256 * 2**20  # bytes that are copied into the store; a larger one is named by its folder
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError, ImportError)  # an ImportError: no driver for that database
LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "mlflow", "pandas")


@dataclass
class Run:
    """One arm and seed in the store, and up to which time each stage's journal is there."""

    run_id: str
    arm: str
    seed: int
    keys: Mapping[str, str]
    over: bool
    until: dict[str, float] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)


def store_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


@contextmanager
def usable_store() -> Iterator[None]:
    """What goes wrong with the store inside becomes a UserError."""
    try:
        yield
    except STORE_ERRORS as error:
        raise UserError(
            f"the MLflow store {store_uri()} cannot be used: {_gist(error)}; set MLFLOW_TRACKING_URI to "
            "one that can, and give the same command: nothing is computed twice"
        ) from None


def _gist(error: Exception) -> str:
    """An error's first sentence."""
    return re.split(r"\n|\. ", str(error).strip())[0]


def _alone(cache: Path) -> FileLock:
    """Held while a study is opened: of several processes on a fresh sqlite file only one can make its tables."""
    file = make_url(store_uri()).database if store_uri().startswith("sqlite:") else str(cache / "store")
    return FileLock(f"{file}.lock")


def open_experiment(detail: str, scale: str) -> tuple[MlflowClient, str]:
    """The client, and the id of the study's experiment, made now if need be: before any worker starts."""
    client, name = MlflowClient(tracking_uri=store_uri()), f"{detail}-{scale}"
    found = client.get_experiment_by_name(name)
    if found and found.lifecycle_stage == "deleted":
        raise UserError(
            f"the MLflow experiment {name} is deleted; restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or remove it for good (mlflow gc)"
        )
    if found:
        return client, found.experiment_id
    location = {"artifact_location": ARTIFACTS.resolve().as_uri()} if store_uri().startswith("sqlite:") else {}
    return client, client.create_experiment(name, tags={"detail": detail, "scale": scale}, **location)


def recorded_studies() -> list[tuple[str, str]]:
    """(detail, scale) of each study that the store holds."""
    with usable_store():
        tags = [each.tags for each in MlflowClient(tracking_uri=store_uri()).search_experiments()]
    return sorted((each["detail"], each["scale"]) for each in tags if {"detail", "scale"} <= each.keys())


def require_store(cache: Path) -> None:
    """UserError where the store cannot be used, before anything is spent."""
    with usable_store(), _alone(cache):
        MlflowClient(tracking_uri=store_uri()).search_experiments(max_results=1)


class Tracker:
    """Publishes a study while it runs: call `update` as often as you like, and `close` at the end.

    `trouble` says why the last `update` failed: it is made good by the next one that does not.
    """

    def __init__(self, study: Ablation, board: Board, command: str) -> None:
        self.study, self.board, self.trouble = study, board, ""
        with usable_store(), _alone(board.cache):
            self.client, self.experiment = open_experiment(study.detail.name, study.scale.name)
            found = self.client.search_runs([self.experiment], max_results=5_000)
            known = {run.data.tags.get("record"): run for run in found}
            facts = _facts(study, command)
            self.runs = [self._open(arm, seed, known, facts) for seed in study.seeds for arm in study.arms]

    def _open(self, arm: str, seed: int, known: Mapping[str | None, Any], facts: Mapping[str, str]) -> Run:
        """The run of this arm and seed: the one that is there, or a new one that says what was declared before it."""
        recipe = self.study.arms[arm]
        keys = pipeline.keys(recipe, self.study.scale, seed)
        identity = json.dumps([self.study.scale.name, arm, seed, keys], sort_keys=True)
        record = hashlib.sha256(identity.encode()).hexdigest()[:16]
        asked = str(time.time_ns())
        if record in known:
            if _replaced(known[record], known.values()):
                self.client.set_tag(known[record].info.run_id, "asked", asked)
            return Run(known[record].info.run_id, arm, seed, keys, over=self._take_up(known[record]))
        tags = {
            **facts,
            "record": record,
            "asked": asked,
            "arm": arm,
            "seed": str(seed),
            "reference": str(arm == self.study.detail.reference).lower(),
            "recipe": json.dumps(dict(recipe.choices)),
            **{f"stage.{name}": key for name, key in keys.items()},
        }
        run = self.client.create_run(self.experiment, tags=tags, run_name=f"{arm}-seed{seed}")
        params = {name: recipe.label(detail) for name, detail in DETAILS.items()} | {"seed": str(seed)}
        params |= {f"scale.{name}": _short(value) for name, value in asdict(self.study.scale).items()}
        listed = [Param(name, value) for name, value in params.items()]
        for start in range(0, len(listed), PARAMS_AT_ONCE):
            self.client.log_batch(run.info.run_id, params=listed[start : start + PARAMS_AT_ONCE])
        return Run(run.info.run_id, arm, seed, keys, over=False)

    def _take_up(self, run: Any) -> bool:
        """Whether the run is complete; one that is not goes on, and how it ended last time is forgotten."""
        complete = run.info.status == "FINISHED" and run.data.tags.get("complete") == "true"
        if not complete:
            self.client.update_run(run.info.run_id, status="RUNNING")
            for tag in {"outcome", "error"} & run.data.tags.keys():
                self.client.delete_tag(run.info.run_id, tag)
        return complete

    @property
    def over(self) -> bool:
        """Whether every run is published to its end."""
        return all(run.over for run in self.runs)

    def update(self) -> None:
        """Publish what the journals have gained since the last call."""
        try:
            self._publish_all()
            self.trouble = ""
        except STORE_ERRORS as error:
            self.trouble = _gist(error)

    def _publish_all(self) -> None:
        for run in self.runs:
            if not run.over:
                self._publish(run)

    def _publish(self, run: Run) -> None:
        for each in STAGES:
            key = run.keys[each.name]
            done = key in self.board.done
            folder = self.board.cache / key
            if done and each.name not in run.finished:
                self._curves(run, each.name, stage.read_journal(folder))
                self._final(run, each.name, folder)
                run.finished.add(each.name)
            elif key in self.board.running:
                self._curves(run, each.name, self.board.journal(key))
        failed = [self.board.failed[key] for key in run.keys.values() if key in self.board.failed]
        if failed or len(run.finished) == len(STAGES):
            self._end(run, failed)

    def _curves(self, run: Run, name: str, lines: list[dict]) -> None:
        # By time, not by count: a stage that begins again has a new journal.
        fresh = [line for line in lines if line["time"] > run.until.get(name, 0.0)]
        metrics = [
            Metric(metric, value, int(line["time"] * 1000), line["step"])
            for line in fresh
            for metric, value in line["metrics"].items()
        ]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run.run_id, metrics=metrics[start : start + BATCH])
        run.until[name] = max((line["time"] for line in lines), default=0.0)

    def _final(self, run: Run, name: str, folder: Path) -> None:
        result = json.loads((folder / stage.RESULT).read_text())
        when = int(json.loads((folder / stage.DONE).read_text())["finished"] * 1000)
        tags = [RunTag("outcome", result["outcome"])] if result["outcome"] != "finished" else []
        metrics = [Metric(metric, value, when, 0) for metric, value in result["metrics"].items()]
        self.client.log_batch(run.run_id, metrics=metrics, tags=tags)
        log = {"data": self._log_data, "ppo": self._log_checkpoint, "evaluate": self._log_samples}
        if name in log:
            log[name](run, folder)

    def _log_data(self, run: Run, folder: Path) -> None:
        digests = json.loads((folder / stage.DONE).read_text())["files"]
        splits: dict[str, str] = {}
        for file in sorted(file for file in digests if file.endswith(".arrow")):
            split = str(Path(file).parent)
            splits[split] = splits.get(split, "") + digests[file]
        source = json.dumps({"uri": str(folder)})
        self.client.log_inputs(
            run.run_id,
            datasets=[
                DatasetInput(
                    Dataset(
                        name=split,
                        digest=hashlib.sha256(content.encode()).hexdigest()[:16],
                        source_type="local",
                        source=source,
                    )
                )
                for split, content in splits.items()
            ],
        )

    def _log_checkpoint(self, run: Run, folder: Path) -> None:
        model = folder / "model"
        if sum(file.stat().st_size for file in model.rglob("*")) > LARGEST_CHECKPOINT:
            self.client.set_tag(run.run_id, "checkpoint", str(model))
        else:
            self.client.log_artifacts(run.run_id, str(model), "checkpoint")

    def _log_samples(self, run: Run, folder: Path) -> None:
        # A table is appended to, so an interrupted publication must not be repeated.
        if any(file.path == "samples.json" for file in self.client.list_artifacts(run.run_id)):
            return
        rows = json.loads((folder / "samples.json").read_text())
        self.client.log_table(run.run_id, {name: [row.get(name) for row in rows] for name in rows[0]}, "samples.json")

    def _end(self, run: Run, failed: list[str]) -> None:
        seconds = {}
        for name in run.finished:
            seconds[name] = json.loads((self.board.cache / run.keys[name] / stage.DONE).read_text())["seconds"]
        outcome = self.client.get_run(run.run_id).data.tags.get("outcome", "finished")
        self.client.log_batch(
            run.run_id,
            tags=[
                RunTag("stage_seconds", json.dumps(seconds)),
                RunTag("outcome", "failed" if failed else outcome),
                RunTag("complete", str(not failed).lower()),
                *(RunTag("error", failed[0][:5_000]) for _ in failed[:1]),
            ],
        )
        self.client.set_terminated(run.run_id, status="FAILED" if failed else "FINISHED")
        run.over = True

    def close(self) -> None:
        """Publish the rest; a run that did not get to its end is marked as killed, and taken up again next time."""
        with usable_store():
            self._publish_all()
            for run in self.runs:
                if not run.over:
                    self.client.set_terminated(run.run_id, status="KILLED")


def _replaced(run: Any, runs: Iterable[Any]) -> bool:
    """Whether another run of the same arm and seed was asked for later: a report would take that one."""

    def asked(of: Any) -> int:
        return int(of.data.tags.get("asked", 0))

    return any(
        asked(other) > asked(run) and all(other.data.tags.get(name) == run.data.tags[name] for name in ("arm", "seed"))
        for other in runs
    )


def _facts(study: Ablation, command: str) -> dict[str, str]:
    """The tags that all runs of a study share."""
    detail = study.detail
    return {
        "detail": detail.name,
        "scale": study.scale.name,
        "question": study.question,
        "hypothesis": detail.hypothesis,
        "moves": json.dumps(dict(detail.moves)),
        "paper": detail.paper,
        "primary": study.primary,
        "higher_is_better": str(study.higher_is_better).lower(),
        "smallest_effect": str(study.smallest_effect),
        "judge": "gold score" if study.scale.corpus == "embedded" else "reward model",
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}",
        "versions": json.dumps({name: version(name) for name in LIBRARIES}),
        "command": command,
    }


def _commit() -> str:
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return answer.stdout.strip() or "not a git checkout"


def _short(value: Any) -> str:
    """A path by its last part: where it lies on this machine is nobody's business."""
    text = str(value)
    return Path(text).name if "/" in text and not text.startswith("gpt-neox:") else text
