"""The section of a language model's judgement: win rates by arm, also at equal length, and measures of its reliability."""

from dataclasses import replace

import numpy as np
import pandas as pd

from repro.reports.figures import length
from repro.reports.reading.artifacts import read_judgements
from repro.reports.reading.study import Study
from repro.reports.statistics import pairing

WIN_RATE, CONTROLLED, SFT = "judge/win_rate", "judge/length_controlled_win_rate", "judge/sft_win_rate"
SHOWN = 3  # posts whose verdicts are quoted: the first of the test set
# Metric -> head of its column in the table of runs.
COLUMNS = {
    WIN_RATE: "win rate",
    CONTROLLED: "at equal length",
    SFT: "before PPO",
    "judge/tie_rate": "ties",
    "judge/order_flips": "contradicts itself",
    "judge/first_preferred": "prefers the first",
    "judge/unparsable": "no preference",
    "judge/reward_model_agreement": "agrees with reward model",
}
# Fields of a judgement that must be equal in two runs to compare them.
SAME = ("model", "answered_by", "sampling", "prompt")


def section(study: Study) -> dict:
    """The values of the section; `runs` is empty where no run was judged."""
    found, troubles = read_judgements(study)
    values = finals(study, found)
    return {
        "runs": runs(study, found, values),
        "columns": COLUMNS,
        "arms": arms(study, values),
        "judges": judges(found),
        "posts": sorted({len(judgement["verdicts"]) for judgement in found.values()}),
        "warnings": [*troubles, *warnings(study, found)],
        "examples": examples(study, found),
    }


def finals(study: Study, found: dict[tuple[str, int], dict]) -> pd.DataFrame:
    """arm, seed, metric, value of every judged run: as they were recorded, and the win rate at equal length."""
    rows = [
        {"arm": arm, "seed": seed, "metric": metric, "value": value}
        for (arm, seed), judgement in found.items()
        for metric, value in judgement["metrics"].items()
    ]
    compared = length.comparisons(by_this_judge(study, found))
    for (arm, seed), own in compared[compared["policy"] != length.SFT].groupby(["arm", "seed"], sort=False):
        value = length.at(length.fit(own), 0.0)
        rows += [{"arm": arm, "seed": seed, "metric": CONTROLLED, "value": value}] if np.isfinite(value) else []
    return pd.DataFrame(rows, columns=["arm", "seed", "metric", "value"]).astype({"value": float})


def by_this_judge(study: Study, found: dict[tuple[str, int], dict]) -> Study:
    """The study with the judge's win in its samples; a post without a verdict does not count."""
    tables = {}
    for place, judgement in found.items():
        if place in study.samples:
            table = study.samples[place]
            win = table["post_id"].map({verdict["post_id"]: verdict["win"] for verdict in judgement["verdicts"]})
            tables[place] = table.assign(win=win.astype(float))
    return replace(study, samples=tables)


def arms(study: Study, values: pd.DataFrame) -> list[dict]:
    """Per arm that was judged: the mean of its runs, and its paired difference to the reference with the interval."""
    paired = pairing.intervals(pairing.differences(values.assign(step=0), study.reference))
    apart = {(row.arm, row.metric): row for row in paired.itertuples()}
    means = values.groupby(["arm", "metric"])["value"].mean()
    return [
        {"arm": arm, "cells": [(means.get((arm, m), np.nan), apart.get((arm, m))) for m in (WIN_RATE, CONTROLLED)]}
        for arm in study.arms
        if arm in set(values["arm"])
    ]


def runs(study: Study, found: dict[tuple[str, int], dict], values: pd.DataFrame) -> list[dict]:
    """Per judged run, arms in order: its value in each of `COLUMNS`."""
    value = values.set_index(["arm", "seed", "metric"])["value"]
    return [
        {"arm": arm, "seed": seed, "cells": [value.get((arm, seed, metric), np.nan) for metric in COLUMNS]}
        for arm in study.arms
        for seed in study.seeds
        if (arm, seed) in found
    ]


def judges(found: dict[tuple[str, int], dict]) -> list[str]:
    """A line for each different judge: model, host, sampling and date."""
    return list(dict.fromkeys(_described(judgement) for judgement in found.values()))


def _described(judgement: dict) -> str:
    """One judge in a line; a model that answered under a longer name is given with both names."""
    also = [name for name in judgement["answered_by"] if name not in ("", judgement["model"])]
    who = f"{judgement['model']} (answered as {', '.join(also)})" if also else judgement["model"]
    temperature = judgement["sampling"].get("temperature", "the endpoint's own")
    where = ", ".join(judgement["hosts"])
    when = judgement["last_answer"][:10]
    return f"{who} at {where}, temperature {temperature}, prompt {judgement['prompt']}, last answer {when}"


def warnings(study: Study, found: dict[tuple[str, int], dict]) -> list[str]:
    """Warnings about comparing the runs: different judges or posts, runs without a judgement, unanswered questions."""
    sentences = []
    if len({str([judgement[part] for part in SAME]) for judgement in found.values()}) > 1:
        sentences.append("Not all runs had the same judge: a difference between arms may be one between judges.")
    if len({tuple(verdict["post_id"] for verdict in judgement["verdicts"]) for judgement in found.values()}) > 1:
        sentences.append("Not all runs were judged on the same posts.")
    lacking = [f"{arm} seed {seed}" for arm, seed in study.samples if (arm, seed) not in found]
    if found and lacking:
        sentences.append(f"Not judged: {', '.join(lacking)}.")
    lost = sum(judgement.get("unanswered", 0) for judgement in found.values())
    return [*sentences, f"{lost} questions have no answer; the same command asks them again."] if lost else sentences


def examples(study: Study, found: dict[tuple[str, int], dict]) -> list[dict]:
    """The first posts' verdicts with the judge's reasons, of the first judged seed."""
    first = next((seed for seed in study.seeds for arm in study.arms if (arm, seed) in found), 0)
    judged = {arm: found[arm, first]["verdicts"] for arm in study.arms if (arm, first) in found}
    return [
        {"arm": arm, "post": verdict["post_id"], "order": order, **verdict[f"{order}_first"]}
        for place in range(SHOWN)
        for arm, verdicts in judged.items()
        for verdict in verdicts[place : place + 1]
        for order in ("policy", "reference")
        if f"{order}_first" in verdict
    ]
