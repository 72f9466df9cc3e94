"""A round of feedback: what annotators compare, in which form, and what the next reward model makes of it."""

import json
import random

import pytest
import torch

from repro.data import embedded
from repro.detail import Recipe
from repro.details import FEEDBACK_ROUNDS
from repro.engine import artefacts
from repro.models import padding, pretrained
from repro.ops.preference import accuracy
from repro.stages import annotators, feedback, rm
from repro.stages.comparisons import Compared, encode, pairs_of
from repro.stages.corpus import Corpus, column
from repro.stages.stage import RESULT
from tests.steps import run_until


@pytest.fixture(scope="module")
def corpus(tiny_run):
    return Corpus(tiny_run["data"])


def test_a_comparison_has_the_form_that_the_data_stage_gives_the_same_tokens(corpus):
    posts, pairs = corpus.posts("train"), corpus.pairs("train")
    place = {post: number for number, post in enumerate(posts["id"])}
    again = [
        Compared(place[row["id"]], *(torch.tensor(row[f"{side}_token"]) for side in ("chosen", "rejected")), 3)
        for row in pairs
    ]
    encoded = encode(corpus, posts, again, 2)
    assert encoded.features == pairs.features
    for name in ("id", "query", "query_token", "chosen_token", "rejected_token"):
        assert encoded[name][:] == pairs[name][:], name
    for side in ("chosen", "rejected"):
        # The joint text of the corpus is tokenised at once, which may merge what stands at its seam: the lengths agree.
        assert (column(encoded, f"{side}_tokens") - column(pairs, f"{side}_tokens")).abs().max() <= 1
        same = (column(encoded, f"query_{side}_token") == column(pairs, f"query_{side}_token")).all(1)
        assert same.float().mean() > 0.9
    assert set(encoded["chosen_policy"]) == {"sampled for round 2"} and set(encoded["batch"]) == {"round_2"}


def test_of_no_comparisons_there_are_no_rows(corpus):
    """A policy that writes one text for each post, or an annotator without a preference, leaves nothing to learn from."""
    none = encode(corpus, corpus.posts("train"), [], 2)
    assert len(none) == 0 and none.features == corpus.pairs("train").features
    assert corpus.decode(torch.empty(0, 4, dtype=torch.long)) == []


@pytest.mark.parametrize(("pad_is_eos", "tokens"), [(False, 4), (True, 3)])
def test_tokens_of_a_response_are_those_that_are_no_padding(corpus, monkeypatch, pad_is_eos, tokens):
    """As the data stage counts them: a mean over a response's tokens would take in the prompt's last one otherwise."""
    if pad_is_eos:
        monkeypatch.setattr(Corpus, "pad", property(lambda self: self.eos))
    text = torch.tensor([5, 6, 7, corpus.eos, corpus.pad])
    encoded = encode(corpus, corpus.posts("train"), [Compared(0, text, text, 3)], 2)
    assert encoded["chosen_tokens"][:] == encoded["rejected_tokens"][:] == [tokens]


def summary(corpus, text, ended=True):
    ids = corpus.tokenizer(f" {text}", add_special_tokens=False)["input_ids"] + [corpus.eos] * ended
    return torch.tensor(ids + [corpus.pad] * (40 - len(ids)))


def test_annotators_prefer_what_has_the_higher_gold_score_the_surer_the_further(corpus):
    posts = corpus.posts("train").select(range(8))
    facts = [json.loads(each) for each in posts["facts"]]
    rng = random.Random(1)
    right = torch.stack([summary(corpus, embedded.summarise(each, embedded.PERFECT, rng)) for each in facts])
    wrong = torch.stack([summary(corpus, "so, anyway, sorry.", ended=False) for _ in facts])
    far, close = (pairs_of(corpus, posts, right, other) for other in (wrong, right))
    golds = annotators.gold_scores(far)
    assert len(golds) == 16 and all(gold > worse for gold, worse in zip(golds[::2], golds[1::2]))
    annotate = annotators.EmbeddedAnnotator(belief=0.0)
    found = [each for seed in range(5) for each in annotate(far, random.Random(seed)).each]
    assert [each.choice for each in found].count(0) / len(found) > 0.9
    unsure = [each for seed in range(5) for each in annotate(close, random.Random(seed)).each]
    assert sum(each.confidence for each in found) > 2 * sum(each.confidence for each in unsure)
    assert annotators.ordered(close, unsure) == [], "there is nothing to compare"


def test_each_round_has_other_posts_until_all_have_been_seen(corpus):
    posts = corpus.posts("train")
    count = len(posts) // 2
    rounds = [feedback.next_posts(posts, count, number)["id"][:] for number in (2, 3, 4)]
    assert rounds[0] + rounds[1] == posts["id"][: 2 * count] and rounds[2] == rounds[0]
    assert len(feedback.next_posts(posts, 3 * len(posts), 2)) == 3 * len(posts)


@pytest.fixture(scope="module")
def rounds(tiny_scale, tiny_run):
    """The artefacts of an arm of two rounds that has the tiny run's first one, up to its last reward model."""
    return run_until("rm", Recipe().but(FEEDBACK_ROUNDS, "2"), tiny_scale, tiny_run["ppo"].parent)


def test_the_reward_model_of_a_round_learns_the_new_comparisons_too(rounds, tiny_scale, corpus):
    new = Corpus(rounds["feedback"]).pairs("train")
    assert 0 < len(new) <= tiny_scale.comparisons // feedback.FEWER
    steps = [json.loads(line)["step"] for line in (rounds["rm"] / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == (tiny_scale.comparisons + len(new)) // tiny_scale.rm_batch * tiny_scale.rm_batch
    scorer = rm.Scorer(pretrained.load_scalar(rounds["rm"] / "model").eval(), padding.unchanged, corpus.pad, 8)
    with torch.no_grad():
        margin = scorer.margin(Corpus(rounds["feedback"]).pairs("validation"))
    told = json.loads((rounds["rm"] / RESULT).read_text())["metrics"]["rm/feedback_accuracy"]
    assert told == accuracy(margin)


def test_samples_are_the_policys_and_the_same_again(rounds, tiny_scale, tmp_path):
    """Made anew from the same artefacts, a round has the same comparisons; of another policy's, others."""
    for name in ("data", "rm_round_1", "ppo_round_1", "sft"):
        (tmp_path / rounds[name].name).symlink_to(rounds[name])
    again, other = {}, {}
    keys = {"data": rounds["data"].name, "rm": rounds["rm_round_1"].name}
    for found, policy in ((again, "ppo_round_1"), (other, "sft")):
        wanted = keys | {"ppo": rounds[policy].name}
        wanted["feedback"] = artefacts.key(feedback.STAGE, Recipe(), tiny_scale, 1, wanted)
        folder = artefacts.run_or_reuse(feedback.STAGE, Recipe(), tiny_scale, 1, wanted, tmp_path, pytest.fail)
        found |= {"rows": Corpus(folder).pairs("train")[:], "key": folder.name}
    assert again["key"] == rounds["feedback"].name != other["key"]
    assert again["rows"] == Corpus(rounds["feedback"]).pairs("train")[:] != other["rows"]


def test_a_round_without_a_preference_ends_and_its_reward_model_learns_the_corpus_alone(
    rounds, tiny_scale, tmp_path, monkeypatch
):
    for name in ("data", "base", "sft", "rm_round_1", "ppo_round_1"):
        (tmp_path / rounds[name].name).symlink_to(rounds[name])
    indifferent = annotators.Opinion(None)
    monkeypatch.setattr(
        feedback,
        "annotator_of",
        lambda *_: lambda pairs, rng: annotators.Opinions([indifferent] * len(pairs.posts), {}),
    )
    folders = run_until("rm", Recipe().but(FEEDBACK_ROUNDS, "2"), tiny_scale, tmp_path)
    pairs = Corpus(folders["feedback"])
    assert len(pairs.pairs("train")) == len(pairs.pairs("validation")) == 0
    steps = [json.loads(line)["step"] for line in (folders["rm"] / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == tiny_scale.comparisons // tiny_scale.rm_batch * tiny_scale.rm_batch
    assert "rm/feedback_accuracy" not in json.loads((folders["rm"] / RESULT).read_text())["metrics"]
