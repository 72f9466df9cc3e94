"""What questions will cost, before anybody has agreed to it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from repro.stages.judge.answers import Answers
from repro.stages.judge.endpoint import Judge
from repro.stages.judge.prompt import Messages, characters

CHARACTERS_PER_TOKEN = 4.0  # of English, roughly, until answers have told


@dataclass(frozen=True)
class Cost:
    """What questions cost [tokens]; `at_most` where no answer of this judge has told yet how long they are."""

    questions: int
    prompt_tokens: int
    completion_tokens: int
    at_most: bool

    def words(self, *prices: float) -> str:
        """For whoever has to agree to it; `prices` are of a million tokens of questions and of answers, or not given."""
        bound = "at most" if self.at_most else "about"
        told = f"{self.questions} to ask: about {self.prompt_tokens:,} tokens of questions, "
        told += f"{bound} {self.completion_tokens:,} of answers"
        paid = (tokens * price / 1e6 for tokens, price in zip((self.prompt_tokens, self.completion_tokens), prices))
        return f"{told}; {bound} {sum(paid):.2f} by the prices given" if prices else told


def cost(judge: Judge, questions: Mapping[str, Messages], answers: Answers) -> Cost:
    """An estimate by what this judge's answers used so far; else by the length of English words and the limit."""
    told = [
        record
        for record in answers.known.values()
        if record.get("model") == judge.name and {"prompt_tokens", "completion_tokens", "characters"} <= record.keys()
    ]
    asked = sum(characters(messages) for messages in questions.values())
    prompt = sum(record["prompt_tokens"] for record in told)
    rate = sum(record["characters"] for record in told) / prompt if prompt else CHARACTERS_PER_TOKEN
    longest = judge.sampling["max_completion_tokens"]
    completion = np.mean([record["completion_tokens"] for record in told]) if told else longest
    return Cost(len(questions), round(asked / rate), round(len(questions) * completion), at_most=not told)
