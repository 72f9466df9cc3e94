"""Publishes the results of stages, from their folders in the cache, as runs in MLflow.

A stage writes its metrics to a journal, and the store gets a copy, so a crash of the store loses nothing and workers need no
MLflow. After any number of kills and restarts a run's points are those of its journals, each once. Of one attempt at a
stage that holds by itself: a run is found by its `record` tag, a point has the journal's time, step and value, and MLflow
keeps equal points once. A stage that begins anew has other times, and where a number is measured or a GPU rounds other
values too; a point in MLflow cannot be taken back. So the run is replaced then (`runs.py`).

What was weighed against replacing: publishing a stage only once it cannot be taken back leaves nobody a curve to watch, since
most scales save no checkpoint; times made from the step do not help where values differ; and deleting rows by SQL needs a
database, where others have a server.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, RunTag
from mlflow.entities import Run as Recorded
from mlflow.exceptions import MlflowException
from mlflow.utils import chunk_list

from repro import record
from repro.engine import artefacts, pipeline
from repro.engine.dag import Dag
from repro.engine.pipeline import BY_NAME, STAGES
from repro.stages import describe, stage
from repro.study.ablation import Ablation
from repro.tracking import attach, points, policy, present, runs
from repro.tracking.facts import changes_since_commit, shared_tags
from repro.tracking.locks import STUDIES_SECONDS, TELL_SECONDS
from repro.tracking.parent_run import open_parent
from repro.tracking.runs import Run
from repro.tracking.store import (
    METRICS_AT_ONCE,
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
LOCK_SECONDS = TELL_SECONDS  # that an update waits for another study: workers wait for their jobs meanwhile
DELETED = LifecycleStage.DELETED
LARGEST_CHECKPOINT = 256 * 2**20  # bytes; of a larger checkpoint the store gets only the path


class Renewed(Exception):
    """A run was replaced; all of it is to be published again."""


class Tracker:
    """Publishes a study while it runs: call `update` now and then, and `close` at the end.

    `trouble` says why the last `update` failed, if it did; the next one that succeeds publishes the rest.
    """

    def __init__(self, study: Ablation, dag: Dag, command: str) -> None:
        self.study, self.dag, self.trouble, self.not_before = study, dag, "", 0.0
        self.lock_seconds = LOCK_SECONDS
        self.described: set[str] = set()  # keys of the data artefacts whose checks are in the store
        self.renewed: set[tuple[str, str, str]] = set()  # identity, stage and attempt that a run was replaced for
        with usable_store(writing=True), store_lock(dag.cache):
            self.client, experiment = open_experiment(study.detail.name, study.scale.name)
            self.experiment = experiment.experiment_id
            found = runs_of(self.client, self.experiment)
            # The newest of each: a person may have restored one that was replaced.
            known = {run.data.tags[record.RECORD]: run for run in reversed(found) if record.RECORD in run.data.tags}
            facts = shared_tags(study, command)
            arm_seeds = {(arm, str(seed)) for arm in study.arms for seed in study.seeds}
            parent = open_parent(self.client, experiment, found, facts, arm_seeds)
            self.parent = parent.info.run_id
            self.creation = runs.Creation(
                self.client, self.experiment, study, facts, self.parent, changes_since_commit()
            )
            self.runs = [self._open(arm, seed, known) for seed in study.seeds for arm in study.recipes]
            # Whether every run and the parent run are published to their end.
            self.ended = parent.info.status == "FINISHED" and all(run.ended for run in self.runs)
            if not self.ended:
                self.client.update_run(self.parent, status="RUNNING")

    def _open(self, arm: str, seed: int, known: Mapping[str, Recorded]) -> Run:
        """The recorded run of this arm and seed, or a new one, tagged with the plan before it starts."""
        keys = pipeline.keys(self.study.recipes[arm], self.study.scale, seed)
        editions = {name: artefacts.edition(self.dag.cache / key) for name, key in keys.items()}
        again = [editions] if any(editions.values()) else []  # stages that were made again under their key
        identity = json.dumps([self.study.scale.name, arm, seed, keys, *again], sort_keys=True)
        run = Run(arm, seed, keys, hashlib.sha256(identity.encode()).hexdigest()[:16])
        found, now = known.get(run.identity), str(time.time_ns())
        if found and self.creation.is_half_made(run, found):
            runs.discard(self.client, self.experiment, [found.info.run_id])
            found = None
        if found and _replaced(found, known.values()):
            self.client.set_tag(found.info.run_id, record.REQUESTED, now)
        if found:
            self._describe(run, found)
            run.take(found, ended=self._resume(found))
        else:
            run.take(self.creation.make(run, now), ended=False)
        return run

    def _describe(self, run: Run, found: Recorded) -> None:
        """Say of a run of an earlier version what its arm does; one that says it keeps its words."""
        for tag, text in self.creation.described(run.arm).items():
            if tag not in found.data.tags:
                self.client.set_tag(found.info.run_id, tag, text)

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
        began = time.monotonic()
        if began < self.not_before:
            return
        try:
            self._publish_all()
            self.trouble = ""
        except STORE_ERRORS as error:
            self.trouble = first_sentence(error)
            took = time.monotonic() - began
            # A store that keeps us waiting gets half of the time, so that workers get their jobs.
            self.not_before = time.monotonic() + took if took > 1 else 0.0

    def _publish_all(self) -> None:
        for run in self.runs:
            while not run.ended and not self._published(run):
                pass
        if not self.ended and all(run.ended for run in self.runs):
            self.client.set_terminated(self.parent)
            self.ended = True

    def _published(self, run: Run) -> bool:
        """Publish what there is of a run; false where it had to be replaced, so that there is more to publish."""
        try:
            self._publish(run)
            return True
        except Renewed:
            return False
        except MlflowException as error:
            deleted = "deleted" in str(error) and self.client.get_run(run.run_id).info.lifecycle_stage == DELETED
            if not deleted:
                raise
            self._renew(run)  # another process replaced it, or a person deleted it
            return False

    def _publish(self, run: Run) -> None:
        for each in STAGES:
            if each.name not in run.keys:  # a stage of other arms
                continue
            key = run.keys[each.name]
            done = key in self.dag.done
            folder = self.dag.cache / key
            if done and each.name not in run.finished_stages:
                lines = stage.read_journal(folder)
                self._require_attempt(run, each.name, points.attempt(lines, folder))
                self._curves(run, each.name, lines)
                self._final(run, each.name, folder)
                run.finished_stages.add(each.name)
            elif key in self.dag.running and (lines := self.dag.journal(key)):
                self._require_attempt(run, each.name, points.attempt(lines, folder))
                self._curves(run, each.name, lines)
        failed = [self.dag.failed[key] for key in run.keys.values() if key in self.dag.failed]
        if not run.ended and (failed or run.finished_stages == BY_NAME.keys() & run.keys.keys()):
            self._end(run, failed)

    def _require_attempt(self, run: Run, name: str, attempt: str) -> None:
        """Renewed, once there is another run for it, where the run has points of an earlier attempt at a stage.

        Another process may publish the same run from another cache, where the stage is made too. Each replaces the other's run
        once; who comes to it a second time leaves the run to the other.
        """
        if name not in run.attempts:
            self._claim(run, name, attempt)
        if run.lost(name, attempt):
            if (run.identity, name, attempt) in self.renewed:
                run.ended = True
                raise Renewed
            self.renewed.add((run.identity, name, attempt))
            self._renew(run, name, attempt)
            raise Renewed

    def _claim(self, run: Run, name: str, attempt: str) -> None:
        """Tag the run with the attempt whose points it gets, unless another process has."""
        with store_lock(self.dag.cache, self.lock_seconds):
            run.attempts |= runs.attempts_of(self.client.get_run(run.run_id).data.tags)
            if not run.unknown and name not in run.attempts:
                self.client.set_tag(run.run_id, record.attempt_tag(name), attempt)
                run.attempts[name] = attempt

    def _renew(self, run: Run, name: str = "", attempt: str = "") -> None:
        """Go on with another run, without points of a lost attempt: one that another process has made, or a new one."""
        with store_lock(self.dag.cache, self.lock_seconds):
            found = runs.find(self.client, self.experiment, run.identity)
            for each in found:
                run.take(each, ended=False)
                if not run.lost(name, attempt):
                    return
            runs.discard(self.client, self.experiment, [each.info.run_id for each in found])
            self.described.discard(run.keys["data"])
            run.take(self.creation.make(run, str(time.time_ns())), ended=False)

    def _curves(self, run: Run, name: str, lines: list[dict]) -> None:
        metrics = points.of_lines(lines, run.published.get(name, 0))
        for part in chunk_list(metrics, METRICS_AT_ONCE):
            self.client.log_batch(run.run_id, metrics=part)
        run.published[name] = len(lines)

    def _final(self, run: Run, name: str, folder: Path) -> None:
        outcome = artefacts.read_result(folder)["outcome"]
        tags = [RunTag(record.OUTCOME, outcome)] if outcome != record.FINISHED else []
        # The policy is in the store before its evaluation, whose metrics MLflow shows on the policy's page.
        of_policy = {"model_id": run.model} if name == "evaluate" and run.model else {}
        self.client.log_batch(run.run_id, metrics=points.of_result(folder, **of_policy), tags=tags)
        log = {"data": self._log_data, "ppo": self._log_policy, "evaluate": self._log_samples}
        if name in log:
            log[name](run, folder)

    def _log_data(self, run: Run, folder: Path) -> None:
        digests = artefacts.read_done(folder)["files"]
        splits: dict[str, str] = {}
        for file in sorted(file for file in digests if file.endswith(".arrow")):
            split = Path(file).parent.as_posix()
            splits[split] = splits.get(split, "") + digests[file]
        sizes = artefacts.read_result(folder)["metrics"]
        datasets = [_dataset(split, content, str(folder), sizes) for split, content in splits.items()]
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
        tokenizer = self.dag.cache / run.keys["data"] / "tokenizer"
        save = partial(policy.save, checkpoint, tokenizer, self.study.scale.response_tokens)
        tags = {record.DETAIL: self.study.detail.name, record.ARM: run.arm, record.SEED: str(run.seed)}
        # `publish` deletes an incomplete policy; under the lock it cannot be one that another process is writing.
        with store_lock(self.dag.cache, self.lock_seconds):
            try:
                run.model = policy.publish(self.client, self.experiment, run.run_id, tags, save)
            except policy.CannotPackage as error:  # the rest of the run is published
                self.client.set_tag(run.run_id, "policy_trouble", str(error)[:5_000])

    def _log_samples(self, run: Run, folder: Path) -> None:
        rows = json.loads((folder / record.SAMPLES).read_text())
        table = {name: [row.get(name) for row in rows] for name in rows[0]}
        # MLflow appends to a table that exists, which a killed process may have left torn.
        with store_lock(self.dag.cache, self.lock_seconds):
            if any(file.path == record.SAMPLES for file in self.client.list_artifacts(run.run_id)):
                attach.drop(self.client.get_run(run.run_id), record.SAMPLES)
            self.client.log_table(run.run_id, table, record.SAMPLES)

    def _end(self, run: Run, failed: list[str]) -> None:
        seconds = {
            name: artefacts.read_done(self.dag.cache / key)["seconds"]
            for name, key in run.keys.items()
            if key in self.dag.done
        }
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
            name: list(self.dag.outdated[key])[:MOST_CHANGES]
            for name, key in run.keys.items()
            if key in self.dag.outdated and key in self.dag.done
        }

    def close(self) -> None:
        """Publish the rest; a run that has not ended is marked as killed, and resumed next time."""
        self.lock_seconds = STUDIES_SECONDS
        with usable_store(writing=True):
            self._publish_all()
            for run in self.runs:
                if not run.ended:
                    self.client.set_terminated(run.run_id, status="KILLED")
            if not self.ended:
                self.client.set_terminated(self.parent, status="KILLED")


def _dataset(name: str, content: str, folder: str, sizes: Mapping[str, float]) -> DatasetInput:
    """A split, `posts/train`, as an MLflow dataset; `content` is the digests of its files."""
    kind, split = name.split("/")
    dataset = Dataset(
        name=name,
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
