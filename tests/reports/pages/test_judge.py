"""The judge's section: whose word it is, what it says of the arms, and what stands against believing it."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from scipy.special import expit

from repro import record
from repro.reports.pages import judge, page
from repro.reports.reading.artifacts import read_judgements
from repro.reports.reading.studies import read_study
from repro.reports.statistics.findings import analyse
from repro.reports.statistics.student import t_interval
from tests.reports.made_up import ARMS, Fake, experiment, log

RATES = {"shift_and_scale": (0.6, 0.7, 0.8), "off": (0.5, 0.55, 0.6), "scale_only": (0.7, 0.7, 0.8)}
BECAUSE = "<script>alert('judge')</script> says more"


def judgement(win, posts=(), **changed):
    """As repro/stages/judge/verdicts.py writes one; `win` of each post, None where no preference could be read."""
    named = posts or [f"t3_{i}" for i in range(len(win))]
    orders = {
        "policy_first": {"preferred": "policy", "because": BECAUSE},
        "reference_first": {"preferred": "", "because": ""},
    }
    known = [value for value in win if value is not None]
    return {
        "model": "oracle",
        "answered_by": ["oracle-0125"],
        "hosts": ["api.openai.com"],
        "sampling": {"max_completion_tokens": 512},
        "prompt": 1,
        "last_answer": "2024-03-24T10:00:00+00:00",
        "unanswered": 0,
        "metrics": {"judge/win_rate": float(np.mean(known)), "judge/unparsable": 0.25, "judge/sft_win_rate": 0.4},
        "verdicts": [{"post_id": post, "win": value, **orders} for post, value in zip(named, win)],
    } | changed


@pytest.fixture
def found(study):
    """A judgement of every run of the made-up study, with the rates above."""
    told = {(arm, seed): judgement([1.0, 0.0]) for arm in study.arms for seed in study.seeds}
    for (arm, seed), each in told.items():
        each["metrics"]["judge/win_rate"] = RATES[arm][seed - 1]
    return told


def test_an_arm_is_compared_within_each_seed(study, found):
    rows = {row["arm"]: row["cells"][0] for row in judge.arms(study, judge.finals(study, found))}
    assert list(rows) == list(study.arms) and rows[study.reference][1] is None
    mean, apart = rows["off"]
    assert mean == pytest.approx(0.55) and apart.mean == pytest.approx(-0.15) and apart.n == 3
    assert (apart.low, apart.high) == pytest.approx(t_interval(pd.Series([-0.1, -0.15, -0.2])))


def test_an_arm_without_a_judgement_is_left_out_of_the_table_and_named(study, found):
    lacking = {place: told for place, told in found.items() if place[0] != "off"}
    assert [row["arm"] for row in judge.arms(study, judge.finals(study, lacking))] == ["shift_and_scale", "scale_only"]
    assert judge.warnings(study, lacking) == ["Not judged: off seed 1, off seed 2, off seed 3."]


def test_a_judge_that_only_likes_length_finds_no_quality_at_equal_length(study):
    rng, posts = np.random.default_rng(0), 3000
    lengths = pd.DataFrame({"length": rng.integers(10, 40, posts), "reference_length": rng.integers(8, 30, posts)})
    names = [f"t3_{i}" for i in range(posts)]
    samples = lengths.assign(post_id=names, summary="s", reference="r", score=1.0)
    chance = expit(3 * np.log(samples["length"] / samples["reference_length"]))
    win = (rng.random(posts) < chance).astype(float)
    told = judgement([None if i % 10 == 0 else value for i, value in enumerate(win)], names)
    finals = judge.finals(replace(study, samples={("off", 1): samples}), {("off", 1): told})
    value = finals.set_index("metric")["value"]
    assert value[judge.WIN_RATE] == pytest.approx(np.delete(win, np.s_[::10]).mean()) and value[judge.WIN_RATE] > 0.6
    assert value[judge.CONTROLLED] == pytest.approx(0.5, abs=0.05)


def test_verdicts_are_matched_by_post(study):
    place, names = (study.reference, 1), [f"t3_{i}" for i in range(6)]
    told = judgement([1.0, None, 0.0], posts=["t3_5", "t3_0", "t3_2"])
    win = judge.by_this_judge(study, {place: told}).samples[place].set_index("post_id")["win"]
    assert win.reindex(names).tolist() == pytest.approx([np.nan, np.nan, 0.0, np.nan, np.nan, 1.0], nan_ok=True)


def test_what_stands_against_a_comparison_is_said(study, found):
    assert judge.warnings(study, found) == []
    place = ("off", 2)
    other = found | {place: judgement([1.0, 0.0], model="seer")}
    assert judge.warnings(study, other) == [
        "Not all runs had the same judge: a difference between arms may be one between judges."
    ]
    assert len(judge.judges(other)) == 2
    elsewhere = found | {place: judgement([1.0, 0.0], posts=["t3_8", "t3_9"], unanswered=4)}
    assert judge.warnings(study, elsewhere) == [
        "Not all runs were judged on the same posts.",
        "4 questions have no answer; the same command asks them again.",
    ]


def test_who_judged_is_told_with_where_how_and_when(found):
    assert judge.judges(found) == [
        "oracle (answered as oracle-0125) at api.openai.com, temperature the endpoint's own, prompt 1, "
        "last answer 2024-03-24"
    ]
    cold = judgement([1.0], answered_by=["oracle"], sampling={"temperature": 0.0})
    assert judge.judges({("off", 1): cold})[0].startswith("oracle at api.openai.com, temperature 0.0,")


# From the store to the page


@pytest.fixture(scope="module")
def asked(store):
    """A study in the store: the reference judged, one arm's judgement damaged, the other's without a part."""
    name = experiment(store, "judged-mini")
    client = MlflowClient(store)
    for arm in ARMS:
        run = log(store, name, Fake(arm, 1), start=1)
        told = json.dumps(judgement([1.0, 0.5, None]))
        said = {"shift_and_scale": told, "off": told[:40], "scale_only": "{}"}[arm]
        client.log_text(run, said, record.JUDGEMENT)
        client.set_tag(run, record.JUDGEMENT_DIGEST, "digest")
    return read_study("judged", "mini", store)


def section_of(study, folder):
    """The section of a page, as text."""
    text = page.render(study, analyse(study), [], folder, {})
    return re.search(r'<section id="judge">.*?</section>', text, re.DOTALL)[0]


def test_what_is_in_the_store_is_on_the_page_and_what_is_damaged_is_said(asked, tmp_path):
    found, troubles = read_judgements(asked)
    assert list(found) == [("shift_and_scale", 1)] and len(troubles) == 2 and "no answered_by" in troubles[1]
    text = section_of(asked, tmp_path)
    assert "oracle (answered as oracle-0125) at api.openai.com" in text and "0.750" in text
    assert "judge.json of off seed 1 cannot be read" in text and "Not judged: off seed 1, scale_only seed 1." in text
    assert "shown 3 test posts" in text and "no preference" in text


def test_a_judges_words_are_escaped(asked, tmp_path):
    text = section_of(asked, tmp_path)
    assert "<script>" not in text and "&lt;script&gt;alert(&#39;judge&#39;)" in text


def test_without_a_judge_the_page_says_who_decides_instead(study, tmp_path):
    text = section_of(study, tmp_path)
    assert "No language model has judged" in text and "gold score" in text and "<table" not in text
    assert "make judge DETAIL=whiten_adv SCALE=mini MODEL=name" in text
