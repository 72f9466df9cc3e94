"""The question that a judge is asked about two summaries, and how its answer is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

PROMPT = 1  # version of the words below, which a judgement tells
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
BARE = re.compile(r"^[^\w:]*([AB])[^\w:\n]*$", re.IGNORECASE | re.MULTILINE)  # a line of one letter that is no heading
COMPARISON = re.compile(
    r"comparison\W*?:[\s*]*(.+?)\s*(?:^\W*preferred\b|\Z)", re.IGNORECASE | re.MULTILINE | re.DOTALL
)
Messages = tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Duel:
    """A post with a policy's summary and the reference summary."""

    post: str
    summary: str
    reference: str

    @property
    def same(self) -> bool:
        """Whether there is nothing to choose between, and so nothing to ask."""
        return self.summary == self.reference

    @cached_property
    def questions(self) -> dict[str, Messages]:
        """Whose summary is shown first -> the question; none where both summaries are the same."""
        if self.same:
            return {}
        return {
            "policy": question(self.post, self.summary, self.reference),
            "reference": question(self.post, self.reference, self.summary),
        }


def question(post: str, first: str, second: str) -> Messages:
    """What is asked about a post and two summaries, in this order."""
    words = QUESTION.format(post=post, first=first, second=second)
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": words})


def duels(table: pd.DataFrame, column: str) -> list[Duel]:
    """One per post of a run's samples, of the summaries in `column`; none where the run did not record them."""
    if column not in table:
        return []
    return [
        Duel(_text(post).removesuffix("TL;DR:").strip(), _text(ours), _text(reference))
        for post, ours, reference in zip(table["query"], table[column], table["reference"])
    ]


def _text(written: Any) -> str:
    return "" if pd.isna(written) else str(written).strip()


def preference(answer: str) -> str:
    """The letter that a judge prefers, A or B; empty where the answer names none, or both."""
    last = answer.rstrip().rpartition("\n")[2]
    told = PREFERRED.findall(answer) or (BARE.findall(answer) if BARE.fullmatch(last) else [])
    found = {letter.upper() for letter in told}
    return found.pop() if len(found) == 1 else ""


def explanation(answer: str) -> str:
    """The sentence in which a judge compares; empty where it does not."""
    found = COMPARISON.search(answer)
    return found[1] if found else ""


def characters(messages: Messages) -> int:
    return sum(len(message["content"]) for message in messages)
