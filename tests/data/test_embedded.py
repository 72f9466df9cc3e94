"""The embedded corpus: what is known of its truth, and that it has the shape of the real one."""

import random
from itertools import islice

import pytest

from repro.data import embedded, tldr
from repro.data.embedded import PER_WORD, PERFECT, REPEATED, UNFINISHED, VALUES, WORTH, WRONG, gold, grade
from repro.data.local import load_tokenizer
from repro.scale import SCALES

SEED = SCALES["mini"].corpus_seed
FACTS = {
    "who": "boss",
    "did": "broke",
    "what": "laptop",
    "num": "two",
    "unit": "days",
    "where": "boston",
    "feel": "sad",
    "ask": "sue",
}
# Nineteen words and marks: 10 and a stop, 3 and a stop, 3 and a question mark.
RIGHT = "my boss broke my laptop two days ago in boston. i feel sad. should i sue?"


@pytest.fixture(scope="module")
def posts():
    return embedded.make_posts(400, SEED, "train")


@pytest.fixture(scope="module")
def pairs(posts):
    return {split: embedded.make_comparisons(posts, 400, SEED, split) for split in ("train", "valid2")}


# ----------------------------------------------------------------------------- the gold score


def test_a_summary_that_states_every_fact_once_is_worth_all_of_them_less_its_words():
    got = grade(FACTS, RIGHT)
    assert (got.covered, got.wrong, got.repeated, got.ungrammatical, got.words) == (8, 0, 0, 0, 19)
    assert got.gold == pytest.approx(sum(WORTH.values()) + 19 * PER_WORD)


@pytest.mark.parametrize(("slot", "word"), [("where", "denver"), ("who", "landlord"), ("num", "five")])
def test_a_wrong_fact_loses_its_worth_and_costs_a_fine(slot, word):
    assert gold(FACTS, RIGHT) - gold(FACTS, RIGHT.replace(FACTS[slot], word)) == pytest.approx(WORTH[slot] - WRONG)


def test_a_fact_said_twice_is_paid_once_and_fined():
    # "i feel sad." once more: four words and marks, one repeated fact.
    got = grade(FACTS, RIGHT.replace("i feel sad.", "i feel sad. i feel sad."))
    assert (got.covered, got.repeated, got.words) == (8, 1, 23)
    assert got.gold - gold(FACTS, RIGHT) - (got.ungrammatical * embedded.UNGRAMMATICAL) == pytest.approx(
        REPEATED + 4 * PER_WORD
    )


def test_a_fact_said_right_and_wrong_is_both():
    got = grade(FACTS, "i feel sad. i feel angry.")
    assert (got.covered, got.wrong, got.repeated) == (1, 1, 0)


def test_a_summary_without_an_end_pays_for_it():
    assert gold(FACTS, RIGHT, ended=False) - gold(FACTS, RIGHT) == UNFINISHED


def test_word_salad_is_worth_less_than_the_same_words_in_order():
    salad = "my my boss laptop broke. two boston ago in days feel i sad. sue should i?"
    assert grade(FACTS, salad).covered == 8
    assert grade(FACTS, salad).ungrammatical > 3
    assert gold(FACTS, salad) < gold(FACTS, RIGHT)


def test_an_empty_summary_covers_nothing_and_is_no_prize():
    assert grade(FACTS, "").covered == 0
    assert gold(FACTS, "") <= 0


def test_every_summary_of_the_perfect_summariser_is_perfect(posts):
    rng = random.Random(0)
    for post in posts:
        got = grade(post["facts"], embedded.summarise(post["facts"], PERFECT, rng))
        assert (got.covered, got.wrong, got.repeated, got.ungrammatical) == (len(VALUES), 0, 0, 0)


def test_no_word_is_the_value_of_two_facts():
    assert len(embedded.CLASS_OF) == sum(map(len, VALUES.values()))
    assert WORTH.keys() == VALUES.keys()


# ----------------------------------------------------------------------------- posts


def test_posts_have_the_fields_of_the_real_ones_and_their_facts(posts):
    for post in posts:
        assert {"id", "subreddit", "title", "post", "summary", "facts"} == post.keys()
        assert tldr.format_query(post).startswith(
            f"SUBREDDIT: r/{post['subreddit']}\n\nTITLE: {post['title']}\n\nPOST: "
        )
        assert post["summary"] == post["summary"].strip() != ""


def test_a_post_states_all_of_its_facts(posts):
    for post in posts:
        words = set(embedded._words(post["post"]))
        assert words >= set(post["facts"].values())


def test_the_same_seed_gives_the_same_corpus_and_another_seed_or_split_another():
    corpus = embedded.make_posts(20, 5, "train")
    assert embedded.make_posts(20, 5, "train") == corpus
    assert embedded.make_posts(20, 6, "train") != corpus
    assert embedded.make_posts(20, 5, "test") != corpus


def test_a_longer_corpus_begins_like_a_shorter_one():
    assert embedded.make_posts(30, SEED, "train")[:10] == embedded.make_posts(10, SEED, "train")


def test_no_post_that_is_tested_on_was_trained_on():
    mini = SCALES["mini"]
    sizes = {
        "train": mini.posts,
        "validation": mini.validation_posts,
        "test": mini.test_posts,
        "comparisons": mini.validation_comparisons,
    }
    texts = {split: {post["post"] for post in embedded.make_posts(size, SEED, split)} for split, size in sizes.items()}
    assert not texts["train"] & (texts["validation"] | texts["test"] | texts["comparisons"])
    assert not texts["validation"] & texts["test"]


def test_authors_are_right_more_often_than_not_and_far_from_perfect(posts):
    grades = [grade(post["facts"], post["summary"]) for post in posts]
    with_fault = sum(g.wrong > 0 for g in grades) / len(grades)
    covered = sum(g.covered for g in grades) / len(grades) / len(VALUES)
    assert 0.02 < with_fault < 0.4
    assert 0.4 < covered < 0.9, "a policy must have room to be better than its references"
    assert all(g.ungrammatical == 0 for g in grades), "authors write the grammar"


def test_some_posts_are_too_long_and_what_a_newline_cuts_off_is_no_fact(posts, tokenizer_file):
    tokenizer, budget = load_tokenizer(tokenizer_file), SCALES["mini"].query_tokens
    texts = [tldr.encode_query(post, tokenizer, budget)[0] for post in posts]
    too_long = [(post, text) for post, text in zip(posts, texts, strict=True) if text != tldr.format_query(post)]
    at_newline = [
        (post, text)
        for post, text in too_long
        if text == tldr.format_query({**post, "post": tldr.cut(post["post"])}) and "\n" in post["post"]
    ]
    assert 0.02 < len(too_long) / len(posts) < 0.5
    assert len(at_newline) > 0.9 * len(too_long)
    assert all(word in text for post, text in at_newline for word in post["facts"].values())


# ----------------------------------------------------------------------------- comparisons


@pytest.mark.parametrize("split", ["train", "valid2"])
def test_comparisons_have_the_fields_of_openais(pairs, split):
    for pair in pairs[split]:
        assert pair.keys() == {"info", "summaries", "choice", "worker", "batch", "split", "extra"}
        assert pair["info"].keys() == {"id", "subreddit", "title", "post"}
        assert [summary.keys() for summary in pair["summaries"]] == [{"text", "policy"}] * 2
        assert all(
            summary["text"].startswith(" ") and not summary["text"].startswith("  ") for summary in pair["summaries"]
        )
        assert pair["choice"] in (0, 1)
        assert 1 <= pair["extra"]["confidence"] <= 9
        assert pair["split"] == split


def test_validation_draws_from_policies_and_batches_that_training_has_not(pairs):
    policies, batches = (
        {split: {value(pair) for pair in rows} for split, rows in pairs.items()}
        for value in (lambda pair: frozenset(s["policy"] for s in pair["summaries"]), lambda pair: pair["batch"])
    )
    assert not frozenset().union(*policies["train"]) & frozenset().union(*policies["valid2"])
    assert not batches["train"] & batches["valid2"]
    assert not {s.name for s in embedded.TRAIN_POLICIES} & {s.name for s in embedded.UNSEEN_POLICIES}


@pytest.mark.parametrize("split", ["train", "valid2"])
def test_annotators_mostly_choose_the_better_summary_and_are_surer_the_wider_the_gap(pairs, posts, split):
    facts = {post["id"]: post["facts"] for post in posts}
    right, gaps = [], []
    for pair in pairs[split]:
        first, second = (gold(facts[pair["info"]["id"]], summary["text"]) for summary in pair["summaries"])
        if first != second:
            right.append((second > first) == (pair["choice"] == 1))
            gaps.append((abs(second - first), pair["extra"]["confidence"]))
    assert 0.7 < sum(right) / len(right) < 0.99, "noisy, and not noise"
    gaps.sort()
    half = len(gaps) // 2
    assert sum(c for _, c in gaps[half:]) / (len(gaps) - half) > sum(c for _, c in gaps[:half]) / half + 1


def test_neither_place_of_a_pair_is_the_better_one(pairs):
    chosen = sum(pair["choice"] for pair in pairs["train"]) / len(pairs["train"])
    assert 0.4 < chosen < 0.6


# ----------------------------------------------------------------------------- the raw corpus


def test_the_raw_corpus_is_the_same_each_time_and_never_ends_a_text():
    documents = list(islice(embedded.base_documents(0), 50))
    assert documents == list(islice(embedded.base_documents(0), 50))
    assert documents != list(islice(embedded.base_documents(1), 50))
    assert not any("<|" in document for document in documents)
    assert any("TL;DR:" in document for document in documents)
