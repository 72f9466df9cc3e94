"""What a page says first: the verdict in a sentence, that a tiny run is one, and what is inside each closed section."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from repro import record
from repro.details import find
from repro.details.control import DRAWS
from repro.reports.pages import markup, opening, page
from repro.reports.statistics.findings import analyse
from repro.reports.statistics.size import nothing_to_see

SECTIONS = ("expected", "figures", "judge", "differences", "seeds", "reward-models", "samples", "ran")
SECTIONS += ("reproduce", "rules")


def with_values(study, **values):
    """The study with these final values in every run, by the metric's name after test/."""
    told = study.finals["metric"].map({f"test/{name}": value for name, value in values.items()})
    return replace(study, finals=study.finals.assign(value=told.fillna(study.finals["value"])))


def test_the_takeaway_is_one_sentence_on_all_arms(study):
    assert opening.takeaway(study, analyse(study)) == (
        "off is worse than shift_and_scale; scale_only is not yet told apart from shift_and_scale, by the near-greedy "
        "win rate."
    )


@pytest.mark.parametrize(
    ("looks", "seeds", "words", "told"),
    [
        ((), 0, [], ""),
        ((4, 6), 0, ["undecided"], ""),
        ((4, 6, 12), 4, ["better", "identical"], "Sequential study, decided at look 1 of 3: 4 of up to 12 seeds"),
        ((4, 6, 12), 6, ["better", "undecided"], "Sequential study, undecided after look 2 of 3: 6 of up to 12 seeds"),
        ((4, 6), 6, ["undecided"], "Sequential study, undecided after look 2 of 2: 6 of up to 6 seeds"),
    ],
)
def test_how_far_a_sequential_study_has_come_is_said(looks, seeds, words, told, study):
    grown = replace(study, tags=study.tags | {"looks": " ".join(map(str, looks))})
    reached = pd.DataFrame({"look": [look for look in looks if look <= seeds]})
    findings = replace(analyse(study), looks=reached, verdicts=pd.DataFrame({"verdict": words}))
    assert opening.progress(grown, findings) == told


def test_arms_of_one_verdict_are_named_together(study):
    wide = replace(study, tags=study.tags | {"smallest_effect": "0.5"})
    assert opening.takeaway(wide, analyse(wide)) == (
        "off and scale_only make no difference that matters beside shift_and_scale, by the near-greedy win rate."
    )
    alone = replace(study, arms=study.arms[:1])
    findings = replace(analyse(study), verdicts=analyse(study).verdicts.head(0))
    assert "nothing to compare yet" in opening.takeaway(alone, findings)


def test_of_the_control_it_is_said_how_far_runs_of_one_recipe_lie_apart(study):
    control = replace(study, detail=record.CONTROL_DETAIL)
    assert opening.takeaway(control, analyse(control)) == (
        "Same recipe, other random numbers: near-greedy win rate \N{MINUS SIGN}0.100 in the mean, single seeds "
        "\N{MINUS SIGN}0.110 to \N{MINUS SIGN}0.090, sd 0.010; +0.007 in the mean, single seeds \N{MINUS SIGN}0.010 to "
        "+0.020, sd 0.015."
    )
    assert find(record.CONTROL_DETAIL) is DRAWS
    findings = analyse(control)
    alone = replace(findings, verdicts=findings.verdicts.assign(n=1))
    assert "not yet told apart" in opening.takeaway(control, alone)  # of single seeds there is no spread to tell


def test_names_with_braces_are_names(study):
    verdicts = analyse(study).verdicts.replace({"off": "{0}"})
    told = opening.takeaway(study, replace(analyse(study), verdicts=verdicts))
    assert told.startswith("{0} is worse than shift_and_scale")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"eos_rate": 0.0}, "no summary of any run ended within the limit"),
        ({"win_rate": 0.25}, "every run has the same near-greedy win rate (0.25)"),
        (
            {"eos_rate": 0.0, "win_rate": 0.0},
            "ended within the limit and every run has the same near-greedy win rate (0)",
        ),
        ({}, ""),
        ({"eos_rate": 0.01}, ""),
    ],
)
def test_a_run_in_which_nothing_can_be_seen_says_so_first_and_asks_for_no_more_seeds(study, values, why):
    tiny = with_values(study, **values)
    told, findings = nothing_to_see(tiny), analyse(tiny)
    assert why in told and bool(told) == bool(why)
    verdict = page.verdict_record(tiny, findings, page.Path("index.html"))
    said = " ".join(arm["sentence"] for arm in verdict["arms"].values())
    if why:
        assert opening.takeaway(tiny, findings) == told and told in said and "more seed" not in said
    else:
        assert "This is a tiny run" not in said and "more seeds would decide it" in said


def test_one_run_and_runs_without_values_are_not_called_tiny(study):
    one = replace(study, finals=with_values(study, eos_rate=0.0).finals.query("arm == 'off' and seed == 1"))
    assert nothing_to_see(one) == "" == nothing_to_see(replace(study, finals=study.finals.head(0)))


def test_each_section_is_closed_and_says_what_is_inside(study, tmp_path):
    text = page.render(study, analyse(study), [], tmp_path, {})
    for name in SECTIONS:
        head = (
            rf'<section id="{name}"><details class="part"><summary><h2>([^<]+)</h2> <span class="inside">([^<]*)</span>'
        )
        found = re.search(head, text)
        assert found and len(found[2]) > 15 and found[2].rstrip().endswith("."), name
    assert text.count('<details class="part">') == len(re.findall(r'<section id="', text))


def test_every_link_of_the_contents_leads_to_a_section(study, tmp_path):
    text = page.render(study, analyse(study), [], tmp_path, {})
    bar = re.search(r'<nav class="bar".*?</nav>', text, re.DOTALL)[0]
    assert set(re.findall(r'href="#([\w-]+)"', bar)) == {*re.findall(r'<section id="([\w-]+)"', text), "top"}


def test_long_names_may_be_broken_after_a_word_and_are_escaped():
    long = "replace_with_minus_one_<b>_0.0001"
    assert markup.breakable(f"a_b and {long}") == (
        "a_b and replace_<wbr>with_<wbr>minus_<wbr>one_<wbr>&lt;b&gt;_<wbr>0.0001"
    )
