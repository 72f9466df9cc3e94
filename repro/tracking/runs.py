"""A study's runs in the store, one for each arm and seed: found, or made, and replaced where an attempt at a stage is lost.

A point in MLflow cannot be taken back. So a run says of each stage, in a tag and before the first point, which attempt at it
the points are of. Where a stage has begun anew since (its process was killed before a checkpoint), the run is deleted, as a
person would delete it, and a new one is made, which gets the new attempt's points and again those of the stages before.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.entities import Run as Recorded
from mlflow.utils import chunk_list

from repro import record
from repro.details import DETAILS
from repro.study.ablation import Ablation
from repro.study.config import as_config
from repro.study.scale import without_folders
from repro.tracking import present
from repro.tracking.parent_run import PARENT
from repro.tracking.store import PARAMS_AT_ONCE


@dataclass
class Run:
    """A run in the store (one arm and seed), and what of it is published."""

    arm: str
    seed: int
    keys: Mapping[str, str]
    identity: str  # its `record` tag
    run_id: str = ""
    ended: bool = False
    model: str = ""  # id of its policy in the store
    attempts: dict[str, str] = field(default_factory=dict)  # stage -> the attempt at it that the points are of
    unknown: bool = False  # whether it has points of attempts that it does not name: an earlier version's
    published: dict[str, int] = field(default_factory=dict)  # stage -> lines of its journal
    finished_stages: set[str] = field(default_factory=set)

    def take(self, found: Recorded, ended: bool) -> None:
        """Go on with a recorded run."""
        tags = found.data.tags
        self.run_id, self.ended, self.model = found.info.run_id, ended, ""
        self.attempts = attempts_of(tags)
        self.unknown = bool(found.data.metrics) and not self.attempts
        self.published, self.finished_stages = {}, set()

    def lost(self, stage: str, attempt: str) -> bool:
        """Whether the run has points of another attempt at a stage than this one."""
        return self.unknown or self.attempts.get(stage, attempt) != attempt


def label(run: Recorded) -> str:
    """A run as messages name it; by its own name where it does not say its arm and seed."""
    tags = run.data.tags
    named = {record.ARM, record.SEED} <= tags.keys()
    return f"{tags[record.ARM]} seed {tags[record.SEED]}" if named else run.info.run_name


def attempts_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Stage -> attempt, of the stages whose points a run has."""
    return {name: tags[tag] for name in record.STAGES if (tag := record.attempt_tag(name)) in tags}


@dataclass(frozen=True)
class Creation:
    """All that new runs of a study are made with."""

    client: MlflowClient
    experiment: str
    study: Ablation
    facts: Mapping[str, str]
    parent: str
    changes: str  # how the code differs from its commit

    def make(self, run: Run, now: str) -> Recorded:
        """A new run, with the plan as its tags, before it starts."""
        tags = {
            **self.facts,
            PARENT: self.parent,
            present.NOTE: present.run_note(self.study, run.arm, run.seed),
            record.RECORD: run.identity,
            record.REQUESTED: now,
            record.ARM: run.arm,
            record.SEED: str(run.seed),
            record.REFERENCE: record.flag(run.arm == self.study.detail.reference),
            record.RECIPE: json.dumps(dict(self.study.recipes[run.arm].choices)),
            **self.described(run.arm),
            **({record.ROLE: record.CEILING} if run.arm in self.study.ceiling else {}),
            **{record.stage_tag(name): key for name, key in run.keys.items()},
        }
        name = present.run_name(self.study, run.arm, run.seed)
        made = self.client.create_run(self.experiment, tags=tags, run_name=name)
        self.client.log_text(made.info.run_id, json.dumps(as_config(self.study), indent=1), record.CONFIG)
        if self.changes:
            self.client.log_text(made.info.run_id, self.changes, record.CHANGES)
        for part in chunk_list([Param(*each) for each in self._params(run).items()], PARAMS_AT_ONCE):
            self.client.log_batch(made.info.run_id, params=part)
        return made

    def described(self, arm: str) -> dict[str, str]:
        """The tag that says what an arm's variant does; a ceiling is no variant of the detail."""
        return {} if arm in self.study.ceiling else {record.DOES: self.study.detail.variants[arm].does}

    def is_half_made(self, run: Run, found: Recorded) -> bool:
        """Whether a recorded run has no points yet, and lacks what `make` logs last: its process was killed in between."""
        published = found.data.metrics or attempts_of(found.data.tags)
        return not published and not self._params(run).keys() <= found.data.params.keys()

    def _params(self, run: Run) -> dict[str, str]:
        recipe = self.study.recipes[run.arm]
        params = {name: recipe.label(detail) for name, detail in DETAILS.items()} | {"seed": str(run.seed)}
        budget = asdict(self.study.scale)
        return params | {f"scale.{name}": without_folders(str(value)) for name, value in budget.items()}


def discard(client: MlflowClient, experiment: str, run_ids: Collection[str]) -> None:
    """Delete runs with their policies, as a person would: MLflow hides them, and restores them if asked."""
    for run_id in run_ids:
        for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
            client.delete_logged_model(model.model_id)
        client.delete_run(run_id)


def find(client: MlflowClient, experiment: str, identity: str) -> list[Recorded]:
    """The runs with an identity that are not deleted."""
    return list(client.search_runs([experiment], f"tags.{record.RECORD} = '{identity}'"))
