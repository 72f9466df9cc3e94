"""OpenAI's TL;DR preprocessing, token for token (N+ details 2 to 5).

A post becomes a left-padded query, a right-padded reference, and both as one right-padded text; a comparison becomes the
same with two summaries. All rows of a column have the same length, so batches need no collator. Left out: OpenAI's padding
with spaces, since the paper pads with a token of its own (detail 3).

Legend: Q query tokens, R reference tokens, S tokens of one summary of a pair.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING

from repro.errors import UserError
from repro.ops import prompt

if TYPE_CHECKING:
    from datasets import Dataset, Features, List, Value
    from transformers import PreTrainedTokenizerFast

ROWS_AT_ONCE = 1000
VERSIONS_AT_ONCE = 64


@dataclass(frozen=True)
class Lengths:
    """Row lengths in tokens, end of text included; `query_*` are those of query and response tokenised as one text."""

    query: int
    reference: int
    query_reference: int
    pair_response: int
    query_pair: int


TLDR_LENGTHS = Lengths(query=512, reference=53, query_reference=562, pair_response=169, query_pair=638)
CNNDM_LENGTHS = replace(TLDR_LENGTHS, query=1919, pair_response=155, query_pair=2021)


@dataclass(frozen=True)
class Format:
    """The steps of preprocessing that a recipe may change, functions of `repro/ops/prompt.py`; by default the paper's."""

    end_prompt: Callable[[str], str] = prompt.end_with_colon
    shorten: Callable[[list[int], int, Iterable[list[int]]], list[list[int]]] = prompt.first_that_fits
    start_completion: Callable[[str], str] = prompt.start_as_given
    end_completion: Callable[[str, str], str] = prompt.end_with_eos
    limit_summary: Callable[[list[int], list[int], int], list[int]] = prompt.as_long_as_the_row

    def complete(self, text: str, tokenizer: PreTrainedTokenizerFast) -> str:
        """A completion to train on, from a summary that starts with a space."""
        return self.end_completion(self.start_completion(text), tokenizer.eos_token)


PAPER = Format()


def format_query(post: Mapping, text_format: Format = PAPER) -> str:
    """The prompt of a Reddit post, or of a news article where there is one (N+ detail 2.1)."""
    if is_article(post):
        return text_format.end_prompt(f"Article:\n{post['article']}") + "\n"
    return text_format.end_prompt(f"SUBREDDIT: r/{post['subreddit']}\n\nTITLE: {post['title']}\n\nPOST: {post['post']}")


def is_article(post: Mapping) -> bool:
    """Whether this is a CNN/DM article; in the hub's copy of the data the field is there for posts too, as null."""
    return post.get("article") is not None


def join(query: str, completion: str) -> str:
    """Query and completion as one text, without a space of the query before that of the completion."""
    return query.strip() + completion


def cut(text: str) -> str:
    """The text up to its last newline, or without its last character where it has none (N+ detail 2.2)."""
    newline = text.rfind("\n")
    return text[:newline] if newline >= 0 else text[:-1]


def encode_query(post: Mapping, tokenizer: PreTrainedTokenizerFast, query_tokens: int) -> tuple[str, list[int]]:
    """Text and left-padded ids `[query_tokens]` of a post truncated to fit; UserError where an empty post is too long."""
    queries = _encode_queries([post], tokenizer, query_tokens, PAPER)
    return queries.texts[0], queries.tokens[0]


def encode_posts(
    posts: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths, text_format: Format = PAPER
) -> Dataset:
    """One row per post: `query_token [Q]`, `reference_response_token [R]`, `query_reference_response_token`, and texts.

    `reference_response_tokens` is the number of reference tokens in the joint text, where more of them fit than in the
    reference's own column. `query` is the prompt after truncation, and `cut` whether truncation changed it. `reference` is
    the summary as written. `facts` is JSON, or empty where they are unknown. As in the paper, a reference that is too long
    loses its end of text.
    """
    from datasets import Features, Value

    schema = {
        **_texts("id", "query", "reference"),
        "query_token": _tokens(lengths.query),
        "reference_response_token": _tokens(lengths.reference),
        "query_reference_response_token": _tokens(lengths.query_reference),
        "reference_response_tokens": Value("int32"),
        "cut": Value("bool"),
        **_texts("facts"),
    }
    return _build(posts, lambda chunk: _post_columns(chunk, tokenizer, lengths, text_format), Features(schema))


def encode_pairs(
    comparisons: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths, text_format: Format = PAPER
) -> Dataset:
    """One row per comparison: `query_token [Q]`; of chosen and rejected the text, policy, `*_token [S]`, `query_*_token`.

    `chosen_tokens` and `rejected_tokens` are the numbers of summary tokens in the joint texts. `confidence` is -1 where the
    labeller gave none. Encode articles separately, with `CNNDM_LENGTHS`.
    """
    from datasets import Features, Value

    schema = {
        **_texts("id", "query", "chosen", "rejected"),
        "query_token": _tokens(lengths.query),
        "chosen_token": _tokens(lengths.pair_response),
        "rejected_token": _tokens(lengths.pair_response),
        "query_chosen_token": _tokens(lengths.query_pair),
        "query_rejected_token": _tokens(lengths.query_pair),
        "chosen_tokens": Value("int32"),
        "rejected_tokens": Value("int32"),
        **_texts("batch", "split", "chosen_policy", "rejected_policy"),
        "confidence": Value("int32"),
    }
    return _build(comparisons, lambda chunk: _pair_columns(chunk, tokenizer, lengths, text_format), Features(schema))


def _post_columns(
    posts: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths, text_format: Format
) -> dict[str, list]:
    queries = _encode_queries(posts, tokenizer, lengths.query, text_format)
    posts = [posts[index] for index in queries.indices]
    # A leading space, as the summaries of comparisons have it (N+ detail 3).
    references = [text_format.complete(f" {post['summary']}", tokenizer) for post in posts]
    separate, joined = _encode(references, tokenizer), _encode_joined(queries.texts, references, tokenizer)
    limited, pad = [row[: lengths.query_reference] for row in joined], tokenizer.pad_token_id
    return {
        "id": [post["id"] for post in posts],
        "query": queries.texts,
        "reference": [post["summary"] for post in posts],
        "query_token": queries.tokens,
        "reference_response_token": _pad_right(separate, pad, lengths.reference),
        "query_reference_response_token": _pad_right(limited, pad, lengths.query_reference),
        "reference_response_tokens": _completion_tokens(separate, joined, limited, pad),
        "cut": queries.cut,
        "facts": [json.dumps(post["facts"]) if "facts" in post else "" for post in posts],
    }


def _pair_columns(
    pairs: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths, text_format: Format
) -> dict[str, list]:
    queries = _encode_queries([pair["info"] for pair in pairs], tokenizer, lengths.query, text_format)
    pairs = [pairs[index] for index in queries.indices]
    chosen = [pair["summaries"][pair["choice"]] for pair in pairs]
    rejected = [pair["summaries"][1 - pair["choice"]] for pair in pairs]
    return {
        "id": [pair["info"]["id"] for pair in pairs],
        "query": queries.texts,
        "query_token": queries.tokens,
        **_side_columns("chosen", chosen, queries.texts, tokenizer, lengths, text_format),
        **_side_columns("rejected", rejected, queries.texts, tokenizer, lengths, text_format),
        "batch": [pair["batch"] for pair in pairs],
        "split": [pair["split"] for pair in pairs],
        "confidence": [_confidence(pair) for pair in pairs],
    }


def _side_columns(
    side: str,
    summaries: Sequence[Mapping],
    queries: list[str],
    tokenizer: PreTrainedTokenizerFast,
    lengths: Lengths,
    text_format: Format,
) -> dict[str, list]:
    completions = [text_format.complete(summary["text"], tokenizer) for summary in summaries]
    separate, joined = _encode(completions, tokenizer), _encode_joined(queries, completions, tokenizer)

    def limited(rows: list[list[int]], length: int) -> list[list[int]]:
        pairs = zip(rows, separate, strict=True)
        return [text_format.limit_summary(row, summary, lengths.reference)[:length] for row, summary in pairs]

    whole, pad = limited(joined, lengths.query_pair), tokenizer.pad_token_id
    return {
        side: [summary["text"] for summary in summaries],
        f"{side}_token": _pad_right(limited(separate, lengths.pair_response), pad, lengths.pair_response),
        f"query_{side}_token": _pad_right(whole, pad, lengths.query_pair),
        f"{side}_tokens": _completion_tokens(separate, joined, whole, pad),
        f"{side}_policy": [summary["policy"] for summary in summaries],
    }


def _completion_tokens(
    separate: list[list[int]], joined: list[list[int]], limited: list[list[int]], pad: int
) -> list[int]:
    """The number of completion tokens in each limited row, without an end of text that is also padding.

    `separate` has the completions, `joined` the rows before the limit, `limited` the rows after it.
    """
    counts = []
    for completion, whole, row in zip(separate, joined, limited, strict=True):
        remaining = max(0, len(completion) - (len(whole) - len(row)))
        counts.append(sum(token != pad for token in row[len(row) - remaining :]))
    return counts


def _confidence(pair: Mapping) -> int:
    confidence = (pair.get("extra") or {}).get("confidence")
    return -1 if confidence is None else confidence


@dataclass(frozen=True)
class _Queries:
    """The prompts of N posts, without posts that the recipe drops for their length."""

    indices: list[int]  # of the posts that remain
    texts: list[str]
    tokens: list[list[int]]  # [Q] ids each, left-padded
    cut: list[bool]  # whether the prompt was truncated


def _encode_queries(
    posts: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, query_tokens: int, text_format: Format
) -> _Queries:
    """Tokenises all posts at once, and truncated versions of those that are too long."""
    bos = bos_text(tokenizer)
    rows = _encode((bos + format_query(post, text_format) for post in posts), tokenizer)
    long = [index for index, row in enumerate(rows) if len(row) > query_tokens]
    shortened = dict(zip(long, _encode_shortened([posts[index] for index in long], tokenizer, text_format)))
    fitted = [[row] for row in rows]  # one prompt per post, or none where it is dropped
    for index in long:
        fitted[index] = _fit(posts[index], rows[index], shortened[index], query_tokens, text_format)
    indices = [index for index, prompts in enumerate(fitted) if prompts]
    tokens = [fitted[index][0] for index in indices]
    return _Queries(
        indices=indices,
        # The paper decodes the text from the ids: special tokens that a user typed are gone, and the text is NFC.
        texts=_decode(tokens, tokenizer),
        # Padding is added by count and never recognised by its id, which may be that of the end of text.
        tokens=[[tokenizer.pad_token_id] * (query_tokens - len(row)) + row for row in tokens],
        cut=[len(rows[index]) > query_tokens for index in indices],
    )


def _fit(
    post: Mapping, row: list[int], shortened: Iterable[list[int]], query_tokens: int, text_format: Format
) -> list[list[int]]:
    """A list with the truncated prompt of a long post, or empty where the recipe drops it; UserError where none fits."""
    try:
        return text_format.shorten(row, query_tokens, shortened)
    except LookupError as error:
        raise UserError(
            f"post {post['id']}: its prompt is longer than {query_tokens} tokens even with an empty text; "
            "a shorter title or more query tokens would fit"
        ) from error


def _encode_shortened(
    posts: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, text_format: Format
) -> list[Iterator[list[int]]]:
    """Of each post the ids of its shortened versions, longest first; the first of each are tokenised in one batch.

    One is mostly enough.
    """
    bos = bos_text(tokenizer)
    versions = [(bos + format_query(version, text_format) for version in _shortened(post)) for post in posts]
    first = [list(islice(texts, 1)) for texts in versions]  # empty for a post without a text
    encoded = iter(_encode(chain(*first), tokenizer))
    return [
        chain(list(islice(encoded, len(one))), _encode_lazily(texts, tokenizer)) for one, texts in zip(first, versions)
    ]


def _encode_lazily(texts: Iterator[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[list[int]]:
    """The ids of each text in order, in batches that double, since most posts need few of them.

    Bisection would be wrong: fewer characters can be more tokens.
    """
    batch = 1
    while chunk := list(islice(texts, batch)):
        yield from _encode(chunk, tokenizer)
        batch = min(2 * batch, VERSIONS_AT_ONCE)


def _shortened(post: Mapping) -> Iterator[dict]:
    """The post with its text cut again and again, down to an empty text."""
    field = "article" if is_article(post) else "post"
    text = post[field]
    while text:
        text = cut(text)
        yield {**post, field: text}


def _pad_right(rows: Iterable[list[int]], pad: int, length: int) -> list[list[int]]:
    return [row[:length] + [pad] * (length - len(row)) for row in rows]


def bos_text(tokenizer: PreTrainedTokenizerFast) -> str:
    """The BOS token, if the tokenizer starts every text with it, as Gemma's and Llama's do; else an empty text."""
    adds_bos = tokenizer.bos_token_id in tokenizer("a")["input_ids"][:1]
    return tokenizer.bos_token if adds_bos else ""


def _encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """The ids of each text, without the special tokens that a tokenizer may add, such as an end of text after a prompt."""
    texts = list(texts)
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def _encode_joined(
    queries: Sequence[str], completions: Sequence[str], tokenizer: PreTrainedTokenizerFast
) -> list[list[int]]:
    """The ids of each query and its completion as one text."""
    bos = bos_text(tokenizer)
    return _encode(map(join, (bos + query for query in queries), completions), tokenizer)


def _decode(rows: list[list[int]], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The text of each row without special tokens; no texts for no rows, where the library would return one."""
    if not rows:
        return []
    return tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _texts(*names: str) -> dict[str, Value]:
    from datasets import Value

    return dict.fromkeys(names, Value("string"))


def _tokens(length: int) -> List:
    from datasets import List, Value

    return List(Value("int32"), length=length)


def _build(rows: Sequence, columns: Callable[[Sequence], dict[str, list]], schema: Features) -> Dataset:
    """All rows as one table, built in chunks, since Python's lists of ids take eight times the table's memory."""
    from datasets import Dataset, concatenate_datasets

    starts = range(0, max(len(rows), 1), ROWS_AT_ONCE)
    chunks = (columns(rows[start : start + ROWS_AT_ONCE]) for start in starts)
    return concatenate_datasets([Dataset.from_dict(chunk, features=schema) for chunk in chunks])
