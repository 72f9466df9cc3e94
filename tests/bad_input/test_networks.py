"""Faulty tokenizers, configurations and weights."""

import json

import pytest
import torch
from safetensors.torch import save_file

from repro.__main__ import main
from repro.data import local
from repro.errors import UserError
from repro.models import hub, pretrained, starts
from tests import tiny
from tests.bad_input.case import check_sentence, fill, tree
from tests.bad_input.networks import CONFIG, CONFIGURATIONS, NETWORKS, TOKENIZERS, WHOLE


def refused(read, path, says, place):
    with pytest.raises(UserError) as refusal:
        read(path)
    check_sentence(f"error: {refusal.value}\n", says, place)


def study(place, says, capsys, *changes, verb="run"):
    """A study with these changes is refused in a sentence, and leaves nothing."""
    before = tree(place)
    assert main([verb, "whiten_adv", "--scale", "smoke", "--set", *changes]) == 2
    check_sentence(capsys.readouterr().err, says, place)
    assert tree(place) == before


@pytest.mark.parametrize(("content", "says"), TOKENIZERS, ids=range(len(TOKENIZERS)))
def test_a_faulty_tokenizer_is_refused(content, says, place):
    fill(place, {"tokenizer.json": content})
    refused(local.load_tokenizer, place / "tokenizer.json", f"tokenizer.json: .*{says}", place)


@pytest.mark.parametrize("config", ["garbage", "[]", "3", "[" * 100_000, b"\xff\xfe", '{"eos_token": 3}'])
def test_a_faulty_configuration_of_a_tokenizer_is_refused(config, place, tokenizer_file):
    fill(place, {"words/tokenizer.json": tokenizer_file.read_bytes(), "words/tokenizer_config.json": config})
    refused(local.load_tokenizer, place / "words", "tokenizer.json: not a tokenizer|no end-of-text", place)


def test_a_study_with_a_faulty_tokenizer_ends_before_anything_is_made(place, capsys):
    fill(place, {"tokenizer.json": "garbage"})
    study(place, "tokenizer.json: not a tokenizer", capsys, "tokenizer=tokenizer.json")


@pytest.mark.parametrize("field", ["model", "rm_from"])
@pytest.mark.parametrize(("files", "says"), NETWORKS, ids=range(len(NETWORKS)))
def test_a_faulty_folder_of_a_network_is_refused_by_a_plan(files, says, field, place, capsys):
    fill(place, files)
    study(place, says, capsys, f"{field}=net", verb="plan")


@pytest.mark.parametrize(("files", "says"), NETWORKS[::4], ids=range(0, len(NETWORKS), 4))
def test_a_faulty_start_of_a_seed_is_refused_by_a_run(files, says, place, capsys):
    fill(place, {name.replace("net", "start-1"): content for name, content in files.items()})
    study(place, says, capsys, "sft_from=start-{seed}")


@pytest.mark.parametrize(("config", "says"), CONFIGURATIONS, ids=range(len(CONFIGURATIONS)))
def test_a_configuration_of_no_network_is_refused_by_a_run(config, says, place, capsys):
    fill(place, {"net/config.json": json.dumps(config), "net/model.safetensors": WHOLE})
    study(place, says, capsys, "model=net")


# ------------------------------------------------------------------------------------------------ weights


@pytest.fixture
def policy(place):
    """A folder with a whole network."""
    pretrained.save_policy(tiny.policy(), place / "net")
    return place / "net"


@pytest.fixture
def scalar(place):
    """A folder with a whole reward model."""
    pretrained.save_scalar(tiny.scalar(), place / "rm")
    return place / "rm"


def spoil(file, change):
    content = bytearray(file.read_bytes())
    file.write_bytes(change(content))


CUTS = {
    "cut": lambda content: content[:-1],
    "cut in its header": lambda content: content[:20],
    "empty": lambda _: b"",
    "another format": lambda _: b"PK\x03\x04" + bytes(100),
    "another type": lambda content: content.replace(b'"F32"', b'"X32"'),
    "another shape": lambda content: content.replace(b'"shape":[64,32]', b'"shape":[32,32]'),
}


@pytest.mark.parametrize("how", CUTS)
def test_weights_that_are_damaged_are_refused(how, policy, scalar, place):
    spoil(policy / "model.safetensors", CUTS[how])
    spoil(scalar / "model.safetensors", CUTS[how])
    refused(starts.load_policy, policy, "no causal language model|do not fit|cut or damaged", place)
    refused(pretrained.load_scalar, scalar, "no reward model|not the weights of its configuration", place)


@pytest.mark.parametrize("value", [None, 3, [], {}, "nowhere", "x" * 300])
def test_a_reward_model_that_does_not_say_where_its_reward_is_is_refused(value, scalar, place):
    config = json.loads((scalar / "config.json").read_text())
    (scalar / "config.json").write_text(json.dumps(config | {"reward_token": value}))
    refused(pretrained.load_scalar, scalar, "reward_token is .*; it must be one of ", place)


RELEASED = {"base_config": CONFIG, "hidden_size": 8, "bias": 0.5}
RELEASES = [
    ({"bias": None}, "bias is 'None'; it must be a finite number"),
    ({"bias": "high"}, "bias is 'high'; it must be a finite number"),
    ({"bias": [1]}, r"bias is '\[1\]'; it must be a finite number"),
    ({"bias": True}, "bias is 'True'; it must be a finite number"),
    ({"base_config": None}, "no network's base_config"),
    ({"base_config": 3}, "no network's base_config"),
    ({"base_config": {}}, "no network's base_config"),
    ({"base_config": {"model_type": "nothing"}}, "no network's base_config"),
    ({"base_config": CONFIG | {"hidden_size": "x"}}, "no network's base_config"),
    ({}, "not the weights of its configuration"),
]


@pytest.mark.parametrize(("change", "says"), RELEASES, ids=range(len(RELEASES)))
def test_a_released_reward_model_that_is_damaged_is_refused(change, says, place):
    fill(place, {"rm/config.json": json.dumps(RELEASED | change)})
    save_file({"w": torch.zeros(4)}, place / "rm" / "model.safetensors")
    refused(starts.load_released_reward_model, place / "rm", says, place)


@pytest.mark.parametrize("missing", list(RELEASED))
def test_a_released_reward_model_without_a_field_is_refused(missing, place):
    config = {name: value for name, value in RELEASED.items() if name != missing}
    fill(place, {"rm/config.json": json.dumps(config), "rm/model.safetensors": WHOLE})
    refused(starts.load_released_reward_model, place / "rm", f"config.json: {missing} is missing", place)


@pytest.mark.parametrize("index", ["", "garbage", "[]", "{}", '{"weight_map": 3}', "[" * 100_000, b"\xff\xfe"])
def test_an_index_of_weights_that_is_damaged_is_refused(index, place):
    fill(place, {"net/model.safetensors.index.json": index})
    names = ["model.safetensors", "model.safetensors.index.json"]
    refused(lambda path: hub._missing_shards(path, names), place / "net", "is damaged", place)
