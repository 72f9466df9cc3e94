"""The sentence of each figure, on data made up for it: one seed, no difference, a run-away, missing values."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from repro.reports.figures import before_after, checks, curves, differences, effect, frontier, length, takeaways
from repro.reports.pages import page
from repro.reports.statistics.findings import analyse

MINUS = "\N{MINUS SIGN}"


def only(study, seeds, **parts):
    """The study with these seeds alone."""
    frames = {name: getattr(study, name) for name in ("curves", "finals", "runs")}
    kept = {name: frame[frame["seed"].isin(seeds)] for name, frame in frames.items()}
    samples = {key: table for key, table in study.samples.items() if key[1] in seeds}
    return replace(study, seeds=tuple(seeds), samples=samples, **kept | parts)


def alike(study):
    """The study in which every arm is the reference again."""
    base_c = study.curves[study.curves["arm"] == study.reference]
    base_f = study.finals[study.finals["arm"] == study.reference]
    return replace(
        study,
        curves=pd.concat([base_c.assign(arm=arm) for arm in study.arms]),
        finals=pd.concat([base_f.assign(arm=arm) for arm in study.arms]),
    )


def sentence(chart, study):
    """What a chart says of a study, or nothing where it has no data."""
    return sentences([chart], study)[chart.name]


def sentences(charts, study):
    """Chart -> what it says of a study, which is analysed once."""
    findings, said = analyse(study), {}
    for chart in charts:
        data = chart.data(study, findings)
        said[chart.name] = "" if data.empty else chart.takeaway(data, study)
    return said


STUDIES = {
    "as it is": lambda study: study,
    "one seed": lambda study: only(study, [1]),
    "no difference": alike,
    "the reference alone": lambda study: replace(
        study,
        arms=study.arms[:1],
        curves=study.curves.query("arm == @study.reference"),
        finals=study.finals.query("arm == @study.reference"),
        runs=study.runs.query("arm == @study.reference"),
    ),
    "nothing is known": lambda study: replace(
        study,
        curves=study.curves.assign(value=np.nan),
        finals=study.finals.assign(value=np.nan),
    ),
    "half of it is missing": lambda study: replace(
        study,
        curves=study.curves.assign(value=study.curves["value"].mask(study.curves["seed"] == 2)),
        finals=study.finals.assign(value=study.finals["value"].mask(study.finals["arm"] == "off")),
    ),
    "a run-away": lambda study: replace(
        study,
        curves=study.curves.assign(
            value=study.curves["value"].mask(
                (study.curves["metric"] == "objective/kl")
                & (study.curves["arm"] == "off")
                & (study.curves["seed"] == 2),
                900.0,
            )
        ),
        finals=study.finals.assign(
            value=study.finals["value"].mask(
                (study.finals["metric"] == "test/kl") & (study.finals["arm"] == "off") & (study.finals["seed"] == 2),
                900.0,
            )
        ),
        tags=study.tags | {"kl_cap": "100"},
    ),
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_has_one_sentence_without_a_number_that_does_not_exist(study, name):
    made = STUDIES[name](study)
    said = sentences(page.CHARTS, made)
    for told in filter(None, said.values()):
        assert told.endswith(".") and (told[0].isupper() or told[0].isdigit()) and ". " not in told, told
        assert "nan" not in told.split() and "inf" not in told and "+\N{EN DASH}" not in told, told
    assert any(said.values()) or name == "nothing is known"


@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_of_such_a_study_is_drawn_or_is_words(study, name):
    made = STUDIES[name](study)
    findings = analyse(made)
    for chart in page.CHARTS:
        data = chart.data(made, findings)
        if not data.empty:
            figure = chart.draw(data, made)
            assert (figure is not None and len(figure.boxes) > 0) or chart.still(data), chart.name


def test_the_effect_is_said_beside_what_would_matter(study):
    assert sentence(effect.CHARTS[0], study) == (
        f"The mean difference in near-greedy win rate to shift_and_scale is {MINUS}0.100 for off and +0.007 for scale_only, "
        "where ±0.020 would matter."
    )
    untold = replace(study, tags=study.tags | {"smallest_effect": "nan"})
    assert sentence(effect.CHARTS[0], untold).endswith("for scale_only.")
    early = replace(study, tags=study.tags | {"looks": "4 6"})
    assert sentence(effect.CHARTS[0], early).startswith("Before its first look the study has no mean difference")
    assert sentence(effect.CHARTS[0], alike(study)) == "Every difference to shift_and_scale is zero, in 3 seeds."


def test_curves_name_what_ends_apart_and_one_seed_says_nothing_of_others(study):
    shifted = study.curves["value"] + 5.0 * (
        (study.curves["arm"] == "off") & (study.curves["metric"] == "objective/score")
    )
    told = sentence(curves.CHARTS[0], replace(study, curves=study.curves.assign(value=shifted)))
    assert "reward-model score (+5.0" in told and "of 18 comparisons at the end of training" in told
    assert "zero, where about 0.9 would by chance: " in told
    assert sentence(curves.CHARTS[0], alike(study)).startswith("None of 18 comparisons")
    assert sentence(curves.CHARTS[0], only(study, [1])).startswith("One seed each")
    once = study.curves[(study.curves["arm"] == "shift_and_scale") | (study.curves["step"] == 0)]
    told = sentence(curves.CHARTS[0], replace(study, curves=once))
    assert told == "No arm has logged anything beside the reference at the end of training."


def test_differences_during_training_are_said_of_the_curve_that_leads_to_the_verdict(study):
    assert "mean difference in win rate on validation posts" in sentence(curves.CHARTS[1], study)
    assert sentence(curves.CHARTS[1], alike(study)) == (
        "No arm ever differs from shift_and_scale in win rate on validation posts."
    )


def test_intervals_that_exclude_zero_are_counted_beside_what_chance_gives(study):
    told = sentence(differences.CHARTS[0], study)
    assert "exclude zero, where about" in told and f"near-greedy win rate ({MINUS}0.100, off)" in told
    assert sentence(differences.CHARTS[0], alike(study)).startswith("None of")
    assert sentence(differences.CHARTS[0], only(study, [1])).startswith("One paired seed")


def test_the_sentence_on_differences_is_of_all_that_the_table_lists(study, tmp_path):
    other = study.finals[study.finals["metric"] == "test/score"].assign(metric="test/sampled_score")
    apart = other["value"] + (0.5 + 0.01 * other["seed"]) * (other["arm"] == "off")
    more = replace(study, finals=pd.concat([study.finals, other.assign(value=apart)]))
    table = [cell for row in page.difference_rows(more, analyse(more)) for cell in row["cells"]]
    told = sentence(differences.CHARTS[0], more)
    assert "sampled reward-model score (+0.520, off)" in told
    assert f" of {len(table)} intervals exclude zero, where about {0.05 * len(table):.1f} would by chance: " in told
    listed = page.render(more, analyse(more), [], tmp_path, {})
    assert re.search(rf"of the {len(table)} here about\s+{0.05 * len(table):.1f} would exclude zero by chance", listed)


def test_differences_that_are_equal_but_for_rounding_exclude_nothing(study):
    flat = study.curves.pivot(index=["metric", "seed", "step"], columns="arm", values="value")
    flat = flat.assign(**{arm: flat[study.reference] + (0.1 if arm == "off" else 0) for arm in study.arms})
    rows = flat.reset_index().melt(["metric", "seed", "step"], var_name="arm").assign(detail=study.detail)
    assert sentence(curves.CHARTS[0], replace(study, curves=rows)).startswith("None of 18 comparisons")
    base = study.finals[study.finals["arm"] == study.reference]
    base = base.assign(value=base["value"] + 0.1 * base["seed"])
    finals = [base.assign(arm=arm, value=base["value"] + (0.1 if arm == "off" else 0)) for arm in study.arms]
    assert sentence(differences.CHARTS[0], replace(study, finals=pd.concat(finals))).startswith("None of")


def test_before_and_after_say_how_many_runs_rise():
    data = pd.DataFrame({"metric": "test/gold", "arm": ["a", "a", "b"], "before": [1.0, 2.0, 3.0]})
    told = takeaways.before_after(data.assign(after=[2.0, 1.5, math.nan]), None)
    assert told == "PPO takes the gold score from 1.50 to 1.75 (a); it rises in 1 of 2 runs."
    assert "leaves the gold score where it was" in takeaways.before_after(data.assign(after=data["before"]), None)


def test_a_seed_that_ran_away_is_named_beside_the_means_that_it_moves(study):
    assert "seed 2 of off (900 nats) ran away" in sentence(frontier.CHARTS[0], STUDIES["a run-away"](study))
    assert "ran away" not in sentence(frontier.CHARTS[0], study)


def test_a_win_rate_at_equal_length_that_cannot_be_estimated_is_said_to_be_so(study):
    rows = pd.DataFrame({"part": ["as it is"], "policy": ["off"], "seed": [1], "win_rate": [0.5]})
    assert takeaways.win_rate_by_length(rows, study).startswith(
        "The near-greedy win rate at equal length cannot be estimated"
    )
    both = pd.concat([rows, rows.assign(part="equal length", win_rate=0.4), rows.assign(seed=2, win_rate=0.9)])
    assert takeaways.win_rate_by_length(both, study) == (
        "At the length of the references the near-greedy win rate is 0.400 instead of 0.500 (off)."
    )
    assert length.CHARTS[0].takeaway is takeaways.win_rate_by_length


def test_what_the_reward_model_claims_too_much_and_too_little_does_not_cancel(study):
    ends = study.finals["metric"].map({f"{checks.CALIBRATION}0.25": 0.50, f"{checks.CALIBRATION}2.25": 0.99})
    finals = study.finals.assign(value=ends.fillna(study.finals["value"]))
    told = sentence(checks.CHARTS[0], replace(study, finals=finals))
    assert told == (
        "The reward model's claim is 0.050 from its accuracy on average; at a margin of 2.25, where it is farthest, it is "
        "less sure than it is right: it claims 0.905, and is right in 0.990."
    )
    over = study.finals["value"].mask(study.finals["metric"] == f"{checks.CALIBRATION}1.25", 0.5)
    told = sentence(checks.CHARTS[0], replace(study, finals=study.finals.assign(value=over)))
    assert told.endswith(
        "at a margin of 1.25, where it is farthest, it is surer than it is right: it claims 0.777, and is "
        "right in 0.500."
    )
    rows = pd.DataFrame({"family": [checks.CONFIDENCE], "x": [9.0], "value": [0.8]})
    assert "confidence only" in takeaways.calibration(rows, study)


def test_a_group_is_best_or_worst_among_those_of_its_kind_and_ties_are_told(study):
    rows = pd.DataFrame(
        [("f/", "x", 0.9), ("f/", "y", 0.6), ("f/", "z", 0.6), ("g/", "p", 0.8), ("g/", "q", 0.8), ("h/", "r", 1.0)],
        columns=["family", "label", "value"],
    )
    titles = {"f/": "by letter", "g/": "by pair", "h/": "alone", "i/": "not measured"}
    assert takeaways.groups(rows, study, titles) == (
        "The reward model is right, by letter, most often in x (0.900), least in y and z (0.600); by pair, as often in p and "
        "q (0.800); alone, as often in r (1.000)."
    )
    assert sentence(checks.CHARTS[1], study).startswith(
        "The reward model is right, by batch of labels, most often in batch13"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "nothing"),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (list("abcde"), "a, b, c, d and e"),
        (list("abcdef"), "a, b, c, d and 2 more"),
    ],
)
def test_a_sentence_names_the_first_few_and_counts_the_others(words, text):
    assert takeaways.listed(words) == text


def test_before_and_after_of_a_study_is_of_its_first_outcome(study):
    assert sentence(before_after.CHARTS[0], study).startswith("PPO takes the near-greedy win rate from 0.740 to")
