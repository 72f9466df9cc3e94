"""Score against KL: which points are drawn, and what an arm is compared with at equal KL."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.reports.figures import frontier
from repro.reports.pages.markup import TEMPLATES
from repro.reports.statistics.findings import analyse


def curves(study, gain: dict[str, float], price: dict[str, float]) -> pd.DataFrame:
    """Curves on which an arm's score is its gain x KL, and its KL grows evenly to its price."""
    steps, rows = np.arange(1, 41) * 64, []
    for arm in study.arms:
        for seed in study.seeds:
            kl = price[arm] * steps / steps[-1]
            rows.append(pd.DataFrame({"step": steps, "metric": "objective/kl", "value": kl}).assign(arm=arm, seed=seed))
            score = gain[arm] * kl + seed
            told = pd.DataFrame({"step": steps, "metric": "objective/score", "value": score})
            rows.append(told.assign(arm=arm, seed=seed))
    return pd.concat(rows, ignore_index=True).assign(detail=study.detail)


def test_at_equal_kl_a_dearer_arm_on_the_same_line_gains_nothing(study):
    gain = dict.fromkeys(study.arms, 0.5) | {"off": 0.8}
    price = dict.fromkeys(study.arms, 10.0) | {"off": 6.0, "scale_only": 8.0}
    found = frontier.at_equal_kl(replace(study, curves=curves(study, gain, price))).set_index("arm")
    assert found.loc["scale_only", "mean"] == pytest.approx(0.0, abs=1e-9)
    last = 6.0 * (1 - 1.5 / 40)  # mean KL of the last four of forty updates
    assert found.loc["off", "mean"] == pytest.approx(0.3 * last) and found.loc["off", "n"] == 3


def test_an_arm_that_goes_farther_is_compared_where_the_reference_ended(study):
    price = dict.fromkeys(study.arms, 5.0) | {"off": 50.0}
    gain = dict.fromkeys(study.arms, 0.5) | {"off": 0.4}
    found = frontier.at_equal_kl(replace(study, curves=curves(study, gain, price))).set_index("arm")
    last = 5.0 * (1 - 1.5 / 40)
    assert found.loc["off", "mean"] == pytest.approx(-0.1 * last) and found.loc["off", "n"] == 3
    assert found.loc["scale_only", "mean"] == pytest.approx(0.0, abs=1e-9)


def test_an_arm_that_was_never_as_near_has_nothing_to_be_compared_with(study):
    price = dict.fromkeys(study.arms, 5.0) | {"off": 5000.0}
    found = frontier.at_equal_kl(replace(study, curves=curves(study, dict.fromkeys(study.arms, 0.5), price)))
    assert found["arm"].tolist() == ["scale_only"]


@given(st.integers(0, 2**32 - 1))
def test_at_equal_kl_the_difference_changes_its_sign_with_the_places(seed):
    draw = np.random.default_rng(seed)
    one, other = (
        pd.DataFrame({"kl": draw.normal(size=10).cumsum() + 5, "value": draw.normal(size=10)}) for _ in range(2)
    )
    there, back = frontier._less_at_equal_kl(one, other), frontier._less_at_equal_kl(other, one)
    assert (np.isnan(there) and np.isnan(back)) or there == -back


def test_the_axis_of_a_sampled_win_rate_does_not_say_near_greedy(study):
    assert frontier._score("test/sampled_win_rate") == "win rate, sampled"
    assert frontier._score("eval/win_rate") == "win rate"


def test_paths_are_means_over_tenths_of_training(study):
    price = dict.fromkeys(study.arms, 10.0)
    told = frontier.on_the_way(replace(study, curves=curves(study, dict.fromkeys(study.arms, 1.0), price)))
    path = told.query("arm == 'off' and seed == 2")
    assert path["kl"].tolist() == pytest.approx([0.625 + i for i in range(10)])
    assert path["value"].tolist() == pytest.approx((path["kl"] + 2).tolist())


def test_of_a_score_measured_now_and_then_the_last_stretch_is_one_measurement_and_the_page_says_so(study):
    rare = study.curves["metric"].ne("eval/win_rate") | study.curves["step"].isin((64, 256, 640))
    told = frontier.on_the_way(replace(study, curves=study.curves[rare])).query("metric == 'eval/win_rate'")
    assert set(told["step"]) == {64, 256, 640}
    assert "of a score that is measured now and then, the last time" in (TEMPLATES / "ablation.html.j2").read_text()


def test_ends_pair_the_sampled_score_with_the_sampled_kl(study):
    ends = frontier.at_the_end(study)
    rates = ends[ends["metric"] == "test/sampled_win_rate"]
    assert len(rates) == 9 and set(rates["value"]) == {0.7} and set(rates["kl"]) == {2.2}


def test_a_study_without_kl_has_no_frontier_and_one_without_curves_has_its_ends(study):
    no_kl = replace(
        study,
        curves=study.curves[study.curves["metric"] != "objective/kl"],
        finals=study.finals[study.finals["metric"] != "test/kl"],
    )
    assert frontier.data(no_kl, analyse(no_kl)).empty
    no_curves = replace(study, curves=study.curves.head(0))
    assert set(frontier.data(no_curves, analyse(no_curves))["part"]) == {"end"}


def test_the_start_that_is_not_drawn_does_not_make_the_axis_logarithmic(study):
    kl = {(arm, seed): 1.0 + 3 * i + seed for i, arm in enumerate(study.arms) for seed in study.seeds}
    kl[study.arms[-1], study.seeds[-1]] = 60.0
    rows = [
        (*place, metric, value)
        for place, far in kl.items()
        for metric, value in (("test/kl", far), ("test/sampled_gold", far / 9), ("sft_test/sampled_gold", 0.1))
    ]
    finals = pd.DataFrame(rows, columns=["arm", "seed", "metric", "value"])
    ended = replace(study, curves=study.curves.head(0), finals=finals)
    (axes,) = frontier.draw(frontier.data(ended, analyse(ended)), ended).axes
    assert axes.get_xscale() == "linear"
