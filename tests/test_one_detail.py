"""The option --detail: which tests are about a detail, and what is said where there is none of that name."""

import pytest

from repro.cli import catalogue
from repro.cli.source import ROOT
from repro.details import CLASHES, DETAILS, GAMMA, WHITEN_ADV
from tests.one_detail import OneDetail, constant_of, is_about, labels_as_written, place_of


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("whiten_avd", r"there is no detail 'whiten_avd'; the nearest are whiten_adv, \w+, \w+$"),
        ("../x", r"there is no detail '../x'; the nearest are \w+, \w+, \w+$"),
        ("dataset", "dataset is a check, not a detail"),
    ],
)
def test_what_is_no_detail_ends_with_exit_code_2_and_the_nearest_three(name, says):
    with pytest.raises(pytest.exit.Exception, match=says) as end:
        OneDetail(name)
    assert end.value.returncode == 2


def test_a_test_is_about_a_detail_by_its_parameters():
    entry = catalogue.find("whiten_adv")
    clash = next(each for each in CLASHES if WHITEN_ADV in (each.one, each.other))
    for parameters in (
        {"detail": WHITEN_ADV, "position": 0},
        {"entry": entry},
        {"clash": clash},
        {"name": "whiten_adv"},
    ):
        assert is_about(parameters, "whiten_adv") and not is_about(parameters, "value_clip")
    # A word that happens to be a detail's name, as of a stage or a metric, is no such parameter.
    assert not is_about({"stage": "whiten_adv", "detail": GAMMA}, "whiten_adv")


@pytest.mark.parametrize("detail", DETAILS.values(), ids=DETAILS)
def test_a_place_is_the_line_that_declares_a_detail_a_label_or_a_prediction(detail):
    def line_at(word=""):
        file, _, line = place_of(detail, word).rpartition(":")
        return (ROOT / file).read_text().splitlines()[int(line) - 1].strip()

    assert line_at().startswith(f"{constant_of(detail)} = Detail(")
    assert labels_as_written(detail) == list(detail.variants)
    for word in (*detail.variants, *detail.expected):
        assert f'"{word}": ' in line_at(word)
