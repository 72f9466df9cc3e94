"""The base model: which ones are refused before anything is trained on them, and the tokenizer it came with."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, Features, List, Value
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from repro.data import embedded, local
from repro.errors import UserError
from repro.models import compatibility, modes, pretrained, scalar_model
from repro.stages import base
from repro.stages.data import ARTICLES
from repro.stages.stage import Budget, StageContext
from repro.study.scale import EMBEDDED
from tests.tiny import SHAPE, pick, policy

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
    network = modes.set_dropout(pretrained.initialise_policy(SHAPE, 64, 32, seed=0), 0.3)
    compatibility.require_reproducible(network)


@pytest.mark.parametrize(("make", "problem"), [(HiddenDropout, "dropout"), (gpt2, "padding on the left")])
def test_a_base_model_that_would_not_say_the_same_twice_is_refused(make, problem):
    with pytest.raises(UserError, match=problem):
        compatibility.require_reproducible(make())


def test_positions_that_count_padding_are_counted_from_the_mask_instead_and_stay_so_when_saved(tmp_path):
    network = compatibility.infer_position_ids(gpt2())
    compatibility.require_reproducible(network)
    pretrained.save_policy(network, tmp_path)
    compatibility.require_reproducible(pretrained.load_policy(tmp_path))
    assert not hasattr(compatibility.infer_position_ids(policy()).config, "positions")


# ----------------------------------------------------------------------------- the stage


def run(scale, data, out):
    out.mkdir()
    base.STAGE.run(StageContext("base", pick("base"), Budget(scale, base.STAGE.fields), "auto", 0, {"data": data}, out))
    return pretrained.load_policy(out / "model")


def test_a_folder_is_taken_as_it_is(tiny_scale, tiny_run, tmp_path):
    given = pretrained.initialise_policy(SHAPE, 1024, 128, seed=3)
    pretrained.save_policy(given, tmp_path / "given")
    made = run(replace(tiny_scale, model=str(tmp_path / "given")), tiny_run["data"], tmp_path / "out")
    assert all(torch.equal(made.state_dict()[name], value) for name, value in given.state_dict().items())


def test_a_model_with_fewer_ids_than_the_tokenizer_is_refused(tiny_scale, tiny_run, tmp_path):
    pretrained.save_policy(policy(), tmp_path / "given")
    with pytest.raises(UserError, match="highest id is .* and the base model has 64 of them"):
        run(replace(tiny_scale, model=str(tmp_path / "given")), tiny_run["data"], tmp_path / "out")


def test_a_model_with_positions_for_posts_but_not_for_articles_is_refused(tiny_scale, tiny_run, tmp_path):
    pretrained.save_policy(pretrained.initialise_policy(SHAPE, 1024, 128, seed=3), tmp_path / "given")
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


# ----------------------------------------------------------------------------- making the embedded base model


def test_a_network_that_was_given_a_layer_says_what_it_said_without():
    shallow, deeper = (pretrained.initialise_policy(base.shape(layers), 640, 256, seed=5) for layers in (3, 4))
    ids = torch.randint(640, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = shallow(input_ids=ids).logits
        grown = base.initialise_from_shallower(deeper, shallow)
        assert torch.allclose(grown(input_ids=ids).logits, before, atol=1e-5)
    assert grown.config.num_hidden_layers == 4


def test_the_embedded_base_is_made_in_its_phases_and_its_end_of_text_begins_as_a_word(tmp_path, monkeypatch):
    seen, grow = [], base.initialise_from_shallower

    def grown(deeper, policy):
        seen.append(deeper.config.num_hidden_layers)
        return grow(deeper, policy)

    monkeypatch.setattr(base, "BATCH", 2)
    monkeypatch.setattr(base, "initialise_from_shallower", grown)
    base.make_embedded_base(tmp_path, steps=8)
    assert seen == [3, 4, 4], "after the first phase"
    made = pretrained.load_policy(tmp_path / "base")
    tokenizer = local.load_tokenizer(tmp_path / "tokenizer.json")
    assert made.config.num_hidden_layers == 4
    assert_end_of_text_begins_as_a_word(made, tokenizer)
    assert output_size(made).item() == pytest.approx(1.0, rel=1e-5)


def test_a_wider_base_has_more_heads_and_a_learning_rate_that_falls_with_its_width(tmp_path, monkeypatch):
    peaks, adamw = [], torch.optim.AdamW

    def optimizer(parameters, lr, **options):
        peaks.append(lr)
        return adamw(parameters, lr=lr, **options)

    monkeypatch.setattr(base, "BATCH", 2)
    monkeypatch.setattr(torch.optim, "AdamW", optimizer)
    base.make_embedded_base(tmp_path, steps=8, width=96)
    made = pretrained.load_policy(tmp_path / "base").config
    assert (made.hidden_size, made.num_attention_heads, made.intermediate_size) == (96, 3, 384)
    assert peaks == pytest.approx([2e-3, 2e-3, 2e-3 * 2 / 3, 2e-3 * 2 / 3])


def assert_end_of_text_begins_as_a_word(policy, tokenizer):
    words = [tokenizer.encode(word)[0] for word in (" edit:", " update:", " anyway", " sorry", " so", " now", " there")]
    read, written = policy.get_input_embeddings().weight, policy.get_output_embeddings().weight
    end, mean = read[tokenizer.eos_token_id], read[words].mean(0)
    assert nn.functional.cosine_similarity(end, mean, dim=0).item() == pytest.approx(1.0, abs=1e-5)
    assert end.norm().item() == pytest.approx(read[words].norm(dim=1).mean().item(), rel=1e-5)
    assert torch.allclose(written[tokenizer.eos_token_id], written[words].mean(0), atol=1e-5)


def output_size(policy):
    """The root mean square of final hidden states whose normalised values have mean 0 and spread 1."""
    norm = policy.gpt_neox.final_layer_norm
    return (norm.weight.square() + norm.bias.square()).mean().sqrt()


def test_the_shipped_base_was_left_as_the_recipe_leaves_one():
    shipped = pretrained.load_policy(EMBEDDED / "base")
    assert_end_of_text_begins_as_a_word(shipped, local.load_tokenizer(EMBEDDED / "tokenizer.json"))
    assert output_size(shipped).item() == pytest.approx(1.0, rel=1e-5)


def test_outputs_of_unit_size_leave_the_logits_and_give_a_new_head_outputs_of_unit_spread():
    policy = pretrained.initialise_policy(base.shape(2), 640, 64, seed=5)
    norm = policy.gpt_neox.final_layer_norm
    with torch.no_grad():
        norm.weight.mul_(3.0).add_(torch.linspace(-1, 1, 64))
        norm.bias.add_(0.7)
        ids = torch.randint(640, (8, 32), generator=torch.Generator().manual_seed(0))
        before = policy(input_ids=ids).logits
        base.normalise_hidden_states(policy)
        assert torch.allclose(policy(input_ids=ids).logits, before, atol=1e-4)
        hidden = policy.base_model(input_ids=ids).last_hidden_state
        heads = nn.Linear(64, 4_000)
        scalar_model.head_normal(heads, torch.Generator().manual_seed(0))
        assert heads(hidden).std().item() == pytest.approx(1.0, abs=0.05)


def test_texts_of_a_batch_are_of_about_one_length(monkeypatch):
    monkeypatch.setattr(base, "BATCH", 4)
    batches = base.text_batches(base.train_tokenizer(documents=500), 0)
    spreads = [lengths.max() - lengths.min() for lengths in (next(batches)[1].sum(1) for _ in range(16))]
    assert sorted(spreads)[8] < 20
