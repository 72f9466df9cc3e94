"""What ran, what was shared, and what it cost."""

from dataclasses import replace

import pytest

from repro.reports.pages import provenance

OWN = 57.3 + 4.2  # seconds of a run's own ppo and evaluate
SHARED = 2.1 + 3 * (14.0 + 61.5)  # of the data, and of the SFT and reward models of three seeds


def test_shared_stages_are_told_from_own_ones(study):
    told = {row["stage"]: (row["results"], row["sharing"]) for row in provenance.shared_stages(study)}
    assert told["data"] == (1, "all arms \N{MIDDLE DOT} all seeds")
    assert told["rm"] == (3, "the arms of a seed share one") and told["ppo"] == (9, "each run its own")
    keys = ["a", "a", "a", "b", "b", "b", "a", "a", "a"]  # shift_and_scale, off, scale_only by seed
    split = provenance.shared_stages(replace(study, runs=study.runs.assign(**{"stage.rm": keys})))
    assert {row["stage"]: row["sharing"] for row in split}["rm"] == (
        "shift_and_scale, scale_only \N{MIDDLE DOT} all seeds; off \N{MIDDLE DOT} all seeds"
    )


def test_stages_are_those_that_were_recorded(study):
    runs = study.runs.drop(columns="stage.baseline").assign(**{"stage.judge": "judge-0"})
    assert [row["stage"] for row in provenance.shared_stages(replace(study, runs=runs))] == [
        *("data", "base", "sft", "rm", "ppo", "evaluate"),
        "judge",
    ]


def test_a_shared_stage_costs_once_and_an_arm_what_it_alone_needs(study):
    told = provenance.costs(study)
    assert told["total"] * 3600 == pytest.approx(SHARED + 9 * OWN)
    assert told["total"] == provenance.hours(study.runs)
    for arm in told["arms"]:
        assert arm["marginal"] * 3600 == pytest.approx(3 * OWN)
        assert arm["whole"] * 3600 == pytest.approx(SHARED + 3 * OWN)


def test_runs_that_recorded_no_times_cost_nothing_that_is_known(study):
    assert provenance.costs(replace(study, runs=study.runs.assign(stage_seconds="not recorded")))["total"] == 0.0


def test_what_agreed_is_told_once_and_what_differed_in_full(study):
    mixed = study.runs.assign(commit=["a"] * 4 + ["b"] * 5)
    told = provenance.what_ran(mixed)
    assert told["commit"] == ["a", "b"] and told["lock"] == ["not recorded"]
    assert told["machine"] == ["2 cores, 8 GB"] and told["versions"] == ["torch 2.13.0"]


def test_sources_of_the_hub_are_told_with_each_commit_that_they_were(study):
    told = ['{"hub:a/net@main": "0f", "hub:datasets/a/posts@main": "1f"}', '{"hub:a/net@main": "2f"}', "{}"]
    mixed = study.runs.assign(sources=told + ["not recorded"] * 6)
    assert provenance.sources(mixed) == [
        "hub:a/net@main at 0f",
        "hub:a/net@main at 2f",
        "hub:datasets/a/posts@main at 1f",
    ]
    assert provenance.sources(study.runs) == []
