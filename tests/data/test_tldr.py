"""The preprocessing against the paper's own output, and against cases small enough to count by hand."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from repro.data.local import load_tokenizer
from repro.data.tldr import (
    CNNDM_LENGTHS,
    TLDR_LENGTHS,
    Lengths,
    cut,
    encode_pairs,
    encode_posts,
    encode_query,
    format_query,
)
from repro.errors import UserError
from tests.paths import SHARED

GOLDEN = SHARED / "golden" / "tokenization.json"
PYTHIA = SHARED / "data" / "pythia_tokenizer.json"
EOS = "<|endoftext|>"
SMALL = Lengths(query=80, reference=12, query_reference=92, pair_response=10, query_pair=90)

needs_golden = pytest.mark.skipif(not (GOLDEN.exists() and PYTHIA.exists()), reason=f"no {GOLDEN} or {PYTHIA}")


def byte_tokenizer(merges=(), pad="[PAD]"):
    """One token a byte, and one a merge, so that a test counts tokens by counting characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=EOS, pad_token=pad)


def post(text="text", title="t", summary="short", identity="p1"):
    return {"id": identity, "subreddit": "s", "title": title, "post": text, "summary": summary}


def pair(chosen=" good", rejected=" bad", choice=0, **fields):
    summaries = [{"text": chosen, "policy": "sup4"}, {"text": rejected, "policy": "ref"}]
    ordered = summaries if choice == 0 else summaries[::-1]
    return {"info": post(), "summaries": ordered, "choice": choice, "batch": "batch3", "split": "train", **fields}


def without_padding(ids, tokenizer):
    return [token for token in ids if token != tokenizer.pad_token_id]


def text_of(ids, tokenizer):
    return tokenizer.decode(without_padding(ids, tokenizer))


OVERHEAD = len(format_query(post("")))


@needs_golden
def test_posts_match_the_papers_tokens():
    cases = json.loads(GOLDEN.read_text())["sft"]
    posts = [{"id": str(index), **case["given"]} for index, case in enumerate(cases)]
    rows = encode_posts(posts, load_tokenizer(PYTHIA), TLDR_LENGTHS)
    for row, case in zip(rows, cases, strict=True):
        assert {name: row[name] for name in case["expected"]} == case["expected"]


@needs_golden
def test_pairs_match_the_papers_tokens():
    cases = json.loads(GOLDEN.read_text())["pairs"]
    rows = encode_pairs([case["given"] for case in cases], load_tokenizer(PYTHIA), TLDR_LENGTHS)
    for row, case in zip(rows, cases, strict=True):
        assert {name: row[name] for name in case["expected"]} == case["expected"]


@needs_golden
def test_one_query_is_the_same_alone_as_in_a_batch():
    case = json.loads(GOLDEN.read_text())["sft"][0]
    text, ids = encode_query(case["given"], load_tokenizer(PYTHIA), TLDR_LENGTHS.query)
    assert (text, ids) == (case["expected"]["query"], case["expected"]["query_token"])


@needs_golden
@pytest.mark.parametrize("text", ["cafe\u0301 and then", f"one {EOS} two", "[PAD] between"])
def test_query_text_is_read_back_from_the_tokens(text):
    tokenizer = load_tokenizer(PYTHIA)
    query, ids = encode_query(post(text), tokenizer, 64)
    kept = [token for token in ids if token not in (tokenizer.pad_token_id, tokenizer.eos_token_id)]
    assert query == tokenizer.decode(kept)
    assert query != format_query(post(text))


def test_format_of_a_post_ends_without_a_space():
    assert format_query(post("body {x}")) == "SUBREDDIT: r/s\n\nTITLE: t\n\nPOST: body {x}\n\nTL;DR:"


def test_format_of_an_article():
    assert format_query({"id": "a", "article": "News."}) == "Article:\nNews.\n\nTL;DR:\n"


def test_null_article_is_a_post():
    assert format_query({**post(), "article": None}) == format_query(post())


@pytest.mark.parametrize(("text", "shorter"), [("a\nb\nc", "a\nb"), ("abc", "ab"), ("\nabc", ""), ("ab\n", "ab")])
def test_cut(text, shorter):
    assert cut(text) == shorter


@pytest.mark.parametrize(
    ("text", "room", "kept"),
    [
        ("abcdef", 6, "abcdef"),
        ("abc\ndefgh\nij", 10, "abc\ndefgh"),
        ("abc\ndefgh\nij", 8, "abc"),
        ("abcdef", 4, "abcd"),
        ("abc\ndefgh", 2, "ab"),
        ("abcdef\n", 6, "abcdef"),
        ("é" * 4, 5, "éé"),
        ("\nabc", 3, ""),
        ("abc", 0, ""),
    ],
)
def test_a_query_is_cut_until_it_fits(text, room, kept):
    tokenizer = byte_tokenizer()
    query, ids = encode_query(post(text), tokenizer, OVERHEAD + room)
    assert query == format_query(post(kept))
    content = tokenizer.encode(query)
    assert ids == [tokenizer.pad_token_id] * (OVERHEAD + room - len(content)) + content


def one_at_a_time(text, tokenizer, room):
    """The longest allowed version, by the plain loop that the batched one must agree with."""
    while len(tokenizer.encode(format_query(post(text)), add_special_tokens=False)) > room:
        head, newline, _ = text.rpartition("\n")
        text = head if newline else text[:-1]
    return format_query(post(text))


@pytest.mark.parametrize("text", ["abcd" * 60, "abcd " * 40, "ab\n" + "abcd" * 50, "x" * 150 + "\n\nabcd\n" * 9])
def test_cutting_in_batches_equals_one_cut_at_a_time(text):
    tokenizer = byte_tokenizer(merges=[("c", "d"), ("b", "cd"), ("a", "bcd")])
    for room in range(OVERHEAD, OVERHEAD + 61, 4):
        assert encode_query(post(text), tokenizer, room)[0] == one_at_a_time(text, tokenizer, room)


def test_a_shorter_text_with_more_tokens_is_passed_over():
    tokenizer = byte_tokenizer(merges=[("c", "d"), ("b", "cd"), ("a", "bcd")])
    # Tokens of the text as it is cut: xabcdy 3, xabcd 2, xabc 4, xab 3, xa 2, x 1.
    assert encode_query(post("xabcdy"), tokenizer, OVERHEAD + 2)[0] == format_query(post("xabcd"))
    assert encode_query(post("xabcdy"), tokenizer, OVERHEAD + 1)[0] == format_query(post("x"))


def test_a_prompt_that_cannot_fit_is_refused_by_its_id():
    with pytest.raises(UserError, match=r"post p1: .* longer than 40 tokens .*; a shorter title"):
        encode_query(post("abc", title="long " * 20), byte_tokenizer(), 40)


def test_cutting_leaves_the_post_as_it_was():
    given = post("abc\ndef")
    encode_query(given, byte_tokenizer(), OVERHEAD + 3)
    assert given == post("abc\ndef")


def test_an_article_is_cut_too():
    fits = len(format_query({"article": "One."}))
    assert encode_query({"id": "a", "article": "One.\nTwo."}, byte_tokenizer(), fits)[0] == "Article:\nOne.\n\nTL;DR:\n"


def test_a_reference_starts_with_a_space_and_ends_with_eos():
    tokenizer = byte_tokenizer()
    row = encode_posts([post(summary="short")], tokenizer, SMALL)[0]
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert row["reference"] == "short"
    assert row["reference_response_token"] == tokenizer.encode(" short") + [eos] + [pad] * 5
    assert text_of(row["query_reference_response_token"], tokenizer) == format_query(post()) + " short" + EOS
    assert row["query_reference_response_token"][-1] == pad


def test_a_reference_of_exactly_the_limit_keeps_its_eos_and_a_longer_one_loses_it():
    tokenizer = byte_tokenizer()
    rows = encode_posts([post(summary="x" * 10), post(summary="x" * 11)], tokenizer, SMALL)
    assert [row["reference_response_token"][-1] == tokenizer.eos_token_id for row in rows] == [True, False]
    assert [len(row["reference_response_token"]) for row in rows] == [12, 12]


@pytest.mark.parametrize("choice", [0, 1])
def test_the_chosen_summary_follows_the_choice(choice):
    tokenizer = byte_tokenizer()
    row = encode_pairs([pair(choice=choice)], tokenizer, SMALL)[0]
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert (row["chosen"], row["rejected"]) == (" good", " bad")
    assert (row["chosen_policy"], row["rejected_policy"]) == ("sup4", "ref")
    assert row["chosen_token"] == tokenizer.encode(" good") + [eos] + [pad] * 4
    assert row["rejected_token"] == tokenizer.encode(" bad") + [eos] + [pad] * 5
    assert text_of(row["query_rejected_token"], tokenizer) == format_query(post()) + " bad" + EOS
    assert (row["id"], row["batch"], row["split"]) == ("p1", "batch3", "train")


def test_a_comparison_gets_no_space_of_ours():
    tokenizer = byte_tokenizer()
    row = encode_pairs([pair(chosen="good")], tokenizer, SMALL)[0]
    assert text_of(row["query_chosen_token"], tokenizer) == format_query(post()) + "good" + EOS


def test_the_newline_that_ends_an_articles_prompt_is_not_in_the_joint_text():
    tokenizer = byte_tokenizer()
    row = encode_pairs([pair(info={"id": "a", "article": "News."})], tokenizer, CNNDM_LENGTHS)[0]
    assert row["query"] == "Article:\nNews.\n\nTL;DR:\n"
    assert text_of(row["query_chosen_token"], tokenizer) == "Article:\nNews.\n\nTL;DR: good" + EOS


@pytest.mark.parametrize(
    ("fields", "confidence"),
    [({"extra": {"confidence": 7}}, 7), ({"extra": {"confidence": None}}, -1), ({"extra": {}}, -1), ({}, -1)],
)
def test_confidence_is_minus_one_where_absent(fields, confidence):
    assert encode_pairs([pair(**fields)], byte_tokenizer(), SMALL)[0]["confidence"] == confidence


def test_padding_with_eos_differs_in_nothing_but_the_padding():
    own, shared = byte_tokenizer(), byte_tokenizer(pad=EOS)
    assert shared.pad_token_id == shared.eos_token_id
    posts = [post(summary="x" * 30), post(text="y" * 100), post(text=f"a{EOS}b")]
    for row, same in zip(encode_posts(posts, own, SMALL), encode_posts(posts, shared, SMALL), strict=True):
        for name, value in row.items():
            wanted = value
            if isinstance(value, list):
                wanted = [own.eos_token_id if token == own.pad_token_id else token for token in value]
            if name == "reference_response_tokens":  # an end of text cannot be told from padding
                wanted = value - (own.eos_token_id in row["query_reference_response_token"])
            assert same[name] == wanted


def test_a_reference_has_more_room_behind_a_short_query_than_alone():
    short, long = encode_posts([post(summary="x" * 3), post(summary="x" * 30)], byte_tokenizer(), SMALL)
    for row, tokens in ((short, " xxx"), (long, " " + "x" * 30)):
        joint = [token for token in row["query_reference_response_token"] if token != byte_tokenizer().pad_token_id]
        query = [token for token in row["query_token"] if token != byte_tokenizer().pad_token_id]
        # A token is a byte here, so the joint text is the query's bytes, then as many of the reference's as fit.
        assert row["reference_response_tokens"] == len(joint) - len(query) <= len(tokens) + 1


def test_rows_of_several_chunks_keep_their_order_and_shape(monkeypatch):
    monkeypatch.setattr("repro.data.tldr.ROWS_AT_ONCE", 2)
    posts = [post(text="z" * index, identity=str(index)) for index in range(5)]
    rows = encode_posts(posts, byte_tokenizer(), SMALL)
    assert rows["id"][:] == ["0", "1", "2", "3", "4"]
    assert rows["query"][:] == [format_query(post("z" * index)) for index in range(5)]
    assert tuple(rows.with_format("torch")[:]["query_token"].shape) == (5, 80)


def test_no_rows_have_the_same_columns():
    some = encode_posts([post()], byte_tokenizer(), SMALL)
    none = encode_posts([], byte_tokenizer(), SMALL)
    assert (len(none), none.features) == (0, some.features)
    assert len(encode_pairs([], byte_tokenizer(), SMALL)) == 0
