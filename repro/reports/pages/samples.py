"""The policies' summaries of the same posts side by side, with the numbers to filter and sort them by."""

import math
from textwrap import shorten
from typing import TypeGuard

import pandas as pd

from repro.reports.figures.numbers import count, number
from repro.reports.reading.study import Study

# A page shows so many posts, the first of the test set, not a selection, and of many runs fewer: so many of their summaries.
POSTS, SUMMARIES = 40, 600
OPENING = 100  # characters of a post that its line shows
AGAINST = {1.0: "wins", 0.5: "ties", 0.0: "loses"}  # what a win of 1, 0.5 or 0 against the reference summary is called


def posts(study: Study) -> list[dict]:
    """The first test posts: post and reference summary, and per seed what the SFT policy and each arm wrote."""
    if not study.samples:
        return []
    first = next(iter(study.samples.values())).head(min(POSTS, max(1, SUMMARIES // len(study.samples))))
    return [
        {
            "id": post["post_id"],
            "query": post["query"],
            "opening": shorten(str(post["query"]), OPENING, placeholder=" ..."),
            "reference": post["reference"],
            "facts": _facts(post, score="reference_score", gold="reference_gold", tokens="reference_length"),
            "rows": [row for seed in study.seeds if (row := _row(place, post["post_id"], seed, study))["cells"]],
        }
        for place, post in enumerate(first.to_dict("records"))
    ]


def _row(place: int, post_id: str, seed: int, study: Study) -> dict:
    """What one seed's policies wrote under the post at a place of the test set: its SFT policies, then its arms."""
    tables = {arm: study.samples[arm, seed] for arm in study.arms if (arm, seed) in study.samples}
    rows = {
        arm: table.iloc[place].to_dict()
        for arm, table in tables.items()
        if place < len(table) and table["post_id"].iloc[place] == post_id
    }
    return {"seed": seed, "cells": _without_repeats(_before(rows) + [_cell(arm, row) for arm, row in rows.items()])}


def _without_repeats(cells: list[dict]) -> list[dict]:
    """The cells, each with `same`: the name of a cell further left with the same text, or empty."""
    first: dict[tuple[str, bool], str] = {}  # text, and whether it ended -> the first cell that has it
    earlier = [first.setdefault((cell["text"], cell["ended"]), cell["who"]) for cell in cells]
    return [
        cell | {"same": who if cell["text"] and who != cell["who"] else ""}
        for cell, who in zip(cells, earlier, strict=True)
    ]


def _before(rows: dict[str, dict]) -> list[dict]:
    """The summaries of the SFT policies that the arms started from: one cell for each different one."""
    users: dict[tuple, list[str]] = {}
    for arm, row in rows.items():
        facts = _facts(row, score="sft_score", gold="sft_gold", KL="sft_kl", tokens="sft_length", win="sft_win")
        cell = (_text(row, "sft_summary"), _ended(row, "sft_ended"), facts)
        users.setdefault(cell, []).append(arm)
    return [
        {
            "arm": "",
            "who": "SFT" if len(users) == 1 else f"SFT of {', '.join(arms)}",
            "text": text,
            "ended": ended,
            "facts": facts,
        }
        for (text, ended, facts), arms in users.items()
        if text
    ]


def _cell(arm: str, row: dict) -> dict:
    """The summary of one arm; `data` has the recorded numbers that a page filters and sorts by."""
    # Arms are put in order by the judge's own number: the gold score where there is one.
    numbers = {
        "judge": row.get("gold", row.get("score")),
        "score": row.get("score"),
        "kl": row.get("kl"),
        "length": row.get("length"),
        "win": row.get("win"),
    }
    return {
        "arm": arm,
        "who": arm,
        "text": _text(row, "summary"),
        "ended": _ended(row, "ended"),
        "facts": _facts(row, score="score", gold="gold", KL="kl", tokens="length", win="win"),
        "data": {name: round(float(value), 4) for name, value in numbers.items() if _is_number(value)},
    }


def _facts(row: dict, win: str = "", tokens: str = "", **columns: str) -> str:
    """The numbers of one summary that were recorded, in one line: label -> its column."""
    words = [AGAINST.get(float(row[win]), "")] if _is_number(row.get(win)) else []
    words += [f"{label} {number(row[column])}" for label, column in columns.items() if _is_number(row.get(column))]
    words += [count(int(row[tokens]), "token")] if _is_number(row.get(tokens)) else []
    return " \N{MIDDLE DOT} ".join(word for word in words if word)


def _text(row: dict, column: str) -> str:
    """A summary as text; empty where it was not recorded."""
    return "" if pd.isna(row.get(column)) else str(row[column])


def _ended(row: dict, column: str) -> bool:
    """Whether a summary ended within the limit; assumed where that was not recorded."""
    return bool(pd.isna(row.get(column)) or row[column])


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value was recorded, and is a finite number."""
    return isinstance(value, int | float) and not pd.isna(value) and math.isfinite(value)
