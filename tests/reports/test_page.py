"""The page, its figures and its verdict, built from the made-up store."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_up import ARMS, Fake, experiment, log, without_torch

from reports import markup, page
from reports.read import read_study


@pytest.fixture(scope="module")
def built(study, tmp_path_factory) -> Path:
    return page.build(study, tmp_path_factory.mktemp("build") / "whiten_adv")


@pytest.fixture(scope="module")
def html(built) -> str:
    return built.read_text(encoding="utf-8")


def strict(text: str) -> dict:
    """JSON as the standard has it: NaN and infinities are refused."""

    def refuse(word: str):
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_page_needs_no_network(html):
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)""", html)
    told = [a or b for a, b in addresses]
    assert told and all(a.startswith(("data:", "#", "figures/")) for a in told)
    assert "@import" not in html and "fetch(" not in html


def test_files_that_the_page_links_to_exist(html, built):
    linked = re.findall(r'href="(figures/[^"]+)"', html)
    assert len(linked) == 21 and all((built.parent / name).stat().st_size > 0 for name in linked)


def test_model_text_is_escaped(html):
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(&#39;summary&#39;)&lt;/script&gt;" in html
    assert html.count("<script>") == 1


def test_the_page_tells_what_was_expected_and_what_ran(html, study):
    for text in (
        study.tags["question"],
        "larger KL early",
        "make ablation DETAIL=whiten_adv",
        "0123456789abcdef",
        "torch 2.13.0",
        "not resolved",
        "all arms",
    ):
        assert text in html


def test_verdict_file(built, study):
    verdict = strict((built.parent / "verdict.json").read_text())
    assert list(verdict)[:6] == ["detail", "scale", "primary", "arms", "seeds", "report"]
    assert set(verdict["arms"]) == {"off", "scale_only"} and verdict["seeds"] == [1, 2, 3]
    assert set(verdict["arms"]["off"]) == {"n", "mean_difference", "ci95", "verdict"}
    assert verdict["arms"]["off"]["verdict"] == "worse" and verdict["arms"]["off"]["n"] == 3
    assert verdict["arms"]["off"]["mean_difference"] == pytest.approx(-0.10)
    assert Path(verdict["report"]) == built


def test_the_headline_has_a_sentence_per_arm_with_n_interval_and_smallest_effect(study):
    off, scale_only = page.headline(study).splitlines()
    assert off == (
        "off is worse than shift_and_scale: win rate \N{MINUS SIGN}0.100 (95 % interval \N{MINUS SIGN}0.125 "
        "to \N{MINUS SIGN}0.075, 3 paired seeds; smallest effect of interest 0.020)."
    )
    assert scale_only.startswith("Undecided whether scale_only differs") and "80 % power" in scale_only


def test_the_same_study_gives_the_same_bytes(built, study, tmp_path):
    again = page.build(study, tmp_path)
    for path in sorted((built.parent / "figures").iterdir()):
        assert path.read_bytes() == (again.parent / "figures" / path.name).read_bytes(), path.name
    assert built.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("lost", ["objective/gold", "objective/kl", "objective/", ""])
def test_missing_curves_leave_out_their_panels(study, tmp_path, lost):
    curves = study.curves[~study.curves["metric"].str.startswith(lost)]
    text = page.build(replace(study, curves=curves), tmp_path).read_text()
    assert "Differences to the reference" in text
    assert (tmp_path / "figures" / "learning_curves.svg").exists() == (not curves.empty)


def test_missing_final_values_are_told_and_null(study, tmp_path):
    bare = replace(study, finals=study.finals[study.finals["metric"] == "rm/bias"], samples={})
    text = page.build(bare, tmp_path).read_text()
    arms = strict((tmp_path / "verdict.json").read_text())["arms"]
    assert arms["off"] == {"n": 0, "mean_difference": None, "ci95": [None, None], "verdict": "undecided"}
    assert "0 of 3 seeds have test/win_rate" in text and "No samples were recorded" in text


def test_diverged_failed_and_missing_seeds_are_listed(store, tmp_path):
    study = experiment(store, "losses-mini")
    for seed in (1, 2, 3):
        log(store, study, Fake(ARMS[0], seed), start=seed)
    log(store, study, Fake("off", 1, outcome="diverged", win_rate=0.1, steps=5), start=10)
    log(store, study, Fake("off", 2, outcome="failed", curves=False, finals=False), start=11)
    text = page.build(read_study("losses", "mini", store), tmp_path).read_text()
    assert "off: diverged: seed 1; failed: seed 2; never run: seed 3. 1 of 3 seeds have test/win_rate" in text
    assert strict((tmp_path / "verdict.json").read_text())["arms"]["off"]["n"] == 1


def test_values_that_are_not_finite_are_told(study, tmp_path):
    counts = study.curves["metric"] == "nonfinite/objective/score"
    blown = study.curves.assign(value=study.curves["value"].mask(counts & (study.curves["arm"] == "off"), 2.0))
    assert (
        "off: objective/score was not finite at times (seed 1, 2, 3)."
        in page.build(replace(study, curves=blown), tmp_path).read_text()
    )
    assert not page.warnings(study, page.analyse(study))


def test_a_study_of_the_reference_alone_has_a_page(store, tmp_path):
    log(store, experiment(store, "alone-mini"), Fake(ARMS[0], 1), start=1)
    text = page.build(read_study("alone", "mini", store), tmp_path).read_text()
    assert "nothing to compare yet" in text and strict((tmp_path / "verdict.json").read_text())["arms"] == {}


def test_shared_stages_are_told_from_own_ones(study):
    told = {row["stage"]: (row["results"], row["sharing"]) for row in page.shared_stages(study)}
    assert told["data"] == (1, "all arms \N{MIDDLE DOT} all seeds")
    assert told["rm"] == (3, "the arms of a seed share one") and told["ppo"] == (9, "each run its own")
    keys = ["a", "a", "a", "b", "b", "b", "a", "a", "a"]  # shift_and_scale, off, scale_only by seed
    split = page.shared_stages(replace(study, runs=study.runs.assign(**{"stage.rm": keys})))
    assert {row["stage"]: row["sharing"] for row in split}["rm"] == (
        "shift_and_scale, scale_only \N{MIDDLE DOT} all seeds; off \N{MIDDLE DOT} all seeds"
    )


def test_sft_policies_that_differ_between_arms_are_told_apart(study):
    changed = study.samples["off", 1].assign(sft_summary="another policy")
    other = replace(study, samples=study.samples | {("off", 1): changed})
    who = [s["who"] for s in page.posts(other)[0]["summaries"] if s["seed"] == 1 and not s["arm"]]
    assert who == ["SFT of shift_and_scale, scale_only", "SFT of off"]
    assert [s["who"] for s in page.posts(study)[0]["summaries"] if not s["arm"]] == ["SFT"] * 3


def test_an_arm_that_changed_nothing_is_called_identical(study, tmp_path):
    same = study.finals[study.finals["arm"] == study.reference].assign(arm="off")
    unchanged = replace(study, finals=pd.concat([study.finals[study.finals["arm"] != "off"], same]))
    findings = page.analyse(unchanged)
    text = page.render(unchanged, findings, [], tmp_path)
    assert '<span class="badge identical">identical</span>' in text
    assert "off is identical to shift_and_scale: every final value agrees in 3 paired seeds." in text
    verdict = page.verdict_record(unchanged, findings, tmp_path)
    assert verdict["identical"] == ["off"] and verdict["arms"]["off"]["verdict"] == "no difference"
    assert page.verdict_record(study, page.analyse(study), tmp_path)["identical"] == []


def test_stages_are_those_that_were_recorded(study):
    runs = study.runs.drop(columns="stage.baseline").assign(**{"stage.judge": "judge-0"})
    assert [row["stage"] for row in page.shared_stages(replace(study, runs=runs))] == [
        *("data", "base", "sft", "rm", "ppo", "evaluate"),
        "judge",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0204, "0.020"),
        (-0.5, "\N{MINUS SIGN}0.500"),
        (12.345, "12.35"),
        (1234.0, "1,234"),
        (0.0004, "0.0004"),
        (0.00004, "4.0e\N{MINUS SIGN}05"),
        (0.0, "0.000"),
        (-1e-17, "0.000"),
        (math.nan, "\N{EN DASH}"),
    ],
)
def test_numbers_are_readable(value, text):
    assert markup.number(value) == text


def test_a_report_needs_no_torch_and_no_stage(store, tmp_path):
    program = f"from reports.page import report\nprint(report('whiten_adv', 'mini', {str(tmp_path)!r}))\n"
    done = without_torch(program, {"MLFLOW_TRACKING_URI": store})
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "whiten_adv" / "index.html"


def test_another_scale_has_its_own_folder(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    log(store, experiment(store, "whiten_adv-smoke"), Fake(ARMS[0], 1), start=1)
    assert page.report("whiten_adv", "smoke", tmp_path) == tmp_path / "whiten_adv-smoke" / "index.html"
