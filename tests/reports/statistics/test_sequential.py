"""Studies that are judged while they grow: what each look spends, who shares it, and how often a word is false."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from repro.reports.figures.differences import difference_data
from repro.reports.pages import entries, page
from repro.reports.statistics import sequential
from repro.reports.statistics.findings import analyse
from repro.reports.statistics.outcomes import stopped_at
from repro.reports.statistics.sequential import Rule, errors, history, simulated

RULE = Rule((4, 6, 8), smallest_effect=0.05)
SEEDS = range(1, 9)


def pairs(**arms):
    """Differences of each arm on seeds 1, 2, ..."""
    rows = [(arm, seed, value) for arm, values in arms.items() for seed, value in enumerate(values, 1)]
    return pd.DataFrame(rows, columns=["arm", "seed", "difference"])


def told(paired, ended=None, rule=RULE):
    found = history(paired, ended or {arm: set(SEEDS) for arm in paired["arm"].unique()}, rule)
    return found.set_index(["look", "arm"])


@pytest.mark.parametrize("looks", [(4, 6, 8, 12), (3,), (3, 4, 5, 50)])
def test_the_looks_spend_five_percent_between_them_in_proportion_to_their_seeds(looks):
    assert sum(errors(looks)) == pytest.approx(0.05)
    assert errors(looks)[0] == pytest.approx(0.05 * looks[0] / looks[-1]) and min(errors(looks)) > 0


def test_one_look_is_the_usual_interval():
    values = np.array([0.1, 0.2, 0.15, 0.12])
    row = told(pairs(off=values), rule=Rule((4,), 0.05)).loc[(4, "off")]
    assert (row["low"], row["high"]) == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))


def test_a_look_by_hand():
    values = [0.1, -0.2, 0.3, 0.0, 0.1, -0.1]
    rows = told(pairs(off=values), {"off": {1, 2, 3, 4, 5}})
    assert rows.index.tolist() == [(4, "off")]
    row, half = rows.loc[(4, "off")], stats.t.ppf(1 - 0.05 * (4 / 8) / 2, 3) * np.std(values[:4], ddof=1) / 2
    assert (row["low"], row["high"]) == pytest.approx((0.05 - half, 0.05 + half)) and row["error"] == pytest.approx(
        0.025
    )
    assert row["verdict"] == "undecided" and row["n"] == 4


def test_arms_share_a_look_equally_also_with_those_that_are_decided():
    values = {"clear": [0.30, 0.31, 0.29, 0.30] * 2, "close": [0.06, 0.17, 0.12, 0.09] * 2}
    rows = told(pairs(**values), {arm: set(range(1, 7)) for arm in values})
    assert rows["verdict"].to_dict() == {(4, "clear"): "better", (4, "close"): "undecided", (6, "close"): "better"}
    assert rows["error"].to_dict() == pytest.approx({(4, "clear"): 0.0125, (4, "close"): 0.0125, (6, "close"): 0.00625})
    alone = told(pairs(close=values["close"]), {"close": {1, 2, 3, 4}}).loc[(4, "close")]
    assert alone["verdict"] == "better", "with the whole error of the look"


def test_an_arm_that_is_decided_is_not_judged_again():
    rows = told(pairs(off=[0.3, 0.31, 0.29, 0.3, -0.9, -0.9, -0.9, -0.9]))
    assert rows.index.tolist() == [(4, "off")] and rows["verdict"].tolist() == ["better"]


def test_a_look_waits_until_every_undecided_arm_has_ended_on_all_its_seeds():
    values = pairs(a=[0.1, -0.1] * 4, b=[0.1, -0.2] * 4)
    assert told(values, {"a": {1, 2, 3, 4}, "b": {1, 2, 3}}).empty
    assert told(values, {"a": {1, 2, 3, 4, 5, 6}, "b": {1, 2, 3, 4, 6}}).index.tolist() == [(4, "a"), (4, "b")]


def test_a_seed_that_failed_has_ended_and_counts_in_no_interval():
    values = pairs(off=[0.1, -0.1, 0.1, 0.2])
    rows = told(values[values["seed"] != 2], {"off": {1, 2, 3, 4}})
    assert rows.loc[(4, "off"), "n"] == 3
    nothing = told(values[values["seed"] == 9], {"off": {1, 2, 3, 4}})
    assert nothing["n"].tolist() == [0] and nothing["verdict"].tolist() == ["undecided"]


@pytest.mark.parametrize(("higher", "word"), [(True, "better"), (False, "worse")])
def test_the_better_direction_is_the_studys(higher, word):
    rows = told(pairs(off=[0.3, 0.31, 0.29, 0.3]), {"off": {1, 2, 3, 4}}, replace(RULE, higher_is_better=higher))
    assert rows["verdict"].tolist() == [word]


def test_false_words_of_many_arms_and_looks_stay_below_one_study_in_twenty():
    rng, rule, wrong = np.random.default_rng(3), Rule((3, 4, 6, 8), smallest_effect=0.0), 0
    ended = {arm: set(SEEDS) for arm in "abc"}
    for _ in range(250):  # nothing differs; all arms share the reference's luck
        runs = rng.standard_normal((4, 8))
        rows = history(pairs(a=runs[1] - runs[0], b=runs[2] - runs[0], c=runs[3] - runs[0]), ended, rule)
        wrong += (rows["verdict"] != "undecided").any()
    assert 1 <= wrong <= 21  # 12.5 at most in the mean; more than 21 has a chance of one in a hundred even then


def test_false_words_of_many_arms_stay_below_it_where_the_effect_is_the_smallest_of_interest_too():
    """Of every arm "better" is right and "no difference" is wrong: an arm that has the one frees no error for the others."""
    rng, rule, arms, wrong = np.random.default_rng(6), Rule((12,), smallest_effect=1.25), "abcdefghijkl", 0
    ended = {arm: set(range(1, 13)) for arm in arms}
    for _ in range(100):
        drawn = rng.normal(1.2501, 1.0, (len(arms), 12))
        wrong += (history(pairs(**dict(zip(arms, drawn))), ended, rule)["verdict"] == "no difference").any()
    assert wrong <= 6  # 2.5 at most in the mean, since of two sides one is wrong; 13 by Holm's procedure


@pytest.mark.parametrize("arms", [1, 3])
def test_what_is_simulated_is_what_is_said_of_a_study(arms):
    drawn = np.random.default_rng(4).normal(0.03, 0.04, (60, arms, 8))
    words, seeds = simulated(drawn.reshape(-1, 8), RULE, arms)
    for study, word, count in zip(drawn, words.reshape(-1, arms), seeds.reshape(-1, arms)):
        last = history(pairs(**dict(zip("abc", study))), dict.fromkeys("abc"[:arms], set(SEEDS)), RULE)
        last = last.drop_duplicates("arm", keep="last").set_index("arm").sort_index()
        assert (last["verdict"].tolist(), last["look"].tolist()) == (word.tolist(), count.tolist())
    assert len(set(words)) > 1 and len(set(seeds)) > 1


def test_p_falls_below_five_percent_where_some_look_leaves_out_zero_and_nowhere_else():
    rule, found = replace(RULE, smallest_effect=1e-9), []
    for values in np.random.default_rng(5).normal(0.6, 1, (60, 8)):
        paired = pairs(off=values)
        looks = history(paired, {"off": set(SEEDS)}, rule)
        row = sequential.verdicts(looks, paired, ["off"], rule).iloc[0]
        found.append(row["verdict"] != "undecided")
        assert (row["p"] < 0.05) == found[-1]
    assert 0 < sum(found) < 60


def test_a_look_that_lost_its_pairs_shows_nothing_of_an_earlier_one():
    looks = pd.DataFrame(
        [(4, "off", 4, 0.1, 0.2, -0.5, 0.7, 0.025, "undecided"), (6, "off", 0, *[np.nan] * 4, 0.0125, "undecided")],
        columns=sequential.HISTORY,
    )
    row = sequential.verdicts(looks, pairs(off=[]), ["off"], RULE).iloc[0]
    assert (row["look"], row["n"]) == (6, 0) and np.isnan(row["mean"]) and np.isnan(row["low"])


def test_differences_without_a_spread_have_no_p():
    paired = pairs(off=[0.25] * 4)
    row = sequential.verdicts(history(paired, {"off": {1, 2, 3, 4}}, RULE), paired, ["off"], RULE).iloc[0]
    assert row["verdict"] == "undecided" and np.isnan(row["p"])


# A recorded study


@pytest.fixture
def growing(study):
    """The made-up study, judged at 2 seeds and at 5; it has 3."""
    return replace(study, tags=study.tags | {"looks": "2 5"})


def test_a_study_that_grows_says_when_it_is_judged_next(growing):
    findings = analyse(growing)
    assert findings.looks["look"].unique().tolist() == [2]
    row = findings.verdicts.set_index("arm").iloc[0]
    fixed = analyse(replace(growing, tags=growing.tags | {"looks": ""})).verdicts.iloc[0]
    assert row["high"] - row["low"] > fixed["high"] - fixed["low"] and (row["n"], fixed["n"]) == (2, 3)
    if row["verdict"] == "undecided":
        assert "the next look is at 5 seeds" in page.sentence(next(findings.verdicts.itertuples()), growing).lower()
    assert "over all looks" in page.render(growing, findings, [], None, {})


def test_before_its_first_look_nothing_is_decided(study):
    early = replace(study, tags=study.tags | {"looks": "4 6"})
    row = analyse(early).verdicts.iloc[0]
    assert (row["verdict"], row["reason"], row["n"]) == ("undecided", "the first look is at 4 seeds", 3)
    assert np.isnan(row["low"]) and np.isnan(row["p"])
    one = replace(early, finals=early.finals[early.finals["seed"] == 1])
    told = page.sentence(next(analyse(one).verdicts.itertuples()), one)
    assert told.endswith(". The first look is at 4 seeds.")  # of one seed too: two would not decide


def test_the_index_says_what_the_page_says(growing):
    rows, _ = entries.compare(growing)
    expected = analyse(growing).verdicts
    pd.testing.assert_frame_equal(rows[expected.columns], expected)


def test_seeds_that_a_decided_arm_had_no_need_of_are_not_missing(growing):
    looks = pd.DataFrame([(2, "off", "better")], columns=["look", "arm", "verdict"])
    long = replace(growing, seeds=(1, 2, 3, 4, 5))
    assert stopped_at(long, looks)["off"] == (1, 2)
    assert stopped_at(long, looks)[long.reference] == (1, 2, 3, 4, 5)


def test_a_prediction_is_judged_by_the_interval_of_the_verdict(growing):
    moved = replace(growing, tags=growing.tags | {"moves": json.dumps({growing.primary: "up"})})
    findings = analyse(moved)
    columns = ["arm", "n", "mean", "low", "high"]
    found = findings.predictions[findings.predictions["metric"] == growing.primary]
    pd.testing.assert_frame_equal(found[columns].reset_index(drop=True), findings.verdicts[columns])


def test_every_part_of_the_page_has_the_interval_of_the_verdict(growing):
    findings = analyse(growing)
    told = findings.verdicts[["n", "mean", "low", "high"]].to_numpy()
    row, *_ = page.difference_rows(growing, findings)
    assert row["metric"] == growing.primary
    np.testing.assert_array_equal([(cell.n, cell.mean, cell.low, cell.high) for cell in row["cells"]], told)
    drawn = difference_data(growing, findings).query("metric == @growing.primary").drop_duplicates("arm")
    np.testing.assert_array_equal(drawn[["n", "mean", "low", "high"]], told)
    html = page.render(growing, findings, [], None, {})
    assert "primary, 95 % interval over all looks</span>" in html
    rows = [row for row in html.split("<tr")[1:] if f"{growing.primary}</code>" in row and "↓ down" in row]
    assert len(rows) == len(told) and all('<span class="soft">over all looks</span>' in row for row in rows)


def test_the_page_says_that_all_arms_share_the_error_of_a_look(growing):
    findings, arms = analyse(growing), len(growing.arms) - 1
    assert sum(findings.looks["error"]) == pytest.approx(errors(growing.looks)[0])
    assert findings.looks["error"].tolist() == [errors(growing.looks)[0] / arms] * arms
    assert "divided over all arms of the study" in page.render(growing, findings, [], None, {})
