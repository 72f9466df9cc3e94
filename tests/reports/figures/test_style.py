"""What tells arms apart: colours that stay apart for colour-blind readers, and marks and dashes beside them."""

from itertools import combinations

import pytest
from matplotlib.figure import Figure

from repro.reports.figures import sheet, style
from tests.reports.figures.sight import SIGHT, apart, dark, rgb

ARMS = tuple(f"arm{i}" for i in range(7))
LEAST = 15  # in CIELAB, where 2 can just be told in a patch: lines are thin, and far from one another
FOUR = 22  # of the first four, more than most studies have


def same(colour):
    """A light page leaves colours as they are."""
    return colour


@pytest.mark.parametrize("kind", SIGHT)
@pytest.mark.parametrize("page", [same, dark])
def test_colours_of_arms_stay_apart_for_every_kind_of_cones_in_light_and_dark(page, kind):
    for least, arms in ((LEAST, ARMS), (FOUR, ARMS[:4])):
        colours = {arm: page(rgb(colour)) for arm, colour in style.colours(arms).items()}
        near = {pair: apart(colours[pair[0]], colours[pair[1]], kind) for pair in combinations(arms, 2)}
        assert min(near.values()) > least, min(near, key=near.get)
        ground = page(rgb("#ffffff"))
        assert min(apart(colour, ground, kind) for colour in colours.values()) > 30


def test_red_and_green_of_one_lightness_would_be_found_out():
    assert apart(rgb("#d04040"), rgb("#808020"), "all cones") > 50
    assert apart(rgb("#d04040"), rgb("#7a7000"), "protanopia") > apart(rgb("#a08000"), rgb("#8a9000"), "protanopia")
    assert (
        apart(rgb("#009e73"), rgb("#cc79a7"), "deuteranopia") < apart(rgb("#009e73"), rgb("#cc79a7"), "all cones") / 3
    )


def test_no_two_arms_have_the_same_marks_or_dashes_in_the_drawing_or_in_the_pages_legend():
    entries = sheet.entries(ARMS, ARMS)
    for looks in ({e.marker for e in entries}, {e.dashes for e in entries}, {e.shape for e in entries}):
        assert len(looks) == len(ARMS)
    assert all(entry.shape for entry in entries) and entries[0].dash_array == ""


@pytest.mark.parametrize(("low", "high"), [(-0.0061, 0.0032), (0.0, 1.0), (-12000.0, 300.0), (0.998, 1.0004)])
@pytest.mark.parametrize("width", [1.4, 2.2, 3.2])
def test_numbers_below_an_axis_stand_apart(low, high, width):
    with style.panel_context():
        figure = Figure(figsize=(width, 1.5))
        axes = figure.add_axes((0.1, 0.3, 0.8, 0.6))
        axes.set_xlim(low, high)
        style.few_ticks(axes)
        figure.draw_without_rendering()
        shown = [tick for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high]
        boxes = [tick.get_window_extent() for tick in shown]
    assert boxes and all(one.x1 + 2 < other.x0 for one, other in zip(boxes, boxes[1:], strict=False))
