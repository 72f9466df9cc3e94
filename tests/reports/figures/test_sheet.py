"""Panels that can be cut out, names that are not cut, and panels that are a line of text because nothing varies."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from repro.reports.figures import before_after, chart, curves, differences, effect, sheet, style, vector
from repro.reports.statistics.findings import analyse


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("off", "off"),
        ("shift_and_scale", "shift_and_scale"),
        ("replace_with_minus_one_point_0.0001", "replace_with_\nminus_one_point_\n0.0001"),
        ("clip=0.2000000000000000001", "clip=\n0.2000000000000000001"),
        ("1e-05", "1e-05"),
        ("", ""),
    ],
)
def test_a_name_is_broken_between_its_words_and_never_in_a_number(name, lines):
    assert sheet.name_lines(name) == lines
    assert sheet.name_lines(name).replace("\n", "") == name


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("win rate", ["win rate"]),
        ("replace_with_minus_one, in training", ["replace_with_", "minus_one,", "in training"]),
        ("as it is, and at equal length", ["as it is, and at", "equal length"]),
        ("", [""]),
    ],
)
def test_a_title_is_broken_at_spaces_first_and_within_a_name_where_it_must(text, lines):
    assert sheet.text_lines(text, 17) == lines


def test_a_panel_has_all_that_it_refers_to_and_nothing_of_its_neighbours(study, tmp_path):
    data = curves.curve_data(study, analyse(study))
    with style.panel_context():
        figure = curves.draw_curves(data, study)
        names = [f"panel{i}" for i in range(len(figure.boxes))]
        chart.save(figure, tmp_path / "whole", names)
    whole = (tmp_path / "whole.svg").read_text()
    for name in names:
        root = ElementTree.fromstring((tmp_path / f"{name}.svg").read_text())
        own = {part.get("id") for part in root.iter()} - {None}
        told = {name for part in root.iter() for name in vector.references(part)}
        assert told <= own and len(told) > 5
        assert len((tmp_path / f"{name}.svg").read_text()) < len(whole) / 2


def test_files_of_panels_have_plain_names():
    assert sheet.file_name("score_against_kl", "objective/score 0.05") == "score_against_kl-objective_score_0.05"
    assert sheet.file_name("chart", "../..") == "chart-.._.."  # no folder of its own, and none above


# ------------------------------------------------------------------------------------------------ what does not vary


def flat(study, metric, value):
    told = study.curves["metric"] == metric
    return replace(study, curves=study.curves.assign(value=study.curves["value"].mask(told, value)))


def test_a_curve_that_never_moves_is_a_line_of_text_in_place_of_its_panel(study):
    data = curves.curve_data(flat(study, "objective/eos_rate", 0.0), analyse(study))
    figure = curves.draw_curves(data, study)
    assert "objective/eos_rate" not in figure.boxes and len(figure.boxes) == 8
    assert curves.still_curves(data) == ["responses that end [share] is 0.000 in every run at every step."]


def test_a_curve_of_missing_values_says_that_it_was_not_recorded(study):
    data = curves.curve_data(flat(study, "objective/gold", np.nan), analyse(study))
    assert curves.still_curves(data) == ["gold score was not recorded."]


def test_one_seed_with_one_difference_is_still_drawn_and_none_at_all_is_not(study):
    one = pd.DataFrame({"metric": ["test/gold"], "arm": ["off"], "seed": [1], "difference": [0.3]})
    one = one.assign(mean=0.3, low=float("nan"), high=float("nan"))
    assert list(differences.draw_differences(one, study).boxes) == ["test/gold"]
    none = one.assign(difference=0.0)
    assert differences.draw_differences(none, study) is None
    still = next(each for each in differences.CHARTS).still(none)
    assert still == ["gold score does not differ from the reference's in any seed."]


def test_a_figure_in_which_nothing_varies_has_words_and_data_and_no_picture(study, tmp_path):
    same = study.finals.groupby("metric")["value"].transform("first")
    alike = replace(study, finals=study.finals.assign(value=same))
    (drawn,) = chart.save_all(effect.CHARTS, alike, analyse(alike), tmp_path)
    assert drawn.takeaway == "Every difference to shift_and_scale is zero, in 3 seeds."
    assert drawn.panels == () and drawn.still == ("There is no interval to draw.",)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["effect.csv"]


def test_a_policy_that_ppo_leaves_as_it_was_is_said_so(study):
    data = pd.DataFrame({"metric": "test/gold", "arm": ["off"], "seed": [1], "before": [2.0], "after": [2.0]})
    assert before_after.draw_before_after(data.assign(references=np.nan), study) is None
    assert before_after.CHARTS[0].still(data) == ["gold score is 2.00 everywhere."]


@pytest.mark.parametrize("seeds", [1, 3, 24])
def test_seeds_are_fainter_the_more_there_are_and_lie_below_bands_and_means(study, seeds):
    rows = study.curves.query("metric == 'objective/kl' and arm == 'off' and seed == 1")
    many = pd.concat([rows.assign(seed=i, value=rows["value"] + i) for i in range(seeds)])
    figure, axes = sheet.sheet({"objective/kl": "KL"}, 2.0)
    curves.lines(axes["objective/kl"], many, curves.bands(many), study)
    *thin, mean = axes["objective/kl"].lines
    assert len(thin) == seeds and all(line.get_zorder() < 2 < mean.get_zorder() for line in thin)
    assert len(axes["objective/kl"].collections) == (seeds > 1)
    assert thin[0].get_alpha() == style.faint(seeds) <= style.faint(1)


def test_no_letter_of_a_panel_is_smaller_than_ten_points(study):
    with style.panel_context():
        figure = effect.draw(effect.data(study, analyse(study)), study)
        texts = [text for text in figure.findobj(lambda part: hasattr(part, "get_fontsize")) if text.get_text()]
    assert texts and min(text.get_fontsize() for text in texts) >= style.LEAST
    assert re.search(r"\[share\]", " ".join(text.get_text() for text in texts))
