"""The ceiling of a study: finished runs of its reference with the gold score as reward, wherever the store has them.

They are the study's own, which it made because it was asked to, or an arm of the study of that detail at the same scale.
"""

import json
from collections.abc import Iterator, Mapping

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from repro import record
from repro.reports.reading.store import age, all_experiments, labelled_runs
from repro.reports.reading.study import Study, no_ceiling
from repro.reports.reading.values import finals_of

TRAINED = "ppo"  # the first stage that the ceiling has of its own


def ceiling_of(client: MlflowClient, study: Study) -> pd.DataFrame:
    """seed, metric, value: the newest ceiling of each of the study's seeds; no rows where there is none.

    It shares every stage before PPO with the reference of its seed, so that the two differ in the reward alone. The study of
    that detail has it as an arm, and none beside.
    """
    if study.detail == record.CEILING_DETAIL:
        return no_ceiling()
    own = study.runs[study.runs["reference"]].set_index("seed")
    choices = {_with_gold(recipe) for recipe in own.get(record.RECIPE, ())} - {""}
    if len(choices) != 1:
        return no_ceiling()
    experiments = [each for each in all_experiments(client) if each.tags[record.SCALE] == study.scale]
    having = f"tags.{record.RECIPE} = '{choices.pop()}'"
    found = labelled_runs(client, [each.experiment_id for each in experiments], having)
    newest = {int(run.data.tags[record.SEED]): run for run in sorted(found, key=age) if _is_beside(run, own)}
    if not newest:
        return no_ceiling()
    rows = [{"arm": record.CEILING, "seed": seed, "run_id": run.info.run_id} for seed, run in sorted(newest.items())]
    values = finals_of(pd.DataFrame(rows), {run.info.run_id: run for run in newest.values()})
    return values[["seed", "metric", "value"]]


def _with_gold(recipe: str) -> str:
    """The recipe of the ceiling as its tag has it; nothing where a reference has none, or is paid by gold itself."""
    try:
        choices = json.loads(recipe)
    except ValueError:  # not recorded
        return ""
    if record.CEILING_DETAIL in choices:
        return ""
    return json.dumps(dict(sorted((choices | {record.CEILING_DETAIL: record.CEILING_LABEL}).items())))


def _is_beside(run: Run, references: pd.DataFrame) -> bool:
    """Whether a run has finished, and has the stages before PPO of the reference of its seed."""
    tags, seed = run.data.tags, int(run.data.tags[record.SEED])
    if seed not in references.index or tags.get(record.OUTCOME) != record.FINISHED:
        return False
    shared = list(_shared(tags))
    return bool(shared) and all(references.loc[seed].get(name) == tags[name] for name in shared)


def _shared(tags: Mapping[str, str]) -> Iterator[str]:
    """The tags of a run with the keys of its stages before PPO."""
    before = record.STAGES[: record.STAGES.index(TRAINED)]
    return (record.stage_tag(name) for name in before if record.stage_tag(name) in tags)
