"""How far a study's arms are from the ceiling, and where the store has it."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from repro.reports.figures import before_after
from repro.reports.formats import latex, slides, tables
from repro.reports.pages import ceiling, entries, page
from repro.reports.reading.studies import read_outline, read_study
from repro.reports.statistics import ceiling as statistics
from repro.reports.statistics.findings import analyse
from tests.reports.made_up import EFFECTS, Fake, experiment, log_light

GOLD = {"recipe": json.dumps({"reward_source": "gold"}), "reference": "false"}
OWN = GOLD | {"role": "ceiling"}


def below(study, values):
    """The study with these values of the ceiling, by seed."""
    rows = [{"seed": seed, "metric": study.primary, "value": value} for seed, value in values.items()]
    return replace(study, ceiling=pd.DataFrame(rows))


@pytest.fixture(scope="module")
def high(study):
    return below(study, {1: 0.94, 2: 0.90, 3: 0.95})


# ------------------------------------------------------------------------------------------------ numbers


def test_the_distance_is_paired_and_the_share_is_of_the_way_from_before(high):
    # Before PPO each seed has 0.74; the reference reaches 0.84, 0.80 and 0.82.
    rows = analyse(high).ceiling.set_index("arm")
    assert rows.index.tolist() == list(high.arms) and (rows["n"] == 3).all()
    own = rows.loc["shift_and_scale"]
    assert own["mean"] == pytest.approx((-0.10 - 0.10 - 0.13) / 3)
    assert own["low"] < own["mean"] < own["high"] < 0
    assert own["share"] == pytest.approx((0.82 - 0.74) / (0.93 - 0.74))
    assert rows.loc["off", "share"] == pytest.approx((0.72 - 0.74) / (0.93 - 0.74))


def test_an_arm_at_the_ceiling_has_gone_all_of_the_way_and_one_seed_has_no_interval(study):
    at = analyse(below(study, dict(zip((1, 2, 3), EFFECTS["off"], strict=True)))).ceiling.set_index("arm").loc["off"]
    assert at["mean"] == 0 and pd.isna(at["share"])  # this ceiling is below what was there before PPO
    gone = analyse(below(study, dict(zip((1, 2, 3), EFFECTS["shift_and_scale"], strict=True)))).ceiling.set_index("arm")
    assert gone.loc["shift_and_scale", "share"] == pytest.approx(1)
    one = analyse(below(study, {2: 0.79})).ceiling.set_index("arm").loc["scale_only"]
    assert (one["n"], one["mean"]) == (1, 0) and pd.isna(one["low"]) and pd.isna(one["share"])


def test_of_a_way_that_the_seeds_do_not_tell_from_none_there_is_no_share(study):
    rows = analyse(below(study, {1: 0.74, 2: 0.73, 3: 0.90})).ceiling  # on average above 0.74
    assert rows["mean"].notna().all() and rows["share"].isna().all()


def test_there_is_none_by_a_metric_that_the_gold_score_does_not_decide(high):
    other = replace(high, tags=high.tags | {"primary": "test/kl"})
    assert statistics.gaps(other).empty


# ------------------------------------------------------------------------------------------------ words


def test_page_terminal_and_json_say_the_same(high, tmp_path, undrawn):
    built = page.build(high, tmp_path / "out")
    sentence = ceiling.sentence(high, analyse(high))
    assert page.headline(built).splitlines()[-1] == sentence
    assert "has a near-greedy win rate of 0.930 (95 % interval 0.864 to 0.996, 3 seeds)" in sentence
    assert "; beside it, with 95 % intervals, " in sentence
    assert "shift_and_scale is at −0.110 (−0.153 to −0.067; 42 % of the way from before PPO)" in sentence
    verdict = json.loads((built.parent / page.VERDICT).read_text())
    assert verdict["ceiling"]["arms"]["shift_and_scale"]["mean_difference"] == pytest.approx(-0.11)
    assert verdict["ceiling"]["seeds"] == [1, 2, 3] and "ceiling" not in verdict["arms"]
    html = built.read_text()
    assert 'id="ceiling"' in html and "42 %" in html and "It is no arm" in html


def test_no_verdict_depends_on_it(high, study):
    ours, theirs = analyse(high), analyse(study)
    for name in ("verdicts", "differences", "predictions", "levels", "tally"):
        pd.testing.assert_frame_equal(getattr(ours, name), getattr(theirs, name))


def test_without_one_nothing_says_so(study, tmp_path, undrawn):
    built = page.build(study, tmp_path / "out")
    assert "ceiling" not in (built.parent / page.VERDICT).read_text()
    assert 'id="ceiling"' not in built.read_text()
    findings = analyse(study)
    assert "ceiling" not in latex.verdicts(study, findings) and "ceiling" not in str(
        list(tables.verdicts(study, findings))
    )
    assert "ceiling" not in before_after.before_after_data(study, findings)


def test_each_format_has_it_beside_the_verdicts(high, tmp_path):
    findings = analyse(high)
    table = tables.verdicts(high, findings)
    assert table["mean less ceiling [share]"].tolist() == pytest.approx([-0.21, -0.11 + 0.02 / 3], abs=1e-9)
    tex = latex.verdicts(high, findings)
    assert r"\begin{tabular}{lrrrlrr}" in tex and r"less ceiling & of the way" in tex
    assert r"no difference" in tex or r"undecided" in tex
    (tmp_path / "before_after.svg").write_text('<svg width="10pt" height="10pt"/>')
    assert "The ceiling, the reference with the gold score" in slides.render(high, findings, tmp_path)


def test_the_figure_has_a_line_where_it_is(high):
    data = before_after.before_after_data(high, analyse(high))
    rows = data[data["metric"] == high.primary]
    assert sorted(rows["ceiling"].unique()) == [0.90, 0.94, 0.95]
    panel = before_after.draw_before_after(data, high).axes[0]
    assert 0.93 in [pytest.approx(line.get_xdata()[0]) for line in panel.lines]
    assert "ceiling" in [text.get_text() for text in panel.texts]
    assert "dashed line is the ceiling" in before_after.CHARTS[0].takeaway(data, high)


# ------------------------------------------------------------------------------------------------ the store


def recorded(tmp_path, *others):
    """A store with two arms of whiten_adv on two seeds, and more runs: (experiment's name, run, win rate)."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ids = {"whiten_adv-mini": experiment(uri, "whiten_adv-mini")}
    plain = {"recipe": "{}"}
    arms = [Fake("shift_and_scale", seed, tags=plain) for seed in (1, 2)] + [Fake("off", seed) for seed in (1, 2)]
    for run in arms:
        log_light(uri, ids["whiten_adv-mini"], run, {"test/win_rate": 0.8, "sft_test/win_rate": 0.5})
    for name, run, rate in others:
        ids.setdefault(name, "") or ids.update({name: experiment(uri, name)})
        log_light(uri, ids[name], run, {"test/win_rate": rate})
    return uri


def test_the_studys_own_runs_are_no_arm_and_no_seed(tmp_path):
    uri = recorded(tmp_path, ("whiten_adv-mini", Fake("ceiling", 1, tags=OWN), 0.9))
    study = read_study("whiten_adv", "mini", uri)
    assert study.arms == ("shift_and_scale", "off") and len(study.runs) == 4
    assert study.ceiling.to_dict("records") == [{"seed": 1, "metric": "test/win_rate", "value": 0.9}]
    assert set(entries.compare(read_outline("whiten_adv", "mini", uri))[0]["arm"]) == {"off"}


def test_the_study_of_the_reward_has_it_too_and_the_later_run_counts(tmp_path):
    of_source = GOLD | {"detail": "reward_source", "asked": "5"}
    uri = recorded(
        tmp_path,
        ("whiten_adv-mini", Fake("ceiling", 2, tags=OWN | {"asked": "1"}), 0.85),
        ("reward_source-mini", Fake("gold", 2, tags=of_source), 0.95),
    )
    assert read_study("whiten_adv", "mini", uri).ceiling["value"].tolist() == [0.95]


def test_the_study_of_the_reward_has_it_as_an_arm_and_none_beside(tmp_path):
    plain, of_source = {"recipe": "{}", "detail": "reward_source"}, GOLD | {"detail": "reward_source"}
    reference = Fake("reward_model", 1, tags=plain | {"reference": "true"})
    arms = [("reward_source-mini", reference, 0.8), ("reward_source-mini", Fake("gold", 1, tags=of_source), 0.9)]
    uri = recorded(tmp_path, *arms)
    assert read_study("reward_source", "mini", uri).arms == ("reward_model", "gold")
    assert read_study("reward_source", "mini", uri).ceiling.empty
    assert not read_study("whiten_adv", "mini", uri).ceiling.empty


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("reward_source-smoke", {}),
        ("reward_source-mini", {"outcome": "diverged"}),
        ("reward_source-mini", {"stage.rm": "rm-of-other-code"}),
        ("reward_source-mini", {"seed": "7"}),
        ("reward_source-mini", {"recipe": json.dumps({"kl_coef": "0.1", "reward_source": "gold"})}),
    ],
)
def test_of_another_scale_reward_model_or_choice_it_is_none(tmp_path, name, other):
    run = Fake("gold", 1, outcome=other.get("outcome", "finished"), tags=GOLD | other)
    assert read_study("whiten_adv", "mini", recorded(tmp_path, (name, run, 0.9))).ceiling.empty
