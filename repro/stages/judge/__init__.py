"""A language model as the judge of two summaries, through any endpoint with OpenAI's protocol.

It compares each policy's near-greedy summaries with the reference summaries, as the paper does with the prompt of the DPO
paper (Rafailov et al. 2023), here in other words. Departures from the paper's code: each pair is asked about in both orders,
and contradictory answers are a tie; an answer without a preference is left out instead of decided by a coin; quotes around
the letter are ignored; retries are limited. Left out: batch endpoints at half the price, which few hosts have.
"""

from repro.stages.judge.answers import FOLDER, Answers, ask_all, require_answer
from repro.stages.judge.endpoint import api_key, judge
from repro.stages.judge.price import Cost, bound, cost
from repro.stages.judge.prompt import SummaryPair, post_of
from repro.stages.judge.verdicts import judgement, questions_of, verdict

__all__ = [
    "FOLDER",
    "Answers",
    "Cost",
    "SummaryPair",
    "api_key",
    "ask_all",
    "bound",
    "cost",
    "judge",
    "judgement",
    "post_of",
    "questions_of",
    "require_answer",
    "verdict",
]
