"""OpenAI's TL;DR preprocessing, token for token (N+ details 2 to 5).

One post becomes a left-padded query, a right-padded reference and both as one right-padded text; one comparison becomes
the same with two summaries. Every row of a column has the same length, so a batch needs no collator. Left out: OpenAI's
padding with spaces (the paper pads with a token of its own, detail 3) and the columns that only DPO reads.

Legend: Q query tokens, R reference tokens, S tokens of one summary of a pair.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from datasets import Dataset, Features, List, Value, concatenate_datasets
from transformers import PreTrainedTokenizerFast

from repro.errors import UserError

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


def format_query(post: Mapping) -> str:
    """The prompt of a Reddit post, or of a news article where there is one (N+ detail 2.1)."""
    if is_article(post):
        return end_prompt(f"Article:\n{post['article']}") + "\n"
    return end_prompt(f"SUBREDDIT: r/{post['subreddit']}\n\nTITLE: {post['title']}\n\nPOST: {post['post']}")


def is_article(post: Mapping) -> bool:
    """Whether this is a CNN/DM article; the hub's copy of the data has every field, null where it does not apply."""
    return post.get("article") is not None


def end_prompt(text: str) -> str:
    """The cue that ends a prompt, with no space after its colon (N+ detail 2.3)."""
    return f"{text}\n\nTL;DR:"


def start_completion(summary: str) -> str:
    """A reference starts with a space; the summaries of a comparison come with theirs (N+ detail 3)."""
    return f" {summary}"


def end_completion(completion: str, tokenizer: PreTrainedTokenizerFast) -> str:
    """A completion ends with the end-of-text token (N+ detail 3)."""
    return completion + tokenizer.eos_token


def join(query: str, completion: str) -> str:
    """Query and completion as one text, tokenised anew: the space that may end a query must not meet another."""
    return query.strip() + completion


def cut(text: str) -> str:
    """The text up to its last newline, or without its last character where it has none (N+ detail 2.2)."""
    newline = text.rfind("\n")
    return text[:newline] if newline >= 0 else text[:-1]


def encode_query(post: Mapping, tokenizer: PreTrainedTokenizerFast, query_tokens: int) -> tuple[str, list[int]]:
    """Text and ids `[query_tokens]`, left-padded, of a post cut until it fits; UserError when it cannot."""
    texts, rows = _encode_queries([post], tokenizer, query_tokens)
    return texts[0], rows[0]


def encode_posts(posts: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths) -> Dataset:
    """One row a post: `query_token [Q]`, `reference_response_token [R]`, `query_reference_response_token`, and texts.

    `query` is the prompt after truncation, `reference` the summary as written. A reference that is too long loses its
    end-of-text token, as in the paper.
    """
    schema = {
        **_texts("id", "query", "reference"),
        "query_token": _tokens(lengths.query),
        "reference_response_token": _tokens(lengths.reference),
        "query_reference_response_token": _tokens(lengths.query_reference),
    }
    return _build(posts, lambda some: _post_columns(some, tokenizer, lengths), Features(schema))


def encode_pairs(comparisons: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths) -> Dataset:
    """One row a comparison: `query_token [Q]`, and of chosen and rejected text, policy, `*_token [S]`, `query_*_token`.

    `confidence` is -1 where the labeller gave none. Articles have lengths of their own (`CNNDM_LENGTHS`): encode them
    apart, or they are cut to the lengths given.
    """
    schema = {
        **_texts("id", "query", "chosen", "rejected"),
        "query_token": _tokens(lengths.query),
        "chosen_token": _tokens(lengths.pair_response),
        "rejected_token": _tokens(lengths.pair_response),
        "query_chosen_token": _tokens(lengths.query_pair),
        "query_rejected_token": _tokens(lengths.query_pair),
        **_texts("batch", "split", "chosen_policy", "rejected_policy"),
        "confidence": Value("int32"),
    }
    return _build(comparisons, lambda some: _pair_columns(some, tokenizer, lengths), Features(schema))


def _post_columns(posts: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths) -> dict[str, list]:
    queries, query_token = _encode_queries(posts, tokenizer, lengths.query)
    references = [end_completion(start_completion(post["summary"]), tokenizer) for post in posts]
    joined = map(join, queries, references)
    return {
        "id": [post["id"] for post in posts],
        "query": queries,
        "reference": [post["summary"] for post in posts],
        "query_token": query_token,
        "reference_response_token": _encode_right(references, tokenizer, lengths.reference),
        "query_reference_response_token": _encode_right(joined, tokenizer, lengths.query_reference),
    }


def _pair_columns(pairs: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, lengths: Lengths) -> dict[str, list]:
    queries, query_token = _encode_queries([pair["info"] for pair in pairs], tokenizer, lengths.query)
    chosen = [pair["summaries"][pair["choice"]] for pair in pairs]
    rejected = [pair["summaries"][1 - pair["choice"]] for pair in pairs]
    return {
        "id": [pair["info"]["id"] for pair in pairs],
        "query": queries,
        "query_token": query_token,
        **_side_columns("chosen", chosen, queries, tokenizer, lengths),
        **_side_columns("rejected", rejected, queries, tokenizer, lengths),
        "batch": [pair["batch"] for pair in pairs],
        "split": [pair["split"] for pair in pairs],
        "confidence": [_confidence(pair) for pair in pairs],
    }


def _side_columns(
    side: str, summaries: Sequence[Mapping], queries: list[str], tokenizer: PreTrainedTokenizerFast, lengths: Lengths
) -> dict[str, list]:
    completions = [end_completion(summary["text"], tokenizer) for summary in summaries]
    joined = map(join, queries, completions)
    return {
        side: [summary["text"] for summary in summaries],
        f"{side}_token": _encode_right(completions, tokenizer, lengths.pair_response),
        f"query_{side}_token": _encode_right(joined, tokenizer, lengths.query_pair),
        f"{side}_policy": [summary["policy"] for summary in summaries],
    }


def _confidence(pair: Mapping) -> int:
    given = (pair.get("extra") or {}).get("confidence")
    return -1 if given is None else given


def _encode_queries(
    posts: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, query_tokens: int
) -> tuple[list[str], list[list[int]]]:
    """Texts and ids `[len(posts), query_tokens]`: all posts are tokenised at once, and only those too long again."""
    if not posts:
        return [], []
    rows = _encode(map(format_query, posts), tokenizer)
    rows = [
        row if len(row) <= query_tokens else _encode_shortened(post, tokenizer, query_tokens)
        for post, row in zip(posts, rows, strict=True)
    ]
    # The paper reads the text back from the ids: special tokens that a user typed are gone from it, and it is NFC.
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    # Padding is counted, never recognised by its id: the id may be that of the end of text.
    padded = [[tokenizer.pad_token_id] * (query_tokens - len(row)) + row for row in rows]
    return texts, padded


def _encode_shortened(post: Mapping, tokenizer: PreTrainedTokenizerFast, query_tokens: int) -> list[int]:
    """The ids of the first cut of the post that fits; UserError when none does."""
    # Fewer characters can be more tokens: no search but the paper's order is right, though it can tokenise several.
    versions = map(format_query, _shortened(post))
    at_once = 1
    while some := list(islice(versions, at_once)):
        for row in _encode(some, tokenizer):
            if len(row) <= query_tokens:
                return row
        at_once = min(2 * at_once, CUTS_AT_ONCE)
    raise UserError(
        f"post {post['id']}: its prompt is longer than {query_tokens} tokens even with an empty text; "
        "a shorter title or more query tokens would fit"
    )


def _shortened(post: Mapping) -> Iterator[dict]:
    field = "article" if is_article(post) else "post"
    text = post[field]
    while text:
        text = cut(text)
        yield {**post, field: text}


def _encode_right(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, length: int) -> list[list[int]]:
    pad = tokenizer.pad_token_id
    return [row[:length] + [pad] * (length - len(row)) for row in _encode(texts, tokenizer)]


def _encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """The ids of each text and nothing else: a tokenizer that adds marks of its own would end the prompt early."""
    texts = list(texts)
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def _texts(*names: str) -> dict[str, Value]:
    return dict.fromkeys(names, Value("string"))


def _tokens(length: int) -> List:
    return List(Value("int32"), length=length)


def _build(rows: Sequence, columns: Callable[[Sequence], dict[str, list]], schema: Features) -> Dataset:
    """All rows as one table, a chunk at a time: Python's lists of ids take eight times the memory of the table's."""
    starts = range(0, max(len(rows), 1), ROWS_AT_ONCE)
    chunks = (columns(rows[start : start + ROWS_AT_ONCE]) for start in starts)
    return concatenate_datasets([Dataset.from_dict(chunk, features=schema) for chunk in chunks])
