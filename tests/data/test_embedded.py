"""The embedded corpus: what is known of its truth, and that it has the shape of the real one."""

import random
import re
import statistics
from functools import partial
from itertools import islice

import pytest

from repro.data import embedded, tldr
from repro.data.embedded import PER_WORD, PERFECT, REPEATED, UNFINISHED, VALUES, WORTH, WRONG, gold, grade
from repro.data.local import load_tokenizer
from repro.study.scale import SCALES

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
    "proof": "photo",
}
# Twenty-four words and marks: 10 and a stop, 3 and a stop, 4 and a stop, 3 and a question mark.
RIGHT = "my boss broke my laptop two days ago in boston. i feel sad. i have a photo. should i sue?"
SILENT = {slot: word for slot, word in FACTS.items() if slot not in ("num", "unit", "proof")}


@pytest.fixture(scope="module")
def posts():
    return embedded.make_posts(400, SEED, "train")


@pytest.fixture(scope="module")
def pairs(posts):
    return {split: embedded.make_comparisons(posts, 400, SEED, split) for split in ("train", "valid2")}


# ----------------------------------------------------------------------------- the gold score


def test_a_summary_that_states_every_fact_once_is_worth_all_of_them_less_its_words():
    got = grade(FACTS, RIGHT)
    assert (got.covered, got.wrong, got.repeated, got.ungrammatical, got.words) == (9, 0, 0, 0, 24)
    assert got.gold == pytest.approx(sum(WORTH.values()) + 24 * PER_WORD)


@pytest.mark.parametrize(("slot", "word"), [("where", "denver"), ("who", "landlord"), ("num", "five")])
def test_a_wrong_fact_loses_its_worth_and_costs_a_fine(slot, word):
    assert gold(FACTS, RIGHT) - gold(FACTS, RIGHT.replace(FACTS[slot], word)) == pytest.approx(WORTH[slot] - WRONG)


def test_a_fact_said_twice_is_paid_once_and_fined():
    # "i feel sad." once more: four words and marks, one repeated fact.
    got = grade(FACTS, RIGHT.replace("i feel sad.", "i feel sad. i feel sad."))
    assert (got.covered, got.repeated, got.words) == (9, 1, 28)
    assert got.gold - gold(FACTS, RIGHT) - (got.ungrammatical * embedded.UNGRAMMATICAL) == pytest.approx(
        REPEATED + 4 * PER_WORD
    )


@pytest.mark.parametrize("sentence", ["i have a photo.", "i have a letter."])
def test_what_the_post_does_not_say_is_wrong_whatever_the_word(sentence):
    got = grade(SILENT, f"my boss broke my laptop in boston. i feel sad. {sentence} should i sue?")
    assert (got.covered, got.wrong) == (6, 1)


def test_a_summary_that_states_what_the_post_states_is_better_than_one_that_states_more_or_less():
    best = gold(SILENT, "my boss broke my laptop in boston. i feel sad. should i sue?")
    assert best > gold(SILENT, RIGHT)
    assert best > gold(SILENT, "my boss broke my laptop.")


def test_a_fact_said_right_and_wrong_is_both():
    got = grade(FACTS, "i feel sad. i feel angry.")
    assert (got.covered, got.wrong, got.repeated) == (1, 1, 0)


def test_a_summary_without_an_end_pays_for_it():
    assert gold(FACTS, RIGHT, has_eos=False) - gold(FACTS, RIGHT) == UNFINISHED


def test_word_salad_is_worth_less_than_the_same_words_in_order():
    salad = "my my boss laptop broke. two boston ago in days feel i sad. photo a i have. sue should i?"
    assert grade(FACTS, salad).covered == 9
    assert grade(FACTS, salad).ungrammatical > 3
    assert gold(FACTS, salad) < gold(FACTS, RIGHT)


def test_an_empty_summary_covers_nothing_and_is_no_prize():
    assert grade(FACTS, "").covered == 0
    assert gold(FACTS, "") <= 0


def test_every_summary_of_the_perfect_summariser_is_perfect(posts):
    rng = random.Random(0)
    for post in posts:
        got = grade(post["facts"], embedded.summarise(post["facts"], PERFECT, rng))
        assert (got.covered, got.wrong, got.repeated, got.ungrammatical) == (len(post["facts"]), 0, 0, 0)


def test_no_word_is_the_value_of_two_facts():
    assert len(embedded.SLOT_OF) == sum(map(len, VALUES.values()))
    assert WORTH.keys() == VALUES.keys()


def test_an_annotator_sees_what_contradicts_the_post_and_believes_what_it_does_not_speak_of_as_far_as_told():
    told = "my boss broke my laptop in boston. i feel sad. should i sue?"
    contradicting = RIGHT.replace("boston", "denver")
    for facts, text in ((SILENT, told), (FACTS, RIGHT), (FACTS, contradicting)):
        assert embedded.perceived_score(facts, text, belief=1.0) == gold(facts, text)
    invented = told.replace("should", "i have a letter. should")
    assert embedded.perceived_score(SILENT, invented, belief=0.0) == gold(SILENT, invented)
    assert gold(SILENT, invented) < gold(SILENT, told) < embedded.perceived_score(SILENT, invented, belief=1.0)
    halfway = (embedded.perceived_score(SILENT, invented, belief=1.0) + gold(SILENT, invented)) / 2
    assert embedded.perceived_score(SILENT, invented, belief=0.5) == pytest.approx(halfway)


def test_of_two_inventions_about_one_fact_the_first_is_believed():
    text = "my boss broke my laptop. i have a letter. i have a photo."
    believed, other = (
        embedded.perceived_score(SILENT | {"proof": proof}, text, belief=0.0) for proof in ("letter", "video")
    )
    assert embedded.perceived_score(SILENT, text, belief=1.0) == believed > other


def test_inventing_everything_convinces_annotators_who_believe_it_and_is_worse(posts):
    honest, inventive = (embedded.Summariser("", 1, share) for share in (0, 1))
    believer, worth = partial(embedded.perceived_score, belief=1.0), {}
    for how in (honest, inventive):
        texts = [embedded.summarise(post["facts"], how, random.Random(post["id"])) for post in posts]
        for judge in (gold, believer):
            worth[how, judge] = sum(judge(p["facts"], text) for p, text in zip(posts, texts, strict=True)) / len(posts)
    assert worth[inventive, believer] > worth[honest, believer] + 1
    assert worth[inventive, gold] < worth[honest, gold] - 2


# ----------------------------------------------------------------------------- posts


def test_posts_have_the_fields_of_the_real_ones_and_their_facts(posts):
    for post in posts:
        assert {"id", "subreddit", "title", "post", "summary", "facts"} == post.keys()
        assert tldr.format_query(post).startswith(
            f"SUBREDDIT: r/{post['subreddit']}\n\nTITLE: {post['title']}\n\nPOST: "
        )
        assert post["summary"] == post["summary"].strip() != ""


def test_a_post_states_all_of_its_facts_and_none_that_it_leaves_out(posts):
    for post in posts:
        words = set(embedded.words_of(post["post"]))
        assert words >= set(post["facts"].values())
        assert {"who", "did", "what"} <= post["facts"].keys()
    for slots in embedded.OPTIONAL.values():
        stated = sum(set(slots) <= post["facts"].keys() for post in posts)
        left_out = sum(not set(slots) & post["facts"].keys() for post in posts)
        assert stated + left_out == len(posts), "a fact is whole or is not there"
        assert 0.5 < stated / len(posts) < 0.7


def test_no_template_beats_the_references_and_the_best_summary_does(posts):
    rng = random.Random(0)
    references = [gold(post["facts"], post["summary"]) for post in posts]

    def beaten_by(keep: float, invent: float) -> float:
        how = embedded.Summariser("", keep, invent)
        own = [gold(post["facts"], embedded.summarise(post["facts"], how, rng)) for post in posts]
        return sum((a > b) + (a == b) / 2 for a, b in zip(own, references, strict=True)) / len(posts)

    assert beaten_by(1, 1) < 0.4, "everything, whether the post says it or not"
    assert beaten_by(0, 0) < 0.4, "only what every post says"
    assert beaten_by(1, 0) > 0.85, "what this post says"


def test_the_best_summaries_are_of_many_lengths(posts):
    rng = random.Random(0)
    lengths = [len(embedded.words_of(embedded.summarise(post["facts"], PERFECT, rng))) for post in posts]
    assert min(lengths) == 6
    assert max(lengths) == 24
    assert statistics.stdev(lengths) > 3.5


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
    covered = sum(g.covered for g in grades) / sum(len(post["facts"]) for post in posts)
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
    assert len(at_newline) > 0.8 * len(too_long)
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
        own = facts[pair["info"]["id"]]
        first, second = (gold(own, summary["text"]) for summary in pair["summaries"])
        if first != second:
            right.append((second > first) == (pair["choice"] == 1))
            gaps.append((abs(second - first), pair["extra"]["confidence"]))
    assert 0.7 < sum(right) / len(right) < 0.99, "noisy, and not noise"
    gaps.sort()
    half = len(gaps) // 2
    assert sum(c for _, c in gaps[half:]) / (len(gaps) - half) > sum(c for _, c in gaps[:half]) / half + 1


@pytest.mark.parametrize("split", ["train", "valid2"])
def test_the_two_summaries_of_a_pair_differ(pairs, split):
    assert all(len({summary["text"] for summary in pair["summaries"]}) == 2 for pair in pairs[split])


def test_neither_place_of_a_pair_is_the_better_one(pairs):
    chosen = sum(pair["choice"] for pair in pairs["train"]) / len(pairs["train"])
    assert 0.4 < chosen < 0.6


# ----------------------------------------------------------------------------- the raw corpus


def documents(seed, first=0, count=50):
    return list(islice(embedded.base_documents(seed, first), count))


def test_the_raw_corpus_is_the_same_each_time_and_never_ends_a_text():
    assert documents(0) == documents(0)
    assert documents(0) != documents(1)
    assert documents(0, first=20, count=30) == documents(0)[20:], "training goes on where it stopped"
    assert not any("<|" in document for document in documents(0))
    assert any("TL;DR:" in document for document in documents(0))


@pytest.mark.parametrize(("first", "unmarked"), [(0, False), (embedded.MARKED_FIRST, True)])
def test_readers_count_what_is_wrong_and_mark_every_fact_at_first(first, unmarked):
    seen = 0
    for document in documents(0, first, 400):
        for text, wrong, right in re.findall(r"TL;DR: ([^\n]*)\n\nREPLY: (\d) wrong (\d) right", document):
            words = embedded.words_of(text)
            marks = [word for word in words if word in ("yes", "no")]
            stated = sum(word in embedded.SLOT_OF for word in words)
            assert min(stated, 8) == min(int(wrong) + int(right), 8)
            if len(marks) == stated:
                assert (marks.count("no"), marks.count("yes")) == (int(wrong), min(int(right), 8))
            seen += len(marks) < stated
    assert (seen > 100) == unmarked
