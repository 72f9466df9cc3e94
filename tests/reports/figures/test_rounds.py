"""The figure of rounds of feedback: its rounds and arms, its sentence, and where it has nothing to show."""

from dataclasses import replace

import pandas as pd

from repro.reports.figures import numbers, rounds
from repro.reports.reading.study import Study, no_ceiling

ARMS, SEEDS = ("1", "2", "3"), (1, 2, 3)
ACCURACY = {("2", 2): 0.7, ("3", 2): 0.7, ("3", 3): 0.8}  # of an arm in a round, the first seed's


def made_up(accuracy=ACCURACY, gold=4.5) -> Study:
    rows = [
        ("feedback_rounds", arm, seed, step, metric, value + 0.01 * (seed - 1) * (metric == rounds.ACCURACY))
        for (arm, step), right in accuracy.items()
        for seed in SEEDS
        for metric, value in ((rounds.ACCURACY, right), ("feedback/gold", gold), ("feedback/entropy", 1.0))
    ]
    columns = ["detail", "arm", "seed", "step", "metric", "value"]
    finals = pd.DataFrame([(arm, seed, "test/gold", 1.0) for arm in ARMS for seed in SEEDS])
    return Study(
        uri="",
        detail="feedback_rounds",
        scale="mini",
        arms=ARMS,
        seeds=SEEDS,
        tags={"primary_metric": "test/gold", "higher_is_better": "true", "expected": "{}", "smallest_effect": "1"},
        amended=(),
        curves=pd.DataFrame(rows, columns=columns),
        finals=finals.set_axis(["arm", "seed", "metric", "value"], axis="columns"),
        runs=pd.DataFrame(),
        samples={},
        ceiling=no_ceiling(),
    )


def shown(study: Study) -> pd.DataFrame:
    (chart,) = rounds.CHARTS
    return chart.data(study, None)


def test_it_has_each_arm_in_each_of_its_rounds_and_says_how_often_the_reward_model_is_right():
    data, (chart,) = shown(made_up()), rounds.CHARTS
    assert set(zip(data["arm"], data["step"])) == set(ACCURACY) and set(data["metric"]) == {
        rounds.ACCURACY,
        "feedback/gold",
    }
    assert chart.takeaway(data, made_up()).endswith("as the annotators do 0.710 (2) and 0.710, then 0.810 (3).")
    assert chart.still(data) == ["gold score of new samples is 4.50 in every run in every round."]


def test_a_panel_has_the_rounds_as_its_axis_and_a_mark_for_each_arm_and_round():
    figure = rounds.draw_rounds(shown(made_up()), made_up())
    (axes,) = [axes for axes in figure.axes if axes.lines]
    assert [int(tick) for tick in axes.get_xticks()] == [2, 3]
    means = [line for line in axes.lines if line.get_markersize() == 6]
    heights = [round(float(y), 3) for line in means for y in line.get_ydata()]
    assert heights == [0.71, 0.71, 0.81]
    left, right = (line.get_xdata() for line in means)
    assert 1.5 < left[0] < right[0] < 2.5 < right[1] < 3.5


def test_a_study_without_rounds_has_no_such_figure_and_one_of_equal_texts_says_so():
    assert shown(replace(made_up(), curves=made_up().curves.iloc[:0])).empty
    data = shown(made_up()).query("metric != @rounds.ACCURACY")
    assert rounds.takeaway(data, made_up()) == "All pairs of samples were equal, so that there was nothing to compare."
    assert rounds.draw_rounds(data, made_up()) is None


def test_a_mean_that_is_nothing_beside_its_interval_is_a_signed_zero():
    minus = numbers.MINUS
    assert numbers.difference(4.9e-5, -0.026, 0.026) == "+0.000"
    assert numbers.difference(-4.9e-5, -0.026, 0.026) == f"{minus}0.000"
    assert numbers.difference(0.0079, -0.523, 0.539) == "+0.008" and numbers.difference(3.2, -500, 506) == "+3.20"
    assert numbers.difference(4.9e-5, 4e-5, 6e-5) == numbers.signed(4.9e-5) == f"+4.9e{minus}05"
    assert numbers.difference(0.0171, float("nan"), float("nan")) == "+0.017"
