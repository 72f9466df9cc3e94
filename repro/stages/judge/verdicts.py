"""What a judge said of a run's summaries: each post's verdict, and the run's numbers."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from repro.record import Judgement
from repro.stages.evaluate import wins
from repro.stages.judge.answers import Answers
from repro.stages.judge.endpoint import Judge
from repro.stages.judge.prompt import PROMPT, QUESTION, Duel, Messages, duels, explanation, preference
from repro.types import Metrics


def questions_of(judge: Judge, tables: Mapping[Any, pd.DataFrame]) -> dict[str, Messages]:
    """Key -> question, each once, of all runs' samples: the policies' summaries, and the SFT policies' before them."""
    every = [
        duel for table in tables.values() for column in ("summary", "sft_summary") for duel in duels(table, column)
    ]
    return {judge.key(asked): asked for duel in every for asked in duel.questions.values()}


def judgement(judge: Judge, table: pd.DataFrame, answers: Answers) -> dict[str, Any]:
    """What the judge said of one run's samples, as JSON has it: who, when, the metrics, and each post's verdicts."""
    ours, before = (duels(table, column) for column in ("summary", "sft_summary"))
    own = [_verdict(judge, duel, answers) for duel in ours]
    sft = [_verdict(judge, duel, answers) for duel in before]
    keys = [judge.key(asked) for duel in ours + before for asked in duel.questions.values()]
    used = [answers.known[key] for key in keys if key in answers.known]
    told = [{"post_id": post, **verdict} for post, verdict in zip(table["post_id"], own)]
    said = Judgement(
        model=judge.name,
        answered_by=sorted({record["answered_by"] for record in used}),
        hosts=sorted({record["host"] for record in used}),
        sampling=dict(judge.sampling),
        prompt=PROMPT,
        question=QUESTION,
        first_answer=min((record["time"] for record in used), default=""),
        last_answer=max((record["time"] for record in used), default=""),
        unanswered=len(keys) - len(used),
        metrics=metrics(table, own, sft),
        verdicts=[row | {"sft": verdict} for row, verdict in zip(told, sft)] if sft else told,
    )
    return asdict(said)


def _verdict(judge: Judge, duel: Duel, answers: Answers) -> dict[str, Any]:
    """`win` (1, 0.5, 0; null where an answer has no preference), and by whose summary came first what was said."""
    orders = {}
    for first, asked in duel.questions.items():
        answer = answers.known.get(judge.key(asked), {"answer": ""})["answer"]
        letters = {"A": first, "B": "reference" if first == "policy" else "policy", "": ""}
        orders[f"{first}_first"] = {"preferred": letters[preference(answer)], "because": explanation(answer)}
    chosen = [order["preferred"] for order in orders.values()]
    if "" in chosen:
        return {"win": None, **orders}
    return {"win": chosen.count("policy") / len(chosen) if chosen else 0.5, **orders}


def metrics(table: pd.DataFrame, own: list[dict], sft: list[dict]) -> Metrics:
    """The run's numbers as repro/study/metrics.py defines them; one whose denominator is empty is left out."""
    win = pd.Series([verdict["win"] for verdict in own], index=table.index, dtype=float)
    orders = [verdict[order] for verdict in own for order in ("policy_first", "reference_first") if order in verdict]
    readable = pd.Series([order["preferred"] != "" for order in orders], dtype=float)
    both = [v for v in own if v["win"] is not None and "policy_first" in v]
    flips = pd.Series([v["policy_first"]["preferred"] != v["reference_first"]["preferred"] for v in both], dtype=float)
    firsts = [v[f"{first}_first"]["preferred"] == first for v in both for first in ("policy", "reference")]
    means = {
        "judge/win_rate": win.mean(),
        "judge/tie_rate": win.dropna().eq(0.5).mean(),
        "judge/unparsable": 1 - readable.mean(),
        "judge/order_flips": flips.mean(),
        "judge/first_preferred": pd.Series(firsts, dtype=float).mean(),
        "judge/sft_win_rate": pd.Series([verdict["win"] for verdict in sft], dtype=float).mean(),
        "judge/reward_model_agreement": _agreement(table, win),
    }
    return {name: float(value) for name, value in means.items() if not np.isnan(value)}


def _agreement(table: pd.DataFrame, win: pd.Series) -> float:
    """How often the reward model orders a pair as the judge does, where neither ties (N+ detail 17); NaN of none."""
    if "reference_score" not in table:
        return np.nan
    scored = wins(table["score"], table["reference_score"])
    decided = win.isin((0.0, 1.0)) & scored.isin((0.0, 1.0)) & table[["score", "reference_score"]].notna().all(axis=1)
    return (win[decided] == scored[decided]).mean()
