"""Comparisons of what a policy samples, with the columns and lengths of the corpus's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from repro.ops import text
from repro.stages.corpus import Corpus

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Pairs:
    """Two responses to each of N posts, as tokens [N, R], as texts, and whether each of them ends."""

    corpus: Corpus
    posts: Dataset
    responses: tuple[Tensor, Tensor]
    texts: tuple[list[str], list[str]]
    ended: tuple[list[bool], list[bool]]

    @property
    def different(self) -> list[bool]:
        """[N] whether there is something to compare."""
        return [not torch.equal(*pair) for pair in zip(*self.responses)]

    @property
    def written(self) -> list[tuple[tuple[str, bool], tuple[str, bool]]]:
        """[N] text and end of both responses."""
        one, other = (zip(texts, ended) for texts, ended in zip(self.texts, self.ended))
        return list(zip(one, other))


def pairs_of(corpus: Corpus, posts: Dataset, one: Tensor, other: Tensor) -> Pairs:
    """The pairs of two [N, R] responses to each post."""
    texts = corpus.decode(one), corpus.decode(other)
    ended = (one == corpus.eos).any(1).tolist(), (other == corpus.eos).any(1).tolist()
    return Pairs(corpus, posts, (one, other), texts, ended)


@dataclass(frozen=True)
class Compared:
    """Two responses to a post, as an annotator ordered them."""

    post: int
    chosen: Tensor  # [R]
    rejected: Tensor  # [R]
    confidence: int  # 1 to 9, or -1 where it is not known


def encode(corpus: Corpus, posts: Dataset, compared: list[Compared], number: int) -> Dataset:
    """Comparisons with the columns and lengths of the corpus's own, of the very tokens that the policy wrote."""
    from datasets import Dataset

    features = corpus.pairs("train").features
    policy, pad = f"sampled for round {number}", corpus.pad
    rows = posts.select([each.post for each in compared])
    table: dict[str, list] = {name: rows[name][:] for name in ("id", "query", "query_token")}
    size = len(compared)
    table |= {"batch": [f"round_{number}"] * size, "split": ["train"] * size}
    table |= {"chosen_policy": [policy] * size, "rejected_policy": [policy] * size}
    table["confidence"] = [each.confidence for each in compared]
    for side in ("chosen", "rejected"):
        responses = [_written(getattr(each, side), corpus) for each in compared]
        queries = [[token for token in query if token != pad] for query in table["query_token"]]
        most = features[f"query_{side}_token"].length
        table[side] = corpus.texts(responses)
        table[f"{side}_token"] = [_filled(each, features[f"{side}_token"].length, pad) for each in responses]
        table[f"query_{side}_token"] = [
            _filled(query + response, most, pad) for query, response in zip(queries, responses)
        ]
        table[f"{side}_tokens"] = [
            sum(token != pad for token in response[: most - len(query)]) for query, response in zip(queries, responses)
        ]
    return Dataset.from_dict({name: table[name] for name in features}, features=features)


def _written(response: Tensor, corpus: Corpus) -> list[int]:
    """The tokens of a response up to its end of text."""
    last, _ = text.last_token(response[None], corpus.eos)
    return response[: int(last) + 1].tolist()


def _filled(tokens: list[int], length: int, pad: int) -> list[int]:
    return tokens[:length] + [pad] * (length - len(tokens))
