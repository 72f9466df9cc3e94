"""The figures' data, and the look that tells arms apart."""

import numpy as np
import pandas as pd
import pytest

from reports import figures, style
from reports.statistics import analyse

NINE = tuple(f"arm{i}" for i in range(9))


def test_csv_holds_what_is_drawn(study, tmp_path):
    assert figures.save_all(figures.CHARTS, study, analyse(study), tmp_path) == list(figures.CHARTS)
    written = pd.read_csv(tmp_path / "learning_curves.csv").set_index(["metric", "arm", "seed", "step"])["value"]
    recorded = study.curves.set_index(["metric", "arm", "seed", "step"])["value"]
    assert set(written.index.levels[0]) == set(figures.PANELS)
    np.testing.assert_allclose(written, recorded[written.index])


def test_panels_keep_their_order_and_the_reference_comes_first(study):
    data = figures.curve_data(study, analyse(study))
    assert tuple(data["metric"].unique()) == figures.PANELS and data["arm"].iloc[0] == study.reference


def test_before_and_after_are_paired_with_the_references_level(study):
    row = figures.before_after_data(study, analyse(study)).query("metric == 'test/win_rate' and arm == 'off'").iloc[0]
    assert (row["before"], row["after"], row["references"]) == (0.74, 0.74, 0.5)
    gold = figures.before_after_data(study, analyse(study)).query("metric == 'test/gold'")
    assert set(gold["references"]) == {1.78}


def test_other_test_metrics_follow_the_usual_ones(study):
    other = study.finals[study.finals["metric"] == "test/gold"].assign(metric="test/a_new_one")
    metrics = figures.tested(type(study)(**vars(study) | {"finals": pd.concat([other, study.finals])}))
    assert metrics[0] == "test/win_rate" and metrics[-2:] == ["test/a_new_one", "test/sampled_win_rate"]
    assert "test/reference_gold" not in metrics


def test_a_sampled_metric_is_named_after_the_greedy_one():
    assert style.label("test/sampled_win_rate") == "win rate, sampled [share]"
    assert style.label("test/unheard_of") == "test/unheard_of"


@pytest.mark.parametrize("look", [style.colours, style.dashes, style.markers])
def test_the_reference_looks_the_same_in_every_study_and_seven_arms_differ(look):
    assert look(NINE[:2])[NINE[0]] == look(NINE)[NINE[0]]
    assert len(set(look(NINE[:7]).values())) == 7


def test_limits_follow_the_seeds_and_a_wide_positive_curve_is_logarithmic():
    axes = figures.grid(1, 1, 3, 3)[1][0]
    figures.frame_limits(axes, pd.Series([0.0, 1.0]))
    assert axes.get_ylim() == pytest.approx((-0.08, 1.08)) and axes.get_yscale() == "linear"
    figures.frame_limits(axes, pd.Series([1.0, 1.0, 1.0, 500.0]))
    assert axes.get_yscale() == "log"
