"""Publishes the results of stages, from their folders in the cache, as runs in MLflow.

A stage writes its metrics to a journal, and the store gets a copy. So a crash of the store loses nothing, workers need no
MLflow, and publishing twice changes nothing: a run is found by its `record` tag, and a metric's point has the journal's
time and step.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as Recorded

from repro import record
from repro.details import DETAILS
from repro.engine import artefacts, pipeline
from repro.engine.launch import Board
from repro.engine.pipeline import STAGES
from repro.stages import describe, stage
from repro.study.ablation import Ablation
from repro.tracking import policy, present
from repro.tracking.facts import changes_since_commit, shared_tags, short
from repro.tracking.parent_run import PARENT, open_parent
from repro.tracking.store import (
    METRICS_AT_ONCE,
    PARAMS_AT_ONCE,
    STORE_ERRORS,
    first_sentence,
    open_experiment,
    runs_of,
    store_lock,
    usable_store,
)

# The data stage's metric for the size of a split.
SPLIT_SIZES = {"posts": "data/{}_posts", "pairs": "data/{}_comparisons"}
MOST_CHANGES = 8  # that a run says of a stage: a tag holds 8,000 characters
LARGEST_CHECKPOINT = 256 * 2**20  # bytes; of a larger checkpoint the store gets only the path


@dataclass
class Run:
    """A run in the store (one arm and seed), and what of it is published."""

    run_id: str
    arm: str
    seed: int
    keys: Mapping[str, str]
    ended: bool
    model: str = ""  # id of its policy in the store
    published_until: dict[str, float] = field(default_factory=dict)  # stage -> time of its last published journal line
    finished_stages: set[str] = field(default_factory=set)


class Tracker:
    """Publishes a study while it runs: call `update` now and then, and `close` at the end.

    `trouble` says why the last `update` failed, if it did; the next one that succeeds publishes the rest.
    """

    def __init__(self, study: Ablation, board: Board, command: str) -> None:
        self.study, self.board, self.trouble = study, board, ""
        self.changes = changes_since_commit()
        self.described: set[str] = set()  # keys of the data artefacts whose checks are in the store
        with usable_store(), store_lock(board.cache):
            self.client, experiment = open_experiment(study.detail.name, study.scale.name)
            self.experiment = experiment.experiment_id
            found = runs_of(self.client, self.experiment)
            known = {run.data.tags[record.RECORD]: run for run in found if record.RECORD in run.data.tags}
            facts = shared_tags(study, command)
            arm_seeds = {(arm, str(seed)) for arm in study.arms for seed in study.seeds}
            parent = open_parent(self.client, experiment, found, facts, arm_seeds)
            self.parent = parent.info.run_id
            self.runs = [self._open(arm, seed, known, facts) for seed in study.seeds for arm in study.arms]
            # Whether every run and the parent run are published to their end.
            self.ended = parent.info.status == "FINISHED" and all(run.ended for run in self.runs)
            if not self.ended:
                self.client.update_run(self.parent, status="RUNNING")

    def _open(self, arm: str, seed: int, known: Mapping[str, Recorded], facts: Mapping[str, str]) -> Run:
        """The recorded run of this arm and seed, or a new one, tagged with the plan before it starts."""
        recipe = self.study.arms[arm]
        keys = pipeline.keys(recipe, self.study.scale, seed)
        editions = {name: artefacts.edition(self.board.cache / key) for name, key in keys.items()}
        again = [editions] if any(editions.values()) else []  # stages that were made again under their key
        identity = json.dumps([self.study.scale.name, arm, seed, keys, *again], sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        now = str(time.time_ns())
        if digest in known:
            if _replaced(known[digest], known.values()):
                self.client.set_tag(known[digest].info.run_id, record.REQUESTED, now)
            return Run(known[digest].info.run_id, arm, seed, keys, ended=self._resume(known[digest]))
        tags = {
            **facts,
            PARENT: self.parent,
            present.NOTE: present.run_note(self.study, arm, seed),
            record.RECORD: digest,
            record.REQUESTED: now,
            record.ARM: arm,
            record.SEED: str(seed),
            record.REFERENCE: record.flag(arm == self.study.detail.reference),
            record.RECIPE: json.dumps(dict(recipe.choices)),
            **{record.stage_tag(name): key for name, key in keys.items()},
        }
        run = self.client.create_run(self.experiment, tags=tags, run_name=present.run_name(arm, seed))
        params = {name: recipe.label(detail) for name, detail in DETAILS.items()} | {"seed": str(seed)}
        params |= {f"scale.{name}": short(value) for name, value in asdict(self.study.scale).items()}
        listed = [Param(name, value) for name, value in params.items()]
        for start in range(0, len(listed), PARAMS_AT_ONCE):
            self.client.log_batch(run.info.run_id, params=listed[start : start + PARAMS_AT_ONCE])
        if self.changes:
            self.client.log_text(run.info.run_id, self.changes, record.CHANGES)
        return Run(run.info.run_id, arm, seed, keys, ended=False)

    def _resume(self, run: Recorded) -> bool:
        """Whether the run is complete; one that is not is set to running, without its earlier outcome."""
        complete = run.info.status == "FINISHED" and record.is_set(run.data.tags, record.COMPLETE)
        if not complete:
            self.client.update_run(run.info.run_id, status="RUNNING")
            for tag in {record.OUTCOME, record.ERROR} & run.data.tags.keys():
                self.client.delete_tag(run.info.run_id, tag)
        return complete

    def update(self) -> None:
        """Publish what has been added to the journals since the last call."""
        try:
            self._publish_all()
            self.trouble = ""
        except STORE_ERRORS as error:
            self.trouble = first_sentence(error)

    def _publish_all(self) -> None:
        for run in self.runs:
            if not run.ended:
                self._publish(run)
        if not self.ended and all(run.ended for run in self.runs):
            self.client.set_terminated(self.parent)
            self.ended = True

    def _publish(self, run: Run) -> None:
        for each in STAGES:
            key = run.keys[each.name]
            done = key in self.board.done
            folder = self.board.cache / key
            if done and each.name not in run.finished_stages:
                self._curves(run, each.name, stage.read_journal(folder))
                self._final(run, each.name, folder)
                run.finished_stages.add(each.name)
            elif key in self.board.running:
                self._curves(run, each.name, self.board.journal(key))
        failed = [self.board.failed[key] for key in run.keys.values() if key in self.board.failed]
        if failed or len(run.finished_stages) == len(STAGES):
            self._end(run, failed)

    def _curves(self, run: Run, name: str, lines: list[dict]) -> None:
        # By time, not by count: a stage that is started again writes a new journal.
        fresh = [line for line in lines if line["time"] > run.published_until.get(name, 0.0)]
        metrics = [
            Metric(metric, value, int(line["time"] * 1000), line["step"])
            for line in fresh
            for metric, value in line["metrics"].items()
        ]
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self.client.log_batch(run.run_id, metrics=metrics[start : start + METRICS_AT_ONCE])
        run.published_until[name] = max((line["time"] for line in lines), default=0.0)

    def _final(self, run: Run, name: str, folder: Path) -> None:
        result = json.loads((folder / stage.RESULT).read_text())
        when = int(json.loads((folder / stage.DONE).read_text())["finished"] * 1000)
        tags = [RunTag(record.OUTCOME, result["outcome"])] if result["outcome"] != record.FINISHED else []
        # The policy is in the store before its evaluation, whose metrics MLflow shows on the policy's page.
        of_policy = {"model_id": run.model} if name == "evaluate" and run.model else {}
        metrics = [Metric(metric, value, when, 0, **of_policy) for metric, value in result["metrics"].items()]
        self.client.log_batch(run.run_id, metrics=metrics, tags=tags)
        log = {"data": self._log_data, "ppo": self._log_policy, "evaluate": self._log_samples}
        if name in log:
            log[name](run, folder)

    def _log_data(self, run: Run, folder: Path) -> None:
        digests = json.loads((folder / stage.DONE).read_text())["files"]
        splits: dict[str, str] = {}
        for file in sorted(file for file in digests if file.endswith(".arrow")):
            split = Path(file).parent.as_posix()
            splits[split] = splits.get(split, "") + digests[file]
        sizes = json.loads((folder / stage.RESULT).read_text())["metrics"]
        datasets = [_dataset(*split.split("/"), content, str(folder), sizes) for split, content in splits.items()]
        try:
            self.client.log_inputs(run.run_id, datasets=datasets)
        except STORE_ERRORS as error:  # another process wrote the same dataset in the meantime
            if "unique constraint" not in str(error).lower():
                raise
            self.client.log_inputs(run.run_id, datasets=datasets)
        checks = folder / describe.FILE
        if checks.is_file() and run.keys["data"] not in self.described:  # once for all runs that share it
            self.client.log_text(run.run_id, checks.read_text(), record.DATA_CHECKS)
            self.described.add(run.keys["data"])

    def _log_policy(self, run: Run, folder: Path) -> None:
        checkpoint = folder / "model"
        if (folder / record.EPISODES).is_file():
            self.client.log_artifact(run.run_id, str(folder / record.EPISODES))
        if sum(file.stat().st_size for file in checkpoint.rglob("*")) > LARGEST_CHECKPOINT:
            self.client.set_tag(run.run_id, policy.CHECKPOINT, str(checkpoint))
            return
        tokenizer = self.board.cache / run.keys["data"] / "tokenizer"
        save = partial(policy.save, checkpoint, tokenizer, self.study.scale.response_tokens)
        tags = {record.DETAIL: self.study.detail.name, record.ARM: run.arm, record.SEED: str(run.seed)}
        # `publish` deletes an incomplete policy; under the lock it cannot be one that another process is writing.
        with store_lock(self.board.cache):
            try:
                run.model = policy.publish(self.client, self.experiment, run.run_id, tags, save)
            except policy.CannotPackage as error:  # the rest of the run is published
                self.client.set_tag(run.run_id, "policy_trouble", str(error)[:5_000])

    def _log_samples(self, run: Run, folder: Path) -> None:
        # MLflow appends to a table that exists.
        if any(file.path == record.SAMPLES for file in self.client.list_artifacts(run.run_id)):
            return
        rows = json.loads((folder / record.SAMPLES).read_text())
        self.client.log_table(run.run_id, {name: [row.get(name) for row in rows] for name in rows[0]}, record.SAMPLES)

    def _end(self, run: Run, failed: list[str]) -> None:
        seconds = {}
        for name in run.finished_stages:
            seconds[name] = json.loads((self.board.cache / run.keys[name] / stage.DONE).read_text())["seconds"]
        recorded = self.client.get_run(run.run_id).data
        outcome = record.FAILED if failed else recorded.tags.get(record.OUTCOME, record.FINISHED)
        note = present.run_note(self.study, run.arm, run.seed)
        ending = present.outcome_note(outcome, self.study.primary, recorded.metrics, failed[:1])
        self.client.log_batch(
            run.run_id,
            tags=[
                RunTag(record.STAGE_SECONDS, json.dumps(seconds)),
                RunTag(record.OUTCOME, outcome),
                RunTag(present.NOTE, f"{note}\n\n{ending}"),
                RunTag(record.COMPLETE, record.flag(not failed)),
                RunTag(record.OUTDATED, json.dumps(self._outdated(run))),
                *(RunTag(record.ERROR, failed[0][:5_000]) for _ in failed[:1]),
            ],
        )
        self.client.set_terminated(run.run_id, status="FAILED" if failed else "FINISHED")
        run.ended = True

    def _outdated(self, run: Run) -> dict[str, list[str]]:
        """Stage -> what of its code has changed since its artefact was made, of those that were taken from the cache."""
        return {
            name: list(self.board.outdated[key])[:MOST_CHANGES]
            for name, key in run.keys.items()
            if key in self.board.outdated and key in self.board.done
        }

    def close(self) -> None:
        """Publish the rest; a run that has not ended is marked as killed, and resumed next time."""
        with usable_store():
            self._publish_all()
            for run in self.runs:
                if not run.ended:
                    self.client.set_terminated(run.run_id, status="KILLED")
            if not self.ended:
                self.client.set_terminated(self.parent, status="KILLED")


def _dataset(kind: str, split: str, content: str, folder: str, sizes: Mapping[str, float]) -> DatasetInput:
    """A split as an MLflow dataset; `content` is the digests of its files."""
    dataset = Dataset(
        name=f"{kind}/{split}",
        digest=hashlib.sha256(content.encode()).hexdigest()[:16],
        source_type="local",
        source=json.dumps({"uri": folder}),
        profile=json.dumps({"num_rows": int(sizes[SPLIT_SIZES[kind].format(split)])}),
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", split)])


def _replaced(run: Recorded, runs: Iterable[Recorded]) -> bool:
    """Whether another run of the same arm and seed was requested later, so that reports would use that one."""
    own = run.data.tags
    return any(
        record.requested(other.data.tags) > record.requested(own)
        and all(other.data.tags.get(name) == own[name] for name in (record.ARM, record.SEED))
        for other in runs
    )
