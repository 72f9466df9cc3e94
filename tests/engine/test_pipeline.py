"""The pipeline: its order, and what two arms of a study share."""

import json
from dataclasses import replace

import pytest

from repro import detail
from repro.detail import Recipe
from repro.details import (
    BLIND_SPOT,
    FEEDBACK_ROUNDS,
    GAMMA,
    REWARD_ENSEMBLE,
    REWARD_NORMALISATION,
    REWARD_SOURCE,
    check_rounds,
)
from repro.engine import pipeline
from repro.engine.dag import jobs_of
from repro.errors import UserError
from repro.stages.corpus import Corpus
from repro.stages.stage import DONE, read_journal
from repro.study.ablation import Ablation


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
    for choice, label, needs in (
        (BLIND_SPOT, "inventions", "the facts and annotators of the embedded corpus"),
        (REWARD_SOURCE, "gold", "the facts and annotators of the embedded corpus"),
        (
            FEEDBACK_ROUNDS,
            "2",
            "annotators, and corpus=local has none .*; set annotator to a reward model's folder, or to",
        ),
    ):
        with pytest.raises(UserError, match=f"{choice.name}={label} needs {needs}"):
            pipeline.run(Recipe().but(choice, label), replace(tiny_scale, corpus="local"), 1, tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ rounds and ensembles


def steps_of(label):
    return {each.name: each for each in pipeline.steps(Recipe().but(FEEDBACK_ROUNDS, label))}


@pytest.mark.parametrize("label", FEEDBACK_ROUNDS.variants)
def test_each_step_comes_after_those_that_it_reads(label):
    names = []
    for each in pipeline.steps(Recipe().but(FEEDBACK_ROUNDS, label)):
        read = {each.sources.get(name, name) for name in each.stage.upstream} | set(each.sources.values())
        assert read <= set(names)
        names.append(each.name)
    assert len(set(names)) == len(names)


def test_a_round_compares_what_the_policy_before_wrote_and_trains_on_all_comparisons():
    steps = steps_of("3")
    assert list(steps) == [
        *("data", "base", "sft", "rm_round_1", "ppo_round_1", "feedback_round_2", "rm_round_2", "ppo_round_2"),
        *("feedback", "rm", "baseline", "ppo", "evaluate"),
    ]
    assert steps["feedback_round_2"].sources == {"rm": "rm_round_1", "ppo": "ppo_round_1"}
    assert steps["feedback"].sources == {"rm": "rm_round_2", "ppo": "ppo_round_2", "earlier": "feedback_round_2"}
    assert steps["rm"].sources == {"feedback": "feedback"} and steps["ppo"].sources == {"rm": "rm"}
    assert steps_of("2_continued")["ppo"].sources == {"rm": "rm", "start": "ppo_round_1"}
    assert steps_of("2_of_sft_samples")["feedback"].sources == {"rm": "rm_round_1", "ppo": "sft"}


def test_rounds_share_what_fewer_rounds_have_made(tiny_scale):
    one, two, three = (pipeline.keys(Recipe().but(FEEDBACK_ROUNDS, label), tiny_scale, 1) for label in "123")
    assert (two["rm_round_1"], two["ppo_round_1"]) == (one["rm"], one["ppo"])
    assert [three[f"{name}_round_2"] for name in ("feedback", "rm", "ppo")] == [
        two[name] for name in ("feedback", "rm", "ppo")
    ]
    assert len({keys["rm"] for keys in (one, two, three)}) == len({keys["evaluate"] for keys in (one, two, three)}) == 3


def test_members_of_an_ensemble_differ_in_their_seed_alone(tiny_scale):
    arms = [Recipe().but(REWARD_ENSEMBLE, label) for label in ("one", "mean_of_3", "lowest_of_3")]
    alone, mean, lowest = (pipeline.keys(arm, tiny_scale, 1) for arm in arms)
    members = ("rm", "rm_2", "rm_3")
    assert alone["rm"] == mean["rm"] and [mean[name] for name in members] == [lowest[name] for name in members]
    assert len({mean[name] for name in members}) == 3 and mean["ppo"] != lowest["ppo"]
    seeds = [each.member for each in pipeline.steps(arms[1]) if each.stage.name == "rm"]
    assert seeds == [1, 2, 3] and len({pipeline.seed_of(1, member) for member in seeds}) == 3
    assert pipeline.seed_of(7, 1) == 7


def test_jobs_of_all_rounds_are_in_the_order_in_which_they_can_run(tiny_scale):
    arms = {label: Recipe().but(FEEDBACK_ROUNDS, label) for label in FEEDBACK_ROUNDS.variants}
    study = Ablation(FEEDBACK_ROUNDS, "", arms, (1, 2), tiny_scale, "test/win_rate", True, 0.05)
    seen = set()
    for job in jobs_of(study).values():
        assert set(job.needs) <= seen, job.label
        seen.add(job.key)
    labels = [job.label for job in jobs_of(study).values()]
    assert "rm 1 seed 1" in labels and "rm_round_1 2 seed 1" not in labels, "the first arm that needs a step names it"


def test_an_arm_of_three_rounds_and_one_with_an_ensemble_run_and_reuse_what_is_there(tiny_scale, tiny_run):
    cache = tiny_run["data"].parent
    rounds = pipeline.run(Recipe().but(FEEDBACK_ROUNDS, "3"), tiny_scale, 1, cache, warn=pytest.fail)
    assert rounds["ppo_round_1"] == tiny_run["ppo"]
    lines = [read_journal(rounds[name]) for name in ("feedback_round_2", "feedback")]
    assert [[line["step"] for line in each] for each in lines] == [[2], [2, 3]]
    assert lines[1][0]["metrics"] == lines[0][0]["metrics"]
    before, after = (Corpus(rounds[name]).pairs("train") for name in ("feedback_round_2", "feedback"))
    assert 0 < len(before) < len(after) and after["chosen_token"][: len(before)] == before["chosen_token"][:]
    ensemble = pipeline.run(Recipe().but(REWARD_ENSEMBLE, "lowest_of_3"), tiny_scale, 1, cache, warn=pytest.fail)
    files = [next((ensemble[name] / "model").glob("*.safetensors")) for name in ("rm", "rm_2", "rm_3")]
    weights = [file.read_bytes() for file in files]
    assert len(set(weights)) == 3
    recorded = json.loads((ensemble["rm_2"] / DONE).read_text())
    assert recorded["seed"] == pipeline.seed_of(1, 2)


def test_rounds_of_a_reward_model_from_elsewhere_are_refused(tiny_scale):
    with pytest.raises(UserError, match="rm_from=released trains none"):
        check_rounds(Recipe().but(FEEDBACK_ROUNDS, "2"), "released")
    check_rounds(Recipe(), "released")
    check_rounds(Recipe().but(FEEDBACK_ROUNDS, "2"), "")
