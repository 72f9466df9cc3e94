"""DPO: what a margin is, what a step does to it, and that the stage in PPO's place leaves what evaluation needs."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from repro.models import modes, pretrained
from repro.stages import dpo, optimise, ppo
from repro.stages.corpus import Corpus
from repro.stages.stage import RESULT, read_journal
from tests.tiny import CORPUS, EOS, PAD, policy

QUERIES = [[5, 6], [9], [20, 21, 22], [11, 12]]
CHOSEN = [[7, 8, 10, EOS], [10, EOS], [30, EOS], [13, 14]]
REJECTED = [[9, EOS], [3, 4, 5, EOS], [31, 32, EOS], [15, EOS]]


def pairs(pad=PAD):
    """Four comparisons; one chosen summary was cut off and has no end of text."""
    return dpo.Pairs(
        torch.tensor([[pad] * (4 - len(row)) + row for row in QUERIES]),
        *(torch.tensor([row + [pad] * (5 - len(row)) for row in rows]) for rows in (CHOSEN, REJECTED)),
    )


def by_hand(network, query, summary, pad=PAD):
    """Log-probability of the summary after the query, a token at a time; padding of its own cannot be drawn."""
    total, tokens = 0.0, list(query)
    for token in summary:
        logits = network(torch.tensor([tokens])).logits[0, -1].double()
        if pad != EOS:
            logits[pad] = -math.inf
        total += logits.log_softmax(-1)[token].item()
        tokens.append(token)
    return total


@torch.no_grad()
def margins_by_hand(networks, pad=PAD):
    change = [
        [by_hand(networks[0], q, row, pad) - by_hand(networks[1], q, row, pad) for q, row in zip(QUERIES, rows)]
        for rows in (CHOSEN, REJECTED)
    ]
    return torch.tensor([0.05 * (chosen - rejected) for chosen, rejected in zip(*change)])


@pytest.mark.parametrize("pad", [PAD, EOS], ids=["own padding", "padding is the end of text"])
def test_a_margin_is_beta_times_the_difference_of_log_ratios(pad):
    networks, corpus = (policy(0), policy(1)), SimpleNamespace(eos=EOS, pad=pad)
    complete = slice(0, 3)  # where padding is the end of text, a text without one seems to have one
    expected = margins_by_hand(networks, pad)[complete]
    together = dpo.implicit_margins(networks, pairs(pad), corpus, batch=3)
    torch.testing.assert_close(together[complete], expected, atol=1e-5, rtol=1e-4)
    alone = torch.cat([dpo.margins(networks, pairs(pad)[[row]], corpus) for row in range(3)])
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-4)


def test_a_summary_that_was_cut_off_is_what_is_left_of_it():
    networks = policy(0), policy(1)
    found = dpo.implicit_margins(networks, pairs(), CORPUS, batch=4)
    torch.testing.assert_close(found, margins_by_hand(networks), atol=1e-5, rtol=1e-4)


def losses(networks, rows, micro_batch, seen=None):
    every = torch.arange(len(rows))
    return dpo.losses(Accelerator(), networks, rows, every, CORPUS, micro_batch, [] if seen is None else seen)


def test_before_the_first_step_nothing_is_preferred():
    networks, seen = (policy(0), policy(0)), []
    loss = sum(part.item() for part in losses(networks, pairs(), 3, seen))
    assert loss == pytest.approx(math.log(2), abs=1e-6)
    assert dpo.accuracy(torch.cat(seen)) == 0.5


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_loss_and_gradient_are_those_of_the_whole_batch_whatever_the_split(micro_batch):
    def gradients(size):
        networks = policy(0), modes.freeze(policy(1))
        parts = list(losses(networks, pairs(), size))
        sum(parts).backward()
        return sum(parts).item(), [p.grad for p in networks[0].parameters() if p.grad is not None]

    whole, split = gradients(4), gradients(micro_batch)
    assert split[0] == pytest.approx(whole[0], rel=1e-5)
    for one, other in zip(split[1], whole[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_step_raises_what_was_chosen_above_what_was_not():
    networks = policy(0), modes.freeze(policy(0))
    for part in losses(networks, pairs(), 4):
        part.backward()
    with torch.no_grad():
        for weights in networks[0].parameters():
            weights -= 1e-2 * weights.grad
    margin = dpo.implicit_margins(networks, pairs(), CORPUS, batch=4)
    assert margin.mean() > 0
    assert [p.grad for p in networks[1].parameters()] == [None] * len(list(networks[1].parameters()))


def test_the_slope_of_the_loss_at_no_margin_is_half_of_beta():
    # d/dm of -log sigmoid(m) at 0 is -1/2, and m is beta times the log-probability of the chosen summary, and more.
    networks = policy(0), modes.freeze(policy(0))
    one = pairs()[[0]]
    next(losses(networks, one, 1)).backward()
    found = networks[0].get_output_embeddings().weight.grad.clone()
    networks[0].zero_grad()
    chosen, rejected = (dpo.summary_logprobs(networks[0], one.query, x, CORPUS) for x in (one.chosen, one.rejected))
    (-0.5 * 0.05 * (chosen - rejected)).sum().backward()
    torch.testing.assert_close(found, networks[0].get_output_embeddings().weight.grad, atol=1e-6, rtol=1e-4)


# ----------------------------------------------------------------------------- the stage


def test_in_the_place_of_ppo_it_leaves_a_policy_and_says_how_it_went(run_stage, tiny_run):
    out = run_stage(ppo.STAGE, algorithm="dpo")
    journal, count = read_journal(out), len(Corpus(tiny_run["data"]).pairs("train"))
    assert [line["step"] for line in journal] == list(range(8, count + 1, 8))
    first = journal[0]["metrics"]
    assert first["dpo/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (first["dpo/train_accuracy"], first["dpo/margin"]) == (0.5, 0)
    result = json.loads((out / RESULT).read_text())
    networks = pretrained.load_policy(out / "model"), pretrained.load_policy(tiny_run["sft"] / "model")
    corpus = Corpus(tiny_run["data"])
    margin = dpo.implicit_margins(networks, dpo.read(corpus.pairs("validation")), corpus, batch=5)
    assert result["metrics"]["dpo/validation_accuracy"] == pytest.approx(dpo.accuracy(margin))
    assert result["outcome"] == "finished"
    assert margin.abs().max() > 0


def test_a_loss_that_is_not_finite_ends_it_as_diverged(run_stage, monkeypatch):
    monkeypatch.setattr(optimise, "step", lambda *_: [None for _ in _[2]] and math.nan)
    out = run_stage(ppo.STAGE, algorithm="dpo")
    assert json.loads((out / RESULT).read_text())["outcome"] == "diverged"
    assert len(read_journal(out)) == 1
