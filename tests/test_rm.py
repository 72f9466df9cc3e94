"""The reward model: what a comparison scores, what counts as right, and where its zero is."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny import EOS, PAD, scalar

from repro import model, rm
from repro.data import Corpus, column, embedded

# ----------------------------------------------------------------------------- comparisons


def test_a_margin_is_the_score_of_one_text_less_that_of_the_other_each_read_at_its_end():
    network = scalar()
    pairs = [([5, 6, EOS], [5, 6, 7, 8, EOS]), ([9, 10, 11, EOS], [9, EOS])]
    chosen, rejected = (torch.tensor([side + [PAD] * (6 - len(side)) for side in sides]) for sides in zip(*pairs))

    def alone(text):
        return network(**model.attend(torch.tensor([text]), PAD))[0, -1]

    expected = torch.stack([alone(better) - alone(worse) for better, worse in pairs])
    margin = rm.margins(network, chosen, rejected, PAD, torch.device("cpu"))
    torch.testing.assert_close(margin, expected, atol=1e-5, rtol=1e-5)
    swapped = rm.margins(network, rejected, chosen, PAD, torch.device("cpu"))
    torch.testing.assert_close(swapped, -expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("chosen", "rejected", "share"),
    [([2.0, 1.0], [1.0, 0.0], 1), ([0.0, 3.0], [1.0, 0.0], 0.5), ([1.0] * 4, [1.0, 1.0, 2.0, 0.0], 0.5)],
)
def test_a_tie_is_half_right(chosen, rejected, share):
    assert rm.accuracy(torch.tensor(chosen), torch.tensor(rejected)) == share


# ----------------------------------------------------------------------------- right over wrong


class Judge(torch.nn.Module):
    """A reward model that reads the text and says at every token what `opinion(facts, summary)` makes of it."""

    def __init__(self, corpus, opinion):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))  # a network is asked on which device it lies
        self.tokenizer, self.opinion = corpus.tokenizer, opinion
        self.facts = {row["query"]: json.loads(row["facts"]) for row in corpus.posts("test")}

    def forward(self, input_ids, attention_mask):
        texts = [
            self.tokenizer.decode(row[mask.bool()], skip_special_tokens=True)
            for row, mask in zip(input_ids, attention_mask)
        ]
        asked = [next(query for query in self.facts if text.startswith(query)) for text in texts]
        scores = [self.opinion(self.facts[query], text.removeprefix(query)) for query, text in zip(asked, texts)]
        return torch.tensor(scores)[:, None].expand(input_ids.shape)


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
    measured = rm.right_over_wrong(Judge(corpus, opinion), corpus, batch=3)
    by_fact = {name: value for name, value in measured.items() if name != "rm/right_over_wrong"}
    assert measured["rm/right_over_wrong"] == share
    assert by_fact and set(by_fact.values()) == {share}
    assert {name.rsplit("/", 1)[1] for name in by_fact} <= embedded.VALUES.keys()


def test_without_known_facts_nothing_is_said():
    corpus = SimpleNamespace(posts=lambda split: [{"facts": ""}])
    assert rm.right_over_wrong(scalar(), corpus, batch=1) == {}


# ----------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize(
    ("variant", "centred", "scaled"),
    [("centre", True, False), ("centre_and_scale", True, True), ("none", False, False)],
)
def test_references_score_what_the_normalisation_promises(run_stage, tiny_run, variant, centred, scaled):
    corpus = Corpus(tiny_run["data"])
    reward_model = model.load_scalar(run_stage(rm.STAGE, reward_normalisation=variant) / "model")
    references = column(corpus.posts("train"), "query_reference_response_token")
    scores = model.score_rows(reward_model, references, corpus.pad, batch=8)
    assert (abs(scores.mean().item()) < 1e-4) is centred
    assert (abs(scores.std().item() - 1) < 1e-3) is scaled
