"""A judge's verdicts on a run's summaries: one per post, and the run's metrics."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from repro.record import Judgement
from repro.stages.evaluate import wins
from repro.stages.judge.answers import Answers
from repro.stages.judge.endpoint import Judge
from repro.stages.judge.prompt import PROMPT, QUESTION, Messages, SummaryPair, explanation, preference, summary_pairs
from repro.types import Metrics


def questions_of(judge: Judge, tables: Mapping[Any, pd.DataFrame]) -> dict[str, Messages]:
    """`Judge.key` -> question for the samples of all runs: the summaries of the trained policies and of the SFT policies."""
    pairs = [
        pair
        for table in tables.values()
        for column in ("summary", "sft_summary")
        for pair in summary_pairs(table, column)
    ]
    return {judge.key(messages): messages for pair in pairs for messages in pair.questions.values()}


def judgement(judge: Judge, table: pd.DataFrame, answers: Answers) -> dict[str, Any]:
    """The `Judgement` of one run's samples as JSON: judge and time, metrics, and the verdict on each post."""
    policy_pairs, sft_pairs = (summary_pairs(table, column) for column in ("summary", "sft_summary"))
    policy_verdicts = [verdict(judge, pair, answers) for pair in policy_pairs]
    sft_verdicts = [verdict(judge, pair, answers) for pair in sft_pairs]
    keys = [judge.key(messages) for pair in policy_pairs + sft_pairs for messages in pair.questions.values()]
    used = [answers.known[key] for key in keys if key in answers.known]
    verdicts = [{"post_id": post, **each} for post, each in zip(table["post_id"], policy_verdicts)]
    result = Judgement(
        model=judge.name,
        answered_by=sorted({record.get("answered_by", "") for record in used}),
        hosts=sorted({record.get("host", "") for record in used}),
        sampling=dict(judge.sampling),
        prompt=PROMPT,
        question=QUESTION,
        first_answer=min((record["time"] for record in used), default=""),
        last_answer=max((record["time"] for record in used), default=""),
        unanswered=len(keys) - len(used),
        metrics=metrics(table, policy_verdicts, sft_verdicts),
        verdicts=[row | {"sft": sft} for row, sft in zip(verdicts, sft_verdicts)] if sft_verdicts else verdicts,
    )
    return asdict(result)


def verdict(judge: Judge, pair: SummaryPair, answers: Answers) -> dict[str, Any]:
    """`win` (1, 0.5, 0; null where an answer is missing or has no preference), and preference and reason by order of the pair.

    A question without an answer is not there: it was not read, so that it is nothing that could not be read.
    """
    asked = {first: judge.key(messages) for first, messages in pair.questions.items()}
    orders = {}
    for first in (first for first, key in asked.items() if key in answers.known):
        answer = answers.known[asked[first]]["answer"]
        letters = {"A": first, "B": "reference" if first == "policy" else "policy", "": ""}
        orders[f"{first}_first"] = {"preferred": letters[preference(answer)], "because": explanation(answer)}
    preferred = [order["preferred"] for order in orders.values()]
    if len(orders) < len(asked) or "" in preferred:
        return {"win": None, **orders}
    return {"win": preferred.count("policy") / len(preferred) if preferred else 0.5, **orders}


def metrics(table: pd.DataFrame, verdicts: list[dict], sft_verdicts: list[dict]) -> Metrics:
    """The run's metrics, as repro/study/metrics.py defines them; a mean over nothing is left out."""
    win = pd.Series([verdict["win"] for verdict in verdicts], index=table.index, dtype=float)
    orders = [
        verdict[order] for verdict in verdicts for order in ("policy_first", "reference_first") if order in verdict
    ]
    readable = pd.Series([order["preferred"] != "" for order in orders], dtype=float)
    both = [v for v in verdicts if v["win"] is not None and "policy_first" in v]
    flips = pd.Series([v["policy_first"]["preferred"] != v["reference_first"]["preferred"] for v in both], dtype=float)
    firsts = [v[f"{first}_first"]["preferred"] == first for v in both for first in ("policy", "reference")]
    means = {
        "judge/win_rate": win.mean(),
        "judge/tie_rate": win.dropna().eq(0.5).mean(),
        "judge/unparsable": 1 - readable.mean(),
        "judge/order_flips": flips.mean(),
        "judge/first_preferred": pd.Series(firsts, dtype=float).mean(),
        "judge/sft_win_rate": pd.Series([verdict["win"] for verdict in sft_verdicts], dtype=float).mean(),
        "judge/reward_model_agreement": _agreement(table, win),
    }
    return {name: float(value) for name, value in means.items() if not np.isnan(value)}


def _agreement(table: pd.DataFrame, win: pd.Series) -> float:
    """How often reward model and judge prefer the same summary, where neither ties (N+ detail 17); NaN without such pairs."""
    if "reference_score" not in table:
        return np.nan
    scored = wins(table["score"], table["reference_score"])
    decided = win.isin((0.0, 1.0)) & scored.isin((0.0, 1.0)) & table[["score", "reference_score"]].notna().all(axis=1)
    return (win[decided] == scored[decided]).mean()
