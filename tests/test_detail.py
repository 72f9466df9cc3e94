"""Recipes, and that no detail is a dead toggle: each is read where it is declared, and each variant matters."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file

from repro import data, details, model, pipeline
from repro.data import Corpus
from repro.detail import Detail, Pick, Recipe
from repro.details import DETAILS, GAMMA, PROMPTS, WHITEN_ADV
from repro.errors import UserError
from repro.stage import Budget, Work

# ----------------------------------------------------------------------------- recipes


def test_a_recipe_is_its_difference_from_the_paper():
    arm = Recipe().but(WHITEN_ADV, "off").but(GAMMA, "0.99")
    assert arm.choices == (("gamma", "0.99"), ("whiten_adv", "off"))
    assert (arm.label(WHITEN_ADV), arm.label(details.GAE_LAMBDA)) == ("off", details.GAE_LAMBDA.reference)


def test_going_back_to_the_reference_leaves_nothing_behind():
    assert Recipe().but(GAMMA, "0.99").but(GAMMA, GAMMA.reference) == Recipe()
    assert Recipe().but(GAMMA, "0.99").but(GAMMA, "0.95") == Recipe().but(GAMMA, "0.95")


def test_a_label_or_detail_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(
        UserError, match="whiten_adv has no variant 'scale'; did you mean 'scale_only'.*known: shift_and_scale"
    ):
        Recipe().but(WHITEN_ADV, "scale")
    with pytest.raises(UserError, match="no detail 'whiten_advantage'; did you mean 'whiten_adv'"):
        details.find("whiten_advantage")


@pytest.mark.parametrize(
    "wrong", [{"reference": "other"}, {"stages": ("pppo",)}, {"stages": ()}, {"moves": {"kl": "sideways"}}]
)
def test_a_detail_that_contradicts_itself_cannot_be_declared(wrong):
    with pytest.raises(AssertionError):
        replace(WHITEN_ADV, **wrong)


# ----------------------------------------------------------------------------- no dead toggle
#
# Nothing here knows any detail: each stage is run, on inputs awkward enough to tell variants apart, for every variant
# of every detail that is declared for it, and the numbers that it leaves for the next stage are compared.


@pytest.fixture(scope="module")
def awkward(tiny_run, tiny_scale, tmp_path_factory):
    """The tiny run's artefacts, with a policy that ends some responses early, some late and some not at all."""
    folder = tmp_path_factory.mktemp("awkward")
    policy = model.load_policy(tiny_run["sft"] / "model")
    eos = Corpus(tiny_run["data"]).eos
    with torch.no_grad():
        policy.gpt_neox.final_layer_norm.weight[0], policy.gpt_neox.final_layer_norm.bias[0] = 0.0, 1.0
        output = policy.get_output_embeddings().weight
        output[:, 0] = 0.0
        output[eos, 0] = 3.5
    model.save_policy(policy, folder / "sft" / "model")
    # Of the splits that a recipe may ask for none is missing.
    (folder / "data").mkdir()
    every = Pick(Recipe().but(PROMPTS, "disjoint"), "data")
    data.STAGE.run(Work("data", every, Budget(tiny_scale, data.STAGE.fields), "float32", 1, {}, folder / "data"))
    return tiny_run | {"sft": folder / "sft", "data": folder / "data"}


@pytest.fixture(scope="module")
def left_behind(awkward, tiny_scale, tmp_path_factory):
    """What each stage that may read a detail leaves when it is at a label; a stage and an arm are run once."""

    @cache
    def numbers(stage, recipe):
        out = tmp_path_factory.mktemp(stage.name)
        stage.run(
            Work(
                stage.name,
                Pick(recipe, stage.name),
                Budget(tiny_scale, stage.fields),
                "float32",
                1,
                {name: awkward[name] for name in stage.upstream},
                out,
            )
        )
        return numbers_of(out)

    return lambda detail, label: tuple(
        numbers(pipeline.BY_NAME[name], Recipe().but(detail, label)) for name in detail.stages
    )


def numbers_of(folder):
    """Every weight, or of the data every token, as one hashable value."""
    weights = [load_file(file) for file in sorted(folder.rglob("*.safetensors"))]
    if weights:
        return hash(tuple(tensor.numpy().tobytes() for part in weights for tensor in part.values()))
    splits = [load_from_disk(split) for kind in ("posts", "pairs") for split in sorted((folder / kind).iterdir())]
    return hash(json.dumps([[rows[name][:] for name in rows.column_names if "_token" in name] for rows in splits]))


@pytest.mark.parametrize("detail", DETAILS.values(), ids=DETAILS)
def test_every_variant_leaves_another_result_than_every_other(detail, left_behind):
    results = {label: left_behind(detail, label) for label in detail.variants}
    same = [(one, two) for one in results for two in results if one < two and results[one] == results[two]]
    assert same == [], f"variants of {detail.name} that cannot be told apart"


@pytest.mark.parametrize(
    ("detail", "position"),
    [(d, i) for d in DETAILS.values() for i in range(len(d.stages))],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_detail_matters_to_each_stage_that_it_is_declared_for(detail, position, left_behind):
    assert len({left_behind(detail, label)[position] for label in detail.variants}) > 1


@pytest.mark.parametrize(
    ("detail", "stage"),
    [(d, stage) for d in DETAILS.values() for stage in d.stages],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_detail_is_read_by_each_stage_that_it_is_declared_for(detail, stage, tiny_run):
    assert detail.name in json.loads((tiny_run[stage] / "done.json").read_text())["read"]


def test_a_dead_detail_would_be_found_out(left_behind):
    dead = Detail(
        name="dead",
        stages=("sft",),
        paper="",
        question="",
        reference="a",
        variants={"a": 0, "b": 1},
        hypothesis="",
        moves={},
    )
    assert left_behind(dead, "a") == left_behind(dead, "b")
