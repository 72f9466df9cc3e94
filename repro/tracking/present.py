"""What a person reads in MLflow's own pages: names of runs, descriptions in markdown, and the columns of the runs table.

Text only; `repro/tracking/track.py` writes it.
"""

import json
from collections.abc import Collection, Mapping

from repro import record
from repro.study.ablation import Ablation

NOTE = "mlflow.note.content"  # the description that MLflow shows of an experiment or a run
LONGEST_TAG = 5_000  # characters that MLflow takes in a tag of an experiment
REPORT = "report"  # artifact folder of the run that a study's runs hang under
TRAINING = "workflowType=machine_learning"  # else MLflow shows its pages for applications of language models
VIEW = "study"  # id of the saved view
# Of the final metrics those by which one sorts runs; the primary one comes first.
COLUMNS = (
    "test/sampled_win_rate",
    "test/win_rate",
    "test/sampled_gold",
    "test/score",
    "test/kl",
    "test/length",
    "test/eos_rate",
)


def run_name(arm: str, seed: int) -> str:
    """As the launcher names stages, so that one search finds both."""
    return f"{arm} seed {seed}"


def study_name(detail: str, places: Collection[tuple[str, str]]) -> str:
    """Of the run that all of a study's (arm, seed) hang under."""
    arms, seeds = (len(set(each)) for each in zip(*places))
    return f"{detail} ({arms} arms x {seeds} seed{'s' * (seeds > 1)})"


def run_note(study: Ablation, arm: str, seed: int) -> str:
    """Which arm a run is and what that changes."""
    detail = study.detail
    instead = "the reference" if arm == detail.reference else f"instead of `{detail.reference}`"
    shared = [f"`{name} = {label}`" for name, label in study.arms[arm].choices if name != detail.name]
    company = f" All arms have {', '.join(shared)}." if shared else ""
    return f"**`{detail.name} = {arm}`**, {instead}: {detail.variants[arm].does}. Seed {seed}.{company}"


def outcome_note(outcome: str, primary: str, metrics: Mapping[str, float], errors: Collection[str]) -> str:
    """How a run ended, and with which primary metric."""
    measured = f", `{primary}` {metrics[primary]:.3f}" if primary in metrics else ""
    return "\n\n".join([f"Outcome: **{outcome}**{measured}.", *(f"```\n{error[:1_000]}\n```" for error in errors)])


def study_note(told: Mapping[str, str], verdict: str) -> str:
    """A study's question and hypothesis, from its tags, and its verdict so far."""
    hypothesis = f"Hypothesis: {told[record.HYPOTHESIS]} ({told[record.PAPER]})"
    return f"**{told[record.QUESTION]}** {verdict}\n\n{hypothesis}"[:LONGEST_TAG]


def reported(verdict: str, experiment: str, run: str) -> str:
    """A verdict behind the way to its report inside MLflow's pages."""
    # The link comes first: the pages fold all but the first lines.
    return f"[Report](#/experiments/{experiment}/runs/{run}/artifacts/{REPORT}/index.html?{TRAINING}): {verdict}"


def study_address(experiment: str) -> str:
    """Of a study's runs table inside MLflow's pages, with the columns of `experiment_tags`."""
    return f"#/experiments/{experiment}/runs?{TRAINING}&viewStateShareKey={VIEW}"


def experiment_tags(primary: str, higher_is_better: bool, created: int) -> dict[str, str]:
    """What MLflow's pages read of a study's experiment: that models are trained in it, and a saved view of its runs.

    Of about 100 parameters and 100 metrics MLflow shows none by itself. The view shows those that tell arms apart and is
    sorted by the primary metric; `created` [ms] keeps it the same however often it is written.
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
