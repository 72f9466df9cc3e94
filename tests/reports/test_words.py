"""One arm, one word: whatever a study ends in, every output says the same of it."""

import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from repro.api.results import Results, read_results
from repro.reports.pages import atlas, index, opening, page
from repro.reports.statistics import words
from repro.reports.statistics.findings import analyse
from repro.tracking.attach import publish_report
from tests import blank
from tests.paths import ROOT
from tests.reports.made_up import Fake, experiment, log_light

REFERENCE = (0.50, 0.60, 0.55, 0.52, 0.57, 0.54)
# Arm -> its win rates less the reference's by seed (None where the run failed), and the word that it must get.
STATES = {
    "up": ((0.10, 0.11, 0.12, 0.10), "better"),
    "down": ((-0.10, -0.11, -0.12, -0.10), "worse"),
    "level": ((0.001, -0.002, 0.001, 0.000), "no difference"),
    "same": ((0.0, 0.0, 0.0, 0.0), "identical"),
    "wide": ((0.2, -0.2, 0.1, -0.1), "undecided"),
    "flat": ((0.125, 0.125, 0.125, 0.125), "undecided"),
    "single": ((0.1,), "undecided"),
    "same_once": ((0.0,), "identical"),
    "lost": ((None, None, None, None), "undecided"),
    "away": ((0.30, 0.31, 0.32, 0.30), "better"),
    "blown": ((-0.30, -0.31, -0.32, -0.30), "worse"),
}
# The same of a study that grows: at the first look of four seeds, with a fifth for those that go on.
GROWING = {
    "down": ((-0.10, -0.11, -0.12, -0.10), "worse"),
    "same": ((0.0, 0.0, 0.0, 0.0), "identical"),
    "wide": ((0.2, -0.2, 0.1, -0.1, 0.2), "undecided"),
}
GROWN = GROWING | {"wide": ((0.2, -0.2, 0.1, -0.1, 0.2, -0.2), "undecided")}
EARLY = {"wide": ((0.2, -0.2), "undecided"), "same": ((0.0, 0.0), "identical")}
STUDIES = {"fixed": (STATES, ()), "between": (GROWING, (4, 6)), "grown": (GROWN, (4, 6)), "early": (EARLY, (4, 6))}
SAYS = {
    "better": "{} is better than ref",
    "worse": "{} is worse than ref",
    "no difference": "{} makes no difference that matters beside ref",
    "identical": "{} is identical to ref",
    "undecided": "Undecided whether {} differs from ref",
}
MOVES = {"test/win_rate": {"same": "same", "same_once": "up", "flat": "up", "up": "up", "down": "up", "level": "same"}}


def put(uri: str, detail: str, arms: dict, looks: tuple[int, ...]) -> None:
    """A study of the given arms beside the reference."""
    plan = {"looks": " ".join(map(str, looks))} if looks else {}
    study = experiment(uri, f"{detail}-mini")
    most = max(len(apart) for apart, _ in arms.values())
    for arm, apart in {"ref": (0.0,) * most, **{arm: apart for arm, (apart, _) in arms.items()}}.items():
        for seed, difference in enumerate(apart, start=1):
            told = {"detail": detail, "reference": str(arm == "ref").lower(), "smallest_effect": "0.05", "kl_cap": "10"}
            told |= {"moves": json.dumps(MOVES)} | plan
            outcome = "failed" if difference is None else "diverged" if arm == "blown" else "finished"
            value = {"test/win_rate": REFERENCE[seed - 1] + (difference or 0.0), "test/kl": 40 if arm == "away" else 2}
            log_light(uri, study, Fake(arm, seed, outcome, tags=told), {} if difference is None else value)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with the store, every page of its studies, the index and the atlas."""
    folder = tmp_path_factory.mktemp("states")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    for detail, (arms, looks) in STUDIES.items():
        put(uri, detail, arms, looks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        blank.instead(patch.setattr)
        for detail in STUDIES:
            built = read_results(detail).page(folder / "pages" / detail)
            publish_report(detail, "mini", built.parent, page.headline(built))
        atlas.build("mini", (), uri, folder / "pages" / "atlas")
        index.build(folder / "pages", uri, ())
    return folder


@pytest.fixture(scope="module")
def results(root) -> dict[str, Results]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        return {detail: read_results(detail) for detail in STUDIES}


def expected(detail: str) -> dict[str, str]:
    return {arm: word for arm, (_, word) in STUDIES[detail][0].items()}


def said(text: str, arms: dict[str, str]) -> dict[str, list[str]]:
    """Arm -> the words that a text of sentences says of it."""
    return {arm: [word for word, form in SAYS.items() if form.format(arm) in text] for arm in arms}


@pytest.mark.parametrize("detail", STUDIES)
def test_the_verdict_is_one_word_in_every_output(detail, root, results):
    told, folder = expected(detail), root / "pages" / detail
    once = {arm: [word] for arm, word in told.items()}
    assert said(page.headline(folder / "index.html"), told) == once
    record = json.loads((folder / "verdict.json").read_text())
    assert {arm: row["verdict"] for arm, row in record["arms"].items()} == told
    assert set(record["identical"]) == {arm for arm, word in told.items() if word == words.IDENTICAL}
    assert results[detail].verdicts["verdict"].to_dict() == told
    assert said(str(results[detail]), told) == once
    html = (folder / "index.html").read_text()
    cards = re.findall(
        r'<p class="says">\s*<span class="badge [^>]+>([^<]+)</span>.*?</span>([a-z_]+)</span>', html, re.S
    )
    assert {arm: word for word, arm in cards} == told
    note = MlflowClient(f"sqlite:///{root / 'mlflow.db'}").get_experiment_by_name(f"{detail}-mini").tags
    assert said(note["mlflow.note.content"], told) == once


def test_seeds_that_no_look_has_reached_are_not_said_to_be_in_the_verdict(root, results):
    arm = results["between"].verdicts.loc["wide"]
    html = (root / "pages" / "between" / "index.html").read_text()
    assert arm["n"] == 4 and re.search(r"<td>1, 2, 3, 4, 5</td></tr>", html) and "<th>in the verdict</th>" not in html


def test_a_sign_flip_p_is_said_to_be_of_all_flips_and_of_both_sides(root):
    html = (root / "pages" / "grown" / "index.html").read_text()
    assert "the share of all ways to flip their signs that give a mean as far from zero" in html


@pytest.mark.parametrize("detail", STUDIES)
def test_the_index_and_the_atlas_say_the_words_of_the_study(detail, root):
    told = expected(detail)
    record = json.loads((root / "pages" / "atlas" / "atlas.json").read_text())
    effects = [row for row in record["effects"] if row["detail"] == detail]
    assert {row["variant"]: row["verdict"] for row in effects} == told
    table = (root / "pages" / "atlas" / "index.html").read_text()
    rows = re.findall(
        rf'<tr class="row"[^>]*data-verdict="([^"]+)"[^>]*data-study="{detail}" data-arm="([^"]+)"', table
    )
    assert {arm: word for word, arm in rows} == told
    cards = (root / "pages" / "index.html").read_text().split("<article")[1:]
    card = next(each for each in cards if f'data-study="{detail}-mini"' in each)
    assert dict(re.findall(r'data-arm="([^"]+)" data-word="([^"]+)"', card)) == told


def test_counts_of_the_atlas_add_up_to_its_variants(root):
    record = json.loads((root / "pages" / "atlas" / "atlas.json").read_text())
    for family in record["families"]:
        for kind in ("verdicts", "corrected"):
            assert list(family[kind]) == list(words.VERDICTS) and sum(family[kind].values()) == family["variants"]
        own = [row["verdict"] for row in record["effects"] if row["primary"] == family["primary"]]
        assert family["verdicts"] == {word: own.count(word) for word in words.VERDICTS}


def test_a_prediction_never_says_more_than_the_verdict(results):
    early = analyse(results["early"].recorded).predictions.set_index("arm")["result"].to_dict()
    assert early == {"same": "as predicted"}  # before the first look there is no interval, but they are identical
    found = analyse(results["fixed"].recorded).predictions.set_index("arm")["result"].to_dict()
    assert found == {
        "same": "as predicted",  # predicted to stay, and identical
        "same_once": "contradicted",  # predicted to rise, and identical
        "flat": "not resolved",  # predicted to rise, and undecided since nothing spreads
        "up": "as predicted",
        "down": "contradicted",
        "level": "as predicted",
    }


def test_an_identical_arm_keeps_no_other_waiting_for_its_look(results):
    found = analyse(results["grown"].recorded)
    assert found.looks.groupby("look")["arm"].agg(set).to_dict() == {4: {"down", "same", "wide"}, 6: {"wide"}}
    assert found.tally.set_index("arm").loc["same", ["planned", "absent"]].tolist() == [4, []]
    assert found.verdicts.set_index("arm")["n"].to_dict() == {"down": 4, "same": 4, "wide": 6}


def test_the_documentation_has_every_word_with_its_definition():
    text = (ROOT / "docs" / "statistics.md").read_text()
    told = re.search(r"<!-- words -->\n(.*?)<!-- /words -->", text, re.DOTALL)[1]
    titles = {"verdict of an arm": words.VERDICTS, "result of a prediction": words.RESULTS, "end of a run": words.ENDS}
    tables = [
        "\n".join([f"| {title} | when |", "|---|---|", *(f"| **{word}** | {when} |" for word, when in defined.items())])
        for title, defined in titles.items()
    ]
    assert told.strip() == "\n\n".join(tables)


def test_every_word_that_is_said_is_in_the_table():
    assert set(SAYS) == set(words.VERDICTS)
    assert set(opening.SAID) == set(words.VERDICTS)
    styled = (ROOT / "repro" / "reports" / "pages" / "templates" / "base.html.j2").read_text()
    for word in words.DEFINITIONS:
        assert f".badge.{word.replace(' ', '-')}" in styled, word


def test_the_readme_says_the_words_of_the_atlas():
    effects = json.loads((ROOT / "reports" / "gallery" / "atlas" / "atlas.json").read_text())["effects"]
    told = {f"{row['detail']}={row['variant']}": row["verdict"] for row in effects}
    table = re.search(r"<!-- findings -->(.*?)<!-- /findings -->", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    rows = re.findall(r"`([^`]+)` \|.*\| ([a-z ]+) \|$", table, re.MULTILINE)
    assert len(rows) > 5 and [(name, told[name]) for name, _ in rows] == rows
