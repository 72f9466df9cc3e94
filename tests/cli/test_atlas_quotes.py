"""What was found, where pages quote it: the atlas' numbers, and verdicts and seeds that go with them."""

import json
import re

import pytest

from repro.cli import atlas_quotes, docs
from repro.details import CHECKS, DETAILS

ELSEWHERE = {("uninformative_groups", "dropped")}  # run beside leave-one-out, at a scale that the atlas is not of
MISQUOTED = """\
<!-- atlas -->
of another day
<!-- /atlas -->
It differs by `whiten_adv=off` +0.900 (−0.100 to +0.999), 9 seeds, and `whiten_adv=sometimes` +0.900 (−0.100 to +0.999).

| advantages as they are | `whiten_adv=off` | +0.900 (−0.100 to +0.999) | 9 | better |
"""


@pytest.fixture
def row():
    return {
        "detail": "whiten_adv",
        "variant": "off",
        "reference": "shift_and_scale",
        "primary": "test/sampled_win_rate",
        "n": 5,
        "mean_difference": -0.0031,
        "ci95": [-0.0101, 0.00349],
        "verdict": "no difference",
        "control": False,
        "predictions": {"as predicted": 1, "contradicted": 0, "not resolved": 2, "curves": 1},
        "results": {
            "test/sampled_win_rate": "as predicted",
            "test/kl": "not resolved",
            "test/sampled_length": "not resolved",
        },
    }


def test_a_quotation_gets_the_numbers_of_the_atlas_and_an_unknown_variant_keeps_its_own(row):
    told = atlas_quotes.quoted(
        MISQUOTED, {("whiten_adv", "off"): row}, docs.table(atlas_quotes.HEADER, atlas_quotes.rows([row]))
    )
    assert told.count("−0.003 (−0.010 to +0.003)") == 2 and "of another day" not in told
    assert "`whiten_adv=sometimes` +0.900 (−0.100 to +0.999)." in told
    assert "| `whiten_adv=off` | −0.003 (−0.010 to +0.003) | 9 | better |" in told  # words are for a person
    assert "| `shift_and_scale` | 5 | −0.003\xa0(−0.010\xa0to\xa0+0.003) |" in told
    assert "| 1 as predicted, 2 not resolved |" in told
    assert (
        atlas_quotes.quoted(
            told, {("whiten_adv", "off"): row}, docs.table(atlas_quotes.HEADER, atlas_quotes.rows([row]))
        )
        == told
    )


def test_a_variant_without_an_interval_is_not_told_of(row, tmp_path):
    atlas = tmp_path / "atlas.json"
    assert atlas_quotes.effects(atlas) == {}
    alone = row | {"variant": "scale_only", "n": 1, "ci95": [None, None]}
    atlas.with_name("other.json").write_text(json.dumps({"effects": [row, alone]}))
    assert list(atlas_quotes.effects(tmp_path / "other.json")) == [("whiten_adv", "off")]


def test_a_detail_is_named_once_and_a_control_is_called_one(row):
    first, second = atlas_quotes.rows([row, row | {"variant": "again", "control": True}])
    assert (first[0], second[0]) == ("`whiten_adv`", "") and second[5] == "no difference (control)"


def test_a_section_has_what_was_found_and_what_became_of_each_prediction(row, tmp_path, monkeypatch):
    monkeypatch.setattr(atlas_quotes, "ATLAS", tmp_path / "atlas.json")
    bare = section("reward_shape")
    assert "found: `" not in bare and "result" not in bare
    one = row | {"detail": "reward_shape", "variant": "sigmoid_over_reference"}
    other = one | {"variant": "log_sigmoid_over_reference", "results": {"test/sampled_win_rate": "contradicted"}}
    (tmp_path / "whole.json").write_text(json.dumps({"effects": [one, other]}))
    monkeypatch.setattr(atlas_quotes, "ATLAS", tmp_path / "whole.json")
    told = section("reward_shape")
    assert "| found: `test/sampled_win_rate` |" in told
    assert "| −0.003 (−0.010 to +0.003), 5 seeds: no difference |" in told
    results = "as predicted at `sigmoid_over_reference`; contradicted at `log_sigmoid_over_reference`"
    assert f"| {results} |" in told and "| not judged here: a curve |" in told


def section(name):
    return docs.markdown().split(f"### `{name}`\n")[1].split("\n### ")[0]


@pytest.mark.parametrize("page", atlas_quotes.PAGES, ids=str)
def test_pages_quote_what_the_atlas_has(page):
    text, effects = (docs.ROOT / page).read_text(), atlas_quotes.effects(docs.ROOT / atlas_quotes.ATLAS)
    quotes = {(quote[1], quote[2]) for quote in atlas_quotes.QUOTE.finditer(text)}
    assert len(quotes) > 5 and quotes - ELSEWHERE <= effects.keys()
    assert page not in docs.stale(), (
        f"{page} quotes other numbers than the atlas or the registry: `make docs`, and read what it says of them"
    )


def test_how_many_details_and_variants_there_are_is_said_by_what_there_is_wherever_a_page_says_it():
    effects = {
        key: row for key, row in atlas_quotes.effects(docs.ROOT / atlas_quotes.ATLAS).items() if key[0] != "draws"
    }
    run = {detail for detail, _ in effects}
    by_win_rate = [key for key, row in effects.items() if row["primary"] == "test/sampled_win_rate"]
    readme = (
        f"{len(DETAILS)} details and {len(CHECKS)} checks",
        f"{len(effects)} variants, of {len(run)} of the {len(DETAILS)} details",
        f"Holm's correction over all {len(by_win_rate)}",
    )
    results = f"Not run: {len(DETAILS) - len(run) - 1} details", readme[2]
    for page, phrases in (("README.md", readme), ("docs/results.md", results)):
        assert [phrase for phrase in phrases if phrase not in (docs.ROOT / page).read_text()] == []
    stale = "7 details and 1 checks; 1 variants, of 2 of the 3 details; Holm's correction over all 4; 7 details"
    assert docs.numbers(stale) == "; ".join((*readme, "7 details"))


def test_a_variant_without_an_interval_is_quoted_nowhere(tmp_path):
    row = {"detail": "gamma", "variant": "0.99", "n": 5, "mean_difference": 0.0, "ci95": [None, None]}
    (tmp_path / "atlas.json").write_text(json.dumps({"effects": [row, row | {"variant": "0.95", "ci95": [0.0, 0.1]}]}))
    assert atlas_quotes.effects(tmp_path / "atlas.json").keys() == {("gamma", "0.95")}


def test_the_table_of_results_has_every_variant_that_was_run():
    told = atlas_quotes.BLOCK.search((docs.ROOT / "docs" / "results.md").read_text())[0]
    effects = atlas_quotes.effects(docs.ROOT / atlas_quotes.ATLAS)
    others = [row["primary"] for row in effects.values() if row["primary"] != "test/sampled_win_rate"]
    assert others and re.findall(r"\) of `([^`]+)` \|", told) == others  # the table's heading has the win rate
    assert told.count("\n") == len(effects) + 2
    assert {name for name in re.findall(r"^\| `(\w+)`", told, re.MULTILINE)} <= DETAILS.keys()


def test_a_check_says_what_the_papers_choice_measured_here(tmp_path, monkeypatch):
    monkeypatch.setattr(atlas_quotes, "ATLAS", tmp_path / "atlas.json")
    bare = section("calibration")
    assert "least to most" not in bare
    bins = {
        f"rm/calibration/{at}": {"mean": mean, "least": 0, "most": 1, "n": 3} for at, mean in ((10.25, 1), (2.5, 0.9))
    }
    error = {"rm/calibration_error": {"mean": -0.0304, "least": -0.05, "most": 0.0089, "n": 3}}
    (tmp_path / "whole.json").write_text(json.dumps({"effects": [], "reference": bins | error}))
    monkeypatch.setattr(atlas_quotes, "ATLAS", tmp_path / "whole.json")
    told = section("calibration")
    assert "| 2.5: 0.9, 10.25: 1 |" in told and "| −0.0304 (−0.05 to 0.0089, 3 seeds) |" in told
