"""What a page says of reward models: shared ones once, each check from its metrics, and arms that have none of it."""

from dataclasses import replace

import pandas as pd
import pytest

from repro.reports.figures import checks
from repro.reports.pages import page
from repro.reports.statistics.findings import analyse


@pytest.fixture(scope="module")
def apart(study):
    """The made-up study with reward models of its own for one arm, 0.01 more accurate everywhere."""
    keys = [f"{key}-own" if arm == "off" else key for arm, key in zip(study.runs["arm"], study.runs["stage.rm"])]
    better = (study.finals["arm"] == "off") & study.finals["metric"].str.startswith("rm/accuracy/")
    finals = study.finals.assign(value=study.finals["value"] + 0.01 * better)
    return replace(study, runs=study.runs.assign(**{"stage.rm": keys}), finals=finals)


@pytest.fixture(scope="module")
def dpo(study):
    """The made-up study with an arm that was trained by DPO: other curves, and no rollouts."""
    curves, finals = study.curves, study.finals
    ours = curves["arm"] == "off"
    kept = curves[~ours | curves["metric"].str.startswith(("sft/", "rm/"))]
    renamed = {"objective/kl": "dpo/loss", "objective/score": "dpo/train_accuracy", "objective/gold": "dpo/margin"}
    new = curves[ours & curves["metric"].isin(renamed)].replace({"metric": renamed})
    accuracy = finals[(finals["arm"] == "off") & (finals["metric"] == "test/gold")].assign(
        metric="dpo/validation_accuracy", value=0.625
    )
    return replace(study, curves=pd.concat([kept, new]), finals=pd.concat([finals, accuracy]))


def test_calibration_is_read_by_bin_and_shared_models_are_told_once(study):
    rows = checks.numbered_data(study, analyse(study)).query("family == @checks.CALIBRATION")
    assert set(rows["arm"]) == {study.reference} and set(rows["used_by"]) == {"all arms"}
    first = rows.query("seed == 2").set_index("x")["value"]
    assert first.to_dict() == pytest.approx({0.25: 0.54, 0.75: 0.62, 1.25: 0.70, 1.75: 0.78, 2.25: 0.86})


def test_arms_with_their_own_reward_models_are_curves_of_their_own(apart):
    rows = checks.numbered_data(apart, analyse(apart)).query("family == @checks.CONFIDENCE and x == 9")
    assert rows.groupby("used_by")["value"].mean().to_dict() == pytest.approx(
        {"shift_and_scale, scale_only": 0.69, "off": 0.70}
    )


def test_a_legend_counts_arms_and_not_commas(study):
    names = {"shift_and_scale": "the reference, of a long name", "off": "of a long name, too, with commas"}
    arms = tuple(names.get(arm, arm) for arm in study.arms)
    keys = ["own" if arm == "scale_only" else "shared" for arm in study.runs["arm"]]
    runs = study.runs.assign(arm=study.runs["arm"].replace(names), **{"stage.rm": keys})
    told = replace(study, arms=arms, runs=runs, finals=study.finals.assign(arm=study.finals["arm"].replace(names)))
    labels = [entry.label for entry in checks._legend(checks.numbered_data(told, analyse(told)), told)]
    assert labels == ["reward models of 2 arms", "reward models of scale_only"]


def test_groups_keep_their_names(study):
    rows = checks.grouped_data(study, analyse(study)).query("seed == 1")
    assert rows.groupby("family")["label"].agg(list).to_dict() == {
        "rm/accuracy/batch/": ["batch10", "batch11", "batch12", "batch13"],
        "rm/accuracy/policies/": ["ppo vs sft", "ref vs sft"],
        "rm/right_over_wrong/": ["what", "where", "who"],
    }


def test_a_curve_of_a_shared_stage_is_drawn_once(apart):
    rows = checks.training_data(apart, analyse(apart))
    assert set(rows.query("metric == 'sft/loss'")["arm"]) == {apart.reference}
    assert set(rows.query("metric == 'rm/loss'")["arm"]) == {apart.reference, "off"}
    assert set(rows.query("metric == 'rm/loss'")["seed"]) == {1, 2, 3}


def test_the_table_has_a_column_per_reward_model_and_no_groups(study, apart):
    table = page.reward_models(study)
    assert table["users"] == [f"all arms \N{MIDDLE DOT} seed {seed}" for seed in (1, 2, 3)]
    told = {row["metric"]: row["cells"] for row in table["rows"]}
    assert told["rm/off_eos_mean"] == [-0.4] * 3 and not [m for m in told if m.startswith(checks.FAMILIES)]
    assert len(page.reward_models(apart)["users"]) == 6


def test_agreement_is_told_run_by_run(dpo):
    table = page.agreement(dpo)
    assert table["metrics"] == ["sft_test/judge_agreement", "test/judge_agreement", "dpo/validation_accuracy"]
    cells = {(row["arm"], row["seed"]): row["cells"] for row in table["rows"]}
    assert cells["off", 2] == [0.7, 0.8, 0.625]
    assert cells["scale_only", 1][:2] == [0.7, 0.8] and pd.isna(cells["scale_only", 1][2])


def test_a_page_with_a_dpo_arm_shows_its_curves(dpo, unrendered, tmp_path):
    text = page.build(dpo, tmp_path).read_text()
    curves = pd.read_csv(tmp_path / "figures" / "training.csv")
    assert set(curves.loc[curves["metric"].str.startswith("dpo/"), "arm"]) == {"off"}
    assert "Agreement with the judge" in text and "DPO, pair accuracy, validation" in text


def test_a_study_without_checks_has_no_such_section(study, tmp_path):
    plain = replace(study, finals=study.finals[~study.finals["metric"].str.contains("rm/|agreement")])
    findings = analyse(plain)
    assert all(chart.data(plain, findings).empty for chart in checks.CHARTS)
    assert 'id="checks"' not in page.render(plain, findings, [], tmp_path, {})
    assert 'id="checks"' in page.render(study, analyse(study), [], tmp_path, {})
