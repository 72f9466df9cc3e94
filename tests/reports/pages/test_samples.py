"""Samples side by side: the same posts, the numbers that a page sorts by, and what older runs did not record."""

from dataclasses import replace

import pytest

from repro.reports.pages import samples


@pytest.fixture(scope="module")
def judged(study):
    """The made-up study with the columns that newer runs record."""
    newer = {"win": 1.0, "kl": 4.5, "reference_length": 7, "sft_length": 3, "sft_kl": 0.0, "sft_ended": False}
    return replace(study, samples={key: rows.assign(**newer) for key, rows in study.samples.items()})


def test_a_post_lists_its_seeds_and_each_seed_its_policies(study):
    post = samples.posts(study)[0]
    assert [row["seed"] for row in post["rows"]] == list(study.seeds)
    assert [cell["who"] for cell in post["rows"][0]["cells"]] == ["SFT", *study.arms]


def test_numbers_to_sort_and_filter_by_are_those_that_were_recorded(study, judged):
    cell = samples.posts(judged)[1]["rows"][0]["cells"][1]
    assert cell["data"] == {"judge": 3.1, "score": 0.7, "kl": 4.5, "length": 8.0, "win": 1.0}
    assert cell["facts"].startswith("wins") and "KL 4.50" in cell["facts"] and "8 tokens" in cell["facts"]
    older = samples.posts(study)[1]["rows"][0]["cells"][1]
    assert set(older["data"]) == {"judge", "score", "length"} and "KL" not in older["facts"]


def test_the_sft_policy_did_not_end_where_that_was_recorded(study, judged):
    assert not samples.posts(judged)[0]["rows"][0]["cells"][0]["ended"]
    assert samples.posts(study)[0]["rows"][0]["cells"][0]["ended"]


def test_sft_policies_that_differ_between_arms_are_told_apart(study):
    changed = study.samples["off", 1].assign(sft_summary="another policy")
    other = replace(study, samples=study.samples | {("off", 1): changed})
    who = [cell["who"] for cell in samples.posts(other)[0]["rows"][0]["cells"] if not cell["arm"]]
    assert who == ["SFT of shift_and_scale, scale_only", "SFT of off"]


def test_a_run_whose_posts_are_others_is_not_put_beside(study):
    moved = study.samples["off", 1].iloc[::-1].reset_index(drop=True)
    other = replace(study, samples=study.samples | {("off", 1): moved})
    arms = [cell["arm"] for cell in samples.posts(other)[0]["rows"][0]["cells"]]
    assert "off" not in arms and "scale_only" in arms


def test_values_that_are_no_numbers_are_left_out(study):
    blown = study.samples["off", 1].assign(score=float("nan"), gold=float("inf"), summary=None, ended=None)
    other = replace(study, samples=study.samples | {("off", 1): blown})
    cell = next(c for c in samples.posts(other)[0]["rows"][0]["cells"] if c["arm"] == "off")
    assert cell["data"] == {"length": 8.0} and cell["facts"] == "8 tokens"
    assert cell["text"] == "" and cell["ended"]


def test_a_page_of_many_runs_shows_fewer_posts(study, monkeypatch):
    runs, recorded = len(study.samples), len(samples.posts(study))
    assert recorded > 1
    monkeypatch.setattr(samples, "SUMMARIES", 2 * runs)
    assert len(samples.posts(study)) == min(recorded, 2)
    monkeypatch.setattr(samples, "SUMMARIES", runs - 1)
    assert len(samples.posts(study)) == 1
    monkeypatch.setattr(samples, "POSTS", 1)
    monkeypatch.setattr(samples, "SUMMARIES", 600)
    assert len(samples.posts(study)) == 1
