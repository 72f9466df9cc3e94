"""A study as data: it comes back as it was, on another machine too, and what is no study is told in a sentence."""

import json
from dataclasses import asdict, replace

import pytest

from repro.__main__ import main
from repro.engine import pipeline
from repro.errors import UserError
from repro.study import ablation, config
from repro.study.scale import SCALES

STUDIES = {
    "fixed seeds": {"name": "whiten_adv"},
    "looks": {"name": "whiten_adv", "until": "decided"},
    "some arms, a changed budget": {
        "name": "kl_coef",
        "arms": ["0"],
        "changes": {"episodes": "512"},
        "scale_name": "smoke",
    },
    "shared choices": {"name": "gamma", "shared": {"whiten_adv": "off", "kl_estimator": "k3"}},
    "another algorithm": {"name": "algorithm"},
}


@pytest.fixture(params=STUDIES, ids=str)
def study(request):
    return ablation.load(**STUDIES[request.param])


def test_a_study_comes_back_as_it_was_with_the_same_keys(study):
    back = config.from_config(json.loads(json.dumps(config.as_config(study))))
    assert replace(back, arms={}) == replace(study, arms={})
    assert {arm: dict(recipe.choices) for arm, recipe in back.arms.items()} == {
        arm: dict(recipe.choices) for arm, recipe in study.arms.items()
    }
    for arm in study.arms:
        assert pipeline.keys(back.arms[arm], back.scale, 1) == pipeline.keys(study.arms[arm], study.scale, 1)


def test_it_holds_every_choice_and_every_field_and_no_path_of_this_machine(study):
    told = config.as_config(study)
    assert told["scale"].keys() == asdict(SCALES["mini"]).keys()
    from repro.details import DETAILS

    assert all(choices.keys() == DETAILS.keys() for choices in told["arms"].values())
    assert str(config.EMBEDDED) not in json.dumps(told) and told["scale"]["tokenizer"] == "shipped:tokenizer.json"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"config": 2}, "is of version 2, and this one reads 1"),
        ({"detail": "whiten_avd"}, "whiten_adv"),
        ({"arms": {}}, "not variants of whiten_adv"),
        ({"arms": {"off": {"whiten_adv": "off"}}}, "the reference first"),
        ({"arms": {"shift_and_scale": 3}}, "an arm is the label of each detail"),
        ({"arms": {"shift_and_scale": {"no_such": "x"}}}, "no_such"),
        ({"arms": {"shift_and_scale": {"gamma": "no_such"}}}, "no_such"),
        ({"scale": {"name": "mini"}}, "missing"),
        ({"scale": {"colour": "red"}}, "a scale has no field 'colour'"),
        ({"scale": {"episodes": "many"}}, "episodes = 'many' has the wrong type"),
        ({"scale": {"episodes": True}}, "wrong type"),
        ({"seeds": [1.5]}, "seeds = .* must be whole numbers"),
        ({"seeds": 1}, "the field seeds is missing or has the wrong type"),
        ({"primary": "test/luck"}, "no metric 'test/luck'"),
        ({"smallest_effect": True}, "smallest_effect"),
    ],
)
def test_what_is_no_study_of_this_version_is_told(change, message):
    told = config.as_config(ablation.load("whiten_adv")) | change
    with pytest.raises(UserError, match=message):
        config.from_config(told)


def test_a_budget_that_fits_no_arm_is_told_as_without_a_config():
    told = config.as_config(ablation.load("baseline", "smoke", arms=["leave_one_out"]))
    told["scale"]["ppo_batch"] = 30
    with pytest.raises(UserError, match="no whole number of queries with 4 responses"):
        config.from_config(told)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000])
def test_a_file_that_is_none_is_told(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    assert main(["plan", "--config", "config.json"]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: config.json") and error.count("\n") == 1 and "give the config.json of a run" in error
    )


@pytest.mark.parametrize("words", [["whiten_adv"], ["--scale", "smoke"], ["--seeds", "1"], ["--set", "posts=64"]])
def test_what_the_config_says_is_not_said_twice(tmp_path, capsys, words):
    assert main(["plan", *words, "--config", str(tmp_path / "config.json")]) == 2
    assert f"leave {words[0] if words[0].startswith('--') else 'DETAIL'} out" in capsys.readouterr().err


def test_a_plan_of_a_config_is_that_of_its_study(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_CACHE", "")
    (tmp_path / "it.json").write_text(json.dumps(config.as_config(ablation.load("kl_coef", "smoke", arms=["0"]))))
    assert main(["plan", "kl_coef", "--scale", "smoke", "--arms", "0"]) == 0
    wanted = [line for line in capsys.readouterr().out.splitlines() if "arms" in line]
    assert main(["plan", "--config", "it.json"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "arms" in line] == wanted != []
