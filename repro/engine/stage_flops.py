"""The matrix products of each stage of a scale, for arms whose stages make more passes or fewer."""

import math
from dataclasses import dataclass

from repro.details.feedback import FEWER
from repro.engine.flops import (
    CURRENT,
    Economy,
    Network,
    Product,
    answer,
    compared,
    comparison,
    evaluated,
    fisher_vector_product,
    forward,
    repeated,
    rollout,
    sft,
    update,
)
from repro.models import starts
from repro.study import annotator
from repro.study.scale import Scale


@dataclass(frozen=True)
class Lengths:
    """Tokens of a query, a sampled response, a query with its reference, and a query with one response of a comparison."""

    query: float
    response: float
    text: float
    pair: float

    @classmethod
    def most(cls, scale: Scale) -> "Lengths":
        return cls(scale.query_tokens, scale.response_tokens, scale.query_reference_tokens, scale.query_pair_tokens)


@dataclass(frozen=True)
class Passes:
    """How many passes over its data each stage of an arm makes, how many critics and reward models PPO has, and samples
    of a test post."""

    sft: int = 1
    rm: int = 1
    ppo: float = 4  # over all episodes; 0 where the SFT policy is kept
    critics: int = 1
    reward_models: int = 1
    samples: int = 1
    rollouts: int = 1  # responses that PPO samples for each of its episodes, the episode's own among them
    warm_up: int = 0  # batches of PPO before its first update
    responses: int = 1  # to a query in PPO, which share the sampler's pass over it
    fisher: int = 0  # products of TRPO with the Fisher matrix, for each batch


PASSES = Passes()  # the paper's


@dataclass(frozen=True)
class Stages:
    """The products of each stage of a scale, by part: parts differ in speed."""

    scale: Scale
    network: Network
    lengths: Lengths
    passes: Passes = PASSES
    economy: Economy = CURRENT

    @property
    def _again(self) -> float:
        return float(self.scale.recompute == "layers")

    def of(self, name: str, training: bool = True) -> dict[str, list[Product]]:
        """Part -> products of a stage; `training` is false where its weights are loaded instead."""
        stages = (self.sft, self.rm, self.ppo, self.feedback, self.baseline, self.evaluate)
        parts = {stage.__name__: stage for stage in stages}
        return parts[name](training) if name in parts else {}

    def sft(self, training: bool) -> dict[str, list[Product]]:
        s, n, text = self.scale, self.network, self.lengths.text
        if not training:
            return {"read": self._read(s.sft_batch, text, logits=text)}
        rows = min(s.micro_batch, s.sft_batch)
        return {"sft": repeated(sft(n, rows, text, self.economy, self._again), s.posts * self.passes.sft / rows)}

    def rm(self, training: bool) -> dict[str, list[Product]]:
        """Training; then scores of the references that it is centred on, and of the validation comparisons and references."""
        s, n, lengths = self.scale, self.network, self.lengths
        rows, posts = min(s.micro_batch, s.rm_batch), min(s.posts, s.normalisation_posts) + 3 * s.validation_posts
        some = compared(n, s.rollout_batch, lengths.query, lengths.pair, self.economy)
        read = repeated(some, s.validation_comparisons / s.rollout_batch) + self._read(posts, lengths.text)
        if not training:
            return {"read": read}
        step = comparison(n, rows, lengths.query, lengths.pair, self.economy, self._again)
        return {"rm": repeated(step, s.comparisons * self.passes.rm / rows), "read": read}

    def ppo(self, training: bool) -> dict[str, list[Product]]:
        """Rollouts, updates, and evaluations on the validation posts, each with scores of the references."""
        s, n, lengths = self.scale, self.network, self.lengths
        if not (training and self.passes.ppo):
            return {}
        rows, some = min(s.micro_batch, s.ppo_batch), min(s.rollout_batch, s.ppo_batch)
        evaluations = math.ceil(s.episodes // s.ppo_batch / s.evaluate_every)
        critics, episodes = self.passes.critics, s.episodes + self.passes.warm_up * s.ppo_batch
        step = update(n, rows, lengths.query, lengths.response, self.economy, self._again, critics)
        product = fisher_vector_product(n, rows, lengths.query, lengths.response, self.economy)
        shared = min(self.passes.responses, some)
        rolled = rollout(n, some, lengths.query, lengths.response, self.economy, critics, shared)
        rolled += (self.passes.reward_models - 1) * self._scored(some)
        return {
            "roll out": repeated(rolled, self.passes.rollouts * episodes / some),
            "update": repeated(step, episodes * self.passes.ppo / rows)
            + repeated(product, s.episodes * self.passes.fisher / rows),
            "answer": self._answered(evaluations * s.validation_posts),
            "read": self._read(evaluations * s.validation_posts, lengths.text),
        }

    def feedback(self, training: bool) -> dict[str, list[Product]]:
        """Two responses to each post, and the reward model's scores of those to validation posts.

        A reward model that is named as annotator scores all of them; it is taken to be of the study's size.
        """
        s, query, response = self.scale, self.lengths.query, self.lengths.response
        posts = s.comparisons // FEWER + s.validation_posts
        some = compared(self.network, s.rollout_batch, query, response, self.economy)
        read = repeated(some, s.validation_posts / s.rollout_batch)
        if s.annotator and not annotator.is_judge(s.annotator):
            read += self._read(2 * posts, query + response)
        return {"answer": self._answered(2 * posts), "read": read}

    def baseline(self, training: bool) -> dict[str, list[Product]]:
        """Two responses to each test post, by the reference policy itself, and scores of the references."""
        return self._evaluated(2, references=0) | {"read": self._read(self.scale.test_posts, self.lengths.text)}

    def evaluate(self, training: bool) -> dict[str, list[Product]]:
        """A near-greedy response to each test post, and as many sampled ones as the arm chooses from."""
        return self._evaluated(1 + self.passes.samples, references=1)

    def _evaluated(self, responses: int, references: int) -> dict[str, list[Product]]:
        s, lengths = self.scale, self.lengths
        shared = min(responses, s.rollout_batch)
        some = evaluated(
            self.network, s.rollout_batch, lengths.query, lengths.response, self.economy, shared, references
        )
        return {"answer": repeated(some, responses * s.test_posts / s.rollout_batch)}

    def _answered(self, posts: float) -> list[Product]:
        """So many responses, each to a query of its own."""
        rows, lengths = self.scale.rollout_batch, self.lengths
        return repeated(answer(self.network, rows, lengths.query, lengths.response, self.economy), posts / rows)

    def _scored(self, rows: float) -> list[Product]:
        """A reward model's scores of so many responses."""
        return forward(self.network, rows, self.lengths.query + self.lengths.response, 1, economy=self.economy)

    def _read(self, texts: float, tokens: float, logits: float = 0) -> list[Product]:
        rows = self.scale.rollout_batch
        return repeated(forward(self.network, rows, tokens, max(1, logits), logits, economy=self.economy), texts / rows)


def trains(name: str, scale: Scale) -> bool:
    """Whether the stage trains; it does not where its weights are loaded."""
    return not any(getattr(scale, field) for field, stage_of in starts.STARTS.items() if stage_of == name)
