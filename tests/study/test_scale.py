"""A scale from the command line: what is changed, and what is refused in which words."""

import pytest

from repro.errors import UserError
from repro.study import annotator, scale


@pytest.fixture
def find(tokenizer_file):
    """`scale.find` of an embedded preset whose tokenizer exists, whatever the package ships."""
    return lambda name="smoke", changes={}: scale.find(name, {"tokenizer": str(tokenizer_file)} | changes)


def test_a_preset_is_found_under_its_name(find):
    assert find("smoke").name == "smoke"


def test_fields_are_read_as_the_type_they_have(find):
    changed = find(changes={"posts": "64", "sft_learning_rate": "1e-4", "seeds": "3,5", "precision": "float32"})
    assert (changed.posts, changed.sft_learning_rate, changed.seeds, changed.precision) == (64, 1e-4, (3, 5), "float32")


def test_a_changed_budget_shows_in_the_name_and_a_path_does_not(find, tmp_path):
    for name in ("config.json", "pytorch_model.bin", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    assert find(changes={"posts": "64", "threads": "2"}).name == "smoke-posts=64-threads=2"
    assert find(changes={"model": str(tmp_path)}).name == f"smoke-model={tmp_path.name}"
    assert find(changes={"model": "gpt-neox:32/2/2/64"}).name == "smoke-model=gpt-neox:32_2_2_64"
    assert find(changes={"tokenizer": str(tmp_path)}).name == "smoke"


def test_a_source_stays_the_text_that_it_was_given_as(find, tokenizer_file):
    assert find().tokenizer == str(tokenizer_file)
    assert find(changes={"model": "hub:a/b@main"}).model == "hub:a/b@main"


def test_a_model_of_the_hub_shows_in_the_name_and_data_of_the_hub_does_not(find):
    assert find(changes={"model": "hub:a/b@main"}).name == "smoke-model=hub:a_b@main"
    assert find(changes={"sft_from": "hub:a/b@main"}).name == "smoke-sft_from=hub:a_b@main"
    assert find(changes={"tokenizer": "hub:a/b@main"}).name == "smoke"


def test_who_compares_shows_in_the_name_and_neither_address_nor_price_does(find):
    judged = {
        "annotator": "judge:org/oracle",
        "judge_url": "http://h:1/v1",
        "judge_key_env": "K",
        "judge_prices": "1,2",
    }
    assert find(changes=judged).name == "smoke-annotator=judge:org_oracle"
    assert find(changes={"annotator": "hub:a/b@main"}).name == "smoke-annotator=hub:a_b@main"
    assert (
        annotator.prices("0.15,0.6") == (0.15, 0.6) and annotator.prices("0,0") == (0, 0) and annotator.prices("") == ()
    )


def test_a_name_is_the_same_where_the_path_does_not_exist(tmp_path):
    here = scale.full_name("smoke", {"model": str(tmp_path)})
    assert here == scale.full_name("smoke", {"model": f"/not/here/{tmp_path.name}"})


@pytest.mark.parametrize("name", [name for name in scale.SCALES if name.startswith("pythia-")])
def test_a_papers_scale_has_the_papers_hyper_parameters(name):
    """N+ code and Table 7: 911 updates of SFT, 1,450 of the reward model, 1,953 of PPO, and one learning rate."""
    found = scale.find(name)
    assert (found.posts // found.sft_batch, found.comparisons // found.rm_batch) == (911, 1450)
    assert found.episodes // found.ppo_batch == 1953
    rates = (found.sft_learning_rate, found.rm_learning_rate, found.dpo_learning_rate, found.ppo_learning_rate)
    assert set(rates) == {3e-6}
    lengths = (
        "query_tokens",
        "reference_tokens",
        "query_reference_tokens",
        "pair_response_tokens",
        "query_pair_tokens",
    )
    assert [getattr(found, field) for field in lengths] == [512, 53, 562, 169, 638]
    assert found.response_tokens == 53 and found.kl_cap == 35
    assert found.seeds == (44413, 55513, 66613, 77713)
    assert name.removeprefix("pythia-") in found.model


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("smok", {}, "there is no scale 'smok'; did you mean 'smoke'.* known: .*mini"),
        ("smoke", {"post": "64"}, "a scale has no field 'post'; did you mean 'posts'"),
        ("smoke", {"name": "mine"}, "a scale has no field 'name'"),
        ("smoke", {"posts": "many"}, "posts='many' is not an integer"),
        ("smoke", {"posts": "6.5"}, "posts='6.5' is not an integer"),
        ("smoke", {"sft_learning_rate": "slow"}, "sft_learning_rate='slow' is not a number"),
        ("smoke", {"seeds": "1,two"}, "seeds='1,two' is not"),
        ("smoke", {"posts": "0"}, "posts=0 must be at least 1"),
        ("smoke", {"micro_batch": "-1"}, "micro_batch=-1 must be at least 1"),
        (
            "smoke",
            {"episodes": "8", "ppo_batch": "16"},
            "episodes=8 is less than one batch; it must be at least ppo_batch=16",
        ),
        ("smoke", {"tokenizer": "no/such/file"}, "tokenizer 'no/such/file' does not exist"),
        ("smoke", {"sft_from": "no/such/folder"}, "sft_from 'no/such/folder' does not exist"),
        (
            "smoke",
            {"model": "hub:no/revision"},
            "'hub:no/revision' is no reference to the hub; write hub:OWNER/NAME@REV",
        ),
        ("smoke", {"tokenizer": "hub:datasets/a/b@main"}, "names a dataset on the hub, but a model is needed"),
        ("smoke", {"posts_file": "hub:a/b@main"}, "names a model on the hub, but a dataset is needed"),
        ("smoke", {"rm_from": "released"}, "the authors released no rm checkpoint of seed 1 of"),
    ],
)
def test_what_is_wrong_is_said_and_what_would_be_right(find, name, changes, message):
    with pytest.raises(UserError, match=message):
        find(name, changes)


@pytest.mark.parametrize("missing", ["tokenizer", "posts_file", "comparisons_file"])
def test_a_local_corpus_needs_each_of_its_files(tmp_path, missing):
    given = {field: str(tmp_path) for field in ("tokenizer", "posts_file", "comparisons_file") if field != missing}
    with pytest.raises(UserError, match=f"scale local needs {missing}; give --set {missing}=PATH"):
        scale.find("local", given)


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        ("/home/me/posts.jsonl", "posts.jsonl"),
        ("hub:owner/name@main", "hub:owner/name@main"),
        ("gpt-neox:32/1/2/64", "gpt-neox:32/1/2/64"),
        ("judge:meta/llama", "judge:meta/llama"),
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("512", "512"),
    ],
)
def test_of_a_path_alone_a_record_has_only_the_last_part(value, recorded):
    assert scale.without_folders(value) == recorded
