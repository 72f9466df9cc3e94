"""An estimate of what questions will cost, for a person to agree to before they are asked."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from repro.stages.judge.answers import Answers
from repro.stages.judge.endpoint import Judge
from repro.stages.judge.prompt import QUESTION, SYSTEM, Messages, characters

CHARACTERS_PER_TOKEN = 4.0  # of English, roughly; used until this judge's answers give the ratio


@dataclass(frozen=True)
class Cost:
    """The cost of questions in tokens; `at_most` where completion tokens are the limit, as this judge has no answers yet."""

    questions: int
    prompt_tokens: int
    completion_tokens: int
    at_most: bool

    def words(self, *prices: float) -> str:
        """The estimate in words; `prices` are those of a million tokens of questions and of answers, if given."""
        bound = "at most" if self.at_most else "about"
        words = f"{self.questions} to ask: about {self.prompt_tokens:,} tokens of questions, "
        words += f"{bound} {self.completion_tokens:,} of answers"
        paid = (tokens * price / 1e6 for tokens, price in zip((self.prompt_tokens, self.completion_tokens), prices))
        return f"{words}; {bound} {sum(paid):.2f} by the prices given" if prices else words


def cost(judge: Judge, questions: Mapping[str, Messages], answers: Answers) -> Cost:
    """An estimate from the usage of this judge's answers so far; without any, from text lengths and the answers' limit."""
    known = [
        record
        for record in answers.known.values()
        if record.get("model") == judge.name and {"prompt_tokens", "completion_tokens", "characters"} <= record.keys()
    ]
    total_characters = sum(characters(messages) for messages in questions.values())
    prompt_tokens = sum(record["prompt_tokens"] for record in known)
    rate = sum(record["characters"] for record in known) / prompt_tokens if prompt_tokens else CHARACTERS_PER_TOKEN
    limit = judge.sampling["max_completion_tokens"]
    completion = np.mean([record["completion_tokens"] for record in known]) if known else limit
    return Cost(len(questions), round(total_characters / rate), round(len(questions) * completion), at_most=not known)


def bound(judge: Judge, questions: int, post_tokens: int, summary_tokens: int) -> Cost:
    """The cost of questions that are not written yet: posts, both summaries and answers as long as their limits allow.

    The limits are in tokens of the study's tokenizer, which are taken for the judge's.
    """
    prompt_tokens = len(SYSTEM + QUESTION) / CHARACTERS_PER_TOKEN + post_tokens + 2 * summary_tokens
    completion_tokens = round(questions * judge.sampling["max_completion_tokens"])
    return Cost(questions, round(questions * prompt_tokens), completion_tokens, at_most=True)
