"""A language model as the judge: which of two summaries is better, asked of any endpoint that speaks OpenAI's protocol.

The paper's question in other words (it uses that of the DPO paper, Rafailov et al. 2023), of each policy's near-greedy
summaries against the reference summaries. Departures: each pair is asked about in both orders, and a judge that
contradicts itself has tied; an answer without a preference counts for nobody, where the paper's code tosses a coin; quotes
around the letter do not decide; retries end. Left out: answers in batches at half the price, which few endpoints have.
"""

from repro.stages.judge.answers import Answers, gather
from repro.stages.judge.endpoint import judge, secret
from repro.stages.judge.price import Cost, cost
from repro.stages.judge.verdicts import judgement, questions_of

__all__ = ["Answers", "Cost", "cost", "gather", "judge", "judgement", "questions_of", "secret"]
