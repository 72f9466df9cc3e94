"""Reads studies out of the MLflow store; no other module of the reports knows MLflow.

A study is the experiment `{detail}-{scale}` and a run of it is one arm and seed. Everything a report says comes from
there: what was asked and expected is read from tags that were written before the run, not from today's code.
"""

import gc
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

import mlflow.artifacts
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as schema
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.utils.file_utils import local_file_uri_to_path
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from repro.errors import UserError

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one bar per run says nothing

# Metrics with a value per step, by how their names begin; every other one is a single, final value.
CURVES = (
    *("objective/", "policy/", "loss/", "value/", "eval/", "nonfinite/", "sft/loss", "rm/loss", "rm/train_accuracy"),
    *("dpo/loss", "dpo/train_accuracy", "dpo/margin"),
)
CURVE = ["detail", "arm", "seed", "step", "metric", "value"]  # columns of a study's curves
PLAN = (
    *("question", "hypothesis", "moves", "paper", "primary", "higher_is_better", "smallest_effect", "looks"),
    *("judge", "kl_cap"),
)
DECISIVE = ("primary", "higher_is_better")  # without them there is nothing to compare
UNTOLD = "not recorded"
# What an older version of the project did not write down; a number that is not known makes no claim.
DEFAULTS = dict.fromkeys(PLAN, UNTOLD) | {"moves": "{}", "smallest_effect": "nan", "kl_cap": "nan", "looks": ""}
PROVENANCE = ("recipe", "stage_seconds", "commit", "machine", "versions", "command", "record", "lock", "sources")
SAMPLES = "samples.json"
DATA_CHECKS = "data.json"
CHECKED = {"corpus", "posts", "pairs", "shared"}  # what it says
SAMPLED = {"post_id", "query", "reference", "summary", "score", "length", "ended"}  # columns that all versions wrote
RUNS_AT_ONCE = 200  # of one query: what the library keeps of them while it reads is many times what is left
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
    troubles: tuple[str, ...] = ()  # what could not be read, or does not belong together, a sentence each

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
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds at which the study is judged while it grows; none where its seeds were fixed beforehand."""
        return tuple(map(int, self.tags["looks"].split()))

    @property
    def moves(self) -> dict[str, str]:
        """Metric -> up, down or same: what the arms were expected to do relative to the reference."""
        return json.loads(self.tags["moves"])


def read_study(detail: str, scale: str, tracking_uri: str) -> Study:
    """Everything recorded for a detail at a scale; UserError where there is no such study or it has no result yet."""
    client, outline, kept = _recorded(detail, scale, tracking_uri)
    samples, troubles = _samples(tracking_uri, outline.runs, kept)
    return replace(
        outline,
        curves=_curves(client, outline.runs, kept).assign(detail=detail)[CURVE],
        samples=samples,
        troubles=outline.troubles + troubles,
    )


def read_outline(detail: str, scale: str, tracking_uri: str) -> Study:
    """As `read_study`, without the curves and samples, which take most of the time."""
    return _recorded(detail, scale, tracking_uri)[1]


def read_outlines(scale: str, tracking_uri: str) -> tuple[list[Study], dict[str, str]]:
    """Every study of a scale without its curves and samples, and detail -> why for those that cannot be compared."""
    client = _open(tracking_uri)
    found = _experiments(client)
    experiments = [each for each in found if each.tags["scale"] == scale]
    if not experiments:
        scales = sorted({each.tags["scale"] for each in found})
        raise UserError(f"there is no study at scale {scale}; recorded scales are: {', '.join(scales) or 'none'}")
    studies, left_out = _outlines(client, tracking_uri, experiments)
    return studies, {name: why for (name, _), why in left_out.items()}


def recorded_scales(tracking_uri: str) -> list[str]:
    """The scales that the store has studies of."""
    return sorted({each.tags["scale"] for each in _experiments(_open(tracking_uri))})


def read_store(tracking_uri: str) -> tuple[list[Study], dict[tuple[str, str], str]]:
    """As `read_outlines`, of every scale; those that cannot be compared by detail and scale."""
    client = _open(tracking_uri)
    return _outlines(client, tracking_uri, _experiments(client))


def _recorded(detail: str, scale: str, tracking_uri: str) -> tuple[MlflowClient, Study, dict[str, Run]]:
    """The client, a study's outline and its runs by id; UserError where none of them has a result."""
    client = _open(tracking_uri)
    found = _experiments(client)
    experiment = _chosen(found).get((detail, scale))
    if experiment is None:
        raise _unknown(client, f"{detail}-{scale}", found)
    recorded = _runs(client, [experiment.experiment_id])
    if not any(_outcome(run) in ("finished", "diverged") for run in recorded):
        raise UserError(f"the study {detail}-{scale} has no finished run yet; wait for one, or start the study again")
    outline = _outline(tracking_uri, detail, scale, recorded)
    twins = tuple(_twin(each, experiment) for each in found if _key(each) == (detail, scale) and each != experiment)
    return client, replace(outline, troubles=twins + outline.troubles), {run.info.run_id: run for run in recorded}


def _outlines(
    client: MlflowClient, uri: str, experiments: Sequence[Experiment]
) -> tuple[list[Study], dict[tuple[str, str], str]]:
    """The outline of each experiment, and why for those without one, from few queries for all runs."""
    chosen, recorded = _chosen(experiments), {each.experiment_id: [] for each in experiments}
    for run in _runs(client, list(recorded)):
        recorded[run.info.experiment_id].append(run)
    studies, left_out = [], {}
    for each in experiments:
        detail, scale = _key(each)
        if each != chosen[detail, scale]:
            left_out[each.name, scale] = _twin(each, chosen[detail, scale])
            continue
        try:
            studies.append(_outline(uri, detail, scale, recorded[each.experiment_id]))
        except UserError as error:
            left_out[detail, scale] = str(error)
    return studies, left_out


def _outline(uri: str, detail: str, scale: str, recorded: list[Run]) -> Study:
    """A study's plan, runs and final values, without its curves and samples."""
    newest = _newest(recorded, f"{detail}-{scale}")
    runs, kept = _run_frame(newest), {run.info.run_id: run for run in newest}
    return Study(
        uri=uri,
        detail=detail,
        scale=scale,
        arms=tuple(runs["arm"].unique()),
        seeds=tuple(sorted(int(seed) for seed in runs["seed"].unique())),
        tags=_plan(f"{detail}-{scale}", sorted(newest, key=_age)),
        amended=_amended(recorded),
        curves=pd.DataFrame(columns=CURVE).astype({"seed": int, "step": int, "value": float}),
        finals=_finals(runs, kept),
        runs=runs,
        samples={},
        troubles=_mixed(detail, newest),
    )


def _open(uri: str) -> MlflowClient:
    """A client on a store as it is: MLflow would make one where there is none, and upgrade an older one unasked."""
    if uri.startswith("sqlite:") and not Path(make_url(uri).database or "").is_file():
        raise UserError(f"there is no MLflow store at {uri}; run a study first, or set MLFLOW_TRACKING_URI to one")
    if uri.startswith(tuple(DATABASE_ENGINES)):
        _require_this_schema(uri)
    return MlflowClient(tracking_uri=uri)


def _require_this_schema(uri: str) -> None:
    """UserError where a database is not a store of the MLflow that is installed."""
    engine, shown = create_engine(uri), make_url(uri)  # which is printed without its password
    try:
        found, expected = schema._get_schema_version(engine), schema._get_latest_schema_revision()
    except SQLAlchemyError as error:
        raise UserError(f"{shown} cannot be read as an MLflow store: {str(error).splitlines()[0]}") from None
    finally:
        engine.dispose()
    if not found:
        raise UserError(f"{shown} has no tables of MLflow; run a study first, or set MLFLOW_TRACKING_URI to a store")
    if found != expected:
        raise UserError(
            f"the store {shown} was written by another version of MLflow (schema {found}; this one has {expected}); "
            f"if that was an older one, copy the store and run `mlflow db upgrade {shown}`; else install the newer one"
        )


def _experiments(client: MlflowClient) -> list[Experiment]:
    """Every study's experiment that is not deleted, by name."""
    found, token = [], ""
    while token is not None:
        page = client.search_experiments(page_token=token or None)
        found, token = found + list(page), page.token or None
    return sorted((each for each in found if {"detail", "scale"} <= each.tags.keys()), key=lambda each: each.name)


def _key(experiment: Experiment) -> tuple[str, str]:
    """The detail and scale that an experiment is about."""
    return experiment.tags["detail"], experiment.tags["scale"]


def _chosen(experiments: Sequence[Experiment]) -> dict[tuple[str, str], Experiment]:
    """The experiment of each detail and scale: of two, the one that has their name, which is where runs go."""
    ordered = sorted(experiments, key=lambda each: (each.name == "-".join(_key(each)), each.last_update_time or 0))
    return {_key(each): each for each in ordered}


def _twin(experiment: Experiment, chosen: Experiment) -> str:
    """That a second experiment says it is the same study."""
    return (
        f"the experiment {experiment.name} says that it is {'-'.join(_key(experiment))} too; "
        f"only {chosen.name} is read: delete one, or import it into the other"
    )


def _unknown(client: MlflowClient, name: str, found: Sequence[Experiment]) -> UserError:
    """That there is no such study: the ones there are, or how to get a deleted one back."""
    deleted = client.get_experiment_by_name(name)
    if deleted is not None and deleted.lifecycle_stage == "deleted":
        remedy = f"mlflow experiments restore --experiment-id {deleted.experiment_id}"
        return UserError(f"the study {name} is deleted; `{remedy}` brings it back")
    names = ", ".join(each.name for each in found) or "none"
    return UserError(f"there is no study {name}; recorded are: {names}")


def _runs(client: MlflowClient, experiments: list[str]) -> list[Run]:
    """Every run of these experiments that is not deleted and says which arm and seed it is."""
    found, token = [], "" if experiments else None
    with _collector_off():
        while token is not None:
            page = client.search_runs(experiments, max_results=RUNS_AT_ONCE, page_token=token or None)
            found, token = found + list(page), page.token or None
    return [run for run in found if "arm" in run.data.tags and re.fullmatch(r"-?\d+", run.data.tags.get("seed", ""))]


@contextmanager
def _collector_off() -> Iterator[None]:
    """For queries, which make a small object per tag, parameter and value: looking for garbage among them all is 2/3 of
    their time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
                "judged": JUDGED in tags,
            }
            | stages
            | {name: tags.get(name, UNTOLD) for name in PROVENANCE}
        )
    return pd.DataFrame(rows)


def _outcome(run: Run) -> str:
    """How a run ended, in the tracker's word; in MLflow's where it did not get to write one."""
    return run.data.tags.get("outcome", run.info.status.lower())


def _newest(recorded: list[Run], name: str) -> list[Run]:
    """The newest run of each arm and seed, the reference's first: a restarted study replaces what it repeats."""
    if not recorded:
        raise UserError(f"the study {name} has no run; start it")
    references = {run.data.tags["arm"] for run in recorded if run.data.tags.get("reference") == "true"}
    if not references:
        raise UserError(f"the study {name} has no run of the reference arm to compare with; run that arm first")
    kept = {(run.data.tags["arm"], int(run.data.tags["seed"])): run for run in sorted(recorded, key=_age)}
    return [kept[place] for place in sorted(kept, key=lambda place: (place[0] not in references, *place))]


def _plan(name: str, runs: list[Run]) -> dict[str, str]:
    """What was written down before the runs (oldest first), each part as the newest that has it says."""
    told = {part: run.data.tags[part] for run in runs for part in PLAN if part in run.data.tags}
    missing = [part for part in DECISIVE if part not in told]
    if missing:
        raise UserError(f"no run of the study {name} has the tag {', '.join(missing)}, which says what is compared")
    plan = DEFAULTS | told
    try:
        float(plan["smallest_effect"]), dict(json.loads(plan["moves"])), list(map(int, plan["looks"].split()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the tags smallest_effect, looks or moves of the study {name} cannot be read: {error}"
        ) from None
    return plan


def _amended(runs: list[Run]) -> tuple[str, ...]:
    """Parts of the plan that did not stay the same over all runs of the study that have them."""
    told = {part: {run.data.tags[part] for run in runs if part in run.data.tags} for part in PLAN}
    return tuple(part for part, values in told.items() if len(values) > 1)


def _mixed(detail: str, runs: list[Run]) -> tuple[str, ...]:
    """What differs between runs that should differ in the detail and the seed alone: another budget, say."""
    counts: dict[str, Counter[str]] = {}
    for run in runs:
        for name, value in run.data.params.items():
            counts.setdefault(name, Counter())[value] += 1
    found = [
        f"{name} is " + " and ".join(f"{value} in {n} of them" for value, n in values.most_common())
        for name, values in sorted(counts.items())
        if len(values) > 1 and name not in (detail, "seed")
    ]
    return (f"the runs do not differ in {detail} alone: {'; '.join(found)}",) if found else ()


def _curves(client: MlflowClient, runs: pd.DataFrame, kept: dict[str, Run]) -> pd.DataFrame:
    """Every curve as arm, seed, step, metric, value; a step that was logged twice keeps its latest value."""
    having: dict[str, list[str]] = {}
    for run_id in runs["run_id"]:
        for name in kept[run_id].data.metrics:
            if name.startswith(CURVES):
                having.setdefault(name, []).append(run_id)
    with _collector_off():
        points = [
            (run_id, point.step, name, point.value, point.timestamp)
            for name, run_ids in having.items()
            for run_id, point in _history(client, run_ids, name)
        ]
    frame = pd.DataFrame(points, columns=["run_id", "step", "metric", "value", "timestamp"])
    frame = frame.merge(runs[["run_id", "arm", "seed"]], on="run_id").drop(columns="run_id")
    frame = frame.sort_values(["metric", "arm", "seed", "step", "timestamp"], kind="stable")
    frame = frame.drop_duplicates(["metric", "arm", "seed", "step"], keep="last")
    return _finite(frame.drop(columns="timestamp")).reset_index(drop=True)


def _history(client: MlflowClient, run_ids: list[str], metric: str) -> Iterator[tuple[str, Metric]]:
    """(run id, point) of a metric in these runs.

    A database tells all runs at once; run by run it takes five times as long, since it looks through the metric's points
    of every run of the store each time. A server has no such call.
    """
    store = client._tracking_client.store
    if hasattr(store, "get_metric_history_bulk"):
        for point in store.get_metric_history_bulk(run_ids, metric, max_results=None):
            yield point.run_id, point
    else:
        for run_id in run_ids:
            yield from ((run_id, point) for point in client.get_metric_history(run_id, metric))


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


def _samples(
    uri: str, runs: pd.DataFrame, kept: dict[str, Run]
) -> tuple[dict[tuple[str, int], pd.DataFrame], tuple[str, ...]]:
    """The logged samples of each arm and seed, and what is missing or damaged of the runs that finished."""
    found, missing, troubles = {}, [], []
    for row in runs.itertuples():
        try:
            path = artifact(uri, kept[row.run_id], SAMPLES)
            found[row.arm, row.seed] = _sample(path)
        except UserError:
            missing += [f"{row.arm} seed {row.seed}"] if row.outcome == "finished" else []
        except ValueError as error:
            troubles.append(f"{SAMPLES} of {row.arm} seed {row.seed} is damaged ({error}); its samples are left out")
    if missing:
        which = ", ".join(missing)
        troubles.append(f"{SAMPLES} is missing for {which}: it was not logged, or lies elsewhere than the store says")
    return found, tuple(troubles)


def read_data(study: Study) -> dict[str, dict]:
    """Key of the data -> what they hold, where a run says it: those of earlier versions do not."""
    client, found = _open(study.uri), {}
    for run in study.runs.to_dict("records"):
        key = run.get("stage.data")
        if isinstance(key, str) and key not in found:
            with suppress(UserError, ValueError):
                path = artifact(study.uri, client.get_run(run["run_id"]), DATA_CHECKS)
                told = json.loads(path.read_text(encoding="utf-8"))
                found |= {key: told} if isinstance(told, dict) and CHECKED <= told.keys() else {}
    return found


def _sample(path: Path) -> pd.DataFrame:
    """A table of samples; text stays text even where it reads like a number. ValueError where the file is damaged."""
    try:
        table = pd.read_json(path, orient="split", dtype=False)
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(error) from None
    if missing := SAMPLED - set(table.columns):
        raise ValueError(f"no column {', '.join(sorted(missing))}")
    return table


def artifact(uri: str, run: Run, name: str) -> Path:
    """An artifact of a run as a local file; UserError where the run has none of that name.

    A store names its files by where they were written. One that was copied or moved has them beside its database.
    """
    written = run.info.artifact_uri
    missing = UserError(
        f"run {run.info.run_name} has no artifact {name}; it was not logged, or its files are elsewhere"
    )
    local = urlsplit(written).scheme in ("", "file")
    folders = [Path(local_file_uri_to_path(written))] if local else []
    if uri.startswith("sqlite:"):  # a server keeps a folder for each experiment
        beside = Path(make_url(uri).database or "").parent / "mlartifacts"
        folders += [beside / run.info.run_id / "artifacts"]
        folders += [beside / run.info.experiment_id / run.info.run_id / "artifacts"]
    found = [folder / name for folder in folders if (folder / name).is_file()]
    if found:
        return found[0]
    if local:
        raise missing
    try:
        if name in {each.path for each in MlflowClient(tracking_uri=uri).list_artifacts(run.info.run_id)}:
            told = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name, tracking_uri=uri)
            return Path(told)
    except (MlflowException, OSError, ImportError):  # an ImportError: no driver for where the files are
        pass
    raise missing


EPISODES = "episodes.json"
JUDGEMENT, JUDGED = "judge.json", "judgement"  # artifact of a run that was judged, and the tag that says that it was
JUDGEMENT_PARTS = {"model", "answered_by", "hosts", "sampling", "prompt", "last_answer", "metrics", "verdicts"}
NEAREST = 6  # runs that an error names


@dataclass(frozen=True)
class Trace:
    """A run's episodes, token by token, as PPO noted them."""

    run_id: str
    name: str
    detail: str
    arm: str
    eos: str  # text of the token that ends a response
    against: str  # label of the policy that the recipe measures the KL to, which wrote the other response
    episodes: list[dict]  # by number; with post_id, query, reference, and what the policy and the other wrote


def read_run(words: str, uri: str) -> Run:
    """The run that is meant by its id, the beginning of one, or `detail/arm/seed` or `detail-scale/arm/seed`.

    Of several with one name it is the newest. UserError names the nearest where there is none, or more than one.
    """
    client = _open(uri)
    studies = {each.experiment_id: each for each in client.search_experiments()}
    head = words.partition("/")[0]
    asked = [number for number, each in studies.items() if head in (each.name, each.tags.get("detail"))]
    recorded = sorted(_runs(client, asked or list(studies)), key=_age)
    full = {f"{studies[run.info.experiment_id].name}/{_place(run)}": run for run in recorded}
    short = {f"{studies[run.info.experiment_id].tags.get('detail')}/{_place(run)}": run for run in recorded}
    if words in full or words in short:
        return (short | full)[words]
    found = [run for run in recorded if run.info.run_id.startswith(words)]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(run.info.run_id for run in found[-NEAREST:])
        raise UserError(f"{len(found)} runs begin with {words!r}; write more of one, of the newest: {several}")
    near = get_close_matches(words, full, n=NEAREST, cutoff=0)
    raise UserError(f"there is no run {words!r}; recorded are, nearest first: {', '.join(near) or 'none'}")


def read_trace(words: str, uri: str) -> Trace:
    """The episodes of the run that is meant; UserError that names the runs of its study that have some."""
    run = read_run(words, uri)
    try:
        return _trace(uri, run)
    except UserError as error:
        others = ", ".join(_with_episodes(uri, run)) or "none"
        raise UserError(f"{error}; runs of its study with episodes: {others}") from None


def read_traces(study: Study) -> dict[tuple[str, int], Trace]:
    """(arm, seed) -> its run's episodes, of the runs that have any that can be read."""
    client, found = _open(study.uri), {}
    for row in study.runs.itertuples():
        with suppress(UserError):
            found[row.arm, row.seed] = _trace(study.uri, client.get_run(row.run_id))
    return found


def read_judgements(study: Study) -> tuple[dict[tuple[str, int], dict], tuple[str, ...]]:
    """(arm, seed) -> what a language model said of its run's summaries, of the runs that were judged; and what is damaged."""
    client, found, troubles = _open(study.uri), {}, []
    for row in study.runs[study.runs["judged"]].itertuples():
        try:
            told = json.loads(artifact(study.uri, client.get_run(row.run_id), JUDGEMENT).read_text(encoding="utf-8"))
            if missing := JUDGEMENT_PARTS - told.keys():
                raise ValueError(f"no {', '.join(sorted(missing))}")
            found[row.arm, row.seed] = told
        except (UserError, ValueError, AttributeError) as error:
            troubles.append(f"{JUDGEMENT} of {row.arm} seed {row.seed} cannot be read ({error}).")
    return found, tuple(troubles)


def _trace(uri: str, run: Run) -> Trace:
    """A run's episodes; UserError where it has none, or none that can be read."""
    path, tags = artifact(uri, run, EPISODES), run.data.tags
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        episodes = sorted(told["episodes"], key=lambda record: record["episode"])
        readable = all("post_id" in record and "tokens" in record["policy"] for record in episodes)
    except (ValueError, KeyError, TypeError):
        readable = False
    if not readable or not episodes:
        raise UserError(f"{EPISODES} of run {run.info.run_name} holds no episodes that can be read")
    return Trace(
        run_id=run.info.run_id,
        name=run.info.run_name,
        detail=tags.get("detail", ""),
        arm=tags["arm"],
        eos=told.get("eos", ""),
        against=run.data.params.get("reference_policy", "sft"),
        episodes=episodes,
    )


def _with_episodes(uri: str, run: Run) -> list[str]:
    """`detail-scale/arm/seed` of the runs in the same study whose episodes can be read, the newest first."""
    client = _open(uri)
    study, found = client.get_experiment(run.info.experiment_id).name, []
    for other in sorted(_runs(client, [run.info.experiment_id]), key=_age, reverse=True):
        with suppress(UserError):
            _trace(uri, other)
            found.append(f"{study}/{_place(other)}")
    return list(dict.fromkeys(found))


def _place(run: Run) -> str:
    """Arm and seed of a run, as in its address."""
    return f"{run.data.tags['arm']}/{run.data.tags['seed']}"


def _age(run: Run) -> tuple[int, int, str]:
    """What newer runs have more of."""
    return int(run.data.tags.get("asked", 0)), run.info.start_time, run.info.run_id
