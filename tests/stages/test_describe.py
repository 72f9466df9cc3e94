"""What is said of a corpus, against the same counted by hand from its texts."""

import json

import pytest

from repro.data.local import load_tokenizer
from repro.data.tldr import Lengths, encode_pairs, encode_posts
from repro.stages import describe, stage
from repro.stages.corpus import Corpus

LENGTHS = Lengths(query=40, reference=7, query_reference=64, pair_response=8, query_pair=64)
SUMMARIES = ("he hid it .", "my neighbor burned my guitar and my car and will not pay .")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file):
    return load_tokenizer(tokenizer_file)


def post(identity, summary="he hid it .", text="my neighbor hid my guitar ."):
    return {"id": identity, "subreddit": "legal", "title": "t", "post": text, "summary": summary}


def pair(identity, chosen="ppo", rejected="ref", texts=(" he hid it .", " it ."), **fields):
    summaries = [{"text": text, "policy": policy} for text, policy in zip(texts, (chosen, rejected), strict=True)]
    told = {"info": post(identity), "summaries": summaries, "choice": 0, "batch": "batch3", "split": "train"}
    return told | fields


def of_posts(posts, tokenizer):
    return describe.posts_checks(encode_posts(posts, tokenizer, LENGTHS), len(posts), tokenizer)


def count(text, tokenizer):
    return len(tokenizer(text)["input_ids"])


def rows_by_length(told):
    return {length: rows for length, rows in enumerate(told["counts"]) if rows}


def test_references_are_counted_past_their_limit_and_those_that_it_cut(tokenizer):
    told = of_posts([post(f"p{i}", summary) for i, summary in enumerate(SUMMARIES)], tokenizer)
    short, long = (count(f" {summary}{tokenizer.eos_token}", tokenizer) for summary in SUMMARIES)
    assert short == LENGTHS.reference < long, "one fills its limit, and its end of text is within it"
    assert rows_by_length(told["lengths"]["reference"]) == {short: 1, long: 1}
    assert {name: told["lengths"]["reference"][name] for name in ("limit", "cut")} == {"limit": short, "cut": 1}
    assert (told["texts"], told["start_with_space"], told["end"]) == (2, 2, 1)


def test_a_shortened_prompt_counts_as_cut_and_one_left_out_as_given(tokenizer):
    whole, long = post("p1"), post("p2", text="my neighbor hid it .\n" * 20)
    told = of_posts([whole, long], tokenizer)
    assert told["lengths"]["query"]["cut"] == 1 and told["lengths"]["query"]["limit"] == LENGTHS.query
    assert sum(told["lengths"]["query"]["counts"]) == 2
    encoded = encode_posts([whole], tokenizer, LENGTHS)
    told = describe.posts_checks(encoded, 2, tokenizer)
    assert (told["given"], told["rows"]) == (2, 1)
    assert rows_by_length(told["lengths"]["query"]) == {count(encoded["query"][0], tokenizer): 1}


def test_an_end_of_text_that_serves_as_padding_is_not_counted(tokenizer_file):
    tokenizer = load_tokenizer(tokenizer_file)
    tokenizer.pad_token = tokenizer.eos_token
    told = of_posts([post("p1"), post("p2", SUMMARIES[1])], tokenizer)
    short, long = (count(f" {summary}", tokenizer) for summary in SUMMARIES)
    assert rows_by_length(told["lengths"]["reference"]) == {short: 1, long: 1}
    assert told["lengths"]["reference"]["cut"] == 1


def test_policies_batches_and_confidences_are_counted(tokenizer):
    pairs = [
        pair("p1", extra={"confidence": 9}),
        pair("p2", "ref", "ppo", extra={"confidence": 9}),
        pair("p3", "ppo", "ppo", batch="batch4"),
    ]
    told = describe.pairs_checks(encode_pairs(pairs, tokenizer, LENGTHS), 3, tokenizer)
    assert told["confidence"] == {"9": 2, "-1": 1}
    assert told["batches"] == {"batch3": 2, "batch4": 1}
    assert told["policies"] == {"ppo": [2, 2], "ref": [1, 1]}
    assert told["policy_pairs"] == {"ppo vs ref": 2, "ppo vs ppo": 1}
    assert (told["texts"], told["end"]) == (6, 6)
    assert "cut" not in told["lengths"]["query"]
    texts = [f"{text}{tokenizer.eos_token}" for text in (" he hid it .", " it .")]
    for side, text in zip(("chosen", "rejected"), texts, strict=True):
        assert rows_by_length(told["lengths"][side]) == {count(text, tokenizer): 3}


def test_a_post_is_shared_by_its_id_or_by_its_prompt(tokenizer):
    one, same_prompt, other = post("p1"), post("p2"), post("p3", text="it rained .")
    splits = {
        "posts/train": encode_posts([one, other], tokenizer, LENGTHS),
        "posts/test": encode_posts([same_prompt], tokenizer, LENGTHS),
        "pairs/train": encode_pairs([pair("p1"), pair("p1")], tokenizer, LENGTHS),
        "pairs/alone": encode_pairs([pair("p9", info=post("p9", text="it snowed ."))], tokenizer, LENGTHS),
    }
    told = {(row["of"], row["in"]): (row["posts"], row["all"]) for row in describe.shared(splits)}
    assert len(told) == 12
    assert told["posts/train", "posts/test"] == (1, 2) and told["posts/test", "posts/train"] == (1, 1)
    assert told["pairs/train", "posts/train"] == (1, 1)
    assert told["pairs/alone", "posts/train"] == (0, 1)


def test_the_data_stage_keeps_them_and_they_agree_with_its_metrics(tiny_run):
    folder = tiny_run["data"]
    told = json.loads((folder / describe.FILE).read_text())
    measured = json.loads((folder / stage.RESULT).read_text())["metrics"]
    assert told["corpus"] == "embedded"
    for split, checks in told["posts"].items():
        assert checks["rows"] == measured[f"data/{split}_posts"] == len(Corpus(folder).posts(split))
        counts = checks["lengths"]["query"]["counts"]
        mean = sum(length * rows for length, rows in enumerate(counts)) / checks["rows"]
        assert mean == pytest.approx(measured[f"data/{split}_query_tokens_mean"])
        too_long = checks["given"] - checks["rows"] + checks["lengths"]["query"]["cut"]
        assert too_long / checks["given"] == pytest.approx(measured[f"data/{split}_cut_queries"])
        joint = checks["lengths"]["query + reference"]["cut"] / checks["rows"]
        assert joint == pytest.approx(measured[f"data/{split}_references_without_eos"])
    for split, checks in told["pairs"].items():
        assert checks["rows"] == measured[f"data/{split}_comparisons"]
        assert sum(checks["confidence"].values()) == sum(checks["policy_pairs"].values()) == checks["rows"]
        assert sum(map(sum, checks["policies"].values())) == checks["texts"] == 2 * checks["rows"]
