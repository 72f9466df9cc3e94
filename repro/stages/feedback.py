"""A further round of feedback: annotators compare pairs of summaries that a policy samples now (Bai et al. 2022).

Scale.annotator says who compares (`annotators.py`). The comparisons have the form of the data stage's; with those of earlier
rounds they are what the round's reward model learns beside the corpus's.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repro.details.feedback import FEWER
from repro.models import batching, mixed_precision, padding, pretrained, ranks
from repro.ops import text
from repro.ops.masked import keep
from repro.ops.preference import accuracy
from repro.stages import inference, rm
from repro.stages.annotators import annotator_of, gold_scores, ordered
from repro.stages.comparisons import encode, pairs_of
from repro.stages.corpus import Corpus, column, concatenate
from repro.stages.stage import Stage, StageContext, read_journal
from repro.types import up_to

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
    annotate = annotator_of(context, corpus)
    policy = inference.frozen(context, pretrained.load_policy(context.inputs["ppo"] / "model"), "float32")
    pairs: dict[str, Dataset] = {}
    measured: dict[str, list[float]] = defaultdict(list)
    logprobs: list[Tensor] = []
    different = 0
    for split, rows in posts.items():
        (one, *logprob), (other, *again) = (
            _sample(context, corpus, policy, rows, f"{split} {number} {which}") for which in ("one", "other")
        )
        logprobs += [*logprob, *again]
        rng = random.Random(f"feedback-{split}-{number}-{context.seed}")
        sampled = pairs_of(corpus, rows, one, other)
        opinions = annotate(sampled, rng)
        different += sum(sampled.different)
        for name, values in {"feedback/gold": gold_scores(sampled), **opinions.measured}.items():
            measured[name] += values
        pairs[split] = encode(corpus, rows, ordered(sampled, opinions.each), number)
    metrics = {name: sum(values) / len(values) for name, values in measured.items() if values}
    metrics |= {
        "feedback/entropy": -torch.cat(logprobs).mean().item(),
        "feedback/equal_pairs": 1 - different / sum(map(len, posts.values())),
    }
    if len(pairs["validation"]):
        margin = _margins(context, corpus, pairs["validation"])
        metrics |= {"feedback/rm_accuracy": accuracy(margin), "feedback/rm_margin": margin.mean().item()}
    if earlier:
        pairs["train"] = concatenate(Corpus(earlier).pairs("train"), pairs["train"])
    if ranks.is_main():
        for split, rows in pairs.items():
            # One file also of no rows, of which the library would save none and then could not load them.
            rows.save_to_disk(context.out / "pairs" / split, num_shards=1)
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
    scale, queries = context.scale, column(posts, "query_token")
    order, parts = batching.longest_first(queries, corpus.pad), []
    drawn = inference.sample_batches(
        policy,
        queries,
        order,
        [inference.Draw(inference.SAMPLED, context.generator(purpose))],
        corpus,
        scale.response_tokens,
        scale.rollout_batch,
        inference.sampler_for(context),
    )
    with mixed_precision.cached_autocast(context.accelerator):
        for _, response, logprob in drawn:
            last, _ = text.last_token(response, corpus.eos)
            written = up_to(last, response.shape[1])
            tokens = text.truncate_after_eos(response, corpus.eos, corpus.pad)
            parts.append((tokens.cpu(), keep(logprob.double(), written).sum(1).cpu()))
    responses, logprobs = (torch.cat(each) for each in zip(*parts))
    *columns, logprob = map(torch.from_numpy, ranks.gather_shards([*responses.T.numpy(), logprobs.numpy()], order))
    return torch.stack(columns, 1), logprob


def _margins(context: StageContext, corpus: Corpus, pairs: Dataset) -> Tensor:
    """[N] by how much the reward model that the policy was trained against prefers the chosen summary."""
    network = inference.frozen(
        context, pretrained.load_scalar(context.inputs["rm"] / "model"), context.scale.frozen_weights
    )
    return rm.Scorer(network, padding.unchanged, corpus.pad, context.scale.rollout_batch).margin(pairs)


STAGE = Stage(
    "feedback",
    version=2,
    upstream=("data", "rm", "ppo"),
    seeded=True,
    run=_run,
    fields=(
        "comparisons",
        "response_tokens",
        "rollout_batch",
        "frozen_weights",
        "sampler",
        "annotator",
        "judge_max_tokens",
    ),
    optional=("earlier",),
)
