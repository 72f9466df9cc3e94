"""The loss of supervised fine-tuning, against a loop that predicts one token at a time."""

import json
from dataclasses import replace

import pytest
import torch

from repro.detail import Recipe
from repro.engine import artefacts, pipeline
from repro.models import padding, pretrained
from repro.ops import text
from repro.stages import optimise, sft
from repro.stages.corpus import Corpus, column
from repro.stages.stage import RESULT, Budget, StageContext
from tests.tiny import EOS, PAD, pick, policy

TEXTS = [[5, 6, 7, EOS], [8, 9, EOS], [10, 11, 12, 13, 14]]  # the last was cut off before its end


def padded(texts, pad):
    """[N, T + 2] right-padded: some of the padding is in every row."""
    width = max(map(len, texts)) + 2
    return torch.tensor([text + [pad] * (width - len(text)) for text in texts])


@torch.no_grad()
def one_by_one(network, texts, first=1):
    """Nats of every token from the `first` on, given those before it, each in a forward pass of its own."""
    return sum(
        -network(torch.tensor([text[:place]])).logits[0, -1].log_softmax(-1)[text[place]].item()
        for text in texts
        for place in range(first, len(text))
    )


def test_every_token_after_the_first_counts_the_end_too_and_padding_does_not():
    network = policy()
    ids = padded(TEXTS, PAD)
    assert sft.token_loss(network, ids, ids != PAD, PAD).item() == pytest.approx(one_by_one(network, TEXTS))


def test_where_padding_is_the_end_of_text_nothing_teaches_the_end():
    network, endless = policy(), [[token for token in text if token != EOS] for text in TEXTS]
    ids = padded(TEXTS, EOS)
    loss = sft.token_loss(network, ids, ids != EOS, EOS).item()
    assert loss == pytest.approx(one_by_one(network, endless))
    assert loss < one_by_one(network, TEXTS)


def test_padding_and_where_it_is_split_change_no_gradient():
    network, ids = policy(), padded(TEXTS, PAD)

    def gradient(*parts):
        network.zero_grad()
        sum(sft.token_loss(network, part, part != PAD, PAD) for part in parts).backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    whole = gradient(ids)
    torch.testing.assert_close(gradient(*ids.split(1)), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient(padding.trim_right(ids, PAD)), whole, atol=1e-4, rtol=1e-4)


# ----------------------------------------------------------------------------- the response alone


def test_of_the_response_alone_each_token_counts_its_first_and_its_end_too():
    network, ids = policy(), padded(TEXTS, PAD)
    response = torch.tensor([len(words) - 2 for words in TEXTS])
    loss = sft.token_loss(network, ids, text.response_only(ids, response, PAD), PAD).item()
    assert loss == pytest.approx(one_by_one(network, TEXTS, first=2))


def test_what_does_not_count_is_read_all_the_same():
    # Another first token, which no loss is about, changes how likely the others are.
    network, ids = policy(), padded(TEXTS, PAD)
    counted = text.response_only(ids, torch.tensor([len(words) - 2 for words in TEXTS]), PAD)
    other = ids.clone()
    other[:, 0] = 50
    ours, theirs = (sft.token_loss(network, tokens, counted, PAD).item() for tokens in (ids, other))
    assert ours != pytest.approx(theirs, rel=1e-3)


# ----------------------------------------------------------------------------- the stage


@pytest.mark.parametrize(("epochs", "passes"), [("1", 1), ("2", 2), ("3", 3)])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_one_schedule_spans_all_passes(tiny_scale, tiny_run, run_stage, monkeypatch, epochs, passes, schedule):
    rates = []
    monkeypatch.setattr(optimise, "set_learning_rate", lambda optimizer, rate: rates.append(rate))
    run_stage(sft.STAGE, sft_epochs=epochs, lr_schedule_sft=schedule)
    steps = passes * (len(Corpus(tiny_run["data"]).posts("train")) // tiny_scale.sft_batch)
    assert len(rates) == steps
    half = tiny_scale.sft_learning_rate / 2
    assert rates[0] == 2 * half
    assert rates[steps // 2] == pytest.approx(2 * half if schedule == "constant" else half)


def test_where_a_scale_keeps_weights_on_the_way_sft_saves_none_and_ends(tiny_scale, tmp_path):
    scale = replace(tiny_scale, checkpoint_every=1, keep_every=1)
    keys = pipeline.keys(Recipe(), scale, 1)
    for name in ("data", "base", "sft"):
        folder = artefacts.run_or_reuse(pipeline.BY_NAME[name], Recipe(), scale, 1, keys, tmp_path, pytest.fail)
    assert (folder / "model" / "model.safetensors").is_file() and not (folder / "kept" / "step-00000001").exists()


@pytest.mark.parametrize("batch", [4, 100])
def test_an_imported_policy_is_measured_on_the_first_batch_or_on_all_texts_where_they_are_fewer(
    tiny_scale, tiny_run, tmp_path, batch
):
    model = tiny_run["sft"] / "model"
    scale = replace(tiny_scale, sft_from=str(model), sft_batch=batch)
    inputs = {name: tiny_run[name] for name in sft.STAGE.upstream}
    budget = Budget(scale, sft.STAGE.fields)
    sft.STAGE.run(StageContext("sft", pick("sft"), budget, scale.precision, seed=1, inputs=inputs, out=tmp_path))
    corpus = Corpus(tiny_run["data"])
    tokens = column(corpus.posts("train"), "query_reference_response_token")[:batch]
    with torch.no_grad():
        total = sft.token_loss(pretrained.load_policy(model).eval(), tokens, tokens != corpus.pad, corpus.pad).item()
    found = json.loads((tmp_path / RESULT).read_text())["metrics"]["sft/final_loss"]
    assert found == pytest.approx(total / (tokens[:, 1:] != corpus.pad).sum().item())
