"""Who compares the pairs of a round of feedback: the embedded corpus's annotators, a reward model, or a language model.

A reward model orders a pair by its two scores, deterministically, as Gao et al. (2022, arXiv 2210.10760) label with their gold
reward model: a choice drawn by the Bradley-Terry probability would add noise that says nothing of the policy. It reads the
tokens that the policy wrote, so it has to share the corpus's tokenizer. A language model is asked in both orders, with the
prompt and the reading of answers of `repro.stages.judge`; its answers are stored with those of `make judge`, and each is paid
for once. Pairs about which an annotator has no preference are left out.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from repro import details as d
from repro.data import embedded
from repro.errors import SENTENCE, UserError, cut
from repro.models import padding, ranks, starts
from repro.stages import inference, rm
from repro.stages.comparisons import Compared, Pairs, encode
from repro.stages.corpus import Corpus
from repro.stages.data import require_vocabulary
from repro.stages.stage import Budget, StageContext
from repro.study import annotator
from repro.study.scale import Scale

if TYPE_CHECKING:
    from repro.stages.judge import Answers
    from repro.stages.judge.endpoint import Judge

UNKNOWN = -1  # a confidence that nobody states
SURE = 9  # the highest confidence
THREADS = 8  # questions that a language model is asked at a time


@dataclass(frozen=True)
class Opinion:
    """What an annotator thinks of two responses: which is better, 0 or 1, or None where neither is; and how sure it is."""

    choice: int | None
    confidence: int = UNKNOWN


@dataclass(frozen=True)
class Opinions:
    """An opinion on each of N pairs, and the values over which a metric is the mean, by its name."""

    each: list[Opinion]
    measured: Mapping[str, list[float]]


class Annotator(Protocol):
    """Compares N pairs; `rng` is for one who is not the same each time."""

    def __call__(self, pairs: Pairs, rng: random.Random) -> Opinions: ...


def annotator_of(context: StageContext, corpus: Corpus) -> Annotator:
    """The annotator that Scale.annotator names."""
    named = context.scale.annotator
    if not named:
        return EmbeddedAnnotator(context.pick(d.BLIND_SPOT))
    if annotator.is_judge(named):
        return JudgeAnnotator(judge_of(context.scale), key_of(context.scale), context.out.parent)
    return _reward_model(context, corpus)


def ordered(pairs: Pairs, opinions: list[Opinion]) -> list[Compared]:
    """The pairs that are of two texts and about which there is a preference, the better response first."""
    return [
        Compared(post, responses[each.choice], responses[1 - each.choice], each.confidence)
        for post, (each, different, responses) in enumerate(zip(opinions, pairs.different, zip(*pairs.responses)))
        if different and each.choice is not None
    ]


def _undecided(pairs: Pairs, opinions: list[Opinion]) -> list[float]:
    return [float(each.choice is None) for each, different in zip(opinions, pairs.different) if different]


# ---------------------------------------------------------------------------------------------- the embedded corpus


@dataclass(frozen=True)
class EmbeddedAnnotator:
    """The noisy annotators of the embedded corpus; `belief` as in `embedded.perceived_score`."""

    belief: float

    def __call__(self, pairs: Pairs, rng: random.Random) -> Opinions:
        found = []
        for facts, both in zip(map(json.loads, pairs.posts["facts"]), pairs.written):
            seen = [embedded.perceived_score(facts, *each, belief=self.belief) for each in both]
            found.append(Opinion(*embedded.annotate(seen[0], seen[1], rng)))
        return Opinions(found, {})


def gold_scores(pairs: Pairs) -> list[float]:
    """The gold score of both responses to each post; empty where the posts' facts are not known."""
    if not all(pairs.posts["facts"]):
        return []
    return [
        embedded.gold(facts, *each)
        for facts, both in zip(map(json.loads, pairs.posts["facts"]), pairs.written)
        for each in both
    ]


# ---------------------------------------------------------------------------------------------- a reward model


@dataclass(frozen=True)
class RewardModelAnnotator:
    """The response with the higher score is the better one; of equal scores none is."""

    scorer: rm.Scorer
    vocabulary: int

    def __call__(self, pairs: Pairs, rng: random.Random) -> Opinions:
        one, other = ([self._known(response, pairs.corpus.eos) for response in each] for each in pairs.responses)
        both = [Compared(post, *sides, UNKNOWN) for post, sides in enumerate(zip(one, other))]
        rows = encode(pairs.corpus, pairs.posts, both, 0)
        scores = self.scorer(rows, "chosen"), self.scorer(rows, "rejected")
        found = [_opinion(margin) for margin in (scores[1] - scores[0]).tolist()]
        measured = {
            "feedback/annotator_score": torch.cat(scores).tolist(),
            "feedback/undecided": _undecided(pairs, found),
        }
        return Opinions(found, measured)

    def _known(self, response: Tensor, eos: int) -> Tensor:
        """[R] -> the tokens of its vocabulary: a policy with a larger one may draw an id that no tokenizer has."""
        known = response[response < self.vocabulary]
        return known if len(known) else response.new_full((1,), eos)


def _opinion(margin: float) -> Opinion:
    """Of the second response's score less the first one's; the confidence has nine equal steps of |2p - 1|.

    p is the Bradley-Terry probability of the choice, sigmoid(|margin|).
    """
    if margin == 0 or math.isnan(margin):
        return Opinion(None)
    return Opinion(int(margin > 0), min(SURE, 1 + int(SURE * math.tanh(abs(margin) / 2))))


def _reward_model(context: StageContext, corpus: Corpus) -> RewardModelAnnotator:
    """The named reward model, with its own normalisation, as the study's are loaded to be scored with."""
    scale = context.scale
    network = starts.load_reward_model(starts.start_of(scale.annotator, context.model, context.seed, "rm"))
    vocabulary = network.trunk.config.get_text_config().vocab_size
    require_vocabulary(corpus.tokenizer, vocabulary, "the annotator")
    placed = inference.placed(context, network, scale.frozen_weights)
    return RewardModelAnnotator(rm.Scorer(placed, padding.unchanged, corpus.pad, scale.rollout_batch), vocabulary)


# ---------------------------------------------------------------------------------------------- a language model


def judge_of(scale: Budget | Scale) -> Judge:
    """The language model that Scale.annotator names, asked as `make judge` does where no temperature is given."""
    from repro.stages import judge

    model = annotator.judge_model(scale.annotator)
    return judge.judge(model, scale.judge_url, max_completion_tokens=scale.judge_max_tokens)


def key_of(scale: Budget | Scale) -> str:
    """The judge's API key, out of the environment."""
    from repro.stages import judge

    return judge.api_key(scale.judge_url, scale.judge_key_env)


@dataclass(frozen=True)
class JudgeAnnotator:
    """A language model that is asked about each pair in both orders; contradictory answers are no preference.

    Rank 0 asks. UserError where a question stays without an answer; the others' are kept in the cache.
    """

    who: Judge
    api_key: str
    cache: Path

    def __call__(self, pairs: Pairs, rng: random.Random) -> Opinions:
        from repro.stages import judge

        asked = [
            judge.SummaryPair(judge.post_of(post), one, other)
            for post, one, other in zip(pairs.posts["query"], *pairs.texts)
        ]
        if ranks.is_main():
            self._ask({self.who.key(each): each for pair in asked for each in pair.questions.values()})
        ranks.barrier()
        answers = self._answers()
        wins = [judge.verdict(self.who, pair, answers)["win"] for pair in asked]
        found = [Opinion({1.0: 0, 0.0: 1}.get(win)) for win in wins]
        unparsable = [float(win is None) for pair, win in zip(asked, wins) if not pair.same]
        return Opinions(found, {"feedback/undecided": _undecided(pairs, found), "feedback/unparsable": unparsable})

    def _answers(self) -> Answers:
        from repro.stages import judge

        return judge.Answers(self.cache / judge.FOLDER)

    def _ask(self, questions: Mapping) -> None:
        """Ask what has no answer yet."""
        from repro.stages import judge

        answers = self._answers()
        waiting = {key: messages for key, messages in questions.items() if key not in answers.known}
        if not waiting:
            return
        failures = judge.ask_all(self.who, self.api_key, waiting, answers, THREADS, lambda: None)
        if failures:
            raise UserError(
                f"{len(failures)} of {len(waiting)} questions to the judge {self.who.name} have no answer; the same command "
                f"asks them again. {cut(failures[-1], SENTENCE)}"
            )
