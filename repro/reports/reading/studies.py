"""Reads studies from the MLflow store: their plans, runs and values.

A study is the experiment `{detail}-{scale}`, and a run of it is one arm and seed. Reports use nothing else: questions and
predictions are read from tags that were written before the run, not from today's code.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

from repro import record
from repro.errors import UserError, nearest
from repro.reports.reading.artifacts import samples_of
from repro.reports.reading.ceiling import ceiling_of
from repro.reports.reading.store import (
    age,
    all_experiments,
    chosen_of,
    open_store,
    runs_of,
    study_of,
    twin_of,
    unknown_study,
)
from repro.reports.reading.study import Study
from repro.reports.reading.values import CURVE, curves_of, finals_of

DECISIVE = (record.PRIMARY, record.HIGHER_IS_BETTER)  # without these no comparison is possible
NOT_RECORDED = "not recorded"
# Values for tags that an older version did not write.
DEFAULTS = dict.fromkeys(record.PLAN, NOT_RECORDED) | {
    record.EXPECTED: "{}",
    record.SMALLEST_EFFECT: "nan",
    record.KL_CAP: "nan",
    record.LOOKS: "",
}


def read_study(detail: str, scale: str, tracking_uri: str) -> Study:
    """Everything recorded for a detail at a scale; UserError where there is no such study or it has no result yet."""
    client, outline, kept = _recorded(detail, scale, tracking_uri)
    samples, troubles = samples_of(tracking_uri, outline.runs, kept)
    return replace(
        outline,
        curves=curves_of(client, outline.runs, kept).assign(detail=detail)[CURVE],
        samples=samples,
        troubles=outline.troubles + troubles,
        ceiling=ceiling_of(client, outline),
    )


def read_outline(detail: str, scale: str, tracking_uri: str) -> Study:
    """As `read_study`, without curves and samples, which take most of the time to read."""
    return _recorded(detail, scale, tracking_uri)[1]


def read_outlines(scale: str, tracking_uri: str) -> tuple[list[Study], dict[str, str]]:
    """Every study of a scale without its curves and samples, and detail -> why for those that cannot be compared."""
    client = open_store(tracking_uri)
    found = all_experiments(client)
    experiments = [each for each in found if each.tags[record.SCALE] == scale]
    if not experiments:
        scales = sorted({each.tags[record.SCALE] for each in found})
        raise UserError(f"there is no recorded study at scale {scale}; {nearest(scale, scales, 'make ui shows all')}")
    studies, left_out = _outlines(client, tracking_uri, experiments)
    return studies, {name: why for (name, _), why in left_out.items()}


def recorded_scales(tracking_uri: str) -> list[str]:
    """The scales that the store has studies of."""
    return sorted({each.tags[record.SCALE] for each in all_experiments(open_store(tracking_uri))})


def read_store(tracking_uri: str) -> tuple[list[Study], dict[tuple[str, str], str]]:
    """As `read_outlines`, of every scale; those that cannot be compared by detail and scale."""
    client = open_store(tracking_uri)
    return _outlines(client, tracking_uri, all_experiments(client))


def _recorded(detail: str, scale: str, tracking_uri: str) -> tuple[MlflowClient, Study, dict[str, Run]]:
    """The client, a study's outline and its runs by id; UserError where none of them has a result."""
    client = open_store(tracking_uri)
    found = all_experiments(client)
    experiment = chosen_of(found).get((detail, scale))
    if experiment is None:
        raise unknown_study(client, detail, scale, found)
    recorded = runs_of(client, [experiment.experiment_id])
    if not any(_outcome(run) in (record.FINISHED, record.DIVERGED) for run in recorded):
        raise UserError(f"the study {detail}-{scale} has no finished run yet; wait for one, or start the study again")
    outline = _outline(tracking_uri, detail, scale, recorded)
    twins = tuple(
        twin_of(each, experiment) for each in found if study_of(each) == (detail, scale) and each != experiment
    )
    return client, replace(outline, troubles=twins + outline.troubles), {run.info.run_id: run for run in recorded}


def _outlines(
    client: MlflowClient, uri: str, experiments: Sequence[Experiment]
) -> tuple[list[Study], dict[tuple[str, str], str]]:
    """The outline of each experiment, and why for those without one, from few queries for all runs."""
    chosen = chosen_of(experiments)
    recorded: dict[str, list[Run]] = {each.experiment_id: [] for each in experiments}
    for run in runs_of(client, list(recorded)):
        recorded[run.info.experiment_id].append(run)
    studies, left_out = [], {}
    for each in experiments:
        detail, scale = study_of(each)
        if each != chosen[detail, scale]:
            left_out[each.name, scale] = twin_of(each, chosen[detail, scale])
            continue
        try:
            studies.append(_outline(uri, detail, scale, recorded[each.experiment_id]))
        except UserError as error:
            left_out[detail, scale] = str(error)
    return studies, left_out


def _outline(uri: str, detail: str, scale: str, recorded: list[Run]) -> Study:
    """A study's plan, runs and final values, without its curves and samples."""
    newest = _newest(recorded, record.study_name(detail, scale))
    runs, kept = _run_frame(newest), {run.info.run_id: run for run in newest}
    return Study(
        uri=uri,
        detail=detail,
        scale=scale,
        arms=tuple(runs["arm"].unique()),
        seeds=tuple(sorted(int(seed) for seed in runs["seed"].unique())),
        tags=_plan(record.study_name(detail, scale), sorted(newest, key=age)),
        amended=_amended(recorded),
        curves=pd.DataFrame(columns=CURVE).astype({"seed": int, "step": int, "value": float}),
        finals=finals_of(runs, kept),
        runs=runs,
        samples={},
        params=_params(newest),
        troubles=_mixed(detail, newest),
    )


def _run_frame(runs: list[Run]) -> pd.DataFrame:
    """One row per run with its tags; a tag that is missing reads "not recorded"."""
    rows = []
    for run in runs:
        tags = run.data.tags
        stages = {name: key for name, key in tags.items() if name.startswith(record.STAGE)}
        rows.append(
            {
                "run_id": run.info.run_id,
                "arm": tags[record.ARM],
                "seed": int(tags[record.SEED]),
                "reference": record.is_set(tags, record.REFERENCE),
                record.DOES: tags.get(record.DOES, ""),
                "outcome": _outcome(run),
                "started": run.info.start_time,
                # A study that uses recorded runs again creates no new ones; it tags them as requested.
                "asked": record.requested(tags),
                "judged": record.JUDGEMENT_DIGEST in tags,
            }
            | stages
            | {name: tags.get(name, NOT_RECORDED) for name in record.PROVENANCE}
        )
    return pd.DataFrame(rows)


def _outcome(run: Run) -> str:
    """How a run ended: the tracker's outcome, or MLflow's status where there is none."""
    return run.data.tags.get(record.OUTCOME, run.info.status.lower())


def _newest(recorded: list[Run], name: str) -> list[Run]:
    """The newest run of each arm and seed, the reference's first: a restarted study replaces what it repeats."""
    if not recorded:
        raise UserError(f"the study {name} has no run; start it")
    references = {run.data.tags[record.ARM] for run in recorded if record.is_set(run.data.tags, record.REFERENCE)}
    if not references:
        raise UserError(f"the study {name} has no run of the reference arm to compare with; run that arm first")
    kept = {(run.data.tags[record.ARM], int(run.data.tags[record.SEED])): run for run in sorted(recorded, key=age)}
    return [kept[place] for place in sorted(kept, key=lambda place: (place[0] not in references, *place))]


def _plan(name: str, runs: list[Run]) -> dict[str, str]:
    """The plan from the tags of the runs (oldest first); the newest run that has a part decides it."""
    recorded = {part: run.data.tags[part] for run in runs for part in record.PLAN if part in run.data.tags}
    missing = [part for part in DECISIVE if part not in recorded]
    if missing:
        raise UserError(f"no run of the study {name} has the tag {', '.join(missing)}, which says what is compared")
    plan = DEFAULTS | recorded
    try:
        record.smallest_effect(plan), dict(record.expected(plan)), record.looks(plan)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the tags smallest_effect, looks or moves of the study {name} cannot be read: {error}"
        ) from None
    return plan


def _amended(runs: list[Run]) -> tuple[str, ...]:
    """Parts of the plan that differ between runs of the study."""
    recorded = {part: {run.data.tags[part] for run in runs if part in run.data.tags} for part in record.PLAN}
    return tuple(part for part, values in recorded.items() if len(values) > 1)


def _params(runs: list[Run]) -> dict[str, tuple[str, ...]]:
    """Every parameter that a run has, and its values in the order of the runs."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in run.data.params.items():
            found.setdefault(name, {})[value] = None
    return {name: tuple(values) for name, values in found.items()}


def _mixed(detail: str, runs: list[Run]) -> tuple[str, ...]:
    """A sentence on parameters that differ between runs, besides the detail and the seed: another budget, for example.

    The seeds of a scale are those of a study to which none are given: they train nothing.
    """
    counts: dict[str, Counter[str]] = {}
    for run in runs:
        for name, value in run.data.params.items():
            counts.setdefault(name, Counter())[value] += 1
    found = [
        f"{name} is " + " and ".join(f"{value} in {n} of them" for value, n in values.most_common())
        for name, values in sorted(counts.items())
        if len(values) > 1 and name not in (detail, "seed", "scale.seeds")
    ]
    return (f"the runs do not differ in {detail} alone: {'; '.join(found)}",) if found else ()
