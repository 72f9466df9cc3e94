"""The pipeline: its order, and what two arms of a study share."""

import json
from dataclasses import replace

import pytest

from repro import detail
from repro.detail import Recipe
from repro.details import BLIND_SPOT, GAMMA, REWARD_NORMALISATION, REWARD_SOURCE
from repro.engine import pipeline
from repro.errors import UserError
from repro.stages.stage import DONE


def test_the_stages_are_those_that_details_may_name_and_each_comes_after_what_it_reads():
    names = [each.name for each in pipeline.STAGES]
    assert names == list(detail.STAGES)
    for each in pipeline.STAGES:
        assert set(each.upstream) <= set(names[: names.index(each.name)])


def differ(ours, theirs):
    return {name for name in ours if ours[name] != theirs[name]}


def test_only_what_an_arm_or_a_seed_changes_has_another_key(tiny_scale):
    reference = pipeline.keys(Recipe(), tiny_scale, 1)
    discounted = pipeline.keys(Recipe().but(GAMMA, "0.99"), tiny_scale, 1)
    uncentred = pipeline.keys(Recipe().but(REWARD_NORMALISATION, "none"), tiny_scale, 1)
    assert differ(discounted, reference) == {"ppo", "evaluate"}
    assert differ(uncentred, reference) == {"rm", "baseline", "ppo", "evaluate"}
    assert differ(pipeline.keys(Recipe(), tiny_scale, 2), reference) == set(reference) - {"data", "base"}


def test_a_second_arm_makes_only_what_the_first_has_not(tiny_scale, tiny_run):
    cache, arm = tiny_run["data"].parent, Recipe().but(GAMMA, "0.99")

    def finished():
        return {file.parent.name: json.loads(file.read_text())["finished"] for file in cache.glob(f"*/{DONE}")}

    before = finished()
    folders = pipeline.run(arm, tiny_scale, 1, cache, warn=pytest.fail)
    after = finished()
    assert after.items() >= before.items(), "what the first arm made is not made again"
    assert {name for name, folder in folders.items() if folder.name not in before} == {"ppo", "evaluate"}
    assert differ(folders, tiny_run) == {"ppo", "evaluate"}
    assert pipeline.run(arm, tiny_scale, 1, cache, warn=pytest.fail) == folders
    assert finished() == after, "the second time all of it is there"


def test_an_arm_that_the_corpus_cannot_serve_is_refused_before_any_stage(tiny_scale, tmp_path):
    for choice, label in ((BLIND_SPOT, "inventions"), (REWARD_SOURCE, "gold")):
        with pytest.raises(
            UserError, match=f"{choice.name}={label} needs the facts and annotators of the embedded corpus"
        ):
            pipeline.run(Recipe().but(choice, label), replace(tiny_scale, corpus="local"), 1, tmp_path)
    assert not list(tmp_path.iterdir())
