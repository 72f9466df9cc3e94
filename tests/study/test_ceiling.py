"""The ceiling of a study: the reference with the gold score as reward, run beside the arms and none of them."""

import pytest

from repro import record
from repro.details import DETAILS, REWARD_SOURCE
from repro.engine.dag import jobs_of
from repro.errors import UserError
from repro.study import ablation, config


@pytest.fixture
def load(tmp_path, tokenizer_file):
    def load(name, scale="smoke", **more):
        return ablation.load(name, scale, changes={"tokenizer": str(tokenizer_file)}, folder=tmp_path, **more)

    return load


def test_it_is_the_reference_with_gold_as_reward_and_no_arm(load):
    study, plain = load("whiten_adv", with_ceiling=True), load("whiten_adv")
    assert study.arms == plain.arms and plain.ceiling == {} and plain.recipes == plain.arms
    assert study.recipes.keys() - study.arms.keys() == {record.CEILING}
    assert study.recipes[record.CEILING].choices == ((REWARD_SOURCE.name, record.CEILING_LABEL),)
    assert (record.CEILING_DETAIL, record.CEILING_LABEL in REWARD_SOURCE.variants) == (REWARD_SOURCE.name, True)


def test_no_variant_has_its_label():
    assert not [name for name, detail in DETAILS.items() if record.CEILING in detail.variants]


def test_its_stages_are_those_of_the_study_of_the_reward_and_no_other_stage_has_another_key(load):
    study, plain, source = load("whiten_adv", with_ceiling=True), load("whiten_adv"), load("reward_source")
    added = jobs_of(study).keys() - jobs_of(plain).keys()
    assert jobs_of(plain).keys() <= jobs_of(study).keys() and len(added) == 2 * len(study.seeds)  # PPO and evaluation
    assert added <= jobs_of(source).keys()


def test_it_makes_the_choices_that_all_arms_share(load):
    study = load("whiten_adv", shared={"kl_coef": "0.1"}, with_ceiling=True)
    assert dict(study.ceiling[record.CEILING].choices) == {"kl_coef": "0.1", "reward_source": "gold"}


def test_each_look_has_it_and_the_atlas_has_not(load, monkeypatch):
    study = load("whiten_adv", until="decided", with_ceiling=True)
    assert study.at(4, []).recipes.keys() == {study.detail.reference, record.CEILING}
    monkeypatch.setattr(ablation, "load", lambda *_: study)
    monkeypatch.setattr(ablation.scale, "find", lambda *_: study.scale)
    assert not ablation.in_atlas("whiten_adv", "smoke", ()).ceiling


def test_a_file_may_declare_it_for_its_own_scale(load, tmp_path):
    (tmp_path / "whiten_adv.toml").write_text('detail = "whiten_adv"\nscale = "smoke"\nceiling = true')
    assert load("whiten_adv").ceiling and not load("whiten_adv", "mini").ceiling


def test_a_config_keeps_it(load):
    for study in (load("whiten_adv", with_ceiling=True), load("whiten_adv")):
        kept = config.as_config(study)
        assert (record.CEILING in kept) == bool(study.ceiling)
        assert config.from_config(kept) == study


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("reward_source", {}, "has its ceiling as the arm gold; leave --ceiling out"),
        ("whiten_adv", {"shared": {"reward_source": "gold"}}, "all arms have reward_source=gold, which is the ceiling"),
        ("temperature", {"shared": {"reward_ensemble": "mean_of_3"}}, "the gold score needs no reward model"),
        ("whiten_adv", {"scale": "pythia-160m"}, "needs the facts and annotators of the embedded corpus; corpus=tldr"),
    ],
)
def test_where_it_makes_no_sense_one_line_says_so(load, name, given, why):
    with pytest.raises(UserError, match=why) as refused:
        load(name, **given, with_ceiling=True)
    assert "\n" not in str(refused.value)


def test_a_study_that_is_judged_by_something_else_has_none(load, tmp_path):
    (tmp_path / "other.toml").write_text('detail = "rm_loss"\nprimary = "rm/validation_accuracy"')
    with pytest.raises(UserError, match="a ceiling is of a win rate or a gold score, and this study is judged by rm/"):
        load("other", with_ceiling=True)
