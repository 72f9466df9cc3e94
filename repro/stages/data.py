"""The data stage: posts and comparisons from the embedded corpus or from files, tokenised once, and read back."""

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
from repro.models import hub, pretrained
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
    form, measured = _format(pick), {}
    for split, rows in posts.items():
        encoded = _some_left(tldr.encode_posts(rows, tokenizer, lengths, form), split, rows)
        encoded.save_to_disk(context.out / "posts" / split)
        measured |= _describe_posts(split, encoded, len(rows), tokenizer)
    for split, rows in comparisons.items():
        long_enough = tldr.CNNDM_LENGTHS if split == ARTICLES else lengths
        encoded = _some_left(tldr.encode_pairs(rows, tokenizer, long_enough, form), split, rows)
        encoded.save_to_disk(context.out / "pairs" / split)
        measured |= _describe_pairs(split, encoded, tokenizer)
    tokenizer.save_pretrained(context.out / "tokenizer")
    describe.write(Corpus(context.out), scale.corpus, posts, comparisons)
    context.finish(measured)


def check(recipe: Recipe, scale: Scale) -> None:
    """UserError, before anything is recorded, where data or base stage would refuse their input.

    What comes from the hub is here afterwards: the workers find it.
    """
    pick = Pick(recipe, "data")
    _require_pair(pick(d.PAD_TOKEN)(local.load_tokenizer(scale.tokenizer)), hub.resolve(scale.model, "model"))
    check_corpus(recipe, scale.corpus)
    _read(scale, pick)


def require_vocabulary(tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> None:
    """UserError where the tokenizer has an id, its padding aside, that a model of so many ids does not."""
    highest = max(id_ for id_ in tokenizer.get_vocab().values() if id_ != tokenizer.pad_token_id)
    if highest >= vocabulary:
        raise UserError(
            f"the tokenizer's highest id is {highest} and the base model has {vocabulary} of them; "
            "give a model and a tokenizer that belong together"
        )


def _require_pair(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A model that is not there yet is made to fit; of a GGUF, which takes long to open, the base stage says it."""
    if not folder.exists():
        return
    where = pretrained.network_kwargs(folder)
    if "gguf_file" not in where:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(**where, trust_remote_code=False)
        require_vocabulary(tokenizer, config.get_text_config().vocab_size)


def _format(pick: Pick) -> tldr.Format:
    return tldr.Format(
        end_prompt=pick(d.PROMPT_END),
        shorten=pick(d.TRUNCATION),
        start_completion=pick(d.COMPLETION_START),
        end_completion=pick(d.EOS),
        limit_summary=pick(d.RESPONSE_LIMIT),
    )


def _some_left(encoded: Dataset, split: str, given: list[dict]) -> Dataset:
    """The rows; UserError where every one of those `given` was too long and left out."""
    if not len(encoded):
        raise UserError(
            f"{split}: none of {len(given)} prompts fits, and the recipe leaves out those that do not; "
            "more query_tokens would keep some"
        )
    return encoded


def _describe_posts(split: str, encoded: Dataset, given: int, tokenizer: PreTrainedTokenizerFast) -> Metrics:
    """Rows, mean lengths and what the limits took, as `repro/study/metrics.py` says of `data/`."""
    query, reference = (
        (column(encoded, name) != tokenizer.pad_token_id).sum(1).double().mean().item()
        for name in ("query_token", "reference_response_token")
    )
    too_long = given - len(encoded) + sum(encoded["cut"][:])
    return {
        f"data/{split}_posts": float(len(encoded)),
        f"data/{split}_query_tokens_mean": query,
        f"data/{split}_reference_tokens_mean": reference,
        f"data/{split}_cut_queries": too_long / given,
        f"data/{split}_references_without_eos": _without_eos(encoded, ("query_reference_response_token",), tokenizer),
    }


def _describe_pairs(split: str, encoded: Dataset, tokenizer: PreTrainedTokenizerFast) -> Metrics:
    sides = ("query_chosen_token", "query_rejected_token")
    return {
        f"data/{split}_comparisons": float(len(encoded)),
        f"data/{split}_pairs_without_eos": _without_eos(encoded, sides, tokenizer),
    }


def _without_eos(encoded: Dataset, names: tuple[str, ...], tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of rows in which one of the columns has no end of text."""
    # A text may start with it, as OPT's do.
    complete = [(column(encoded, name)[:, 1:] == tokenizer.eos_token_id).any(1) for name in names]
    return 1 - torch.stack(complete).all(0).double().mean().item()


# (budget, how many posts of each split) -> posts and comparisons by split
Reader = Callable[[Any, dict[str, int]], tuple[dict[str, list[dict]], dict[str, list[dict]]]]


def _read(scale: Budget | Scale, pick: Pick) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    """Posts and comparisons by split; the prompts of PPO are a split, of their own where the recipe says so."""
    sizes = {"train": scale.posts, "validation": scale.validation_posts, "test": scale.test_posts}
    sizes |= {pick(d.PROMPTS): scale.posts}
    belief = pick(d.BLIND_SPOT)
    readers: dict[str, Reader] = {"embedded": partial(_embedded, belief=belief), "local": _local, "tldr": _tldr}
    posts, comparisons = readers[scale.corpus](scale, sizes)
    train, validation = pick(d.PREFERENCE_SPLIT)(comparisons["train"], comparisons["validation"], scale.corpus_seed)
    return posts, comparisons | {"train": train, "validation": validation}


def _embedded(
    scale: Budget | Scale, sizes: dict[str, int], belief: float
) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    posts = {split: embedded.make_posts(size, scale.corpus_seed, split) for split, size in sizes.items()}
    fresh = embedded.make_posts(scale.validation_comparisons, scale.corpus_seed, "comparisons")
    return posts, {
        "train": embedded.make_comparisons(posts["train"], scale.comparisons, scale.corpus_seed, "train", belief),
        "validation": embedded.make_comparisons(
            fresh, scale.validation_comparisons, scale.corpus_seed, "valid2", belief
        ),
        "probe": embedded.make_probe(posts["test"]),
    }


def _local(scale: Budget | Scale, sizes: dict[str, int]) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    posts = local.split_posts(local.read_posts(scale.posts_file), scale.corpus_seed, 0.1)
    pairs = local.split_comparisons(local.read_comparisons(scale.comparisons_file), scale.corpus_seed, 0.1)
    return _taken(posts, scale, sizes), {
        "train": pairs["train"][: scale.comparisons],
        "validation": pairs["validation"][: scale.validation_comparisons],
    }


def _tldr(scale: Budget | Scale, sizes: dict[str, int]) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    """The paper's own data, with the splits that it has; fewer comparisons are drawn from all: files go by labelling batch."""
    pairs = local.split_comparisons(local.read_comparisons(scale.comparisons_file), scale.corpus_seed, 0.1)
    drawn = {
        "train": _drawn(pairs["train"], scale.comparisons, scale.corpus_seed),
        "validation": _drawn(pairs["validation"], scale.validation_comparisons, scale.corpus_seed),
        ARTICLES: _drawn(pairs[ARTICLES], scale.validation_comparisons, scale.corpus_seed),
    }
    posts = _taken(local.read_split_posts(scale.posts_file), scale, sizes)
    return posts, {split: rows for split, rows in drawn.items() if rows}


def _drawn(rows: Sequence[dict], number: int, seed: int) -> list[dict]:
    """All rows in their order, or so many of them."""
    return list(rows) if number >= len(rows) else random.Random(seed).sample(rows, number)


def _taken(posts: dict[str, list[dict]], scale: Budget | Scale, sizes: dict[str, int]) -> dict[str, list[dict]]:
    """The first posts of each split; prompts of their own are those that follow the training posts."""
    posts = posts | {"prompts": posts["train"][scale.posts :]}
    for split in sizes:
        if not posts[split]:
            raise UserError(
                f"all {len(posts['train'])} training posts of {scale.posts_file} are trained on, and none is left for "
                f"{split}; fewer posts than {scale.posts} would leave some"
            )
    return {split: posts[split][:size] for split, size in sizes.items()}


STAGE = Stage("data", version=6, fields=FIELDS, upstream=(), seeded=False, run=_run)
