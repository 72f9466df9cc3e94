"""Statistics against numbers worked out by hand and against scipy."""

import itertools
import math
import time
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from repro.reports.statistics.findings import analyse
from repro.reports.statistics.hypotheses import agreement, predictions
from repro.reports.statistics.judging import NO_SPREAD, TOO_FEW, verdicts
from repro.reports.statistics.outcomes import runaways, tally
from repro.reports.statistics.over_posts import prompts
from repro.reports.statistics.pairing import (
    complete_steps,
    corrected,
    differences,
    holm,
    identical,
    intervals,
    paired_p,
)
from repro.reports.statistics.resampling import ENOUGH_SEEDS, robust, sign_flip_p
from repro.reports.statistics.sample_size import power, seeds_needed, seeds_to_decide
from repro.reports.statistics.student import t_interval, verdict


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


def test_without_a_smallest_effect_an_interval_has_a_direction_at_most():
    words = verdict(np.array([0.01, -0.2, -0.1]), np.array([0.02, -0.1, 0.1]), math.nan, True)
    assert words.tolist() == ["better", "worse", "undecided"]


def test_power_is_that_of_the_noncentral_t():
    critical = stats.t.ppf(0.975, 6)
    expected = stats.nct.sf(critical, 6, 0.8 * 7**0.5) + stats.nct.cdf(-critical, 6, 0.8 * 7**0.5)
    assert power(np.array([7]), 0.8) == pytest.approx([expected])
    assert power(7, 0.0) == pytest.approx(0.05) and power(7, -0.8) == pytest.approx(expected)


def test_seeds_needed_is_the_first_n_with_enough_power():
    n = int(seeds_needed(1.0, 0.8))
    assert power(n, 0.8) >= 0.8 > power(n - 1, 0.8)


def test_seeds_to_decide_by_hand():
    # the whole interval of spread 1: 2 t(17) / sqrt(18) = 0.995 with 18 seeds, 2 t(16) / sqrt(17) = 1.028 with 17
    assert seeds_to_decide(1.0, 1.0) == 18
    assert math.isnan(seeds_to_decide(0.0, 1.0)) and math.isnan(seeds_to_decide(1.0, 0.0))
    assert math.isinf(seeds_to_decide(1.0, 0.01))


@pytest.mark.parametrize("mean", np.linspace(-2.5, 2.5, 41))
def test_that_many_seeds_do_decide_wherever_the_mean_lies(mean):
    n = int(seeds_to_decide(1.0, 1.0))
    half = stats.t.ppf(0.975, n - 1) / n**0.5
    assert verdict(mean - half, mean + half, 1.0, True) != "undecided"


def test_what_is_undecided_always_needs_more_seeds_and_what_is_decided_none():
    rng = np.random.default_rng(3)
    arms = {f"arm{i}": list(rng.normal(rng.uniform(-1, 1), rng.uniform(0.1, 2), size=4)) for i in range(60)}
    rows = verdicts(intervals(differences(finals(ref=[0.0] * 4, **arms), "ref")), tuple(arms), "m", 1.0, True)
    open_ones = rows["verdict"] == "undecided"
    assert 10 < open_ones.sum() < 50
    assert (rows.loc[open_ones, "more_seeds"] >= 1).all() and (rows.loc[~open_ones, "more_seeds"] == 0).all()


def test_seeds_that_are_still_missing_are_those_to_decide_less_those_there():
    rows = verdicts(
        intervals(differences(finals(ref=[0.0] * 3, off=[-1.0, 0.0, 1.0]), "ref")), ("off",), "m", 1.0, True
    )
    assert rows.loc[0, ["sd", "verdict", "more_seeds"]].tolist() == [1.0, "undecided", 15.0]


def test_seeds_needed_without_a_spread_or_an_effect_is_unknown():
    assert math.isnan(seeds_needed(0.0, 0.1)) and math.isnan(seeds_needed(math.nan, 0.1))
    assert math.isnan(seeds_needed(0.1, 0.0)) and math.isinf(seeds_needed(1.0, 0.01))


def test_an_arm_with_one_pair_or_none_is_undecided():
    summary = intervals(differences(finals(ref=[0.5], off=[0.9]), "ref"))
    rows = verdicts(summary, ("off", "never_ran"), "m", 0.02, True)
    assert rows["verdict"].tolist() == ["undecided", "undecided"]
    assert rows["n"].tolist() == [1, 0]
    assert rows["reason"].tolist() == [TOO_FEW, TOO_FEW] and rows["more_seeds"].isna().all()


@pytest.mark.parametrize("off", [[0.0, 0.0, 0.0], [0.2, 0.2, 0.2], [0.3 - 0.1, 0.2, 0.1 + 0.1]])
def test_differences_that_are_all_equal_decide_nothing_and_say_so(off):
    row = verdicts(intervals(differences(finals(ref=[0.0] * 3, off=off), "ref")), ("off",), "m", 0.02, True).iloc[0]
    assert (row["verdict"], row["reason"]) == ("undecided", NO_SPREAD)
    assert math.isnan(row["seeds_needed"]) and math.isnan(row["more_seeds"])


def test_a_metric_that_does_not_move_is_undecided_and_arms_that_are_identical_are_not(study):
    still = study.finals.assign(value=study.finals["value"].where(study.finals["metric"] != study.primary, 0.0))
    row = analyse(replace(study, finals=still)).verdicts.set_index("arm").loc["off"]
    assert (row["verdict"], row["reason"], row["identical"]) == ("undecided", NO_SPREAD, False)
    assert math.isnan(row["low"]) and math.isnan(row["high"])  # of no width, an interval says nothing
    own = study.finals[study.finals["arm"] == study.reference]
    twins = pd.concat([own.assign(arm=arm) for arm in study.arms])
    row = analyse(replace(study, finals=twins)).verdicts.set_index("arm").loc["off"]
    assert (row["verdict"], row["reason"], row["identical"]) == ("identical", "", True)


@pytest.mark.parametrize("seeds", [(), (1,), (1, 2, 3)])
def test_a_study_is_analysed_whatever_of_it_is_there(study, seeds):
    kept = study.finals[study.finals["seed"].isin(seeds)]
    values = kept["value"].where((kept["arm"] != "off") | (kept["metric"] != study.primary))  # off: not a number
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = analyse(replace(study, finals=kept.assign(value=values), samples={}))
    assert found.verdicts.set_index("arm")["n"].to_dict() == {"off": 0, "scale_only": len(seeds)}
    assert found.verdicts["verdict"].tolist() == ["undecided", "undecided"]
    assert [len(frame) for frame in (found.levels, found.tally, found.robust, found.prompts)] == [3, 3, 2, 0]


@pytest.mark.parametrize(
    ("predicted", "low", "high", "margin", "result"),
    [
        ("up", 0.1, 0.2, 0, "as predicted"),
        ("up", -0.2, -0.1, 0, "contradicted"),
        ("up", -0.1, 0.2, 0, "not resolved"),
        ("down", -0.2, -0.1, 0, "as predicted"),
        ("down", 0.1, 0.2, 0, "contradicted"),
        ("same", -0.1, 0.1, 0.2, "as predicted"),
        ("same", -0.1, 0.1, 0, "not resolved"),
        ("same", 0.1, 0.3, 0.2, "contradicted"),
        ("same", 0.0, 0.0, 0, "not resolved"),
        ("same", 0.1, 0.1, 0.2, "not resolved"),
        ("up", 0.1, 0.1, 0, "not resolved"),
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
    rows = tally(runs, primary, ("ref", "off"), {"ref": (1, 2), "off": (1, 2)}).set_index("arm")
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


# Beside the t interval


def six(*values: float) -> pd.DataFrame:
    return pd.DataFrame([("off", seed, v) for seed, v in enumerate(values)], columns=["arm", "seed", "difference"])


def test_six_seeds_are_where_each_of_them_begins_to_say_something():
    assert 2 / 2**ENOUGH_SEEDS < 0.05 <= 2 / 2 ** (ENOUGH_SEEDS - 1)  # the smallest p of sign flips
    lowest = [stats.binomtest(n, n).proportion_ci().low for n in (ENOUGH_SEEDS, ENOUGH_SEEDS - 1)]
    assert lowest[0] > 0.5 > lowest[1]  # of P(improvement), where every seed wins
    assert robust(six(1, 2, 3, 4, 5), ("off",), True).iloc[0, 2:].isna().all()
    assert robust(six(1, 2, 3, 4, 5, 6), ("off",), True).iloc[0].notna().all()


def test_inter_quartile_mean_by_hand():
    # six values, a quarter of which is 1.5: one is left out at each end, (2 + 3 + 4 + 5) / 4 = 3.5
    row = robust(six(1, 2, 3, 4, 5, 100), ("off",), True).iloc[0]
    assert row["iqm"] == 3.5 and 1 <= row["iqm_low"] < 3.5 < row["iqm_high"]


def test_levels_are_of_the_arm_itself_and_name_the_reference_first(study):
    rows = [
        (arm, seed, study.primary, seed + extra) for seed in range(8) for arm, extra in zip(study.arms, (0, 10, 20))
    ]
    found = analyse(replace(study, finals=pd.DataFrame(rows, columns=["arm", "seed", "metric", "value"]))).levels
    assert found["arm"].tolist() == list(study.arms) and found["iqm"].tolist() == [3.5, 13.5, 23.5]


@pytest.mark.parametrize(
    ("higher_is_better", "p", "won", "won_or_tied"), [(True, 4.5 / 6, 4, 5), (False, 1.5 / 6, 1, 2)]
)
def test_probability_of_improvement_by_hand(higher_is_better, p, won, won_or_tied):
    row = robust(six(1, 2, 3, 4, 0, -1), ("off",), higher_is_better).iloc[0]
    assert row["p_improvement"] == p
    assert row["p_low"] == pytest.approx(stats.binomtest(won, 6).proportion_ci().low)
    assert row["p_high"] == pytest.approx(stats.binomtest(won_or_tied, 6).proportion_ci().high)


@pytest.mark.parametrize("values", [[1, 2, 3, 4, 5, 6], [1, 2, -3, 4, 0.5, 6, 2], [0, 0, 1, -1, 2, 3]])
def test_sign_flips_are_all_of_them(values):
    flipped = [np.dot(signs, values) for signs in itertools.product((1, -1), repeat=len(values))]
    expected = min(1.0, 2 * np.mean(np.array(flipped) >= sum(values) - 1e-9))
    assert sign_flip_p(np.array(values, dtype=float)) == pytest.approx(expected)


def test_an_interval_of_values_that_are_all_equal_is_not_a_certainty():
    row = robust(six(*[0.1] * 6), ("off",), True).iloc[0]
    assert row["iqm"] == pytest.approx(0.1) and math.isnan(row["iqm_low"])


# Over posts


def posts(win: list[float], **more: list) -> pd.DataFrame:
    return pd.DataFrame({"post_id": [f"t3_{i}" for i in range(len(win))], "win": win} | more)


def sampled(study, **samples: pd.DataFrame):
    return replace(study, samples={(arm, 1): table for arm, table in samples.items()})


def test_checkpoints_are_compared_post_by_post_against_the_same_seed(study):
    ours, theirs = [1.0, 1.0, 0.0, 1.0] * 50, [0.0, 1.0, 0.0, 0.5] * 50
    row = prompts(sampled(study, shift_and_scale=posts(theirs), off=posts(ours))).iloc[0]
    assert (row["arm"], row["seed"], row["posts"], row["mean"]) == ("off", 1, 200, 0.375)
    half = 1.96 * np.std(np.subtract(ours, theirs)) / 200**0.5
    assert (row["low"], row["high"]) == pytest.approx((0.375 - half, 0.375 + half), abs=0.012)


def test_posts_count_that_both_have_and_judged(study):
    ours, theirs = posts([1.0, None, 1.0, 0.0]), posts([0.0, 0.0, 0.0])
    assert prompts(sampled(study, shift_and_scale=theirs, off=ours))["posts"].tolist() == [2]
    twice = [posts(win).assign(post_id="t3_0") for win in ([1.0, 0.0, 1.0], [0.0, 0.0])]  # posts of one name
    assert prompts(sampled(study, shift_and_scale=twice[1], off=twice[0]))["mean"].tolist() == [0.5]
    other = theirs.assign(post_id=["a", "b", "c"])
    assert prompts(sampled(study, shift_and_scale=other, off=ours)).empty


def test_samples_without_the_metric_or_without_a_reference_have_no_comparison(study):
    assert prompts(study).empty  # its samples have no column `win`
    assert prompts(sampled(study, off=posts([1.0, 0.0]))).empty
    assert prompts(replace(study, tags=study.tags | {"primary": "test/kl"})).empty


def test_gains_are_over_the_policy_that_an_arm_started_from(study):
    table = posts([1.0, 1.0, 0.0, 1.0] * 10, sft_win=[0.0, 1.0, 0.0, 1.0] * 10)
    found = analyse(sampled(study, shift_and_scale=table)).gains
    assert found[["arm", "seed", "mean"]].values.tolist() == [["shift_and_scale", 1, 0.25]]


def test_a_large_study_is_compared_over_posts_in_seconds(study):
    rng = np.random.default_rng(4)
    arms = (study.reference, *"abcdef")
    tables = {(arm, seed): posts(list(rng.integers(0, 2, 512) * 1.0)) for arm in arms for seed in range(10)}
    start = time.process_time()
    found = prompts(replace(study, arms=arms, seeds=tuple(range(10)), samples=tables))
    assert len(found) == 60 and time.process_time() - start < 3  # 0.4 s on an idle core


# Runs that ran away


def far(study, cap: dict, kl: list[tuple], tested: list[tuple] = ()):
    curve = [(study.detail, arm, seed, step, "objective/kl", value) for arm, seed, step, value in kl]
    finals = pd.DataFrame(
        [(arm, seed, "test/kl", v) for arm, seed, v in tested], columns=["arm", "seed", "metric", "value"]
    )
    columns = ["detail", "arm", "seed", "step", "metric", "value"]
    return replace(study, tags=study.tags | cap, curves=pd.DataFrame(curve, columns=columns), finals=finals)


def test_a_run_ran_away_by_the_kl_with_which_it_ended(study):
    # seed 1 came back, seed 2 ended far away (though its rows are not in order), seed 3 only on the test posts
    kl = [("off", 1, 10, 9.0), ("off", 1, 20, 1.0), ("off", 2, 20, 8.1), ("off", 2, 10, 1.0), ("off", 3, 10, 1.0)]
    found = runaways(far(study, {"kl_cap": "8"}, kl, [("off", 3, 8.5), ("off", 1, 2.0)])).set_index("arm")
    assert found.loc["off", ["cap", "kl_known", "ran_away"]].tolist() == [8.0, 3, [2, 3]]
    exact = stats.binomtest(2, 3).proportion_ci()
    assert found.loc["off", ["ran_away_low", "ran_away_high"]].tolist() == [exact.low, exact.high]
    assert found.loc[study.reference, ["kl_known", "ran_away"]].tolist() == [0, []]
    assert found.index.tolist() == list(study.arms)


def test_a_kl_that_is_not_a_number_hides_none_before_it(study):
    found = runaways(far(study, {"kl_cap": "8"}, [("off", 1, 10, 9.0), ("off", 1, 20, math.nan)])).set_index("arm")
    assert found.loc["off", "ran_away"] == [1]


def test_a_run_that_goes_on_has_not_ended_far_away(study):
    going = study.runs.assign(outcome=study.runs["outcome"].mask(study.runs["seed"] == 1, "running"))
    kl = [("off", 1, 10, 9.0), ("off", 2, 10, 9.0)]
    row = runaways(replace(far(study, {"kl_cap": "8"}, kl), runs=going)).set_index("arm").loc["off"]
    assert row[["kl_known", "ran_away"]].tolist() == [1, [2]]


def test_no_cap_no_word(study):
    row = runaways(far(study, {}, [("off", 1, 10, 99.0)])).set_index("arm").loc["off"]
    assert row["ran_away"] == [] and math.isnan(row["cap"]) and math.isnan(row["ran_away_high"])
    assert "ran_away" in analyse(study).tally and analyse(study).tally["cap"].isna().all()
