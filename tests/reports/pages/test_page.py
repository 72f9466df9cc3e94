"""The page, its figures and its verdict, built from the made-up store."""

import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image

from repro.reports.figures import effect, numbers
from repro.reports.pages import markup, page
from repro.reports.reading.studies import read_study
from tests.reports.made_up import ARMS, Fake, experiment, log, without_torch
from tests.reports.strict_json import strict


@pytest.fixture(scope="module")
def built(study, tmp_path_factory) -> Path:
    return page.build(study, tmp_path_factory.mktemp("build") / "whiten_adv")


@pytest.fixture(scope="module")
def elsewhere(study, tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """The same page, built in a process of its own without torch and any stage: how that ended, and where it is."""
    folder = tmp_path_factory.mktemp("elsewhere") / "whiten_adv"
    reading = f"read_study('whiten_adv', 'mini', {study.uri!r})"
    done = without_torch(
        "from repro.reports.pages import page\nfrom repro.reports.reading.studies import read_study\n"
        f"print(page.build({reading}, {str(folder)!r}))\n"
    )
    return done, folder / "index.html"


@pytest.fixture(scope="module")
def html(built) -> str:
    return built.read_text(encoding="utf-8")


def test_the_page_needs_no_network(html):
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)""", html)
    told = [a or b for a, b in addresses]
    assert told and all(a.startswith(("data:", "#", "%23", "figures/")) for a in told)
    assert "@import" not in html and "fetch(" not in html


def test_the_page_links_to_each_file_of_its_figures_once(html, built):
    linked = re.findall(r'href="(figures/[^"]+)"', html)
    written = {f"figures/{file.name}" for file in (built.parent / "figures").iterdir() if file.stat().st_size}
    assert len(set(linked)) == len(linked) and set(linked) == written


def test_pictures_in_the_page_are_the_files(built, html):
    files = {file.name: file.read_text().strip() for file in (built.parent / "figures").glob("*.svg")}
    shown = list(map(unquote, re.findall(r'src="data:image/svg\+xml,([^"]*)"', html)))
    wholes = {name for name in files if any(other.startswith(f"{Path(name).stem}-") for other in files)}
    assert sorted(shown) == sorted(svg for name, svg in files.items() if name not in wholes) != []
    assert all(ElementTree.fromstring(file).tag.endswith("svg") for file in files.values())


def test_each_panel_is_a_picture_of_its_own_at_two_pixels_a_point_with_the_data_of_it_alone(built):
    folder = built.parent / "figures"
    panels = sorted(folder.glob("learning_curves-*.svg"))
    assert len(panels) == 9
    for panel in panels:
        width, height = map(float, re.search(r"viewBox='0 0 ([\d.]+) ([\d.]+)'", panel.read_text()).groups())
        size = Image.open(panel.with_suffix(".png")).size
        assert size == pytest.approx((width * 192 / 72, height * 192 / 72), abs=1.5)
        assert panel.stem.endswith(pd.read_csv(panel.with_suffix(".csv"))["metric"].unique()[0].replace("/", "_"))


def test_a_picture_is_told_in_words_as_its_title_has_them(html):
    told = re.findall(r'<img alt="Learning curves: ([^"]+)"', html)
    assert len(told) == 9 and "reward-model score" in told and not [each for each in told if "_" in each]


def test_model_text_is_escaped(html):
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(&#39;summary&#39;)&lt;/script&gt;" in html
    assert html.count("<script>") == 2


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
    assert set(verdict["arms"]["off"]) == {"n", "mean_difference", "ci95", "verdict", "sentence"}
    assert verdict["arms"]["off"]["verdict"] == "worse" and verdict["arms"]["off"]["n"] == 3
    assert verdict["arms"]["off"]["mean_difference"] == pytest.approx(-0.10)
    assert Path(verdict["report"]) == built


def test_what_an_arm_does_is_beside_its_name_and_in_the_verdict_file(study, unrendered, tmp_path):
    does = {"off": "advantages enter as they are", "shift_and_scale": "mean 0 and spread 1"}
    older = study.runs.assign(does="an earlier description", asked=-1)
    runs = pd.concat([older, study.runs.assign(does=study.runs["arm"].map(does).fillna(""))], ignore_index=True)
    told = replace(study, runs=runs[(runs["asked"] >= 0) | (runs["arm"] == "off")])
    assert told.does == does  # the newest run decides
    html = page.build(replace(told, runs=runs[runs["asked"] >= 0]), tmp_path).read_text()
    cards = re.findall(r'<div class="verdict .*?</div>', html, re.DOTALL)
    assert [each for each in cards if does["off"] in each and "off" in each]
    assert [each for each in cards if does["shift_and_scale"] in each and "the reference" in each]
    verdict = strict((tmp_path / "verdict.json").read_text())
    assert verdict["arms"]["off"]["does"] == does["off"] and verdict["reference_does"] == does["shift_and_scale"]
    assert "does" not in verdict["arms"]["scale_only"]


def test_the_headline_has_a_sentence_per_arm_with_n_interval_and_smallest_effect(built):
    off, scale_only = page.headline(built).splitlines()
    assert off == (
        "off is worse than shift_and_scale: near-greedy win rate \N{MINUS SIGN}0.100 (95 % interval \N{MINUS SIGN}0.125 "
        "to \N{MINUS SIGN}0.075, 3 paired seeds; smallest effect of interest 0.020)."
    )
    assert scale_only.startswith("Undecided whether scale_only differs") and "more seeds would decide it" in scale_only


def test_the_same_study_gives_the_same_bytes(built, elsewhere):
    _, again = elsewhere
    for path in sorted((built.parent / "figures").iterdir()):
        assert path.read_bytes() == (again.parent / "figures" / path.name).read_bytes(), path.name
    assert built.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("lost", ["objective/", ""])
def test_missing_curves_leave_out_their_panels(study, unrendered, tmp_path, lost):
    curves = study.curves[~study.curves["metric"].str.startswith(lost)]
    text = page.build(replace(study, curves=curves), tmp_path).read_text()
    assert "Differences to the reference" in text
    assert (tmp_path / "figures" / "learning_curves.svg").exists() == (not curves.empty)


def test_missing_final_values_are_told_and_null(study, unrendered, tmp_path):
    bare = replace(study, finals=study.finals[study.finals["metric"] == "rm/bias"], samples={})
    text = page.build(bare, tmp_path).read_text()
    arms = strict((tmp_path / "verdict.json").read_text())["arms"]
    told = {"n": 0, "mean_difference": None, "ci95": [None, None], "verdict": "undecided"}
    assert told.items() <= arms["off"].items()
    assert "0 of 3 seeds have test/win_rate" in text and "No samples were recorded" in text


def test_samples_whose_files_are_gone_are_not_said_to_be_unrecorded(store, unrendered, tmp_path):
    gone = experiment(store, "whiten_adv-gone")
    for arm in ARMS[:2]:
        log(store, gone, Fake(arm, 1), start=1)
    shutil.rmtree(next(Path(store.removeprefix("sqlite:///")).parent.glob("artifacts")))
    text = page.build(read_study("whiten_adv", "gone", store), tmp_path).read_text()
    assert "No samples were recorded" not in text
    assert text.count("The files of 2 runs are missing: shift_and_scale seed 1, off seed 1.") == 2


def test_diverged_failed_and_missing_seeds_are_listed(store, tmp_path):
    study = experiment(store, "losses-mini")
    for seed in (1, 2, 3):
        log(store, study, Fake(ARMS[0], seed), start=seed)
    log(store, study, Fake("off", 1, outcome="diverged", win_rate=0.1, steps=5), start=10)
    log(store, study, Fake("off", 2, outcome="failed", curves=False, finals=False), start=11)
    lossy = read_study("losses", "mini", store)
    findings = page.analyse(lossy)
    text = page.render(lossy, findings, [], tmp_path, {})
    assert "off: diverged: seed 1; failed: seed 2; never run: seed 3. 1 of 3 seeds have test/win_rate" in text
    assert page.outcomes(findings) == {"finished": 3, "diverged": 1, "failed": 1, "missing": 1}
    assert page.verdict_record(lossy, findings, tmp_path)["arms"]["off"]["n"] == 1


def test_values_that_are_not_finite_are_told(study):
    counts = study.curves["metric"] == "nonfinite/objective/score"
    blown = study.curves.assign(value=study.curves["value"].mask(counts & (study.curves["arm"] == "off"), 2.0))
    told = page.warnings(replace(study, curves=blown), page.analyse(study))
    assert told == ["off: objective/score was not finite at times (seed 1, 2, 3)."]
    assert not page.warnings(study, page.analyse(study))


def test_seeds_that_ran_away_are_counted_and_stay_in_the_verdict(study, tmp_path):
    far = (study.finals["metric"] == "test/kl") & (study.finals["arm"] == "off") & (study.finals["seed"] == 2)
    capped = replace(
        study,
        finals=study.finals.assign(value=study.finals["value"].mask(far, 900.0)),
        tags=study.tags | {"kl_cap": "100"},
    )
    findings = page.analyse(capped)
    assert page.warnings(capped, findings) == [
        "off ran away: seed 2 ended with a KL above 100 nats, 1 of 3 (95 % interval of the share 1 % to 91 %). What was "
        "evaluated counts towards the verdict like any other run."
    ]
    assert page.outcomes(findings) == {"finished": 9, "ran away": 1}
    assert findings.verdicts.set_index("arm").loc["off", "n"] == 3


def test_what_could_not_be_read_is_said(study):
    troubled = replace(study, troubles=("samples.json is missing for off seed 1",))
    assert "samples.json is missing for off seed 1" in page.warnings(troubled, page.analyse(study))


def test_a_study_of_the_reference_alone_has_a_page(store, unrendered, tmp_path):
    log(store, experiment(store, "alone-mini"), Fake(ARMS[0], 1), start=1)
    text = page.build(read_study("alone", "mini", store), tmp_path).read_text()
    assert "nothing to compare yet" in text and strict((tmp_path / "verdict.json").read_text())["arms"] == {}


def test_the_effects_of_all_arms_share_one_scale_that_holds_seeds_intervals_and_smallest_effect(study):
    rows = effect.data(study, page.analyse(study))
    figure = effect.draw(rows, study)
    low, high = figure.axes[0].get_xlim()
    shown = [*rows["difference"], *rows["low"], *rows["high"], 0.0, -study.smallest_effect, study.smallest_effect]
    assert low < min(shown) and max(shown) < high and len(figure.axes) == 1
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["off", "scale_only"]
    assert rows.groupby("arm")["seed"].nunique().tolist() == [3, 3]


def test_a_study_without_a_smallest_effect_has_a_page_that_says_so(study, unrendered, tmp_path):
    untold = replace(study, tags=study.tags | {"smallest_effect": "nan"})
    text = page.build(untold, tmp_path).read_text()
    assert "no smallest effect of interest was recorded" in text and "nan" not in re.sub(r'src="[^"]*"', "", text)
    assert strict((tmp_path / "verdict.json").read_text())["smallest_effect"] is None


def test_each_test_metric_is_a_row_with_the_arms_beside_each_other(study):
    rows = page.difference_rows(study, page.analyse(study))
    assert rows[0]["metric"] == study.primary and [cell.arm for cell in rows[0]["cells"]] == ["off", "scale_only"]
    assert rows[0]["cells"][0].mean == pytest.approx(-0.1)
    only = study.finals[(study.finals["arm"] != "off") | (study.finals["metric"] != "test/gold")]
    gold = next(
        row
        for row in page.difference_rows(replace(study, finals=only), page.analyse(replace(study, finals=only)))
        if row["metric"] == "test/gold"
    )
    assert gold["cells"][0] is None and gold["cells"][1].n == 3


def test_checkpoints_are_compared_over_posts_and_said_to_be(study, tmp_path):
    tables = {
        (arm, seed): rows.assign(win=[1.0, 0.0, 1.0, 0.5, 1.0, 1.0 - (arm == "off")], sft_win=0.5)
        for (arm, seed), rows in study.samples.items()
    }
    judged = replace(study, samples=tables)
    table = page.checkpoints(judged, page.analyse(judged))
    assert table["columns"] == [("prompts", arm) for arm in study.arms[1:]] + [("gains", arm) for arm in study.arms]
    assert table["rows"][0]["cells"][0].mean == pytest.approx(-1 / 6)
    assert "not whether the detail matters" in page.render(judged, page.analyse(judged), [], tmp_path, {})
    assert page.checkpoints(study, page.analyse(study))["rows"] == []


def test_episodes_are_linked_with_the_command_that_shows_one(study, tmp_path):
    run = study.runs.query("arm == 'off' and seed == 2")["run_id"].iloc[0]
    links = {("off", 2): "episodes/seed2.html#off-1984"}
    text = page.render(study, page.analyse(study), [], tmp_path, links)
    assert 'href="episodes/seed2.html#off-1984"' in text
    assert f"make inspect RUN={run[:8]} EPISODE=1984" in text
    assert text.count('<a href="episodes/seed2.html">') == 6  # beside the samples of that seed
    assert all(run in text for run in study.runs["run_id"])


def test_an_arm_that_changed_nothing_is_called_identical(study, tmp_path):
    same = study.finals[study.finals["arm"] == study.reference].assign(arm="off")
    unchanged = replace(study, finals=pd.concat([study.finals[study.finals["arm"] != "off"], same]))
    findings = page.analyse(unchanged)
    text = page.render(unchanged, findings, [], tmp_path, {})
    assert re.search(r'class="says">\s*<span class="badge identical" title="[^"]+">identical<', text)
    assert "off is identical to shift_and_scale" in text and "Every final value is equal in 3 paired seeds" in text
    verdict = page.verdict_record(unchanged, findings, tmp_path)
    assert verdict["identical"] == ["off"] and verdict["arms"]["off"]["verdict"] == "identical"
    assert page.verdict_record(study, page.analyse(study), tmp_path)["identical"] == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0204, "0.020"),
        (-0.5, "\N{MINUS SIGN}0.500"),
        (12.345, "12.35"),
        (1234.0, "1,234"),
        (999_999_999.0, "999,999,999"),
        (-1.5e20, "\N{MINUS SIGN}1.5e+20"),
        (0.0004, "0.0004"),
        (0.00004, "4.0e\N{MINUS SIGN}05"),
        (0.9996, "1.000"),
        (1.0, "1.000"),
        (1.0049, "1.005"),
        (1.0051, "1.01"),
        (99.996, "100"),
        (0.00096, "0.001"),
        (0.0, "0.000"),
        (-1e-17, "0.000"),
        (math.nan, "\N{EN DASH}"),
    ],
)
def test_numbers_are_readable(value, text):
    assert numbers.number(value) == text


def test_a_report_needs_no_torch_and_no_stage(elsewhere):
    done, page_there = elsewhere
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == page_there


def test_another_scale_has_its_own_folder():
    assert [markup.folder("whiten_adv", scale) for scale in ("mini", "smoke")] == ["whiten_adv", "whiten_adv-smoke"]
