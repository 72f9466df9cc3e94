"""The base model: which ones are refused before anything is trained on them, and the tokenizer it came with."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, Features, List, Value
from tiny import SHAPE, pick, policy
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from repro import base, model
from repro.data import ARTICLES, embedded
from repro.errors import UserError
from repro.stage import Budget, Work

# ----------------------------------------------------------------------------- reproducible


class HiddenDropout(nn.Module):
    """A language model that drops out behind the back of whoever looks for modules."""

    def __init__(self):
        super().__init__()
        self.inner = policy()

    def forward(self, **inputs):
        logits = self.inner(**inputs).logits
        return SimpleNamespace(logits=nn.functional.dropout(logits, 0.1, self.training))


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2))


def test_rotary_positions_and_dropout_that_can_be_switched_off_are_what_it_takes():
    network = model.set_dropout(model.initialise(SHAPE, 64, 32, seed=0), 0.3)
    model.require_reproducible(network)


@pytest.mark.parametrize(("make", "problem"), [(HiddenDropout, "dropout"), (gpt2, "padding on the left")])
def test_a_base_model_that_would_not_say_the_same_twice_is_refused(make, problem):
    with pytest.raises(UserError, match=problem):
        model.require_reproducible(make())


def test_positions_that_count_padding_are_counted_from_the_mask_instead_and_stay_so_when_saved(tmp_path):
    network = model.with_own_positions(gpt2())
    model.require_reproducible(network)
    model.save_policy(network, tmp_path)
    model.require_reproducible(model.load_policy(tmp_path))
    assert not hasattr(model.with_own_positions(policy()).config, "positions")


# ----------------------------------------------------------------------------- the stage


def run(scale, data, out):
    out.mkdir()
    base.STAGE.run(Work("base", pick("base"), Budget(scale, base.STAGE.fields), "auto", 0, {"data": data}, out))
    return model.load_policy(out / "model")


def test_a_folder_is_taken_as_it_is(tiny_scale, tiny_run, tmp_path):
    given = model.initialise(SHAPE, 1024, 128, seed=3)
    model.save_policy(given, tmp_path / "given")
    made = run(replace(tiny_scale, model=str(tmp_path / "given")), tiny_run["data"], tmp_path / "out")
    assert all(torch.equal(made.state_dict()[name], value) for name, value in given.state_dict().items())


def test_a_model_with_fewer_ids_than_the_tokenizer_is_refused(tiny_scale, tiny_run, tmp_path):
    model.save_policy(policy(), tmp_path / "given")
    with pytest.raises(UserError, match="highest id is .* and the base model has 64 of them"):
        run(replace(tiny_scale, model=str(tmp_path / "given")), tiny_run["data"], tmp_path / "out")


def test_a_model_with_positions_for_posts_but_not_for_articles_is_refused(tiny_scale, tiny_run, tmp_path):
    model.save_policy(model.initialise(SHAPE, 1024, 128, seed=3), tmp_path / "given")
    shutil.copytree(tiny_run["data"], tmp_path / "data")
    schema = Features({"query_chosen_token": List(Value("int32"), length=129)})
    articles = Dataset.from_dict({"query_chosen_token": [[0] * 129]}, features=schema)
    articles.save_to_disk(tmp_path / "data" / "pairs" / ARTICLES)
    with pytest.raises(UserError, match="positions for 128 tokens and the longest texts have 129"):
        run(replace(tiny_scale, model=str(tmp_path / "given")), tmp_path / "data", tmp_path / "out")


# ----------------------------------------------------------------------------- the tokenizer


def test_a_trained_tokenizer_has_one_token_for_every_word_that_states_a_fact():
    tokenizer = base.train_tokenizer()
    assert [word for word in embedded.SLOT_OF if len(tokenizer.encode(f" {word}")) > 1] == []
    text = "so my boss sold my bike.\n\nTL;DR:"
    assert tokenizer.decode(tokenizer.encode(text)) == text
