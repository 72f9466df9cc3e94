"""The figures' data, and the look that tells arms apart."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from repro.reports.figures import before_after, chart, differences, layout, style
from repro.reports.figures.curves import (
    CHARTS,
    PANELS,
    bands,
    curve_data,
    curve_panels,
    draw_curves,
    mark_cap,
    on_the_way,
    paired_data,
    stretches,
)
from repro.reports.pages import page
from repro.reports.reading import terms
from repro.reports.statistics.findings import analyse

NINE = tuple(f"arm{i}" for i in range(9))


def recorded_panels(study):
    """The panels that this study has a curve for; the spread of returns is measured in groups of responses only."""
    recorded = set(study.curves["metric"])
    assert set(PANELS) - recorded == {"objective/spread_within_groups", "objective/spread_between_groups"}
    return [metric for metric in PANELS if metric in recorded]


def test_a_panel_that_only_some_arms_have_shows_these(study):
    of_others = study.curves[(study.curves["metric"] == "objective/score") & (study.curves["arm"] != study.reference)]
    spreads = of_others.assign(metric="objective/spread_within_groups")
    grouped = replace(study, curves=pd.concat([study.curves, spreads], ignore_index=True))
    data = curve_data(grouped, analyse(grouped))
    shown = data[data["metric"] == "objective/spread_within_groups"]
    assert set(shown["arm"]) == set(study.arms[1:])
    _, panels = curve_panels(data[data["metric"].isin(PANELS)], grouped, "episodes")
    assert "objective/spread_within_groups" in panels and "objective/spread_between_groups" not in panels


def test_csv_holds_what_is_drawn(study, tmp_path):
    drawn = chart.save_all(page.CHARTS[:4], study, analyse(study), tmp_path)
    assert [each.chart for each in drawn] == list(page.CHARTS[:4])
    written = pd.read_csv(tmp_path / "learning_curves.csv").set_index(["metric", "arm", "seed", "step"])["value"]
    recorded = study.curves.set_index(["metric", "arm", "seed", "step"])["value"]
    assert set(written.index.levels[0]) == {*recorded_panels(study), "test/win_rate"}
    curves = written.drop("test/win_rate", level="metric")
    np.testing.assert_allclose(curves, recorded[curves.index], rtol=1e-6)  # a CSV has seven digits
    panels = {key: pd.read_csv(tmp_path / f"learning_curves-{key}.csv") for key in ("eval_win_rate", "objective_kl")}
    assert set(panels["eval_win_rate"]["metric"]) == {"eval/win_rate", "test/win_rate"}  # what the verdict rests on too
    assert set(panels["objective_kl"]["metric"]) == {"objective/kl"}


def test_the_curve_that_leads_to_the_verdict_ends_in_what_it_rests_on(study):
    data = curve_data(study, analyse(study))
    judged = data[data["metric"] == study.primary].set_index(["arm", "seed"])["value"]
    tested = study.finals[study.finals["metric"] == study.primary].set_index(["arm", "seed"])["value"]
    pd.testing.assert_series_equal(judged.sort_index(), tested.sort_index())
    assert data.loc[data["metric"] == study.primary, "step"].unique() == study.curves["step"].max()


def test_a_cross_is_not_said_to_be_an_end_of_a_run_that_goes_on():
    assert "A cross is a run that ended early, or goes on." in CHARTS[0].caption


def test_numbers_below_the_curve_stand_apart_beside_the_verdicts_of_many_arms(study):
    arms = (study.reference, *(f"arm{i}" for i in range(12)))
    steps, rates = (0, 256, 512, 768, 1024), (0.5, 0.6, 0.7, 0.72, 0.73)
    curve = [
        (arm, seed, step, "eval/win_rate", rate + seed / 100)
        for arm in arms
        for seed in (1, 2)
        for step, rate in zip(steps, rates, strict=True)
    ]
    judged = [(arm, seed, 0, "test/win_rate", 0.7 + seed / 100) for arm in arms for seed in (1, 2)]
    rows = pd.DataFrame(curve + judged, columns=["arm", "seed", "step", "metric", "value"])
    with style.panel_context():
        figure = draw_curves(rows, replace(study, arms=arms))
        figure.draw_without_rendering()
        (axes,) = figure.axes
        boxes = [tick.get_window_extent() for tick in axes.get_xticklabels()]
    digit = style.DIGIT * figure.dpi
    assert len(boxes) > 1 and all(one.x1 + digit / 2 < other.x0 for one, other in zip(boxes, boxes[1:], strict=False))


def test_the_legend_says_how_many_seeds_an_arm_has_where_arms_have_different_numbers(study):
    findings = analyse(study)

    def words(curves):
        figure = draw_curves(curve_data(replace(study, curves=curves), findings), study)
        return [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]

    assert words(study.curves) == [f"{study.reference} (reference)", *study.arms[1:]]
    first, *others = study.arms
    fewer = study.curves[(study.curves["arm"] == first) | (study.curves["seed"] != study.seeds[-1])]
    seeds = fewer.groupby("arm")["seed"].nunique()
    assert words(fewer) == [f"{first} (reference), {seeds[first]} seeds", *(f"{a}, {seeds[a]} seeds" for a in others)]


@pytest.mark.parametrize(
    ("metric", "curve"),
    [
        ("test/win_rate", "eval/win_rate"),
        ("test/sampled_win_rate", "eval/win_rate"),
        ("test/kl", "objective/kl"),
        ("test/rouge_l", ""),
        ("objective/kl", ""),
    ],
)
def test_a_tested_metric_is_looked_for_on_validation_posts_first(metric, curve):
    assert on_the_way(metric) == curve


def test_panels_keep_their_order_and_the_reference_comes_first(study):
    data = curve_data(study, analyse(study))
    assert tuple(data["metric"].unique()) == (*recorded_panels(study), "test/win_rate")
    assert data["arm"].iloc[0] == study.reference


def test_differences_along_the_way_are_taken_step_by_step_within_a_seed(study):
    told = paired_data(study, analyse(study)).set_index(["metric", "arm", "seed", "step"])["value"]
    value = study.curves.set_index(["metric", "arm", "seed", "step"])["value"]
    where = ("objective/kl", "off", 2, 192)
    assert told[where] == pytest.approx(value[where] - value[("objective/kl", study.reference, 2, 192)])
    assert study.reference not in told.index.unique("arm")


def test_bands_are_t_intervals_over_the_seeds_of_a_step(study):
    band = bands(study.curves).query("metric == 'objective/kl' and arm == 'off' and step == 192").iloc[0]
    rows = study.curves.query("metric == 'objective/kl' and arm == 'off' and step == 192")["value"]
    expected = stats.t.interval(0.95, 2, rows.mean(), stats.sem(rows))
    assert (band["low"], band["high"]) == pytest.approx(expected)


def test_stretches_are_means_and_a_short_curve_stays_as_it_is():
    curve = pd.DataFrame({"metric": "rm/loss", "arm": "a", "seed": 1, "step": range(1, 121), "value": range(1, 121)})
    told = stretches(curve, 60)
    assert told["step"].tolist() == told["value"].tolist() == [1.5 + 2 * i for i in range(60)]
    pd.testing.assert_frame_equal(stretches(curve.head(12), 60), curve.head(12), check_dtype=False)
    other = curve.head(12).assign(metric="sft/loss")
    both = stretches(pd.concat([curve, other]), 60)
    assert both.groupby("metric").size().to_dict() == {"rm/loss": 60, "sft/loss": 12}


def test_before_and_after_are_paired_with_the_references_level(study):
    row = (
        before_after.before_after_data(study, analyse(study))
        .query("metric == 'test/win_rate' and arm == 'off'")
        .iloc[0]
    )
    assert (row["before"], row["after"], row["references"]) == (0.74, 0.74, 0.5)
    gold = before_after.before_after_data(study, analyse(study)).query("metric == 'test/gold'")
    assert set(gold["references"]) == {1.78}


def test_other_test_metrics_follow_the_usual_ones(study):
    other = study.finals[study.finals["metric"] == "test/gold"].assign(metric="test/a_new_one")
    metrics = differences.tested(type(study)(**vars(study) | {"finals": pd.concat([other, study.finals])}))
    assert metrics[:2] == ["test/sampled_win_rate", "test/win_rate"] and metrics[-1] == "test/a_new_one"
    assert "test/reference_gold" not in metrics


def test_a_sampled_metric_is_named_after_the_greedy_one():
    assert terms.label("test/sampled_win_rate") == "win rate, sampled [share]"
    assert (
        terms.said("test/sampled_win_rate") == "sampled win rate"
        and terms.said("test/win_rate") == "near-greedy win rate"
    )
    assert terms.name("sft_test/sampled_win_rate") == "win rate, sampled, before PPO"
    assert terms.label("test/unheard_of") == "test/unheard_of"


@pytest.mark.parametrize("look", [style.colours, style.dashes, style.markers])
def test_the_reference_looks_the_same_in_every_study_and_seven_arms_differ(look):
    assert look(NINE[:2])[NINE[0]] == look(NINE)[NINE[0]]
    assert len(set(look(NINE[:7]).values())) == 7


@pytest.mark.parametrize(("cap", "drawn"), [(5.0, 1), (20.0, 0), (float("nan"), 0)])
def test_the_cap_on_the_kl_is_drawn_where_a_run_came_near_it(cap, drawn):
    axes = layout.grid(1, 1, 3, 3)[1][0]
    axes.set_ylim(0, 10)
    mark_cap(axes, cap)
    assert len(axes.lines) == drawn


def test_limits_follow_the_seeds_and_a_wide_positive_curve_is_logarithmic():
    axes = layout.grid(1, 1, 3, 3)[1][0]
    layout.frame_limits(axes, pd.Series([0.0, 1.0]))
    assert axes.get_ylim() == pytest.approx((-0.08, 1.08)) and axes.get_yscale() == "linear"
    layout.frame_limits(axes, pd.Series([1.0, 1.0, 1.0, 500.0]))
    assert axes.get_yscale() == "log"


def test_numbers_of_an_axis_that_is_logarithmic_on_both_sides_are_spelled_as_elsewhere():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([-30, 0.5, 40], [0, 1, 2])
    style.symmetric_log(axes, 1.0)
    figure.canvas.draw()
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert {"−10", "0", "1", "10"} <= set(shown) and not any("$" in text for text in shown)
