"""Descriptive checks of a corpus (N+ section 3): lengths, labels, policies, and posts that two splits share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

    from repro.stages.corpus import Corpus

FILE = "checks.json"
ROWS_AT_ONCE = 10_000
# Text -> its column of ids, and the column that counts its tokens where the ids may be truncated.
POST_TEXTS = {
    "query": ("query_token", ""),
    "reference": ("reference_response_token", "reference_response_tokens"),
    "query + reference": ("query_reference_response_token", ""),
}
PAIR_TEXTS = {
    "query": ("query_token", ""),
    "chosen": ("chosen_token", "chosen_tokens"),
    "rejected": ("rejected_token", "rejected_tokens"),
    "query + chosen": ("query_chosen_token", ""),
    "query + rejected": ("query_rejected_token", ""),
}
# How vocabularies spell a leading space.
SPACES = ("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "\N{LOWER ONE EIGHTH BLOCK}", " ")


def write(corpus: Corpus, origin: str, posts: Mapping[str, Sequence], pairs: Mapping[str, Sequence]) -> None:
    """Write `posts_checks` and `pairs_checks` of each split, and `shared`, as JSON into the artefact.

    `posts` and `pairs` are the source rows of each split; `origin` is Scale.corpus.
    """
    tokenizer, splits = corpus.tokenizer, {split: corpus.posts(split) for split in posts}
    compared = {split: corpus.pairs(split) for split in pairs}
    checks = {
        "corpus": origin,
        "posts": {split: posts_checks(rows, len(posts[split]), tokenizer) for split, rows in splits.items()},
        "pairs": {split: pairs_checks(rows, len(pairs[split]), tokenizer) for split, rows in compared.items()},
        "shared": shared(
            {f"posts/{split}": rows for split, rows in splits.items()}
            | {f"pairs/{split}": rows for split, rows in compared.items()}
        ),
    }
    (corpus.folder / FILE).write_text(json.dumps(checks))


def posts_checks(rows: Dataset, source_rows: int, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Lengths of prompt, reference and both, and how references start and end; `source_rows` includes dropped rows."""
    lengths = {name: _lengths(rows, *columns, tokenizer) for name, columns in POST_TEXTS.items()}
    lengths["query"]["cut"] = int(sum(rows["cut"][:]))
    return {"given": source_rows, "rows": len(rows), "lengths": lengths} | _ends(
        rows, ("reference_response_token",), tokenizer
    )


def pairs_checks(rows: Dataset, source_rows: int, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """As `posts_checks`, with the labellers' confidence (-1: not given), batches, policies and pairs of policies.

    `cut` of prompts is missing, since comparisons do not record which prompts were truncated.
    """
    lengths = {name: _lengths(rows, *columns, tokenizer) for name, columns in PAIR_TEXTS.items()}
    del lengths["query"]["cut"]
    chosen, rejected = (Counter(rows[f"{side}_policy"][:]) for side in ("chosen", "rejected"))
    policy_pairs = zip(rows["chosen_policy"][:], rows["rejected_policy"][:], strict=True)
    return {
        "given": source_rows,
        "rows": len(rows),
        "lengths": lengths,
        **_ends(rows, ("chosen_token", "rejected_token"), tokenizer),
        "confidence": _counted(rows["confidence"][:]),
        "batches": _counted(rows["batch"][:]),
        "policies": {name: [chosen[name], rejected[name]] for name in sorted(chosen | rejected)},
        "policy_pairs": _counted(" vs ".join(sorted(pair)) for pair in policy_pairs),
    }


def shared(splits: Mapping[str, Dataset]) -> list[dict[str, Any]]:
    """For each ordered pair of splits, how many posts of the first are in the second, by id or by equal prompt."""
    texts = {name: dict(zip(rows["id"][:], rows["query"][:], strict=True)) for name, rows in splits.items()}
    prompts = {name: set(posts.values()) for name, posts in texts.items()}
    return [
        {
            "of": one,
            "in": other,
            "posts": sum(post in texts[other] or text in prompts[other] for post, text in texts[one].items()),
            "all": len(texts[one]),
        }
        for one, other in permutations(splits, 2)
    ]


def _lengths(rows: Dataset, name: str, counted: str, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """A histogram of lengths, where counts[n] rows have n tokens, the `limit`, and how many rows it `cut`.

    An end of text that is also padding does not count as a token. A row that fills its width without one counts as cut.
    """
    limit, counts, cut = rows.features[name].length, np.zeros(1, dtype=int), 0
    for batch in _batches(rows, [name, *filter(None, [counted])]):
        ids = batch[name]
        lengths = batch[counted] if counted else (ids != tokenizer.pad_token_id).sum(1)
        counts = _added(counts, np.bincount(lengths))
        cut += int((~np.isin(ids[:, -1], (tokenizer.pad_token_id, tokenizer.eos_token_id))).sum())
    return {"limit": limit, "cut": cut, "counts": counts.tolist()}


def _ends(rows: Dataset, names: tuple[str, ...], tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Of all texts in these columns, how many start with a space and how many have an end of text."""
    first: Counter[int] = Counter()
    with_eos = 0
    for batch in _batches(rows, list(names)):
        for ids in batch.values():
            first.update(ids[:, 0].tolist())
            with_eos += int((ids == tokenizer.eos_token_id).any(1).sum())
    spaced = sum(n for token, n in first.items() if tokenizer.convert_ids_to_tokens(token).startswith(SPACES))
    return {"texts": len(rows) * len(names), "start_with_space": spaced, "end": with_eos}


def _batches(rows: Dataset, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
    """The columns in batches, since all ids of a large split as arrays would take more memory than its table."""
    return rows.select_columns(names).with_format("numpy").iter(ROWS_AT_ONCE)


def _added(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The sum of two histograms of any lengths."""
    length = max(len(one), len(other))
    return np.pad(one, (0, length - len(one))) + np.pad(other, (0, length - len(other)))


def _counted(values: Iterable) -> dict[str, int]:
    """The count of each value, the most frequent first, ties by name."""
    return {str(value): n for value, n in sorted(Counter(values).items(), key=lambda each: (-each[1], str(each[0])))}
