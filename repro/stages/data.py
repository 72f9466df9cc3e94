"""The data stage: posts and comparisons of the embedded corpus or of files, formatted and tokenised once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from repro import details as d
from repro.data import embedded, local, tldr
from repro.detail import Pick, Recipe
from repro.details import check_corpus
from repro.errors import UserError
from repro.models import folders, hub, pretrained
from repro.stages import describe
from repro.stages.corpus import Corpus, column
from repro.stages.stage import Budget, Stage, StageContext
from repro.study.scale import Scale
from repro.types import Metrics

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

ARTICLES = "validation_cnndm"
FIELDS = (
    "corpus",
    "tokenizer",
    "posts_file",
    "comparisons_file",
    "corpus_seed",
    "posts",
    "validation_posts",
    "test_posts",
    "comparisons",
    "validation_comparisons",
    "query_tokens",
    "reference_tokens",
    "query_reference_tokens",
    "pair_response_tokens",
    "query_pair_tokens",
)


def _run(context: StageContext) -> None:
    scale, pick = context.scale, context.pick
    tokenizer = pick(d.PAD_TOKEN)(local.load_tokenizer(scale.tokenizer))
    posts, comparisons = _read(scale, pick)
    lengths = tldr.Lengths(
        scale.query_tokens,
        scale.reference_tokens,
        scale.query_reference_tokens,
        scale.pair_response_tokens,
        scale.query_pair_tokens,
    )
    form = _format(pick)
    metrics: Metrics = {}
    for split, rows in posts.items():
        encoded = _require_rows(tldr.encode_posts(rows, tokenizer, lengths, form), split, len(rows))
        encoded.save_to_disk(context.out / "posts" / split)
        metrics |= _post_metrics(split, encoded, len(rows), tokenizer)
    for split, rows in comparisons.items():
        pair_lengths = tldr.CNNDM_LENGTHS if split == ARTICLES else lengths
        encoded = _require_rows(tldr.encode_pairs(rows, tokenizer, pair_lengths, form), split, len(rows))
        encoded.save_to_disk(context.out / "pairs" / split)
        metrics |= _pair_metrics(split, encoded, tokenizer)
    tokenizer.save_pretrained(context.out / "tokenizer")
    describe.write(Corpus(context.out), scale.corpus, posts, comparisons)
    context.finish(metrics)


def check(recipe: Recipe, scale: Scale) -> None:
    """Raises, before a study starts, the UserError that the data or base stage would raise for its input.

    It downloads what comes from the hub, so that workers find it in the cache.
    """
    pick = Pick(recipe, "data")
    _require_matching_model(pick(d.PAD_TOKEN)(local.load_tokenizer(scale.tokenizer)), hub.resolve(scale.model, "model"))
    check_corpus(recipe, scale.corpus, scale.annotator)
    _read(scale, pick)


def require_vocabulary(tokenizer: PreTrainedTokenizerFast, vocabulary: int, model: str = "the base model") -> None:
    """UserError where the tokenizer has an id, apart from padding, beyond a model's vocabulary of this size."""
    highest = max(token for token in tokenizer.get_vocab().values() if token != tokenizer.pad_token_id)
    if highest >= vocabulary:
        raise UserError(
            f"the tokenizer's highest id is {highest} and {model} has {vocabulary} of them; "
            "give a model and a tokenizer that belong together"
        )


def _require_matching_model(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """UserError where tokenizer and base model do not belong together.

    Not checked here: a model that is still to be initialised gets the vocabulary's size, and a GGUF, slow to open, is
    checked by the base stage.
    """
    if not folder.exists():
        return
    source = pretrained.network_kwargs(folder)
    if "gguf_file" not in source:
        folders.check_network("model", folder)
        require_vocabulary(tokenizer, pretrained.read_causal_config(folder).vocab_size)


def _format(pick: Pick) -> tldr.Format:
    return tldr.Format(
        end_prompt=pick(d.PROMPT_END),
        shorten=pick(d.TRUNCATION),
        start_completion=pick(d.COMPLETION_START),
        end_completion=pick(d.EOS),
        limit_summary=pick(d.RESPONSE_LIMIT),
    )


def _require_rows(encoded: Dataset, split: str, source_rows: int) -> Dataset:
    """The same rows; UserError where none is left of the source rows, as all prompts were too long."""
    if not len(encoded):
        raise UserError(
            f"{split}: none of {source_rows} prompts fits, and the recipe leaves out those that do not; "
            "more query_tokens would keep some"
        )
    return encoded


def _post_metrics(split: str, encoded: Dataset, source_rows: int, tokenizer: PreTrainedTokenizerFast) -> Metrics:
    """Number of rows, mean lengths, and shares of truncated prompts and references (`data/` in `repro/study/metrics.py`)."""
    query, reference = (
        (column(encoded, name) != tokenizer.pad_token_id).sum(1).double().mean().item()
        for name in ("query_token", "reference_response_token")
    )
    too_long = source_rows - len(encoded) + sum(encoded["cut"][:])
    return {
        f"data/{split}_posts": float(len(encoded)),
        f"data/{split}_query_tokens_mean": query,
        f"data/{split}_reference_tokens_mean": reference,
        f"data/{split}_cut_queries": too_long / source_rows,
        f"data/{split}_references_without_eos": _without_eos(encoded, ("query_reference_response_token",), tokenizer),
    }


def _pair_metrics(split: str, encoded: Dataset, tokenizer: PreTrainedTokenizerFast) -> Metrics:
    sides = ("query_chosen_token", "query_rejected_token")
    return {
        f"data/{split}_comparisons": float(len(encoded)),
        f"data/{split}_pairs_without_eos": _without_eos(encoded, sides, tokenizer),
    }


def _without_eos(encoded: Dataset, names: tuple[str, ...], tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of rows in which one of the columns has no end of text."""
    # The first token does not count, since OPT's texts start with the end of text.
    complete = [(column(encoded, name)[:, 1:] == tokenizer.eos_token_id).any(1) for name in names]
    return 1 - torch.stack(complete).all(0).double().mean().item()


BySplit = dict[str, list[dict]]  # split -> its rows
# (scale, number of posts by split) -> posts and comparisons
Reader = Callable[[Any, dict[str, int]], tuple[BySplit, BySplit]]


def _read(scale: Budget | Scale, pick: Pick) -> tuple[BySplit, BySplit]:
    """Posts and comparisons by split; PPO's prompts are the split "train", or "prompts" where the recipe keeps them apart."""
    sizes = {"train": scale.posts, "validation": scale.validation_posts, "test": scale.test_posts}
    sizes |= {pick(d.PROMPTS): scale.posts}
    belief = pick(d.BLIND_SPOT)
    readers: dict[str, Reader] = {"embedded": partial(_embedded, belief=belief), "local": _local, "tldr": _tldr}
    posts, comparisons = readers[scale.corpus](scale, sizes)
    train, validation = pick(d.PREFERENCE_SPLIT)(comparisons["train"], comparisons["validation"], scale.corpus_seed)
    return posts, comparisons | {"train": train, "validation": validation}


def _embedded(scale: Budget | Scale, sizes: dict[str, int], belief: float) -> tuple[BySplit, BySplit]:
    posts = {split: embedded.make_posts(size, scale.corpus_seed, split) for split, size in sizes.items()}
    unseen = embedded.make_posts(scale.validation_comparisons, scale.corpus_seed, "comparisons")
    return posts, {
        "train": embedded.make_comparisons(posts["train"], scale.comparisons, scale.corpus_seed, "train", belief),
        "validation": embedded.make_comparisons(
            unseen, scale.validation_comparisons, scale.corpus_seed, "valid2", belief
        ),
        "probe": embedded.make_probe(posts["test"]),
    }


def _local(scale: Budget | Scale, sizes: dict[str, int]) -> tuple[BySplit, BySplit]:
    posts = local.split_posts(local.read_posts(scale.posts_file), scale.corpus_seed, 0.1)
    pairs = local.split_comparisons(local.read_distinct_comparisons(scale.comparisons_file), scale.corpus_seed, 0.1)
    return _first_posts(posts, scale, sizes), {
        "train": pairs["train"][: scale.comparisons],
        "validation": pairs["validation"][: scale.validation_comparisons],
    }


def _tldr(scale: Budget | Scale, sizes: dict[str, int]) -> tuple[BySplit, BySplit]:
    """The paper's data in its own splits. Comparisons are a random sample, since files are ordered by labelling batch."""
    pairs = local.split_comparisons(local.read_comparisons(scale.comparisons_file), scale.corpus_seed, 0.1)
    sampled = {
        "train": _sample_rows(pairs["train"], scale.comparisons, scale.corpus_seed),
        "validation": _sample_rows(pairs["validation"], scale.validation_comparisons, scale.corpus_seed),
        ARTICLES: _sample_rows(pairs[ARTICLES], scale.validation_comparisons, scale.corpus_seed),
    }
    posts = _first_posts(local.read_split_posts(scale.posts_file), scale, sizes)
    return posts, {split: rows for split, rows in sampled.items() if rows}


def _sample_rows(rows: Sequence[dict], number: int, seed: int) -> list[dict]:
    """A random sample of this many rows; all rows in their order where there are no more."""
    return list(rows) if number >= len(rows) else random.Random(seed).sample(rows, number)


def _first_posts(posts: BySplit, scale: Budget | Scale, sizes: dict[str, int]) -> BySplit:
    """The first posts of each split; those of "prompts" are the training posts after the first Scale.posts."""
    posts = posts | {"prompts": posts["train"][scale.posts :]}
    for split in sizes:
        if not posts[split]:
            raise UserError(
                f"all {len(posts['train'])} training posts of {scale.posts_file} are trained on, and none is left for "
                f"{split}; fewer posts than {scale.posts} would leave some"
            )
    return {split: posts[split][:size] for split, size in sizes.items()}


STAGE = Stage("data", version=6, fields=FIELDS, upstream=(), seeded=False, run=_run)
