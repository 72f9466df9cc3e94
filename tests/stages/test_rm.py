"""The reward model: what a comparison scores, what it is trained on, where its zero is, and what is measured on it."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import load_file

from repro.data import embedded
from repro.errors import UserError
from repro.models import forward_pass, modes, padding, pretrained, scalar_model, scoring
from repro.ops import preference
from repro.ops.places import at
from repro.stages import rm
from repro.stages.corpus import Corpus
from repro.stages.stage import read_journal
from tests.tiny import EOS, PAD, scalar

# ----------------------------------------------------------------------------- texts and scores

QUERIES = [[5, 6], [9], [20, 21, 22], [11, 12]]
CHOSEN = [[7, 8, 10, EOS], [10, EOS], [30, EOS], [13, 14]]
REJECTED = [[9, EOS], [3, 4, 5, EOS], [31, 32, EOS], [15, EOS]]


def padded(rows, width):
    return [row + [PAD] * (width - len(row)) for row in rows]


def comparisons():
    """Four comparisons in the columns of the data stage; one chosen summary was cut off and has no end of text."""
    return Dataset.from_dict(
        {
            "chosen_tokens": [len(tokens) for tokens in CHOSEN],
            "rejected_tokens": [len(tokens) for tokens in REJECTED],
            "query_chosen_token": padded([q + r for q, r in zip(QUERIES, CHOSEN)], 9),
            "query_rejected_token": padded([q + r for q, r in zip(QUERIES, REJECTED)], 9),
        }
    )


def outputs(network, tokens):
    """The network's output at each token of one text that has no padding."""
    with torch.no_grad():
        return network(**forward_pass.model_inputs(torch.tensor([tokens]), PAD))[0]


@pytest.mark.parametrize("pack", [padding.unchanged, padding.pad_left], ids=["right", "left"])
def test_a_margin_is_the_score_of_one_text_less_that_of_the_other_each_read_at_its_end(pack):
    network, pairs = scalar(), comparisons()
    chosen, rejected = (rm.read(pairs, name, pack, PAD) for name in ("chosen", "rejected"))
    expected = torch.stack(
        [outputs(network, q + c)[-1] - outputs(network, q + r)[-1] for q, c, r in zip(QUERIES, CHOSEN, REJECTED)]
    )
    for first, second, sign in ((chosen, rejected, 1), (rejected, chosen, -1)):
        margin = rm.margins(network, first, second, PAD)
        torch.testing.assert_close(margin, sign * expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rm.Scorer(network, pack, PAD, 3).margin(pairs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("reading", "pack", "rows"),
    [
        ("eos", padding.unchanged, 4),
        ("eos", padding.pad_left, 8),
        ("last_position", padding.unchanged, 8),
        ("mean_over_response", padding.unchanged, 8),
    ],
)
def test_two_texts_that_begin_alike_are_one_row_where_the_reward_is_read_at_one_token(reading, pack, rows):
    network, seen = scalar(reward_token=reading), []
    network.trunk.register_forward_pre_hook(
        lambda trunk, args, inputs: seen.append(inputs["input_ids"].shape), with_kwargs=True
    )
    chosen, rejected = (rm.read(comparisons(), name, pack, PAD) for name in ("chosen", "rejected"))
    together = rm.margins(network, chosen, rejected, PAD)
    ((count, columns),) = seen
    assert count == rows
    if rows == 4:  # the longest query, the longest chosen summary and the longest rejected one
        assert columns == 3 + 4 + 4
    better, worse = (scoring.score(network, texts.ids, texts.response_tokens, PAD) for texts in (chosen, rejected))
    torch.testing.assert_close(together, better - worse, atol=1e-5, rtol=1e-5)


def test_the_gradient_of_a_step_is_that_of_texts_scored_apart():
    chosen, rejected = (rm.read(comparisons(), name, padding.unchanged, PAD) for name in ("chosen", "rejected"))
    share, found = torch.tensor([1.0, 0.5, 0.5, 1.0]), []
    for size in (4, 3):
        network = scalar()
        trained = rm.RewardModelTraining(network, chosen, rejected, share, preference.bradley_terry, PAD)
        for part in rm.losses(Accelerator(), trained, torch.arange(4), size, []):
            part.backward()
        found.append({name: weight.grad for name, weight in network.named_parameters()})
    network = scalar()
    better, worse = (
        torch.stack(
            [network(**forward_pass.model_inputs(torch.tensor([q + r]), PAD))[0, -1] for q, r in zip(QUERIES, rows)]
        )
        for rows in (CHOSEN, REJECTED)
    )
    ((preference.bradley_terry(better - worse) * share).sum() / share.sum()).backward()
    for name, weight in network.named_parameters():
        for gradient in found:
            torch.testing.assert_close(gradient[name], weight.grad, atol=1e-5, rtol=1e-4)


def test_the_response_of_a_text_is_counted_without_its_padding():
    assert rm.read(comparisons(), "chosen", padding.pad_left, PAD).response_tokens.tolist() == [4, 2, 2, 2]


# ----------------------------------------------------------------------------- training


def test_the_loss_of_a_batch_weighs_each_post_alike_whatever_the_split(monkeypatch):
    # A post with two comparisons and one with one: the mean over posts of the mean over each post's comparisons.
    margin, weight = torch.tensor([0.0, math.log(3), -math.log(3)]), torch.tensor([0.5, 0.5, 1.0])
    expected = ((math.log(2) + math.log(4 / 3)) / 2 + math.log(4)) / 2
    monkeypatch.setattr(rm, "margins", lambda network, chosen, rejected, pad: chosen)
    trained = rm.RewardModelTraining(torch.nn.Linear(1, 1), margin, margin, weight, preference.bradley_terry, PAD)
    for size in (1, 2, 3):
        right = []
        parts = rm.losses(Accelerator(), trained, torch.arange(3), size, right)
        assert sum(part.item() for part in parts) == pytest.approx(expected)
        assert torch.stack(right).sum() == 1.5  # the tie counts half


def test_an_epoch_is_shuffled_anew_and_too_few_comparisons_are_refused():
    group = torch.arange(8)
    batches = rm.shuffled_batches(group, 4, 2, torch.Generator().manual_seed(0))
    assert len(batches) == 4
    epochs = [torch.cat(batches[:2]), torch.cat(batches[2:])]
    assert [sorted(epoch.tolist()) for epoch in epochs] == [list(range(8))] * 2
    assert not torch.equal(*epochs)
    with pytest.raises(UserError, match="8 comparisons are fewer than a batch of 9"):
        rm.shuffled_batches(group, 9, 1, torch.Generator().manual_seed(0))


def test_a_step_is_counted_in_the_comparisons_it_has_seen(run_stage, tiny_run):
    count = len(Corpus(tiny_run["data"]).pairs("train"))
    journal = read_journal(run_stage(rm.STAGE, rm_epochs="2"))
    steps = [line["step"] for line in journal]
    assert steps == sorted(set(steps))
    assert steps[-1] == 2 * count - 2 * (count % 8)


def test_the_trunk_starts_as_the_stage_that_the_recipe_names(run_stage, tiny_run):
    # The first loss is before any step, so it is that of the trunk as it was loaded.
    first = {
        label: read_journal(run_stage(rm.STAGE, rm_init=label))[0]["metrics"]["rm/loss"]
        for label in ("from_sft", "from_base")
    }
    corpus = Corpus(tiny_run["data"])
    for label, stage in (("from_sft", "sft"), ("from_base", "base")):
        assert first[label] == pytest.approx(first_loss(tiny_run[stage] / "model", corpus), rel=1e-5)
    assert first["from_sft"] != pytest.approx(first["from_base"], rel=1e-5)


def first_loss(folder, corpus):
    """Bradley-Terry's loss of a fresh head on this trunk over the first batch, one text at a time."""
    work = SimpleNamespace(stage="rm", seed=1)
    generator = {
        name: torch.Generator().manual_seed(rm.StageContext.seed_of(work, name)) for name in ("head", "shuffle")
    }
    network = scalar_model.ScalarModel(pretrained.load_policy(folder).base_model)
    scalar_model.head_normal(network.head, generator["head"])
    network, pairs = modes.freeze(network), corpus.pairs("train")
    losses = []
    for row in torch.randperm(len(pairs), generator=generator["shuffle"])[:8].tolist():
        texts = [[t for t in pairs[row][f"query_{side}_token"] if t != corpus.pad] for side in ("chosen", "rejected")]
        better, worse = (
            network(**forward_pass.model_inputs(torch.tensor([text]), corpus.pad))[0, -1].item() for text in texts
        )
        losses.append(math.log1p(math.exp(worse - better)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("reading", ["eos", "last_position", "mean_over_response"])
def test_the_reward_model_remembers_how_it_is_read(run_stage, reading):
    folder = run_stage(rm.STAGE, reward_token=reading) / "model"
    assert json.loads((folder / "config.json").read_text())["reward_token"] == reading
    assert pretrained.load_scalar(folder).reward_token == reading


def test_on_which_side_texts_are_padded_changes_no_more_than_rounding(run_stage):
    left, right = (
        load_file(run_stage(rm.STAGE, padding_side=side) / "model" / "model.safetensors")
        for side in ("left_then_left", "right_then_left")
    )
    for name, weights in right.items():
        # Three steps move a weight by up to 1.5e-3.
        torch.testing.assert_close(left[name], weights, atol=1e-5, rtol=1e-4)


# ----------------------------------------------------------------------------- right over wrong


class Judge(torch.nn.Module):
    """A reward model that reads the text and says at every token what `opinion(facts, summary)` makes of it."""

    def __init__(self, corpus, opinion):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))  # a network is asked on which device it lies
        self.reward_token = "eos"
        self.trunk = SimpleNamespace(config=SimpleNamespace(model_type="judge"))  # which takes each text in its own row
        self.tokenizer, self.opinion = corpus.tokenizer, opinion
        self.facts = {row["query"]: json.loads(row["facts"]) for row in corpus.posts("test")}

    def forward(self, input_ids, attention_mask, places):
        texts = [
            self.tokenizer.decode(row[mask.bool()], skip_special_tokens=True)
            for row, mask in zip(input_ids, attention_mask)
        ]
        asked = [next(query for query in self.facts if text.startswith(query)) for text in texts]
        scores = [self.opinion(self.facts[query], text.removeprefix(query)) for query, text in zip(asked, texts)]
        return at(torch.tensor(scores)[:, None].expand(input_ids.shape), places)


@pytest.mark.parametrize(
    ("opinion", "share"),
    [
        (embedded.gold, 1.0),
        (lambda facts, summary: -embedded.gold(facts, summary), 0.0),
        (lambda facts, summary: 0.0, 0.5),
    ],
    ids=["knows the facts", "likes lies", "is blind"],
)
def test_a_judge_is_as_often_right_as_it_knows_the_facts(tiny_run, opinion, share):
    corpus = Corpus(tiny_run["data"])
    measured = rm.right_over_wrong(rm.Scorer(Judge(corpus, opinion), padding.unchanged, corpus.pad, batch=3), corpus)
    by_fact = {name: value for name, value in measured.items() if name != "rm/right_over_wrong"}
    assert measured["rm/right_over_wrong"] == share
    assert by_fact and set(by_fact.values()) == {share}
    assert {name.rsplit("/", 1)[1] for name in by_fact} <= embedded.VALUES.keys()


def test_without_known_facts_nothing_is_said():
    corpus = SimpleNamespace(has_pairs=lambda split: False)
    assert rm.right_over_wrong(rm.Scorer(scalar(), padding.unchanged, PAD, 1), corpus) == {}


# ----------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize(
    ("variant", "centred", "scaled"),
    [("centre", True, False), ("centre_and_scale", True, True), ("none", False, False)],
)
def test_references_score_what_the_normalisation_promises(run_stage, tiny_run, variant, centred, scaled):
    corpus = Corpus(tiny_run["data"])
    reward_model = pretrained.load_scalar(run_stage(rm.STAGE, reward_normalisation=variant) / "model")
    scores = rm.Scorer(reward_model, padding.unchanged, corpus.pad, 8)(corpus.posts("train"), "reference_response")
    assert (abs(scores.mean().item()) < 1e-4) is centred
    assert (abs(scores.std().item() - 1) < 1e-3) is scaled


# ----------------------------------------------------------------------------- what the paper measured


def references(rows=CHOSEN):
    return Dataset.from_dict(
        {
            "reference_response_tokens": [len(tokens) for tokens in rows],
            "query_reference_response_token": padded([q + r for q, r in zip(QUERIES, rows)], 9),
        }
    )


@pytest.mark.parametrize("pack", [padding.unchanged, padding.pad_left], ids=["right", "left"])
def test_what_is_said_before_the_end_is_told_apart_from_what_is_said_at_it(pack):
    network = scalar()
    measured = rm.reward_off_eos(rm.Scorer(network, pack, PAD, 3), references(), EOS)
    off, on = [], []
    for query, response in zip(QUERIES, CHOSEN):
        for token, output in zip(response, outputs(network, query + response)[len(query) :].tolist()):
            (on if token == EOS else off).append(output)
    assert (len(on), len(off)) == (3, 7)
    assert measured == pytest.approx(
        {
            "rm/off_eos_mean": sum(off) / 7,
            "rm/off_eos_negative": sum(output < 0 for output in off) / 7,
            "rm/eos_mean": sum(on) / 3,
        },
        abs=1e-5,
    )


def test_of_texts_that_do_not_end_nothing_is_said_about_their_end():
    rows = [[token for token in row if token != EOS] for row in CHOSEN]
    measured = rm.reward_off_eos(rm.Scorer(scalar(), padding.unchanged, PAD, 3), references(rows), EOS)
    assert measured.keys() == {"rm/off_eos_mean", "rm/off_eos_negative"}


@pytest.mark.parametrize("pack", [padding.unchanged, padding.pad_left], ids=["right", "left"])
def test_the_same_texts_padded_on_either_side_get_the_same_reward(pack):
    measured = rm.padding_agreement(rm.Scorer(scalar(), pack, PAD, 3), references())
    assert abs(measured["rm/padding_difference_mean"]) <= measured["rm/padding_difference_largest"] < 1e-5


def test_a_model_that_padding_moves_is_found_out():
    class Counts(torch.nn.Module):
        """Scores a text by the column that it ends in."""

        def __init__(self):
            super().__init__()
            self.anchor, self.reward_token = torch.nn.Parameter(torch.zeros(())), "eos"

        def forward(self, input_ids, attention_mask, places):
            return at(torch.arange(input_ids.shape[1]).float().expand(input_ids.shape), places)

    # One row at a time, so that nothing but its own padding moves it. Left padding is trimmed, and both sides agree ...
    measured = rm.padding_agreement(rm.Scorer(Counts(), padding.unchanged, PAD, 1), references())
    assert measured == {"rm/padding_difference_mean": 0, "rm/padding_difference_largest": 0}
    # ... together, the longest decides: texts of 6, 3, 5 and 4 tokens end 0, 3, 1 and 2 columns further on the left.
    measured = rm.padding_agreement(rm.Scorer(Counts(), padding.unchanged, PAD, 4), references())
    assert measured == {"rm/padding_difference_mean": 1.5, "rm/padding_difference_largest": 3}


def labelled(count, **columns):
    """`count` comparisons with these columns, and otherwise all of one group."""
    whole = {"batch": "b", "confidence": -1, "chosen_policy": "sup", "rejected_policy": "ref"}
    return {name: columns.get(name, [value] * count) for name, value in whole.items()}


def test_accuracy_is_told_by_group():
    margin = torch.tensor([1.0] * 15 + [-1.0] * 5 + [0.0] * 20 + [1.0] * 19)
    pairs = labelled(
        59,
        batch=["one"] * 20 + ["two"] * 20 + ["small"] * 19,
        confidence=[9] * 20 + [-1] * 39,
        chosen_policy=["sup"] * 10 + ["ref"] * 49,
        rejected_policy=["ref"] * 10 + ["sup"] * 49,
    )
    assert rm.accuracy_by_group(margin, pairs) == pytest.approx(
        {
            "rm/accuracy/batch/one": 15 / 20,
            "rm/accuracy/batch/two": 0.5,
            "rm/accuracy/confidence/9": 15 / 20,
            "rm/accuracy/policies/ref vs sup": (15 + 10 + 19) / 59,
        }
    )


def test_a_group_with_a_margin_that_is_not_a_number_has_no_accuracy():
    margin = torch.tensor([math.nan] + [1.0] * 39)
    found = rm.accuracy_by_group(margin, labelled(40, batch=["one"] * 20 + ["two"] * 20))
    assert math.isnan(found["rm/accuracy/batch/one"]) and found["rm/accuracy/batch/two"] == 1


def test_a_group_is_named_as_mlflow_allows():
    pairs = labelled(20, batch=["b(1)+é"] * 20)
    names = rm.accuracy_by_group(torch.ones(20), pairs)
    assert "rm/accuracy/batch/b_1___" in names
    assert all(re.fullmatch(r"[A-Za-z0-9_\-. :/]+", name) for name in names)


def test_calibration_shows_bins_of_twenty_and_counts_all():
    # 20 margins of log 3 promise 3/4 and are always right; one of 10 promises nearly 1 and is wrong.
    margin = torch.tensor([math.log(3)] * 20 + [-10.0])
    assert rm.calibration(margin) == pytest.approx(
        {"rm/calibration/1.25": 1.0, "rm/calibration_error": (20 * 0.25 + 1 / (1 + math.exp(-10))) / 21}
    )
