"""The provenance of a study: code and machine, shared stages, cost, and the commands to run it again."""

import math
from collections.abc import Iterable

import pandas as pd

from repro import record
from repro.reports.pages.markup import parsed
from repro.reports.reading.study import Study

KINDS = (record.COMMIT, record.LOCK, record.MACHINE, record.VERSIONS, record.COMMAND)


# What ran


def what_ran(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Each kind of provenance with its distinct values over the runs: one value where everything agreed."""
    versions = [", ".join(f"{k} {v}" for k, v in sorted(parsed(t).items())) or t for t in runs.get("versions", ())]
    frame = runs.assign(versions=versions)
    return {kind: list(dict.fromkeys(frame[kind])) if kind in frame else [] for kind in KINDS}


def outdated(study: Study) -> list[dict]:
    """Per stage: what of its code had changed since it was made, and the runs that used it all the same."""
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for run in study.runs.to_dict("records"):
        for stage, changes in parsed(run.get(record.OUTDATED, "")).items():
            found.setdefault((stage, ", ".join(changes)), []).append((run["arm"], run["seed"]))
    return [
        {"stage": stage, "changes": changes, "users": described(members, study)}
        for (stage, changes), members in found.items()
    ]


def sources(runs: pd.DataFrame) -> list[str]:
    """Models and data of the hub, `SOURCE at COMMIT`, over all runs."""
    commits = [parsed(text) for text in runs.get("sources", ())]
    return sorted({f"{source} at {commit}" for each in commits for source, commit in each.items()})


# Shared stages


def shared_stages(study: Study) -> list[dict]:
    """Per stage: the number of different results, and which runs share them."""
    recorded = _in_order(name.removeprefix(record.STAGE) for name in study.runs if name.startswith(record.STAGE))
    results = {stage: groups(study.runs, record.stage_tag(stage)) for stage in recorded}
    return [
        {"stage": stage, "results": len(found), "sharing": _sharing(found, study)}
        for stage, found in results.items()
        if found
    ]


def seconds_table(study: Study) -> dict:
    """Seconds that each run's stages took when they were computed, by it or by a run that shares them."""
    taken = [parsed(text) for text in study.runs["stage_seconds"]]
    stages = _in_order(stage for seconds_of_run in taken for stage in seconds_of_run)
    rows = [
        {
            "arm": run.arm,
            "seed": run.seed,
            "started": run.started,
            "cells": [t.get(stage, math.nan) for stage in stages],
            "total": sum(t.values()),
        }
        for run, t in zip(study.runs.itertuples(), taken, strict=True)
    ]
    return {"stages": stages, "rows": rows}


# Cost


def computed(runs: pd.DataFrame) -> pd.DataFrame:
    """stage, key, hours, arms (who uses it): each result once, however many runs of however many studies share it."""
    rows = []
    for run in runs.to_dict("records"):
        for stage, seconds in parsed(run["stage_seconds"]).items():
            key = run.get(record.stage_tag(stage))
            own = f"{stage} of {run['run_id']}"
            rows.append((stage, key if isinstance(key, str) else own, seconds / 3600, run["arm"]))
    frame = pd.DataFrame(rows, columns=["stage", "key", "hours", "arm"]).astype({"hours": float})
    by_key = frame.groupby("key", sort=False)
    return by_key.agg(stage=("stage", "last"), hours=("hours", "last"), arms=("arm", frozenset)).reset_index()


def hours(runs: pd.DataFrame) -> float:
    """Hours of a worker's time spent on all stages of these runs, each counted once."""
    return float(computed(runs)["hours"].sum())


def costs(study: Study) -> dict:
    """Hours of the whole study, and per arm: of all stages that its runs use, and of those that only it uses."""
    results = computed(study.runs)
    arms = [
        {
            "arm": arm,
            "whole": float(results.loc[[arm in users for users in results["arms"]], "hours"].sum()),
            "marginal": float(results.loc[[users == {arm} for users in results["arms"]], "hours"].sum()),
        }
        for arm in study.arms
    ]
    return {"total": float(results["hours"].sum()), "arms": arms}


# Shared results


def _in_order(stages: Iterable[str]) -> list[str]:
    """Each stage once: those of today's pipeline in its order, then what else an older or newer one recorded."""
    recorded = dict.fromkeys(stages)
    return [stage for stage in record.STAGES if stage in recorded] + [
        stage for stage in recorded if stage not in record.STAGES
    ]


def groups(runs: pd.DataFrame, stage: str) -> list[list[tuple[str, int]]]:
    """The (arm, seed) of the runs that share each key of a stage."""
    known = runs.dropna(subset=stage) if stage in runs else runs.head(0)
    return [list(zip(group["arm"], group["seed"], strict=True)) for _, group in known.groupby(stage, sort=False)]


def _sharing(groups: list[list[tuple[str, int]]], study: Study) -> str:
    """Which runs share the results of a stage, in few words."""
    if len(groups) > 1 and all(len(members) == 1 for members in groups):
        return "each run its own"
    if len(groups) == len(study.seeds) > 1 and all(len({seed for _, seed in members}) == 1 for members in groups):
        return "the arms of a seed share one"
    return "; ".join(described(members, study) for members in groups)


def described(members: list[tuple[str, int]], study: Study) -> str:
    """The runs that share a stage's result, in words."""
    arms = [arm for arm in study.arms if arm in {a for a, _ in members}]
    seeds = sorted({seed for _, seed in members})
    who = "all arms" if len(arms) == len(study.arms) > 1 else ", ".join(arms)
    which = "all seeds" if len(seeds) == len(study.seeds) > 1 else f"seed {', '.join(map(str, seeds))}"
    return f"{who} \N{MIDDLE DOT} {which}"
