"""The data stage: posts and comparisons from the embedded corpus or from files, tokenised once, and read back."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from repro.data import embedded, local, tldr
from repro.detail import Pick, Recipe
from repro.details import PAD_TOKEN
from repro.scale import Scale
from repro.stage import Budget, Stage, Work

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


@dataclass(frozen=True)
class Corpus:
    """A data artefact, opened: the tokenizer, and the splits as `datasets`."""

    folder: Path

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return AutoTokenizer.from_pretrained(self.folder / "tokenizer", local_files_only=True)

    @property
    def pad(self) -> int:
        return self.tokenizer.pad_token_id

    @property
    def eos(self) -> int:
        return self.tokenizer.eos_token_id

    def posts(self, split: str) -> Dataset:
        """Posts of "train", "validation" or "test"; `facts` is JSON where the truth is known, else empty."""
        return load_from_disk(self.folder / "posts" / split)

    def pairs(self, split: str) -> Dataset:
        """Comparisons of "train" or "validation"."""
        return load_from_disk(self.folder / "pairs" / split)

    def decode(self, tokens: Tensor) -> list[str]:
        """[N, R] -> N texts without special tokens or surrounding space."""
        return [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def column(rows: Dataset, name: str) -> Tensor:
    """A column of equally long token lists as one [N, T] tensor."""
    return torch.from_numpy(rows.with_format("numpy")[:][name]).long()


def _run(work: Work) -> None:
    tokenizer = work.pick(PAD_TOKEN)(local.load_tokenizer(work.scale.tokenizer))
    posts, comparisons = _read(work.scale)
    lengths = tldr.Lengths(
        work.scale.query_tokens,
        work.scale.reference_tokens,
        work.scale.query_reference_tokens,
        work.scale.pair_response_tokens,
        work.scale.query_pair_tokens,
    )
    for split, rows in posts.items():
        encoded = tldr.encode_posts(rows, tokenizer, lengths)
        facts = [json.dumps(row["facts"]) if "facts" in row else "" for row in rows]
        encoded.add_column("facts", facts).save_to_disk(work.out / "posts" / split)
    for split, rows in comparisons.items():
        tldr.encode_pairs(rows, tokenizer, lengths).save_to_disk(work.out / "pairs" / split)
    tokenizer.save_pretrained(work.out / "tokenizer")
    work.finish(
        {f"data/{split}_posts": float(len(rows)) for split, rows in posts.items()}
        | {f"data/{split}_comparisons": float(len(rows)) for split, rows in comparisons.items()}
    )


def check(recipe: Recipe, scale: Scale) -> None:
    """UserError, before anything is recorded, where the data stage would refuse its input."""
    Pick(recipe, "data")(PAD_TOKEN)(local.load_tokenizer(scale.tokenizer))
    _read(scale)


def _read(scale: Budget | Scale) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    return {"embedded": _embedded, "local": _local}[scale.corpus](scale)


def _embedded(scale: Budget) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    sizes = {"train": scale.posts, "validation": scale.validation_posts, "test": scale.test_posts}
    posts = {split: embedded.make_posts(size, scale.corpus_seed, split) for split, size in sizes.items()}
    fresh = embedded.make_posts(scale.validation_comparisons, scale.corpus_seed, "comparisons")
    return posts, {
        "train": embedded.make_comparisons(posts["train"], scale.comparisons, scale.corpus_seed, "train"),
        "validation": embedded.make_comparisons(fresh, scale.validation_comparisons, scale.corpus_seed, "valid2"),
    }


def _local(scale: Budget) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    posts = local.split_posts(local.read_posts(scale.posts_file), scale.corpus_seed, 0.1)
    pairs = local.split_comparisons(local.read_comparisons(scale.comparisons_file), scale.corpus_seed, 0.1)
    sizes = {"train": scale.posts, "validation": scale.validation_posts, "test": scale.test_posts}
    return (
        {split: posts[split][:size] for split, size in sizes.items()},
        {
            "train": pairs["train"][: scale.comparisons],
            "validation": pairs["validation"][: scale.validation_comparisons],
        },
    )


STAGE = Stage("data", version=2, fields=FIELDS, upstream=(), seeded=False, run=_run)
