"""Reading the data stage's artefact: tokenizer, posts and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Corpus:
    """The tokenizer of a data artefact, and its splits as `datasets`."""

    folder: Path

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder / "tokenizer", local_files_only=True)

    @property
    def pad(self) -> int:
        return self.tokenizer.pad_token_id

    @property
    def eos(self) -> int:
        return self.tokenizer.eos_token_id

    def posts(self, split: str) -> Dataset:
        """Posts of the split "train", "validation" or "test", or of "prompts" where the recipe keeps PPO's prompts apart."""
        from datasets import load_from_disk

        return load_from_disk(self.folder / "posts" / split)

    def pairs(self, split: str) -> Dataset:
        """Comparisons of the split "train" or "validation".

        Some corpora also have "validation_cnndm", comparisons of news summaries, and "probe", right against wrong summaries.
        """
        from datasets import load_from_disk

        return load_from_disk(self.folder / "pairs" / split)

    def has_pairs(self, split: str) -> bool:
        return (self.folder / "pairs" / split).is_dir()

    def decode(self, tokens: Tensor) -> list[str]:
        """[N, R] -> N texts without special tokens or surrounding space."""
        return [text.strip() for text in self.texts(tokens.tolist())]

    def texts(self, rows: Sequence[list[int]]) -> list[str]:
        """The text of each row of ids without special tokens; no texts for no rows, where the library would return one."""
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True) if rows else []


def column(rows: Dataset, name: str) -> Tensor:
    """A column of numbers as an [N] tensor, or of equally long token lists as an [N, T] tensor."""
    return torch.from_numpy(rows.select_columns(name).with_format("numpy")[:][name]).long()


def concatenate(*parts: Dataset) -> Dataset:
    """The rows of all parts, in their order."""
    from datasets import concatenate_datasets

    return concatenate_datasets(list(parts))
