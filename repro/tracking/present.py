"""Texts for MLflow's own pages: names of runs, descriptions in markdown, and the columns of the runs table.

Other modules of this folder write them into the store.
"""

import json
from collections.abc import Collection, Mapping

from repro import record
from repro.study.ablation import Ablation

NOTE = "mlflow.note.content"  # the description that MLflow shows of an experiment or a run
LONGEST_TAG = 5_000  # characters that MLflow takes in a tag of an experiment
REPORT = "report"  # artifact folder of the parent run
WORKFLOW = "workflowType=machine_learning"  # else MLflow shows its pages for applications of language models
VIEW = "study"  # id of the saved view
# Final metrics shown in the runs table, after the primary one.
COLUMNS = (
    "test/sampled_win_rate",
    "test/win_rate",
    "test/sampled_gold",
    "test/score",
    "test/kl",
    "test/length",
    "test/eos_rate",
)


def run_name(study: Ablation, arm: str, seed: int) -> str:
    """The name of a run, which is found in a search over all studies too."""
    named = f"{study.detail.name} {arm}" if arm in study.ceiling else f"{study.detail.name}={arm}"
    return f"{named} seed {seed} {study.scale.name}"


def study_name(detail: str, scale: str, arm_seeds: Collection[tuple[str, str]]) -> str:
    """The name of a study's parent run."""
    arms, seeds = (len(set(each)) for each in zip(*arm_seeds))
    return f"{detail} {scale} ({arms} arm{'s' * (arms > 1)} x {seeds} seed{'s' * (seeds > 1)})"


def run_note(study: Ablation, arm: str, seed: int) -> str:
    """A run's description: its arm, and what that changes."""
    detail = study.detail
    if arm in study.ceiling:
        choices = ", ".join(f"`{name} = {label}`" for name, label in study.ceiling[arm].choices)
        return f"**The ceiling**, no arm of the comparison: the reference with {choices}. Seed {seed}."
    instead = "the reference" if arm == detail.reference else f"instead of `{detail.reference}`"
    shared = [f"`{name} = {label}`" for name, label in study.arms[arm].choices if name != detail.name]
    shared_choices = f" All arms have {', '.join(shared)}." if shared else ""
    return f"**`{detail.name} = {arm}`**, {instead}: {detail.variants[arm].does}. Seed {seed}.{shared_choices}"


def outcome_note(outcome: str, primary: str, metrics: Mapping[str, float], errors: Collection[str]) -> str:
    """The part of a run's description on how it ended: outcome, primary metric, errors."""
    measured = f", `{primary}` {metrics[primary]:.3f}" if primary in metrics else ""
    return "\n\n".join([f"Outcome: **{outcome}**{measured}.", *(f"```\n{error[:1_000]}\n```" for error in errors)])


def study_note(tags: Mapping[str, str], verdict: str) -> str:
    """A study's description: its question and hypothesis, from its tags, and the verdict."""
    hypothesis = f"Hypothesis: {tags[record.HYPOTHESIS]} ({tags[record.PAPER]})"
    return f"**{tags[record.QUESTION]}** {verdict}\n\n{hypothesis}"[:LONGEST_TAG]


def verdict_with_link(verdict: str, experiment: str, run: str) -> str:
    """A verdict after the link to its report in MLflow's pages."""
    # The link comes first: MLflow folds all but the first lines.
    return f"[Report](#/experiments/{experiment}/runs/{run}/artifacts/{REPORT}/index.html?{WORKFLOW}): {verdict}"


def study_address(experiment: str) -> str:
    """The address of a study's runs table in MLflow's pages, with the columns of `experiment_tags`."""
    return f"#/experiments/{experiment}/runs?{WORKFLOW}&viewStateShareKey={VIEW}"


def experiment_tags(primary: str, higher_is_better: bool, created: int) -> dict[str, str]:
    """Tags of a study's experiment for MLflow's pages: that it trains models, and a saved view of its runs table.

    A run has about 100 parameters and 100 metrics, of which MLflow shows none by default. The view shows arm, seed, outcome
    and final metrics, sorted by the primary one. `created` [ms] is in it, so that writing it again changes nothing.
    """
    metrics = dict.fromkeys((primary, *COLUMNS))
    columns = [
        f"tags.`{record.ARM}`",
        f"params.`{record.SEED}`",
        f"tags.`{record.OUTCOME}`",
        *(f"metrics.`{name}`" for name in metrics),
    ]
    state = {
        "selectedColumns": columns,
        "columnOrder": columns,
        "orderByKey": f"metrics.`{primary}`",
        "orderByAsc": not higher_is_better,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }
    saved = {"name": "Study", "createdAt": created, "state": json.dumps(state)}
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(saved),
    }
