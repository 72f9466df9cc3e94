"""Recipes, and that no detail is a dead toggle: each is read where it is declared, and each variant matters."""

import json
import re
from dataclasses import replace
from functools import cache, partial
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file, save_file

from repro import details
from repro.__main__ import main
from repro.cli import catalogue
from repro.cli.source import ROOT
from repro.detail import PIPELINE, Clash, Detail, Pick, Recipe, Variant, others
from repro.details import (
    ADAM_EPSILON,
    AFTER_EOS,
    CLASHES,
    DETAILS,
    DROPOUT,
    FEEDBACK_ROUNDS,
    GAMMA,
    MINIBATCHES,
    OLD_LOGPROB,
    PPO_EPOCHS,
    PROMPTS,
    WHITEN_ADV,
    clashes,
)
from repro.engine import artefacts, pipeline
from repro.errors import UserError
from repro.models import pretrained
from repro.stages import data, stage
from repro.stages.corpus import Corpus
from repro.stages.stage import Budget, StageContext
from repro.study import ablation
from tests.bad_input.case import WIDEST
from tests.one_detail import constant_of, labels_as_written, place_of

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


RENAMED = [(detail, old, new) for detail in DETAILS.values() for old, new in detail.renamed.items()]


@pytest.mark.parametrize(("detail", "old", "new"), RENAMED, ids=[f"{d.name}={old}" for d, old, _ in RENAMED])
def test_a_former_label_is_refused_in_one_line_that_says_the_new_one(detail, old, new, capsys, tmp_path):
    refusal = f"{detail.name}={old} is now called {detail.name}={new}; write that instead"
    with pytest.raises(UserError) as from_python:
        Recipe().but(detail, old)
    assert str(from_python.value) == refusal
    (tmp_path / f"{detail.name}.toml").write_text(f'detail = "{detail.name}"\narms = ["{old}"]\n')
    with pytest.raises(UserError) as from_file:
        ablation.load(detail.name, "smoke", folder=tmp_path)
    assert str(from_file.value) == refusal
    for words in ([detail.name, "--arms", old], ["gamma", "--with", f"{detail.name}={old}"]):
        assert main(["plan", *words, "--scale", "smoke"]) == 2
        assert capsys.readouterr().err == f"error: {refusal}\n"


def test_a_cache_key_spells_the_former_label_of_a_renamed_one():
    assert RENAMED and all(details.keyed_label(detail, new) == old for detail, old, new in RENAMED)
    assert details.keyed_label(WHITEN_ADV, "off") == "off"


@pytest.mark.parametrize(
    "wrong",
    [
        {"reference": "other"},
        {"renamed": {"none": "of"}},
        {"renamed": {"scale_only": "off"}},
        {"stages": ("pppo",)},
        {"stages": ()},
        {"expected": {"kl": "sideways"}},
        {"expected": {"kl": {"of": "up"}}},
        {"variants": {"shift_and_scale": Variant(1, "")}},
        {"variants": {"shift_and_scale": 1}},
    ],
)
def test_a_detail_that_contradicts_itself_cannot_be_declared(wrong):
    with pytest.raises(AssertionError):
        replace(WHITEN_ADV, **wrong)


each_detail = pytest.mark.parametrize("detail", DETAILS.values(), ids=DETAILS)


@each_detail
def test_a_declaration_tells_a_stranger_what_why_and_where(detail):
    for field in ("paper", "question", "hypothesis"):
        assert len(getattr(detail, field).split()) > 1, f"{place_of(detail)}: {field} says nothing"
    for label, variant in detail.variants.items():
        assert len(variant.does.split()) > 1, f"{place_of(detail, label)}: what {label!r} does is not said"
    assert len({variant.does for variant in detail.variants.values()}) == len(detail.variants) > 1, (
        f"{place_of(detail)}: there are too few variants, or two that say the same"
    )


@each_detail
def test_a_name_is_that_of_its_constant_and_a_label_says_what_happens(detail):
    assert re.fullmatch("[a-z][a-z0-9_]*", detail.name), f"{place_of(detail)}: {detail.name!r} is no plain word"
    assert constant_of(detail) == detail.name.upper(), f"{place_of(detail)}: call it {detail.name.upper()}"
    for label in detail.variants:
        assert re.fullmatch(r"[\w.+-]+", label), f"{place_of(detail, label)}: no command can name the label {label!r}"
        assert label.lower() not in BARE, f"{place_of(detail, label)}: say what happens at {label!r}"


@each_detail
def test_a_label_stands_once_and_no_variant_is_the_reference_again(detail):
    written = labels_as_written(detail)
    assert len(set(written)) == len(written), f"{place_of(detail)}: a label stands twice in {written}"
    reference = spelled(detail.variants[detail.reference].value)
    for label in others(detail):
        same = spelled(detail.variants[label].value) == reference
        assert not same, f"{place_of(detail, label)}: {label!r} is {detail.reference!r}, the reference, once more"


# What a switch says, and not what happens; "off" and "none" are what happens where nothing does.
BARE = {"yes", "no", "true", "false", "on", "enabled", "disabled"}


def spelled(value):
    """A variant's value, so that two partials of the same function and arguments are equal."""
    return (value.func, value.args, value.keywords) if isinstance(value, partial) else value


@pytest.mark.parametrize(
    ("rule", "field", "wrong", "says"),
    [
        (test_a_declaration_tells_a_stranger_what_why_and_where, "question", "", "question says nothing"),
        (
            test_a_declaration_tells_a_stranger_what_why_and_where,
            "variants",
            {"off": Variant(1, "nothing")},
            "what 'off' does is not said",
        ),
        (
            test_a_declaration_tells_a_stranger_what_why_and_where,
            "variants",
            {"twice": Variant(1, WHITEN_ADV.variants["off"].does)},
            "there are too few variants, or two that say the same",
        ),
        (
            test_a_name_is_that_of_its_constant_and_a_label_says_what_happens,
            "variants",
            {"yes": Variant(1, "is")},
            "say",
        ),
        (
            test_a_name_is_that_of_its_constant_and_a_label_says_what_happens,
            "variants",
            {"a b": Variant(1, "is")},
            "no c",
        ),
        (
            test_a_label_stands_once_and_no_variant_is_the_reference_again,
            "variants",
            {"again": WHITEN_ADV.variants["shift_and_scale"]},
            "'again' is 'shift_and_scale', the reference, once more",
        ),
    ],
)
def test_a_declaration_that_breaks_a_rule_is_told_by_file_and_line(rule, field, wrong, says):
    wrong = {**WHITEN_ADV.variants, **wrong} if field == "variants" else wrong
    rule(WHITEN_ADV)
    with pytest.raises(AssertionError, match=rf"^repro/details/ppo\.py:\d+: {says}"):
        rule(replace(WHITEN_ADV, **{field: wrong}))


@pytest.mark.every_detail
def test_every_name_is_declared_once():
    declared = [value for value in vars(details).values() if isinstance(value, Detail)]
    assert sorted(detail.name for detail in declared) == sorted(DETAILS)


# ----------------------------------------------------------------------------- what makes no sense together


@pytest.fixture
def load(tokenizer_file, tmp_path):
    """A study of one arm of a detail, beside choices that all of its arms share."""
    return lambda detail, label, company: ablation.load(
        detail.name, "smoke", ["1"], {"tokenizer": str(tokenizer_file)}, company, [label], folder=tmp_path
    )


each_clash = pytest.mark.parametrize("clash", CLASHES, ids=lambda clash: f"{clash.one.name}-{clash.other.name}")


@each_clash
def test_a_clash_names_labels_that_there_are(clash):
    for detail, labels in ((clash.one, clash.labels), (clash.other, clash.other_labels), *clash.beside):
        for label in labels:
            assert label in detail.variants, f"{clash_at(label)}: {detail.name} has no variant {label!r}"


def clash_at(label):
    """file:line of the first mention of a label among the clashes."""
    file = Path(clashes.__file__)
    lines = enumerate(file.read_text().splitlines(), start=1)
    line = next((line for line, text in lines if json.dumps(label) in text), 1)
    return f"{file.relative_to(ROOT)}:{line}"


@each_clash
def test_choices_that_make_no_sense_together_are_refused_whichever_of_them_is_studied(clash, load):
    sides = (clash.one, clash.labels), (clash.other, clash.other_labels)
    for (studied, labels), (company, company_labels) in (sides, sides[::-1]):
        for label in labels:
            for other in company_labels:
                with pytest.raises(UserError) as told:
                    load(studied, label, {company.name: other})
                for words in (f"{studied.name}={label}", f"{company.name}={other}", clash.why):
                    assert words in str(told.value)


@each_clash
def test_a_refusal_says_why_and_what_would_be_right(clash):
    recipe = Recipe().but(clash.one, clash.labels[0]).but(clash.other, clash.other_labels[0])
    with pytest.raises(UserError) as told:
        clash.check(recipe)
    assert clash.why in str(told.value) and len(clash.why.split()) > 2
    clash.check(recipe.but(clash.one, clash.one.reference))
    clash.check(recipe.but(clash.other, clash.other.reference))


@each_clash
def test_a_refusal_is_a_line_whichever_labels_clash(clash):
    """Every pair of its labels, beside every choice that it takes for granted; with `error: ` before it."""
    for one, other, *beside in product(clash.labels, clash.other_labels, *(labels for _, labels in clash.beside)):
        recipe = Recipe().but(clash.one, one).but(clash.other, other)
        for (detail, _), label in zip(clash.beside, beside):
            recipe = recipe.but(detail, label)
        with pytest.raises(UserError) as told:
            clash.check(recipe)
        assert f"{clash.one.name}={one} and {clash.other.name}={other} " in str(told.value)
        assert len(f"error: {told.value}") <= WIDEST, str(told.value)


# What is chosen, and what nothing reads beside it: the second leaves every weight as it was.
UNREAD = [
    ({"kl_placement": "none"}, {"reference_policy": "base"}),
    ({"kl_coef": "0"}, {"kl_estimator": "k3"}),
    ({"kl_coef": "0"}, {"kl_placement": "in_loss_k2"}),
    ({"kl_coef": "0"}, {"reference_policy": "base"}),
    ({"temperature": "1"}, {"logprob_temperature": "unscaled"}),
    ({"algorithm": "dpo"}, {"prompts": "disjoint"}),
    ({"algorithm": "dpo"}, {"dropout": "on_everywhere"}),
    ({"ppo_epochs": "1"}, {"early_stop": "0.002"}),
    ({"reward_shape": "sigmoid_over_reference"}, {"reward_clip": "1"}),
    ({"advantage": "reward_to_go", "critic_trunk": "shared"}, {"critic_lambda": "1"}),
    *(
        ({"baseline": baseline}, {detail: label})
        for baseline in ("leave_one_out", "batch_mean", "greedy_response")
        for detail, label in (("kl_position", "with_the_score"), ("score_position", "at_eos"))
    ),
]


@pytest.mark.parametrize(("chosen", "unread"), UNREAD, ids=str)
def test_a_choice_that_nothing_reads_is_refused(chosen, unread):
    recipe = Recipe()
    for name, label in (chosen | unread).items():
        recipe = recipe.but(DETAILS[name], label)
    with pytest.raises(UserError, match="make no sense together"):
        details.check(recipe)


# With a discount, whitened rewards or several steps the same choice does matter.
READ = [
    {"ppo_epochs": "1", "minibatches": "4", "early_stop": "0.002"},
    {"reward_shape": "log_sigmoid_over_reference", "reward_clip": "1"},
    {"advantage": "n_step", "critic_lambda": "1"},
    {"baseline": "leave_one_out", "gamma": "0.95", "kl_position": "with_the_score"},
    {"baseline": "leave_one_out", "whiten_reward": "scale_only", "score_position": "at_eos"},
    {"baseline": "none", "kl_position": "with_the_score"},
]


@pytest.mark.parametrize("choices", READ, ids=str)
def test_a_choice_that_something_reads_is_not_refused(choices):
    recipe = Recipe()
    for name, label in choices.items():
        recipe = recipe.but(DETAILS[name], label)
    details.check(recipe)


def test_a_reference_that_would_not_be_the_sft_policy_is_refused():
    # Without its adapter the second round's policy is the first round's, and `weights.lora` has no other reference.
    recipe = Recipe().but(details.ADAPTER, "lora")
    for label in ("2", "2_of_sft_samples"):
        details.check(recipe.but(FEEDBACK_ROUNDS, label))
    with pytest.raises(UserError, match="would be the first round.s policy"):
        details.check(recipe.but(FEEDBACK_ROUNDS, "2_continued"))


def test_dropout_that_refuses_every_step_within_a_radius_is_refused_in_updates_too():
    for detail, label in ((DROPOUT, "on_everywhere"), (details.UPDATE_DROPOUT, "0.1")):
        with pytest.raises(UserError, match="further apart than the radius"):
            details.check(Recipe().but(details.CONSTRAINED_STEP, "trpo").but(detail, label))


@each_detail
def test_every_variant_makes_sense_where_nothing_else_is_changed(detail):
    for label in detail.variants:
        details.check(Recipe().but(detail, label))


def test_two_choices_that_no_clash_is_about_go_together():
    clashing = {frozenset((clash.one.name, clash.other.name)) for clash in CLASHES}
    for one, other in combinations(DETAILS.values(), 2):
        if frozenset((one.name, other.name)) not in clashing:
            details.check(Recipe().but(one, list(one.variants)[-1]).but(other, list(other.variants)[-1]))


@pytest.mark.parametrize(
    ("choices", "episodes", "ranks", "multiple"),
    [
        ({"responses_per_query": "8"}, 60, 1, 8),
        ({"baseline": "leave_one_out"}, 60, 2, 8),
        ({"baseline": "group_mean", "responses_per_query": "2"}, 62, 4, 8),
    ],
    ids=str,
)
def test_a_batch_without_whole_groups_of_responses_on_each_rank_is_refused(choices, episodes, ranks, multiple):
    recipe = Recipe()
    for name, label in choices.items():
        recipe = recipe.but(DETAILS[name], label)
    with pytest.raises(UserError, match=f"batch of {episodes} episodes .* to a multiple of {multiple}$"):
        details.check_batch(recipe, episodes, ranks)
    details.check_batch(recipe, 8 * episodes, ranks)
    details.check_batch(Recipe(), episodes, ranks)


def test_a_study_of_groups_that_its_batch_cannot_hold_is_refused_before_it_begins(tokenizer_file, tmp_path):
    with pytest.raises(UserError, match="set ppo_batch to a multiple of 8"):
        budget = {"tokenizer": str(tokenizer_file), "ppo_batch": "12", "episodes": "24"}
        ablation.load("responses_per_query", "smoke", ["1"], budget, folder=tmp_path)


# ----------------------------------------------------------------------------- one declaration and one call site


@pytest.fixture
def toy(monkeypatch):
    """A detail as somebody would add it: declared, and read by a stage in one place."""
    toy = Detail(
        name="toy",
        stages=("ppo",),
        paper="nowhere",
        question="Does it matter?",
        reference="a",
        variants={"a": Variant(1.0, "weights are ones"), "b": Variant(2.0, "weights are twos")},
        hypothesis="Two is more than one.",
        expected={"test/win_rate": "up"},
    )
    monkeypatch.setitem(DETAILS, "toy", toy)
    return toy


def toy_stage(detail):
    """A stage in the place of PPO with the one call site."""

    def run(work):
        save_file({"weight": torch.full((2,), work.pick(detail))}, work.out / "weights.safetensors")
        work.finish({})

    return replace(pipeline.BY_NAME["ppo"], run=run, upstream=())


def test_a_new_detail_is_run_cached_and_noted_by_its_declaration_and_its_call_site(toy, tiny_scale, tmp_path):
    each, found = toy_stage(toy), {}
    for label, ours in (("a", 1.0), ("b", 2.0)):
        recipe = Recipe().but(toy, label)
        keys = {"ppo": artefacts.key(each, recipe, tiny_scale, 1, {})}
        found[label] = artefacts.run_or_reuse(each, recipe, tiny_scale, 1, keys, tmp_path, pytest.fail)
        assert load_file(found[label] / "weights.safetensors")["weight"].tolist() == [ours, ours]
        assert json.loads((found[label] / "done.json").read_text())["read"] == ["toy"]
    assert found["a"] != found["b"]


def test_a_new_detail_leaves_every_key_of_the_reference_as_it_was(tiny_scale, monkeypatch, toy):
    with_it = pipeline.keys(Recipe(), tiny_scale, 1)
    monkeypatch.delitem(DETAILS, "toy")
    assert with_it == pipeline.keys(Recipe(), tiny_scale, 1)


def test_a_new_detail_has_a_plan(toy, tokenizer_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("REPRO_CACHE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    assert main(["plan", "toy", "--scale", "smoke", "--seeds", "1", "--set", f"tokenizer={tokenizer_file}"]) == 0
    assert "toy at scale smoke: Does it matter?\narms a, b;" in capsys.readouterr().out


def test_a_new_detail_is_refused_where_it_is_not_declared_misspelt_or_in_bad_company(toy, monkeypatch, load):
    with pytest.raises(LookupError, match="stage 'sft' reads 'toy', declared for"):
        Pick(Recipe(), "sft")(toy)
    with pytest.raises(UserError, match="toy has no variant 'c'"):
        Recipe().but(toy, "c")
    with pytest.raises(UserError, match="did you mean 'toy'"):
        details.find("toyy")
    monkeypatch.setattr(clashes, "CLASHES", (Clash(toy, ("b",), GAMMA, ("0.95",), "two tens are not a score"),))
    with pytest.raises(UserError, match="toy=b and gamma=0.95 make no sense together: two tens are not a score"):
        load(toy, "b", {"gamma": "0.95"})


# ----------------------------------------------------------------------------- no dead toggle
#
# Nothing here knows any detail but the two tables: each stage is run, on inputs awkward enough to tell variants apart,
# for every variant of every detail that is declared for it, and the numbers that it leaves for the next stage are
# compared.

# In the second epoch ratios are no longer 1; further ones would take half of the time.
TWO_EPOCHS = Recipe().but(PPO_EPOCHS, "2")
# So many steps on a batch that a ratio reaches 3 and the KL to the policy that sampled a limit.
MANY_STEPS = Recipe().but(MINIBATCHES, "8").but(ADAM_EPSILON, "1e-8")
# What all variants of a detail are run beside in the place of two epochs, since only there they differ.
COMPANY = {
    "critic_warm_up": Recipe().but(PPO_EPOCHS, "1"),  # its batches are many, and an epoch of each tells them apart
    "dual_clip": MANY_STEPS,
    "early_stop": MANY_STEPS,
    # Log-probabilities of the sampler's own leave nothing to correct; dropout makes others differ a lot.
    "sampler_correction": Recipe().but(OLD_LOGPROB, "recomputed").but(DROPOUT, "on_everywhere"),
    "uninformative_groups": Recipe().but(details.BASELINE, "leave_one_out"),
    "sampling": TWO_EPOCHS.but(AFTER_EOS, "unmasked"),  # what follows the end is masked otherwise
}
# Details with variants that are the same until the third update; two updates are enough for the others.
LATE = {"early_stop", "lr_schedule", "staleness", "uninformative_groups"}
# Variants that are the same here, whatever they are run beside, and where a test tells them apart.
ALIKE = {
    "whiten_scope": [("each_rank", "whole_batch")],  # there is one rank; test_ppo has two
    "sampler_correction": [("masked_2", "truncated_2")],  # no two are a factor of 2 apart; test_ratio has such tokens
    "precision": [("as_the_scale_says", "float32")],  # on a CPU the scale says float32; test_model has other devices
}


@pytest.fixture(scope="module")
def every_stage(tiny_run, tiny_scale):
    """The artefacts' folders of an arm that has every stage."""
    rounds = Recipe().but(FEEDBACK_ROUNDS, "2")
    return pipeline.run(rounds, tiny_scale, 1, tiny_run["ppo"].parent, warn=pytest.fail)


@pytest.fixture(scope="module")
def awkward(tiny_run, tiny_scale, tmp_path_factory):
    """The tiny run's artefacts, with a policy that ends some responses early, some late and some not at all.

    The reward model's scores are so large that a clip has something to clip, and its attention so sharp that a position
    off by one shows, if only in the rounding.
    """
    folder = tmp_path_factory.mktemp("awkward")
    policy = pretrained.load_policy(tiny_run["sft"] / "model")
    eos = Corpus(tiny_run["data"]).eos
    with torch.no_grad():
        policy.gpt_neox.final_layer_norm.weight[0], policy.gpt_neox.final_layer_norm.bias[0] = 0.0, 1.0
        output = policy.get_output_embeddings().weight
        output[:, 0] = 0.0
        output[eos, 0] = 3.5
    pretrained.save_policy(policy, folder / "sft" / "model")
    reward_model = pretrained.load_scalar(tiny_run["rm"] / "model")
    reward_model.gain.mul_(0.01)
    with torch.no_grad():
        reward_model.trunk.layers[0].attention.query_key_value.weight.mul_(20)
    pretrained.save_scalar(reward_model, folder / "rm" / "model")
    # Of the splits that a recipe may ask for none is missing.
    (folder / "data").mkdir()
    every = Pick(Recipe().but(PROMPTS, "disjoint"), "data")
    data.STAGE.run(
        StageContext("data", every, Budget(tiny_scale, data.STAGE.fields), "float32", 1, {}, folder / "data")
    )
    trained = pretrained.load_policy(tiny_run["ppo"] / "model")
    with torch.no_grad():
        trained.gpt_neox.layers[0].attention.query_key_value.weight.mul_(20)
    pretrained.save_policy(trained, folder / "ppo" / "model")
    own = {name: folder / name for name in ("sft", "rm", "ppo", "data")}
    return tiny_run | own | dict.fromkeys(("rm_2", "rm_3"), tiny_run["rm"])


@pytest.fixture(scope="module")
def left_behind(awkward, tiny_scale, tmp_path_factory):
    """What each stage that may read a detail leaves when it is at a label; a stage and an arm are run once."""

    @cache
    def numbers(name, recipe, updates):
        if name == PIPELINE:
            return repr(pipeline.steps(recipe))
        each, out = pipeline.BY_NAME[name], tmp_path_factory.mktemp(name)
        scale = replace(tiny_scale, episodes=updates * tiny_scale.ppo_batch)
        optional = [name for step in pipeline.steps(recipe) if step.name == each.name for name in step.sources]
        inputs = {upstream: awkward[upstream] for upstream in {*each.upstream, *optional}}
        try:
            each.run(StageContext(name, Pick(recipe, name), Budget(scale, each.fields), "float32", 1, inputs, out))
            assert_finite(out)
        except Exception as error:
            error.add_note(f"in {name} of the arm {dict(recipe.choices)}")
            raise
        return numbers_of(out)

    def left(detail, label):
        recipe = COMPANY.get(detail.name, TWO_EPOCHS).but(detail, label)
        return tuple(numbers(name, recipe, 3 if detail.name in LATE else 2) for name in detail.stages)

    return left


def assert_finite(folder):
    """The stage came to its end, and every number that it logged on the way is one."""
    result = json.loads((folder / stage.RESULT).read_text())
    logged = [line["metrics"] for line in stage.read_journal(folder)] + [result["metrics"]]
    assert result["outcome"] == "finished"
    assert [name for metrics in logged for name in metrics if name.startswith("nonfinite/")] == []


def numbers_of(folder):
    """Every weight, or of comparisons and posts every token, and every metric, as one hashable value."""
    weights = [load_file(file) for file in sorted(folder.rglob("*.safetensors"))]
    if weights:
        return hash(tuple(tensor.numpy().tobytes() for part in weights for tensor in part.values()))
    splits = [load_from_disk(split) for kind in ("posts", "pairs") for split in sorted(folder.glob(f"{kind}/*"))]
    tokens = [[rows[name][:] for name in rows.column_names if "_token" in name] for rows in splits]
    logged = [line["metrics"] for line in stage.read_journal(folder)]
    return hash(json.dumps([tokens, logged]) + (folder / stage.RESULT).read_text())


@each_detail
def test_every_variant_runs_to_its_end_without_a_number_that_is_not_finite(detail, left_behind):
    assert [len(left_behind(detail, label)) for label in detail.variants] == [len(detail.stages)] * len(detail.variants)


@each_detail
def test_every_variant_leaves_another_result_than_every_other(detail, left_behind):
    results = {label: left_behind(detail, label) for label in detail.variants}
    same = [(one, two) for one, two in combinations(sorted(results), 2) if results[one] == results[two]]
    assert same == ALIKE.get(detail.name, []), (
        f"{place_of(detail, *same[0][:1]) if same else place_of(detail)}: variants that cannot be told apart, {same}; "
        f"{detail.name} is read at {calls_of(detail)}"
    )


def calls_of(detail):
    """Where a detail is read, as file:line."""
    return ", ".join(map(str, catalogue.find(detail.name).calls)) or "no place"


@pytest.mark.parametrize(
    ("detail", "position"),
    [(d, i) for d in DETAILS.values() for i in range(len(d.stages))],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_detail_matters_to_each_stage_that_it_is_declared_for(detail, position, left_behind):
    results = {left_behind(detail, label)[position] for label in detail.variants}
    assert len(results) > 1, (
        f"{place_of(detail)}: declared for {detail.stages[position]}, which leaves the same at every variant; "
        f"{detail.name} is read at {calls_of(detail)}"
    )


@pytest.mark.parametrize(
    ("detail", "stage"),
    [(d, stage) for d in DETAILS.values() for stage in d.stages if stage != PIPELINE],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_detail_is_read_by_each_stage_that_it_is_declared_for(detail, stage, every_stage):
    read = json.loads((every_stage[stage] / "done.json").read_text())["read"]
    assert detail.name in read, (
        f"{place_of(detail)}: declared for {stage}, whose run came by no pick of it; it stands at {calls_of(detail)}"
    )


def test_a_dead_detail_would_be_found_out(left_behind, toy):
    assert left_behind(toy, "a") == left_behind(toy, "b")
