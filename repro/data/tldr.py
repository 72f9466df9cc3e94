"""OpenAI's TL;DR preprocessing, token for token (N+ details 2 to 5).

One post becomes a left-padded query, a right-padded reference and both as one right-padded text; one comparison becomes
the same with two summaries. Every row of a column has the same length, so a batch needs no collator. Left out: OpenAI's
padding with spaces (the paper pads with a token of its own, detail 3).

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
CUTS_AT_ONCE = 64


@dataclass(frozen=True)
class Lengths:
    """Fixed lengths in tokens, end of text included; `query_*` count query and response tokenised as one text."""

    query: int
    reference: int
    query_reference: int
    pair_response: int
    query_pair: int


TLDR_LENGTHS = Lengths(query=512, reference=53, query_reference=562, pair_response=169, query_pair=638)
CNNDM_LENGTHS = replace(TLDR_LENGTHS, query=1919, pair_response=155, query_pair=2021)


@dataclass(frozen=True)
class Format:
    """The steps that a recipe may change, each a function of `repro/ops/prompt.py`; by default the paper's."""

    end_prompt: Callable[[str], str] = prompt.end_with_colon
    shorten: Callable[[list[int], int, Iterable[list[int]]], list[list[int]]] = prompt.first_that_fits
    start_completion: Callable[[str], str] = prompt.start_as_given
    end_completion: Callable[[str, str], str] = prompt.end_with_eos
    limit_summary: Callable[[list[int], list[int], int], list[int]] = prompt.as_long_as_the_row

    def complete(self, text: str, tokenizer: PreTrainedTokenizerFast) -> str:
        """A summary, which starts with a space, as it is trained on."""
        return self.end_completion(self.start_completion(text), tokenizer.eos_token)


PAPER = Format()


def format_query(post: Mapping, form: Format = PAPER) -> str:
    """The prompt of a Reddit post, or of a news article where there is one (N+ detail 2.1)."""
    if is_article(post):
        return form.end_prompt(f"Article:\n{post['article']}") + "\n"
    return form.end_prompt(f"SUBREDDIT: r/{post['subreddit']}\n\nTITLE: {post['title']}\n\nPOST: {post['post']}")


def is_article(post: Mapping) -> bool:
    """Whether this is a CNN/DM article; the hub's copy of the data has every field, null where it does not apply."""
    return post.get("article") is not None


def join(query: str, completion: str) -> str:
    """Query and completion as one text, tokenised anew: the space that may end a query must not meet another."""
    return query.strip() + completion


def cut(text: str) -> str:
    """The text up to its last newline, or without its last character where it has none (N+ detail 2.2)."""
    newline = text.rfind("\n")
    return text[:newline] if newline >= 0 else text[:-1]


def encode_query(post: Mapping, tokenizer: PreTrainedTokenizerFast, query_tokens: int) -> tuple[str, list[int]]:
    """Text and ids `[query_tokens]`, left-padded, of a post cut until it fits; UserError when it cannot."""
    queries = _encode_queries([post], tokenizer, query_tokens, PAPER)
    return queries.texts[0], queries.tokens[0]


def encode_posts(
    posts: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths, form: Format = PAPER
) -> Dataset:
    """One row a post: `query_token [Q]`, `reference_response_token [R]`, `query_reference_response_token`, and texts.

    `reference_response_tokens` counts the reference's own tokens in the joint text, which has more room for them than
    its own column. `query` is the prompt after truncation, `cut` whether that changed it, `reference` the summary as
    written, `facts` JSON where they are known, else empty. A reference that is too long loses its end-of-text token, as
    in the paper.
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
    return _build(posts, lambda some: _post_columns(some, tokenizer, lengths, form), Features(schema))


def encode_pairs(
    comparisons: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths, form: Format = PAPER
) -> Dataset:
    """One row a comparison: `query_token [Q]`, and of chosen and rejected text, policy, `*_token [S]`, `query_*_token`.

    `chosen_tokens` and `rejected_tokens` count the summary's own tokens in the joint text.
    `confidence` is -1 where the labeller gave none. Articles have lengths of their own (`CNNDM_LENGTHS`): encode them
    apart, or they are cut to the lengths given.
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
    return _build(comparisons, lambda some: _pair_columns(some, tokenizer, lengths, form), Features(schema))


def _post_columns(
    posts: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths, form: Format
) -> dict[str, list]:
    queries = _encode_queries(posts, tokenizer, lengths.query, form)
    posts = [posts[place] for place in queries.kept]
    # A reference gets the space that the summaries of a comparison come with (N+ detail 3).
    references = [form.complete(f" {post['summary']}", tokenizer) for post in posts]
    alone, joined = _encode(references, tokenizer), _encode_joined(queries.texts, references, tokenizer)
    limited, pad = [row[: lengths.query_reference] for row in joined], tokenizer.pad_token_id
    return {
        "id": [post["id"] for post in posts],
        "query": queries.texts,
        "reference": [post["summary"] for post in posts],
        "query_token": queries.tokens,
        "reference_response_token": _pad_right(alone, pad, lengths.reference),
        "query_reference_response_token": _pad_right(limited, pad, lengths.query_reference),
        "reference_response_tokens": _own_tokens(alone, joined, limited, pad),
        "cut": queries.cut,
        "facts": [json.dumps(post["facts"]) if "facts" in post else "" for post in posts],
    }


def _pair_columns(
    pairs: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths, form: Format
) -> dict[str, list]:
    queries = _encode_queries([pair["info"] for pair in pairs], tokenizer, lengths.query, form)
    pairs = [pairs[place] for place in queries.kept]
    chosen = [pair["summaries"][pair["choice"]] for pair in pairs]
    rejected = [pair["summaries"][1 - pair["choice"]] for pair in pairs]
    return {
        "id": [pair["info"]["id"] for pair in pairs],
        "query": queries.texts,
        "query_token": queries.tokens,
        **_side_columns("chosen", chosen, queries.texts, tokenizer, lengths, form),
        **_side_columns("rejected", rejected, queries.texts, tokenizer, lengths, form),
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
    form: Format,
) -> dict[str, list]:
    completions = [form.complete(summary["text"], tokenizer) for summary in summaries]
    alone, joined = _encode(completions, tokenizer), _encode_joined(queries, completions, tokenizer)

    def limited(rows: list[list[int]], length: int) -> list[list[int]]:
        pairs = zip(rows, alone, strict=True)
        return [form.limit_summary(row, summary, lengths.reference)[:length] for row, summary in pairs]

    whole, pad = limited(joined, lengths.query_pair), tokenizer.pad_token_id
    return {
        side: [summary["text"] for summary in summaries],
        f"{side}_token": _pad_right(limited(alone, lengths.pair_response), pad, lengths.pair_response),
        f"query_{side}_token": _pad_right(whole, pad, lengths.query_pair),
        f"{side}_tokens": _own_tokens(alone, joined, whole, pad),
        f"{side}_policy": [summary["policy"] for summary in summaries],
    }


def _own_tokens(alone: list[list[int]], joined: list[list[int]], limited: list[list[int]], pad: int) -> list[int]:
    """How many of each limited row's last tokens are the completion's, an end of text that serves as padding aside."""
    counts = []
    for completion, whole, row in zip(alone, joined, limited, strict=True):
        left = max(0, len(completion) - (len(whole) - len(row)))
        counts.append(sum(token != pad for token in row[len(row) - left :]))
    return counts


def _confidence(pair: Mapping) -> int:
    given = (pair.get("extra") or {}).get("confidence")
    return -1 if given is None else given


@dataclass(frozen=True)
class _Queries:
    """Of N posts those that are `kept`, by place: text, ids `[Q]` and whether the prompt is not the whole of it."""

    kept: list[int]
    texts: list[str]
    tokens: list[list[int]]
    cut: list[bool]


def _encode_queries(
    posts: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, query_tokens: int, form: Format
) -> _Queries:
    """All posts are tokenised at once, and only those too long again."""
    start = begin(tokenizer)
    whole = _encode((start + format_query(post, form) for post in posts), tokenizer)
    long = [place for place, row in enumerate(whole) if len(row) > query_tokens]
    shorter = dict(zip(long, _encode_shortened([posts[place] for place in long], tokenizer, form)))
    fitted = [[row] for row in whole]
    for place in long:
        fitted[place] = _fit(posts[place], whole[place], shorter[place], query_tokens, form)
    kept = [place for place, rows in enumerate(fitted) if rows]
    rows = [fitted[place][0] for place in kept]
    return _Queries(
        kept=kept,
        # The paper reads the text back from the ids: special tokens that a user typed are gone from it, and it is NFC.
        texts=_decode(rows, tokenizer),
        # Padding is counted, never recognised by its id: the id may be that of the end of text.
        tokens=[[tokenizer.pad_token_id] * (query_tokens - len(row)) + row for row in rows],
        cut=[len(whole[place]) > query_tokens for place in kept],
    )


def _fit(
    post: Mapping, row: list[int], shorter: Iterable[list[int]], query_tokens: int, form: Format
) -> list[list[int]]:
    """A long post's prompt within `query_tokens`, or no prompt where it is left out; UserError when it cannot fit."""
    try:
        return form.shorten(row, query_tokens, shorter)
    except LookupError as error:
        raise UserError(
            f"post {post['id']}: its prompt is longer than {query_tokens} tokens even with an empty text; "
            "a shorter title or more query tokens would fit"
        ) from error


def _encode_shortened(
    posts: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, form: Format
) -> list[Iterator[list[int]]]:
    """Of each post the ids of its cuts, longest text first; the first cuts, which mostly do, are tokenised at once."""
    start = begin(tokenizer)
    cuts = [(start + format_query(shorter, form) for shorter in _shortened(post)) for post in posts]
    first = [list(islice(texts, 1)) for texts in cuts]  # none of a post without a text
    encoded = iter(_encode(chain(*first), tokenizer))
    return [chain(list(islice(encoded, len(one))), _encode_cuts(texts, tokenizer)) for one, texts in zip(first, cuts)]


def _encode_cuts(texts: Iterator[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[list[int]]:
    # Fewer characters can be more tokens: no search but the paper's order is right, though it can tokenise several.
    at_once = 1
    while some := list(islice(texts, at_once)):
        yield from _encode(some, tokenizer)
        at_once = min(2 * at_once, CUTS_AT_ONCE)


def _shortened(post: Mapping) -> Iterator[dict]:
    field = "article" if is_article(post) else "post"
    text = post[field]
    while text:
        text = cut(text)
        yield {**post, field: text}


def _pad_right(rows: Iterable[list[int]], pad: int, length: int) -> list[list[int]]:
    return [row[:length] + [pad] * (length - len(row)) for row in rows]


def begin(tokenizer: PreTrainedTokenizerFast) -> str:
    """The token that the tokenizer starts every text with, as Gemma's and Llama's do; nothing where it has none."""
    starts = tokenizer.bos_token_id in tokenizer("a")["input_ids"][:1]
    return tokenizer.bos_token if starts else ""


def _encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """The ids of each text and nothing else: a tokenizer that adds marks of its own could end the prompt early."""
    texts = list(texts)
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def _encode_joined(
    queries: Sequence[str], completions: Sequence[str], tokenizer: PreTrainedTokenizerFast
) -> list[list[int]]:
    """The ids of each query and its completion as one text."""
    start = begin(tokenizer)
    return _encode(map(join, (start + query for query in queries), completions), tokenizer)


def _decode(rows: list[list[int]], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The text of each row without special tokens; the library would make one empty text of no rows."""
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
    """All rows as one table, a chunk at a time: Python's lists of ids take eight times the memory of the table's."""
    from datasets import Dataset, concatenate_datasets

    starts = range(0, max(len(rows), 1), ROWS_AT_ONCE)
    chunks = (columns(rows[start : start + ROWS_AT_ONCE]) for start in starts)
    return concatenate_datasets([Dataset.from_dict(chunk, features=schema) for chunk in chunks])
