"""The index: what is in the store, what was built of it, and what is missing."""

import json
import re
import time
from html import unescape
from pathlib import Path

import pytest
from mlflow import MlflowClient

from repro.reports.pages import entries, index
from repro.reports.reading.studies import read_store
from repro.reports.statistics.findings import analyse
from tests.reports.made_up import Fake, experiment, log_light

EVIL = "<img src=x onerror=alert(1)>"
REGISTERED = (
    {"name": "beta", "group": "Second in name, first in order"},
    {"name": "alpha", "group": "Other"},
    {"name": "delta", "group": "Other"},
)
RATES = {"ref": (0.50, 0.60, 0.55), "up": (0.60, 0.71, 0.66), EVIL: (0.52, 0.55, 0.57)}


def put(uri: str, detail: str, scale: str, arms: dict[str, tuple], **tags: str) -> None:
    """A study: each arm's win rates by seed."""
    study = experiment(uri, f"{detail}-{scale}")
    for arm, rates in arms.items():
        for seed, rate in enumerate(rates, start=1):
            told = {"detail": detail, "scale": scale, "reference": str(arm == "ref").lower()}
            log_light(uri, study, Fake(arm, seed, tags=told | tags), {"test/win_rate": rate})


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """A store with two details at two scales, one without a reference, one that the registry does not have."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('indexed') / 'mlflow.db'}"
    put(uri, "alpha", "mini", RATES)
    put(uri, "alpha", "toy", RATES)
    put(uri, "beta", "mini", {"ref": (0.5,), "off": (0.4,)})
    put(uri, "headless", "mini", {"off": (0.4,)})
    put(uri, "retired", "mini", {"ref": (0.5,)})
    return uri


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder of pages: of one study in the store, of one that is not, of one that was not finished, and an atlas."""
    for name, file, told in (
        ("alpha", "verdict.json", {"detail": "alpha", "scale": "mini"}),
        ("gone-toy", "verdict.json", {"detail": "gone", "scale": "toy"}),
        ("torn", "verdict.json", {}),
        ("atlas", "atlas.json", {"scale": "mini"}),
        ("paper", "other.json", {}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps(told) if told else '{"detail": "to')
        (tmp_path / name / "index.html").write_text("a page")
    return tmp_path


def test_it_links_what_was_built_and_only_that(uri, root):
    html = index.build(root, uri, REGISTERED).read_text()
    links = re.findall(r'href="([^"]*)"', html)
    assert sorted(links) == ["alpha/index.html", "atlas/index.html", "gone-toy/index.html", "paper/index.html"]
    assert all((root / link).is_file() for link in links)
    assert html.index("no longer in the store") < html.index("gone-toy/index.html")


def test_verdicts_are_those_of_the_analysis(uri):
    study = next(each for each in read_store(uri)[0] if (each.detail, each.scale) == ("alpha", "mini"))
    found = analyse(study).verdicts
    compared = entries.compare(study)
    shown = index.arms(*compared, index.scales([compared]))
    assert [row["arm"] for row in shown] == [EVIL, "up"] and [row["verdict"] for row in shown] == [
        "undecided",
        "better",
    ]
    for row, expected in zip(shown, found.itertuples()):
        assert (row["mean"], row["low"], row["high"]) == (expected.mean, expected.low, expected.high)


def test_studies_stand_in_the_registrys_order_under_its_groups(uri, root):
    html = index.build(root, uri, REGISTERED).read_text()
    titles = re.findall(r"<h3>(?:<a[^>]*>)?([^<]+)", html)
    assert [unescape(title).strip() for title in titles] == [
        *("Second in name, first in order", "beta", "Other", "alpha", "alpha", "not in the registry", "retired"),
    ]
    assert html.count('<span class="scale">toy</span>') == 1


def test_what_is_missing_is_said(uri, root):
    html = index.build(root, uri, REGISTERED).read_text()
    assert "<b>headless-mini</b>: the study headless-mini has no run of the reference arm" in html
    assert "1 of 3 registered details" in html and "<code>delta</code>" in html
    assert html.count("no page yet") == 3 and "only the reference arm has runs" in html


def test_the_hours_of_a_page_whose_study_is_gone_count_once(root):
    def page_of(name: str, content: dict) -> None:
        (root / name).mkdir(exist_ok=True)
        (root / name / ("atlas.json" if "studies" in content else "verdict.json")).write_text(json.dumps(content))

    facts = {"question": "?", "seeds": 1, "lost": 0, "differences": {}, "hours": 2.5}
    for name in ("alpha", "delta"):
        told = {
            "detail": name,
            "scale": "mini",
            "reference": "ref",
            "primary": "test/win_rate",
            "smallest_effect": 0.05,
        }
        page_of(name, told | {"seeds": [1], "arms": {}, "index": facts})
    effect = {"variant": "off", "n": 1, "mean_difference": 0.1, "ci95": [None, None], "verdict": "undecided"}
    told = {"detail": "beta", "reference": "ref", "primary": "test/win_rate", "smallest_effect": 0.05}
    both = {name: effect | told | {"detail": name, "verdict_corrected": "undecided"} for name in ("alpha", "beta")}
    studies = {name: facts for name in both}
    page_of("atlas", {"scale": "mini", "effects": list(both.values()), "studies": studies, "machine_hours": 4.0})
    of = {
        name: entries.kept_hours(root, {(each, "mini") for each in name.split()}) for name in ("", "beta", "alpha beta")
    }
    assert of == {"": 6.5, "beta": 6.5, "alpha beta": 2.5}, "the atlas' page has alpha's runs"
    assert "<b>6.5</b><span>machine hours" in index.build(root, "", REGISTERED).read_text().replace("6.50", "6.5")


def test_a_run_that_goes_on_or_was_never_started_is_not_lost(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    put(uri, "alpha", "mini", {"ref": (0.5, 0.6, 0.7), "off": (0.4, 0.5)})
    failed = experiment(uri, "beta-mini")
    for arm, outcome in (("ref", "finished"), ("off", "failed"), ("on", "killed")):
        told = {"detail": "beta", "reference": str(arm == "ref").lower()}
        log_light(uri, failed, Fake(arm, 1, outcome, tags=told), {"test/win_rate": 0.5} if arm == "ref" else {})
    told = {study.detail: entries.facts(study) for study in read_store(uri)[0]}
    counts = {detail: (facts["planned"], facts["open"], facts["lost"]) for detail, facts in told.items()}
    assert counts == {"alpha": (6, 1, 0), "beta": (3, 0, 2)}
    html = index.build(tmp_path, uri, REGISTERED).read_text()
    assert '<span class="badge running">1 of 6 runs not finished</span>' in html
    assert '<span class="badge failed">2 runs lost</span>' in html
    assert "1 variant at scale <b>mini</b>" in html  # off of alpha: those of beta have no pair, and no word


def test_an_arm_that_a_look_decided_about_has_lost_no_runs(tmp_path):
    uri, rates = f"sqlite:///{tmp_path / 'mlflow.db'}", (0.50, 0.51, 0.49, 0.50, 0.52, 0.48)
    decided = tuple(rate - 0.2 + seed / 1000 for seed, rate in enumerate(rates[:4]))
    wild = tuple(rate + step for rate, step in zip(rates, (0.2, -0.2, 0.1, -0.1, 0.2, -0.2), strict=True))
    plan = {"looks": "4 6", "smallest_effect": "0.05", "primary": "test/win_rate", "higher_is_better": "true"}
    put(uri, "alpha", "mini", {"ref": rates, "down": decided, "wild": wild}, **plan)
    client = MlflowClient(uri)
    for name, value in plan.items():
        client.set_experiment_tag(client.get_experiment_by_name("alpha-mini").experiment_id, name, value)
    (study,) = read_store(uri)[0]
    assert study.looks == (4, 6) and dict(entries.compare(study)[0].set_index("arm")["n"]) == {"down": 4, "wild": 6}
    assert entries.missing_runs(study) == 0


def test_a_page_older_than_its_newest_run_is_marked(root, tmp_path_factory):
    uri = f"sqlite:///{tmp_path_factory.mktemp('aged') / 'mlflow.db'}"
    put(uri, "alpha", "mini", {"ref": (0.5,)})
    assert "older than the newest run" not in index.build(root, uri, REGISTERED).read_text()
    study = MlflowClient(uri).get_experiment_by_name("alpha-mini").experiment_id
    later = Fake("off", int(time.time() * 1000) + 1_000, tags={"detail": "alpha", "reference": "false"})
    log_light(uri, study, later, {"test/win_rate": 0.4})  # which starts at the time that is its seed
    assert "older than the newest run" in index.build(root, uri, REGISTERED).read_text()


def test_it_stands_alone_and_escapes_what_runs_say(uri, root):
    html = index.build(root, uri, REGISTERED).read_text()
    assert "<img" not in html and "&lt;img src=x" in html
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?:https?:)?//", html) and "@import" not in html


def test_the_same_store_gives_the_same_bytes(uri, root):
    assert index.build(root, uri, REGISTERED).read_bytes() == index.build(root, uri, REGISTERED).read_bytes()
