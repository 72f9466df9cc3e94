"""The only module that writes MLflow: it publishes what the stages left in their folders.

A stage's journal is the record; the store is a copy of it. So a crash of the store loses nothing, workers need no MLflow,
and publishing twice changes nothing: a run is found by its `record` tag, points carry the journal's own time and step.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from repro import stage
from repro.ablation import Ablation
from repro.details import DETAILS
from repro.errors import UserError
from repro.launch import Board
from repro.pipeline import STAGES

DEFAULT_STORE = "sqlite:///mlflow.db"
ARTIFACTS = Path("mlartifacts")
BATCH = 1_000  # MLflow's limit on metrics in one call
LARGEST_CHECKPOINT = 256 * 2**20  # bytes that are copied into the store; a larger one is named by its folder
LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "mlflow", "pandas")


@dataclass
class Run:
    """One arm and seed in the store, and how much of each journal is there."""

    run_id: str
    arm: str
    seed: int
    keys: Mapping[str, str]
    over: bool
    lines: dict[str, int] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)


def store_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_STORE)


def open_experiment(detail: str, scale: str) -> tuple[MlflowClient, str]:
    """The client, and the id of the study's experiment, made now if need be: before any worker starts."""
    uri = store_uri()
    try:
        client = MlflowClient(tracking_uri=uri)
        name = f"{detail}-{scale}"
        found = client.get_experiment_by_name(name)
        if found:
            return client, found.experiment_id
        location = {"artifact_location": ARTIFACTS.resolve().as_uri()} if uri.startswith("sqlite:") else {}
        return client, client.create_experiment(name, tags={"detail": detail, "scale": scale}, **location)
    except (MlflowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"the MLflow store {uri} cannot be used: {first}; set MLFLOW_TRACKING_URI to one that can") from None


class Tracker:
    """Publishes a study while it runs: call `update` as often as you like, and `close` at the end."""

    def __init__(self, study: Ablation, board: Board, command: str) -> None:
        self.study, self.board = study, board
        self.client, self.experiment = open_experiment(study.detail.name, study.scale.name)
        known = {run.data.tags.get("record"): run for run in self.client.search_runs([self.experiment], max_results=5_000)}
        facts = _facts(study, command)
        self.runs = [self._open(arm, seed, known, facts) for seed in study.seeds for arm in study.arms]

    def _open(self, arm: str, seed: int, known: Mapping[str | None, Any], facts: Mapping[str, str]) -> Run:
        """The run of this arm and seed: the one that is there, or a new one with everything declared before it starts."""
        from repro import pipeline

        recipe = self.study.arms[arm]
        keys = pipeline.keys(recipe, self.study.scale, seed)
        record = hashlib.sha256(json.dumps([self.study.scale.name, arm, seed, keys], sort_keys=True).encode()).hexdigest()[:16]
        if record in known:
            run = known[record]
            over = run.info.status in ("FINISHED", "FAILED") and run.data.tags.get("complete") == "true"
            if not over:
                self.client.update_run(run.info.run_id, status="RUNNING")
            return Run(run.info.run_id, arm, seed, keys, over)
        tags = {**facts, "record": record, "arm": arm, "seed": str(seed),
                "reference": str(arm == self.study.detail.reference).lower(),
                "recipe": json.dumps(dict(recipe.choices)), **{f"stage.{name}": key for name, key in keys.items()}}
        run = self.client.create_run(self.experiment, tags=tags, run_name=f"{arm}-seed{seed}")
        params = {name: recipe.label(detail) for name, detail in DETAILS.items()} | {"seed": str(seed)}
        params |= {f"scale.{name}": _short(value) for name, value in asdict(self.study.scale).items()}
        self.client.log_batch(run.info.run_id, params=[Param(name, value) for name, value in params.items()])
        return Run(run.info.run_id, arm, seed, keys, over=False)

    def update(self) -> None:
        """Publish what the journals have gained since the last call."""
        for run in self.runs:
            if not run.over:
                self._publish(run)

    def _publish(self, run: Run) -> None:
        for each in STAGES:
            key = run.keys[each.name]
            done = key in self.board.done
            folder = self.board.cache / key
            if done and each.name not in run.finished:
                self._curves(run, each.name, folder)
                self._final(run, each.name, folder)
                run.finished.add(each.name)
            elif key in self.board.running:
                self._curves(run, each.name, stage.partial_folder(folder))
        failed = [self.board.failed[key] for key in run.keys.values() if key in self.board.failed]
        if failed or len(run.finished) == len(STAGES):
            self._end(run, failed)

    def _curves(self, run: Run, name: str, folder: Path) -> None:
        lines = stage.read_journal(folder)
        fresh = lines[run.lines.get(name, 0):]
        metrics = [Metric(metric, value, int(line["time"] * 1000), line["step"])
                   for line in fresh for metric, value in line["metrics"].items()]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run.run_id, metrics=metrics[start:start + BATCH])
        run.lines[name] = len(lines)

    def _final(self, run: Run, name: str, folder: Path) -> None:
        result = json.loads((folder / stage.RESULT).read_text())
        when = int(json.loads((folder / stage.DONE).read_text())["finished"] * 1000)
        tags = [RunTag("outcome", result["outcome"])] if result["outcome"] != "finished" else []
        self.client.log_batch(run.run_id, metrics=[Metric(k, v, when, 0) for k, v in result["metrics"].items()], tags=tags)
        {"data": self._log_data, "ppo": self._log_checkpoint, "evaluate": self._log_samples}.get(name, lambda *_: None)(run, folder)

    def _log_data(self, run: Run, folder: Path) -> None:
        digests = json.loads((folder / stage.DONE).read_text())["files"]
        inputs = []
        for split in sorted({str(Path(file).parent) for file in digests if file.endswith(".arrow")}):
            digest = hashlib.sha256("".join(digests[f] for f in sorted(digests) if f.startswith(split) and f.endswith(".arrow"))
                                    .encode()).hexdigest()[:16]
            inputs.append(DatasetInput(Dataset(name=split, digest=digest, source_type="local", source=json.dumps({"uri": str(folder)}))))
        self.client.log_inputs(run.run_id, datasets=inputs)

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
        self.client.log_batch(run.run_id, tags=[
            RunTag("stage_seconds", json.dumps(seconds)), RunTag("outcome", "failed" if failed else outcome),
            RunTag("complete", str(not failed).lower()), *(RunTag("error", failed[0][:5_000]) for _ in failed[:1])])
        self.client.set_terminated(run.run_id, status="FAILED" if failed else "FINISHED")
        run.over = True

    def close(self) -> None:
        """Publish the rest; a run that did not get to its end is marked as interrupted, and taken up again next time."""
        self.update()
        for run in self.runs:
            if not run.over:
                self.client.set_terminated(run.run_id, status="KILLED")


def _facts(study: Ablation, command: str) -> dict[str, str]:
    """The tags that all runs of a study share."""
    detail = study.detail
    return {
        "detail": detail.name, "scale": study.scale.name, "question": study.question, "hypothesis": detail.hypothesis,
        "moves": json.dumps(dict(detail.moves)), "paper": detail.paper, "primary": study.primary,
        "higher_is_better": str(study.higher_is_better).lower(), "smallest_effect": str(study.smallest_effect),
        "judge": "gold score" if study.scale.corpus == "embedded" else "reward model", "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "versions": json.dumps({name: version(name) for name in LIBRARIES}), "command": command}


def _commit() -> str:
    answer = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True,
                            cwd=Path(__file__).parent)
    return answer.stdout.strip() or "not a git checkout"


def _short(value: Any) -> str:
    """A path by its last part: where it lies on this machine is nobody's business."""
    text = str(value)
    return Path(text).name if "/" in text and not text.startswith("gpt-neox:") else text
