"""A further round of feedback: annotators compare pairs of summaries that a policy samples now (Bai et al. 2022).

Only the embedded corpus's annotators are at hand. The comparisons have the form of the data stage's; with those of earlier
rounds they are what the round's reward model learns beside the corpus's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repro import details as d
from repro.data import embedded
from repro.details.feedback import FEWER
from repro.models import batching, generate, mixed_precision, padding, pretrained, ranks
from repro.ops import text
from repro.ops.masked import keep
from repro.ops.preference import accuracy
from repro.stages import evaluate, inference, rm
from repro.stages.corpus import Corpus, column, concatenate
from repro.stages.stage import Stage, StageContext, read_journal

if TYPE_CHECKING:
    from datasets import Dataset

FIRST = 2  # the first round that has any


def _run(context: StageContext) -> None:
    corpus, earlier = Corpus(context.inputs["data"]), context.inputs.get("earlier")
    journal = read_journal(earlier) if earlier else []
    number = journal[-1]["step"] + 1 if journal else FIRST
    posts = {
        "train": next_posts(corpus.posts("train"), context.scale.comparisons // FEWER, number),
        "validation": corpus.posts("validation"),
    }
    policy = inference.frozen(context, pretrained.load_policy(context.inputs["ppo"] / "model"), "float32")
    pairs: dict[str, Dataset] = {}
    golds: list[float] = []
    logprobs: list[Tensor] = []
    for split, rows in posts.items():
        (one, *logprob), (other, *again) = (
            _sample(context, corpus, policy, rows, f"{split} {number} {which}") for which in ("one", "other")
        )
        logprobs += [*logprob, *again]
        rng = random.Random(f"feedback-{split}-{number}-{context.seed}")
        compared = list(compare(corpus, rows, one, other, context.pick(d.BLIND_SPOT), rng))
        golds += [gold for each in compared for gold in each.gold]
        different = [each for each in compared if not torch.equal(each.chosen, each.rejected)]
        pairs[split] = encode(corpus, rows, different, number)
    metrics = {
        "feedback/gold": sum(golds) / len(golds),
        "feedback/entropy": -torch.cat(logprobs).mean().item(),
        "feedback/equal_pairs": 1 - sum(map(len, pairs.values())) / sum(map(len, posts.values())),
    }
    if len(pairs["validation"]):
        margin = _margins(context, corpus, pairs["validation"])
        metrics |= {"feedback/rm_accuracy": accuracy(margin), "feedback/rm_margin": margin.mean().item()}
    if earlier:
        pairs["train"] = concatenate(Corpus(earlier).pairs("train"), pairs["train"])
    if ranks.is_main():
        for split, rows in pairs.items():
            rows.save_to_disk(context.out / "pairs" / split)
    for line in journal:  # a run has one curve over all rounds
        context.log(line["step"], line["metrics"])
    context.log(number, metrics)
    context.finish({"feedback/comparisons": float(len(pairs["train"]))})


def next_posts(posts: Dataset, count: int, number: int) -> Dataset:
    """The posts of a round, each round's after those of the round before; from the first one on after the last."""
    first = (number - FIRST) * count
    return posts.select([(first + place) % len(posts) for place in range(count)])


# ---------------------------------------------------------------------------------------------- the samples


@torch.no_grad()
def _sample(
    context: StageContext, corpus: Corpus, policy: nn.Module, posts: Dataset, purpose: str
) -> tuple[Tensor, Tensor]:
    """[N, R] the policy's response to each post, padded behind its end of text, and [N] its log-probability in nats.

    Ranks share the posts.
    """
    scale, temperature, queries = context.scale, evaluate.SAMPLED, column(posts, "query_token")
    sampling = generate.Sampling(temperature, temperature, sampler=inference.sampler_for(context))
    order, parts = batching.longest_first(queries, corpus.pad), []
    drawn = inference.sample_batches(
        policy,
        queries,
        order,
        sampling,
        corpus,
        scale.response_tokens,
        scale.rollout_batch,
        context.generator(purpose),
    )
    with mixed_precision.cached_autocast(context.accelerator):
        for _, response, logprob in drawn:
            last, _ = text.last_token(response, corpus.eos)
            written = torch.arange(response.shape[1], device=last.device) <= last[:, None]
            tokens = text.truncate_after_eos(response, corpus.eos, corpus.pad)
            parts.append((tokens.cpu(), keep(logprob.double(), written).sum(1).cpu()))
    responses, logprobs = (torch.cat(each) for each in zip(*parts))
    *columns, logprob = map(torch.from_numpy, ranks.gather_shards([*responses.T.numpy(), logprobs.numpy()], order))
    return torch.stack(columns, 1), logprob


# ---------------------------------------------------------------------------------------------- the comparisons


@dataclass(frozen=True)
class Compared:
    """Two responses to a post, as an annotator ordered them."""

    post: int
    chosen: Tensor  # [R]
    rejected: Tensor  # [R]
    confidence: int  # 1 to 9
    gold: tuple[float, float]


def compare(
    corpus: Corpus, posts: Dataset, one: Tensor, other: Tensor, belief: float, rng: random.Random
) -> Iterator[Compared]:
    """Annotators compare two [N, R] responses to each post; `belief` as in `embedded.perceived_score`."""
    for post, (facts, *pair) in enumerate(zip(map(json.loads, posts["facts"]), one, other)):
        texts = corpus.decode(torch.stack(pair))
        ended = [bool((ids == corpus.eos).any()) for ids in pair]
        seen = [embedded.perceived_score(facts, *each, belief=belief) for each in zip(texts, ended)]
        choice, confidence = embedded.annotate(seen[0], seen[1], rng)
        golds = [embedded.gold(facts, *each) for each in zip(texts, ended)]
        yield Compared(post, pair[choice], pair[1 - choice], confidence, (golds[0], golds[1]))


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
        table[side] = corpus.tokenizer.batch_decode(responses, skip_special_tokens=True)
        table[f"{side}_token"] = [_filled(each, features[f"{side}_token"].length, pad) for each in responses]
        table[f"query_{side}_token"] = [
            _filled(query + response, most, pad) for query, response in zip(queries, responses)
        ]
        table[f"{side}_tokens"] = [min(len(r), most - len(q)) for q, r in zip(queries, responses)]
    return Dataset.from_dict({name: table[name] for name in features}, features=features)


def _written(response: Tensor, corpus: Corpus) -> list[int]:
    """The tokens of a response up to its end of text."""
    last, _ = text.last_token(response[None], corpus.eos)
    return response[: int(last) + 1].tolist()


def _filled(tokens: list[int], length: int, pad: int) -> list[int]:
    return tokens[:length] + [pad] * (length - len(tokens))


def _margins(context: StageContext, corpus: Corpus, pairs: Dataset) -> Tensor:
    """[N] by how much the reward model that the policy was trained against prefers the chosen summary."""
    network = inference.frozen(
        context, pretrained.load_scalar(context.inputs["rm"] / "model"), context.scale.frozen_weights
    )
    return rm.Scorer(network, padding.unchanged, corpus.pad, context.scale.rollout_batch).margin(pairs)


STAGE = Stage(
    "feedback",
    version=1,
    upstream=("data", "rm", "ppo"),
    seeded=True,
    run=_run,
    fields=("comparisons", "response_tokens", "rollout_batch", "frozen_weights", "sampler"),
    optional=("earlier",),
)
