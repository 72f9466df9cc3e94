"""Reads studies out of the MLflow store; no other module of the reports knows MLflow.

A study is the experiment `{detail}-{scale}` and a run of it is one arm and seed. Everything a report says comes from
there: what was asked and expected is read from tags that were written before the run, not from today's code.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

import mlflow.artifacts
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.utils.file_utils import local_file_uri_to_path
from sqlalchemy.engine import make_url

from repro.errors import UserError

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one bar per run says nothing

DEFAULT_STORE = "sqlite:///mlflow.db"
# Metrics with a value per step, by how their names begin; every other one is a single, final value.
CURVES = (
    *("objective/", "policy/", "loss/", "value/", "eval/", "nonfinite/", "sft/loss", "rm/loss", "rm/train_accuracy"),
    *("dpo/loss", "dpo/train_accuracy", "dpo/margin"),
)
CURVE = ["detail", "arm", "seed", "step", "metric", "value"]  # columns of a study's curves
PLAN = ("question", "hypothesis", "moves", "paper", "primary", "higher_is_better", "smallest_effect", "judge")
PROVENANCE = ("recipe", "stage_seconds", "commit", "machine", "versions", "command", "record", "lock")
SAMPLES = "samples.json"
INFINITE = 1e300  # MLflow stores an infinity as the largest float


@dataclass(frozen=True)
class Study:
    """One ablation as it was recorded: arms (reference first) by seeds, with tidy frames of everything measured."""

    uri: str  # of the store
    detail: str
    scale: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    tags: dict[str, str]  # the plan: question, hypothesis, moves, primary, ...
    amended: tuple[str, ...]  # parts of the plan that differ between runs, replaced runs included
    curves: pd.DataFrame  # detail, arm, seed, step [episodes], metric, value
    finals: pd.DataFrame  # arm, seed, metric, value
    runs: pd.DataFrame  # one row per arm and seed: run_id, outcome, stage.*, provenance
    samples: dict[tuple[str, int], pd.DataFrame]  # (arm, seed) -> one row per post, the same posts everywhere

    @property
    def reference(self) -> str:
        """Label of the arm that every difference is taken to."""
        return self.arms[0]

    @property
    def primary(self) -> str:
        """Name of the metric that the verdict is about."""
        return self.tags["primary"]

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger primary metric is the better one."""
        return self.tags["higher_is_better"] == "true"

    @property
    def smallest_effect(self) -> float:
        """Smallest difference on the primary metric that anyone would act on, in its unit."""
        return float(self.tags["smallest_effect"])

    @property
    def moves(self) -> dict[str, str]:
        """Metric -> up, down or same: what the arms were expected to do relative to the reference."""
        return json.loads(self.tags["moves"])


def tracking_uri() -> str:
    """Address of the store: `MLFLOW_TRACKING_URI`, or the sqlite file of the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


def read_study(detail: str, scale: str, tracking_uri: str) -> Study:
    """Everything recorded for a detail at a scale; UserError where there is no such study or it has no result yet."""
    client, recorded = _recorded(detail, scale, tracking_uri)
    outline, kept = _outline(tracking_uri, detail, scale, recorded), {run.info.run_id: run for run in recorded}
    return replace(
        outline,
        curves=_curves(client, outline.runs, kept).assign(detail=detail)[CURVE],
        samples=_samples(tracking_uri, outline.runs, kept),
    )


def read_outline(detail: str, scale: str, tracking_uri: str) -> Study:
    """As `read_study`, without the curves and samples, which take most of the time."""
    return _outline(tracking_uri, detail, scale, _recorded(detail, scale, tracking_uri)[1])


def _recorded(detail: str, scale: str, tracking_uri: str) -> tuple[MlflowClient, list[Run]]:
    """The client, and every run of the study; UserError where none of them has a result."""
    client = _open(tracking_uri)
    recorded = _runs(client, [_experiment(client, f"{detail}-{scale}").experiment_id])
    if not any(_outcome(run) in ("finished", "diverged") for run in recorded):
        raise UserError(f"the study {detail}-{scale} has no finished run yet; wait for one, or start the study again")
    return client, recorded


def read_outlines(scale: str, tracking_uri: str) -> tuple[list[Study], dict[str, str]]:
    """Every study of a scale without its curves and samples, and detail -> why for those that cannot be compared.

    One query for all runs: what takes a report minutes, curves step by step and samples file by file, is not read.
    """
    client = _open(tracking_uri)
    tags = {each.experiment_id: each.tags for each in client.search_experiments()}
    details = {number: told["detail"] for number, told in tags.items() if told.get("scale") == scale}
    if not details:
        scales = sorted({told["scale"] for told in tags.values() if "scale" in told})
        raise UserError(f"there is no study at scale {scale}; recorded scales are: {', '.join(scales) or 'none'}")
    recorded: dict[str, list[Run]] = {detail: [] for detail in details.values()}
    for run in _runs(client, list(details)):
        recorded[details[run.info.experiment_id]].append(run)
    studies, left_out = [], {}
    for detail, runs in recorded.items():
        try:
            studies.append(_outline(tracking_uri, detail, scale, runs))
        except UserError as error:
            left_out[detail] = str(error)
    return studies, left_out


def _outline(uri: str, detail: str, scale: str, recorded: list[Run]) -> Study:
    """A study's plan, runs and final values, without its curves and samples."""
    runs = _newest(_run_frame(recorded), f"{detail}-{scale}")
    kept = {run.info.run_id: run for run in recorded if run.info.run_id in set(runs["run_id"])}
    latest = kept[runs.sort_values("started", kind="stable")["run_id"].iloc[-1]]
    return Study(
        uri=uri,
        detail=detail,
        scale=scale,
        arms=tuple(runs.sort_values(["reference", "arm"], ascending=[False, True])["arm"].drop_duplicates()),
        seeds=tuple(sorted(int(seed) for seed in runs["seed"].unique())),
        tags=_plan(latest),
        amended=_amended(recorded),
        curves=pd.DataFrame(columns=CURVE).astype({"seed": int, "step": int, "value": float}),
        finals=_finals(runs, kept),
        runs=runs,
        samples={},
    )


def _open(uri: str) -> MlflowClient:
    """A client on an existing store; opening a sqlite file that is not there would create an empty one."""
    if uri.startswith("sqlite:") and not Path(make_url(uri).database or "").is_file():
        raise UserError(f"there is no MLflow store at {uri}; run a study first, or set MLFLOW_TRACKING_URI to one")
    return MlflowClient(tracking_uri=uri)


def _experiment(client: MlflowClient, name: str) -> Experiment:
    """The study's experiment; UserError that names the ones that do exist."""
    found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        names = sorted(e.name for e in client.search_experiments() if e.name != "Default")
        raise UserError(f"there is no study {name}; recorded are: {', '.join(names) or 'none'}")
    return found


def _runs(client: MlflowClient, experiments: list[str]) -> list[Run]:
    """Every run of these experiments, by id, that is not deleted and says which arm and seed it is."""
    found, token = [], ""
    while token is not None:
        page = client.search_runs(experiments, max_results=1000, page_token=token or None)
        found, token = found + list(page), page.token or None
    return [run for run in found if {"arm", "seed"} <= run.data.tags.keys()]


def _run_frame(runs: list[Run]) -> pd.DataFrame:
    """One row per recorded run, with what its tags say; what was not recorded is said to be so."""
    rows = []
    for run in runs:
        tags = run.data.tags
        stages = {name: key for name, key in tags.items() if name.startswith("stage.")}
        rows.append(
            {
                "run_id": run.info.run_id,
                "arm": tags["arm"],
                "seed": int(tags["seed"]),
                "reference": tags.get("reference") == "true",
                "outcome": _outcome(run),
                "started": run.info.start_time,
                # A study that goes back to runs it has makes no new ones: it marks them as asked for.
                "asked": int(tags.get("asked", 0)),
            }
            | stages
            | {name: tags.get(name, "not recorded") for name in PROVENANCE}
        )
    return pd.DataFrame(rows)


def _outcome(run: Run) -> str:
    """How a run ended, in the tracker's word; in MLflow's where it did not get to write one."""
    return run.data.tags.get("outcome", run.info.status.lower())


def _newest(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """The newest run of each arm and seed, so that a restarted study replaces what it repeats."""
    if runs.empty:
        raise UserError(f"the study {name} has no run; start it")
    if not runs["reference"].any():
        raise UserError(f"the study {name} has no run of the reference arm to compare with; run that arm first")
    ordered = runs.sort_values(["asked", "started", "run_id"], kind="stable")
    kept = ordered.drop_duplicates(["arm", "seed"], keep="last")
    by_arm = kept.sort_values(["reference", "arm", "seed"], ascending=[False, True, True])
    return by_arm.reset_index(drop=True)


def _plan(run: Run) -> dict[str, str]:
    """What was written down before the run; UserError that names what is missing."""
    missing = [name for name in PLAN if name not in run.data.tags]
    if missing:
        raise UserError(f"run {run.info.run_name} has no tag {', '.join(missing)}; a study's runs carry them all")
    return {name: run.data.tags[name] for name in PLAN}


def _amended(runs: list[Run]) -> tuple[str, ...]:
    """Parts of the plan that did not stay the same over all runs of the study."""
    return tuple(name for name in PLAN if len({run.data.tags.get(name, "") for run in runs}) > 1)


def _curves(client: MlflowClient, runs: pd.DataFrame, kept: dict[str, Run]) -> pd.DataFrame:
    """Every curve as arm, seed, step, metric, value; a step that was logged twice keeps its latest value."""
    rows = [
        (row.arm, row.seed, point.step, name, point.value, point.timestamp)
        for row in runs.itertuples()
        for name in sorted(kept[row.run_id].data.metrics)
        if name.startswith(CURVES)
        for point in client.get_metric_history(row.run_id, name)
    ]
    frame = pd.DataFrame(rows, columns=["arm", "seed", "step", "metric", "value", "timestamp"])
    frame = frame.sort_values(["metric", "arm", "seed", "step", "timestamp"], kind="stable")
    frame = frame.drop_duplicates(["metric", "arm", "seed", "step"], keep="last")
    return _finite(frame.drop(columns="timestamp")).reset_index(drop=True)


def _finals(runs: pd.DataFrame, kept: dict[str, Run]) -> pd.DataFrame:
    """Every single value as arm, seed, metric, value."""
    rows = [
        (row.arm, row.seed, name, value)
        for row in runs.itertuples()
        for name, value in sorted(kept[row.run_id].data.metrics.items())
        if not name.startswith(CURVES)
    ]
    return _finite(pd.DataFrame(rows, columns=["arm", "seed", "metric", "value"]))


def _finite(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with infinite values as missing, which is what every statistic after it can say about them."""
    values = frame["value"].astype(float)
    return frame.assign(value=values.mask(values.abs() > INFINITE, np.nan))


def _samples(uri: str, runs: pd.DataFrame, kept: dict[str, Run]) -> dict[tuple[str, int], pd.DataFrame]:
    """The logged samples of each arm and seed that has them; text stays text even where it reads like a number."""
    found = {}
    for row in runs.itertuples():
        with suppress(UserError):
            path = artifact(uri, kept[row.run_id], SAMPLES)
            found[row.arm, row.seed] = pd.read_json(path, orient="split", dtype=False)
    return found


def artifact(uri: str, run: Run, name: str) -> Path:
    """An artifact of a run as a local file; UserError where the run has none of that name.

    A store names its files by where they were written. One that was copied or moved has them beside its database.
    """
    written = run.info.artifact_uri
    missing = UserError(f"run {run.info.run_name} has no artifact {name}; it was not logged, or its files are elsewhere")
    if urlsplit(written).scheme not in ("", "file"):
        if name not in {each.path for each in MlflowClient(tracking_uri=uri).list_artifacts(run.info.run_id)}:
            raise missing
        return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name, tracking_uri=uri))
    folders = [Path(local_file_uri_to_path(written))]
    if uri.startswith("sqlite:"):
        folders.append(Path(make_url(uri).database or "").parent / "mlartifacts" / run.info.run_id / "artifacts")
    found = [folder / name for folder in folders if (folder / name).is_file()]
    if not found:
        raise missing
    return found[0]


EPISODES = "episodes.json"
NEAREST = 6  # runs that an error names


def read_run(words: str, uri: str) -> Run:
    """The run that is meant by its id, the beginning of one, or `detail/arm/seed` or `detail-scale/arm/seed`.

    Of several with one name it is the newest. UserError names the nearest where there is none, or more than one.
    """
    client = _open(uri)
    studies = {each.experiment_id: each for each in client.search_experiments()}
    head = words.partition("/")[0]
    asked = [number for number, each in studies.items() if head in (each.name, each.tags.get("detail"))]
    recorded = sorted(_runs(client, asked or list(studies)), key=_age)
    named = {f"{studies[run.info.experiment_id].tags.get('detail')}/{_place(run)}": run for run in recorded}
    full = {f"{studies[run.info.experiment_id].name}/{_place(run)}": run for run in recorded}
    known = named | full
    found = [known[words]] if words in known else [run for run in recorded if run.info.run_id.startswith(words)]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(run.info.run_id for run in found[-NEAREST:])
        raise UserError(f"{len(found)} runs begin with {words!r}; write more of one, of the newest: {several}")
    near = get_close_matches(words, full, n=NEAREST, cutoff=0)
    raise UserError(f"there is no run {words!r}; recorded are, nearest first: {', '.join(near) or 'none'}")


def read_episodes(uri: str, run: Run) -> dict:
    """{"eos", "episodes": [record, ...]} as PPO noted them, token by token; UserError where there are none to read."""
    try:
        told = json.loads(artifact(uri, run, EPISODES).read_text(encoding="utf-8"))
        if all({"episode", "post_id", "policy"} <= each.keys() for each in told["episodes"]) and told["episodes"]:
            return told
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{EPISODES} of run {run.info.run_name} holds no episode that can be read; run that arm again")


def study_episodes(study: Study) -> dict[tuple[str, int], dict]:
    """(arm, seed) -> its run's episodes, of the runs that have any that can be read."""
    client, found = _open(study.uri), {}
    for row in study.runs.itertuples():
        with suppress(UserError):
            found[row.arm, row.seed] = read_episodes(study.uri, client.get_run(row.run_id))
    return found


def runs_with_episodes(uri: str, run: Run) -> list[str]:
    """`detail-scale/arm/seed` of the runs in the same study whose episodes were kept, the newest first."""
    client = _open(uri)
    study, found = client.get_experiment(run.info.experiment_id).name, []
    for other in sorted(_runs(client, [run.info.experiment_id]), key=_age, reverse=True):
        with suppress(UserError):
            artifact(uri, other, EPISODES)
            found.append(f"{study}/{_place(other)}")
    return list(dict.fromkeys(found))


def _place(run: Run) -> str:
    """Arm and seed of a run, as in its address."""
    return f"{run.data.tags['arm']}/{run.data.tags['seed']}"


def _age(run: Run) -> tuple[int, int, str]:
    """What newer runs have more of."""
    return int(run.data.tags.get("asked", 0)), run.info.start_time, run.info.run_id
