"""The judge's prompt about two summaries, and the parsing of its answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

PROMPT = 1  # version of the prompt below, recorded with each judgement
SYSTEM = "You are a helpful assistant."
QUESTION = """\
Below are a post from a forum and two summaries of it. Which summary is the better one: which of them covers the most \
important points of the post, without details that do not matter? A good summary is accurate, covers what is essential, \
and reads coherently.

Post:
{post}

Summary A:
{first}

Summary B:
{second}

Instructions: first compare the two summaries in one sentence that says which of them you prefer, and why. Then, on a \
line of its own, give your preference as the one letter "A" or "B". Your answer has this form:
Comparison: <one sentence>
Preferred: <"A" or "B">"""
PREFERRED = re.compile(r"^\W*preferred\b\W*(?:summary\b\W*)?([AB])\W*$", re.IGNORECASE | re.MULTILINE)
# A line with one letter, which is not a heading.
BARE = re.compile(r"^[^\w:]*([AB])[^\w:\n]*$", re.IGNORECASE | re.MULTILINE)
COMPARISON = re.compile(
    r"comparison\W*?:[\s*]*(.+?)\s*(?:^\W*preferred\b|\Z)", re.IGNORECASE | re.MULTILINE | re.DOTALL
)
Messages = tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class SummaryPair:
    """A post, a policy's summary of it and the reference summary."""

    post: str
    summary: str
    reference: str

    @property
    def same(self) -> bool:
        """Whether both summaries are equal, so that there is no question to ask."""
        return self.summary == self.reference

    @cached_property
    def questions(self) -> dict[str, Messages]:
        """Writer of the summary shown first, "policy" or "reference" -> the question; empty for equal summaries."""
        if self.same:
            return {}
        return {
            "policy": question(self.post, self.summary, self.reference),
            "reference": question(self.post, self.reference, self.summary),
        }


def question(post: str, first: str, second: str) -> Messages:
    """The chat messages about a post and two summaries, in this order."""
    content = QUESTION.format(post=post, first=first, second=second)
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": content})


def summary_pairs(table: pd.DataFrame, column: str) -> list[SummaryPair]:
    """One pair per post of a run's samples, with the summaries in `column`; empty where the run has no such column."""
    if column not in table:
        return []
    return [
        SummaryPair(post_of(_text(post)), _text(summary), _text(reference))
        for post, summary, reference in zip(table["query"], table[column], table["reference"])
    ]


def post_of(query: str) -> str:
    """The post in a prompt, without the cue at its end."""
    return query.strip().removesuffix("TL;DR:").strip()


def _text(cell: Any) -> str:
    return "" if pd.isna(cell) else str(cell).strip()


def preference(answer: str) -> str:
    """The preferred letter, A or B; empty where the answer names none, or both."""
    last_line = answer.rstrip().rpartition("\n")[2]
    matches = PREFERRED.findall(answer) or (BARE.findall(answer) if BARE.fullmatch(last_line) else [])
    letters = {letter.upper() for letter in matches}
    return letters.pop() if len(letters) == 1 else ""


def explanation(answer: str) -> str:
    """The judge's sentence of comparison; empty where the answer has none."""
    match = COMPARISON.search(answer)
    return match[1] if match else ""


def characters(messages: Messages) -> int:
    return sum(len(message["content"]) for message in messages)
