"""Statistics against numbers worked out by hand and against scipy."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.statistics import (
    agreement,
    analyse,
    complete_steps,
    corrected,
    differences,
    holm,
    identical,
    intervals,
    paired_p,
    predictions,
    seeds_needed,
    t_interval,
    tally,
    verdict,
    verdicts,
)


def tidy(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["metric", "arm", "seed", "step", "value"])


def finals(**arms: list[float]) -> pd.DataFrame:
    return tidy([("m", arm, seed, 0, v) for arm, values in arms.items() for seed, v in enumerate(values)])


def test_differences_are_taken_within_a_seed():
    paired = differences(finals(ref=[1.0, 5.0], off=[1.5, 4.0]), "ref")
    assert paired.to_dict("records") == [
        {"metric": "m", "arm": "off", "seed": 0, "difference": 0.5},
        {"metric": "m", "arm": "off", "seed": 1, "difference": -1.0},
    ]


def test_a_curve_is_compared_on_the_steps_that_both_runs_have():
    reference = [("m", "ref", 0, step, 10.0 * step) for step in (1, 2, 3)]
    stopped = [("m", "off", 0, step, 10.0 * step + step) for step in (1, 2)]
    assert differences(tidy(reference + stopped), "ref")["difference"].tolist() == [1.5]


def test_a_seed_without_its_twin_has_no_difference():
    assert differences(finals(ref=[1.0], off=[1.5, 4.0]), "ref")["seed"].tolist() == [0]


@pytest.mark.parametrize("arms", [{"off": [1.0, 2.0]}, {"ref": [1.0, 2.0]}])
def test_one_side_alone_has_no_differences(arms):
    assert intervals(differences(finals(**arms), "ref")).empty


def test_interval_by_hand():
    # differences 1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.302653, half width 4.302653 / sqrt(3) = 2.484138
    row = intervals(differences(finals(ref=[0.0, 0.0, 0.0], off=[1.0, 2.0, 3.0]), "ref")).iloc[0]
    assert (row["n"], row["mean"], row["sd"]) == (3, 2.0, 1.0)
    assert (row["low"], row["high"]) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)


def test_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    ref, off = rng.normal(size=6), rng.normal(0.3, size=6)
    expected = stats.ttest_rel(off, ref).confidence_interval(0.95)
    row = intervals(differences(finals(ref=list(ref), off=list(off)), "ref")).iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_interval_of_one_value_does_not_exist_and_of_equal_values_is_a_point():
    assert all(map(math.isnan, t_interval(pd.Series([1.0]))))
    assert t_interval(pd.Series([1.0, 1.0])) == (1.0, 1.0)


def test_intervals_of_many_arms_are_those_of_each():
    rng = np.random.default_rng(1)
    paired = pd.DataFrame(
        [(m, a, s, rng.normal()) for m in "xy" for a in "abc" for s in range(4)],
        columns=["metric", "arm", "seed", "difference"],
    )
    for row in intervals(paired).itertuples():
        own = paired.query("metric == @row.metric and arm == @row.arm")["difference"]
        expected = stats.ttest_1samp(own, 0).confidence_interval(0.95)
        assert (row.low, row.high) == pytest.approx((expected.low, expected.high))


def test_p_is_that_of_the_paired_t_test_and_says_what_the_interval_says():
    rng = np.random.default_rng(2)
    ref, off = rng.normal(size=5), rng.normal(0.8, size=5)
    p = paired_p(pd.Series(off - ref))
    assert p == pytest.approx(stats.ttest_rel(off, ref).pvalue)
    low, high = t_interval(pd.Series(off - ref))
    assert (p < 0.05) == (low > 0 or high < 0)


def test_p_of_equal_differences_is_one_at_zero_and_unknown_elsewhere():
    assert paired_p(pd.Series([0.0, 0.0, 0.0])) == 1.0
    assert math.isnan(paired_p(pd.Series([0.1, 0.1, 0.1])))  # not a certainty: shares are coarse
    assert math.isnan(paired_p(pd.Series([0.3 - 0.1, 0.2, 0.1 + 0.1])))  # equal but for rounding
    assert math.isnan(paired_p(pd.Series([0.1])))


def test_holm_by_hand():
    # sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, and no smaller than the one before: .04 .06 .06 .06
    p = pd.Series([0.04, 0.01, np.nan, 0.03, 0.02], index=list("abcde"))
    assert holm(p).round(12).to_dict() == pytest.approx(
        {"a": 0.06, "b": 0.04, "c": np.nan, "d": 0.06, "e": 0.06}, nan_ok=True
    )


def test_holm_of_one_test_changes_nothing_and_never_passes_one():
    assert holm(pd.Series([0.03])).tolist() == [0.03]
    assert holm(pd.Series([0.6, 0.9])).tolist() == [1.0, 1.0]
    assert holm(pd.Series([np.nan])).isna().all()


@pytest.mark.parametrize(
    ("word", "adjusted", "left"),
    [
        ("better", 0.04, "better"),
        ("worse", 0.06, "undecided"),
        ("better", math.nan, "undecided"),
        ("no difference", 1.0, "no difference"),
        ("undecided", 0.001, "undecided"),
    ],
)
def test_a_verdict_after_correction(word, adjusted, left):
    assert corrected(word, adjusted) == left


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ([("m", 1, 0.5), ("m", 2, 0.6), ("n", 1, 7.0), ("n", 2, 8.0)], True),
        ([("m", 2, 0.6), ("n", 2, 8.0)], True),  # in the seeds that both have
        ([("m", 1, 0.5), ("m", 2, 0.6), ("n", 1, 7.0), ("n", 2, 8.1)], False),
        ([("m", 1, 0.5), ("m", 2, 0.6), ("n", 1, 7.0)], False),
        ([("m", 1, 0.5), ("m", 2, 0.6), ("n", 1, 7.0), ("n", 2, 8.0), ("new", 1, 0.0)], False),
        ([("n", 1, 7.0), ("n", 2, 8.0)], False),  # it has no primary value, so it says nothing
        ([], False),
    ],
)
def test_identical_means_every_final_value_of_every_shared_seed(other, same):
    rows = [("m", 1, 0.5), ("m", 2, 0.6), ("n", 1, 7.0), ("n", 2, 8.0)]
    frame = pd.DataFrame(
        [("ref", *row) for row in rows] + [("off", *row) for row in other], columns=["arm", "metric", "seed", "value"]
    )
    assert identical(frame, "off", "ref", "m") is same


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "word"),
    [
        (0.03, 0.09, True, "better"),
        (0.03, 0.09, False, "worse"),
        (-0.09, -0.03, True, "worse"),
        (-0.09, -0.03, False, "better"),
        (-0.01, 0.01, True, "no difference"),
        (0.001, 0.01, True, "no difference"),
        (-0.02, 0.02, True, "no difference"),
        (-0.02, 0.021, True, "undecided"),
        (0.01, 0.03, True, "better"),
        (math.nan, math.nan, True, "undecided"),
    ],
)
def test_verdict_words(low, high, higher_is_better, word):
    assert verdict(low, high, 0.02, higher_is_better) == word


@pytest.mark.parametrize(("effect_over_sd", "seeds"), [(1.0, 10), (0.8, 15), (0.5, 34), (0.2, 199)])
def test_seeds_needed_are_those_of_the_published_tables_of_the_paired_t_test(effect_over_sd, seeds):
    assert seeds_needed(1.0, effect_over_sd) == seeds


def test_seeds_needed_is_the_first_n_with_enough_power():
    def power(n: float) -> float:
        critical = stats.t.ppf(0.975, n - 1)
        return stats.nct.sf(critical, n - 1, 0.8 * n**0.5) + stats.nct.cdf(-critical, n - 1, 0.8 * n**0.5)

    n = seeds_needed(1.0, 0.8)
    assert power(n) >= 0.8 > power(n - 1)


def test_seeds_needed_without_a_spread_or_an_effect_is_unknown():
    assert math.isnan(seeds_needed(0.0, 0.1)) and math.isnan(seeds_needed(math.nan, 0.1))
    assert math.isnan(seeds_needed(0.1, 0.0)) and math.isinf(seeds_needed(1.0, 0.01))


def test_an_arm_with_one_pair_or_none_is_undecided():
    summary = intervals(differences(finals(ref=[0.5], off=[0.9]), "ref"))
    rows = verdicts(summary, ("off", "never_ran"), "m", 0.02, True)
    assert rows["verdict"].tolist() == ["undecided", "undecided"]
    assert rows["n"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("predicted", "low", "high", "margin", "result"),
    [
        ("up", 0.1, 0.2, 0, "as predicted"),
        ("up", -0.2, -0.1, 0, "opposite"),
        ("up", -0.1, 0.2, 0, "not resolved"),
        ("down", -0.2, -0.1, 0, "as predicted"),
        ("down", 0.1, 0.2, 0, "opposite"),
        ("same", -0.1, 0.1, 0.2, "as predicted"),
        ("same", -0.1, 0.1, 0, "not resolved"),
        ("same", 0.1, 0.3, 0.2, "opposite"),
        ("same", 0.0, 0.0, 0, "as predicted"),
        ("up", math.nan, math.nan, 0, "not resolved"),
        ("same", math.nan, math.nan, 0.2, "not resolved"),
    ],
)
def test_agreement_with_a_prediction(predicted, low, high, margin, result):
    assert agreement(predicted, low, high, margin) == result


def test_the_smallest_effect_widens_same_on_the_primary_metric_alone():
    rows = [(m, "ref", s, 0, 0.0) for m in "ab" for s in range(3)] + [
        (m, "off", s, 0, v) for m in "ab" for s, v in enumerate([0.001, -0.001, 0.0])
    ]
    checked = predictions(intervals(differences(tidy(rows), "ref")), ("off",), {"a": "same", "b": "same"}, "a", 0.02)
    assert dict(zip(checked["metric"], checked["result"], strict=True)) == {"a": "as predicted", "b": "not resolved"}


def test_tally_counts_what_was_measured_and_lists_what_was_not():
    runs = pd.DataFrame(
        [("ref", 1, "finished"), ("ref", 2, "finished"), ("off", 1, "diverged")], columns=["arm", "seed", "outcome"]
    )
    primary = pd.DataFrame([("ref", 1, 0.5), ("ref", 2, 0.5), ("off", 1, 0.1)], columns=["arm", "seed", "value"])
    rows = tally(runs, primary, ("ref", "off"), (1, 2)).set_index("arm")
    assert rows.loc["off", ["planned", "outcomes", "absent", "counted"]].tolist() == [2, {"diverged": [1]}, [2], [1]]
    assert rows.loc["ref", "counted"] == [1, 2]


def test_complete_steps_end_where_the_first_seed_of_an_arm_ends():
    curves = tidy(
        [("m", "off", 0, s, 1.0) for s in (1, 2, 3)]
        + [("m", "off", 1, s, 1.0) for s in (1, 2)]
        + [("m", "ref", 0, s, 1.0) for s in (1, 2, 3)]
    )
    kept = complete_steps(curves).groupby(["arm", "seed"])["step"].max()
    assert kept.to_dict() == {("off", 0): 2, ("off", 1): 2, ("ref", 0): 3}


def test_findings_of_the_made_up_study(study):
    # win rates off - reference: -.10, -.09, -.11; scale_only - reference: .01, -.01, .02
    rows = analyse(study).verdicts.set_index("arm")
    assert rows.loc["off", "verdict"] == "worse" and rows.loc["scale_only", "verdict"] == "undecided"
    assert rows["mean"].to_dict() == pytest.approx({"off": -0.10, "scale_only": 0.02 / 3})
    assert rows.loc["off", "low"] == pytest.approx(-0.10 - 4.302653 * 0.01 / 3**0.5)
