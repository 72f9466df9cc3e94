"""The index, the atlas and slides in a browser at the widths of a phone, a tablet and a desk, in the light and in the dark."""

import json
from pathlib import Path

import pytest

from repro.reports.formats import formats
from repro.reports.pages import atlas, index
from repro.reports.pages import page as study_page
from repro.reports.reading.studies import read_study
from repro.reports.statistics import words
from tests import blank
from tests.browser.place import DETAIL, SCALE
from tests.browser.watch import broken_images, faint, overlaps, too_wide
from tests.paths import ROOT
from tests.reports.test_words import STUDIES, put

pytestmark = pytest.mark.browser
GALLERY = ROOT / "reports" / "gallery"
WIDTHS = (390, 800, 1440)
FAR = -0.5  # of a variant that is off the axis


@pytest.fixture(scope="module")
def states(tmp_path_factory) -> Path:
    """An index and an atlas of studies in every state that a study can end in."""
    folder = tmp_path_factory.mktemp("states")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    for detail, (arms, looks) in STUDIES.items():
        put(uri, detail, arms, looks)
    put(uri, "far_away", {"an_arm_with_a_rather_long_name_of_its_own": ((FAR, FAR - 0.01, FAR + 0.01), "worse")}, ())
    registered = [{"name": name, "group": "One stage", "variants": ()} for name in STUDIES]
    with pytest.MonkeyPatch.context() as patch:
        blank.instead(patch.setattr)
        atlas.build("mini", registered, uri, folder / "atlas")
    index.build(folder, uri, registered)
    return folder


@pytest.fixture(scope="module")
def slides(place, tmp_path_factory) -> Path:
    """The slides of a real study, with its figures."""
    study = read_study(DETAIL, SCALE, place.store)
    (file,) = formats.build(study, study_page.build(study, tmp_path_factory.mktemp("slides")), "slides")
    return file


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "atlas/index.html"])
@pytest.mark.parametrize("source", ["gallery", "states"])
def test_nothing_overlaps_or_sticks_out(source, name, scheme, width, states, shots, visit):
    page = visit((GALLERY if source == "gallery" else states) / name, width, scheme)
    page.screenshot(path=shots / f"{source}-{name.partition('/')[0]}-{width}-{scheme}.png", full_page=True)
    assert too_wide(page) == [] and overlaps(page) == []
    assert faint(page) == []
    legend = page.locator("details:has(> summary:text-is('What the words mean'))")
    legend.locator("summary").click()
    shown = legend.locator("dt").all_inner_texts()
    assert shown[: len(words.VERDICTS)] == list(words.VERDICTS) and overlaps(page) == []


@pytest.mark.parametrize("width", [600, 739, 741, 1024, 1129, 1131])
def test_no_number_of_a_card_runs_out_of_it_where_columns_change(width, states, visit):
    page = visit(states / "index.html", width)
    assert too_wide(page) == [] and overlaps(page) == []
    out = page.locator(".card").evaluate_all(
        """all => all.flatMap((card) => [...card.querySelectorAll(".numbers, .numbers span")]
             .filter((each) => each.getBoundingClientRect().right > card.getBoundingClientRect().right - 8)
             .map((each) => each.textContent))"""
    )
    assert out == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_mean_off_the_axis_stands_at_its_edge_as_a_number(width, states, visit):
    page = visit(states / "atlas" / "index.html", width)
    row = page.locator("tr.row[data-study=far_away]")
    off, plot = (row.locator(part).bounding_box() for part in (".off", ".plot"))
    assert row.locator(".off").inner_text() == "\N{MINUS SIGN}0.500" and abs(off["x"] - plot["x"]) < 2
    inside = page.locator("tr.row[data-arm=level]")
    assert inside.locator(".off").count() == 0 and inside.locator(".whisker .mean").count() == 1


def test_the_atlas_is_filtered_by_the_word_after_the_correction_and_leads_to_what_moves(states, visit):
    page = visit(states / "atlas" / "index.html", 1440)
    effects = json.loads((states / "atlas" / "atlas.json").read_text())["effects"]
    after = [effect["verdict_corrected"] for effect in effects]
    for word in set(after):
        page.locator("#corrected").select_option(word)
        assert page.locator("tr.row").filter(visible=True).count() == after.count(word)
    page.locator("#verdict").select_option("better")
    page.locator("#corrected").select_option("worse")
    assert page.locator("tr.row").filter(visible=True).count() == 0
    for control in ("#verdict", "#corrected"):
        page.locator(control).select_option("")
    link = page.locator("a[href^='#variant-']").first
    detail, _, arm = link.inner_text().partition("=")
    link.click()
    row = page.locator("tr.row:target")
    assert (row.get_attribute("data-study"), row.get_attribute("data-arm")) == (detail, arm)


def test_the_atlas_is_filtered_by_stage_verdict_and_text_and_sorted(visit):
    page = visit(GALLERY / "atlas" / "index.html", 1440)
    effects = json.loads((GALLERY / "atlas" / "atlas.json").read_text())["effects"]
    rows = page.locator("tr.row").filter(visible=True)
    assert rows.count() == len(effects)
    stages = page.locator("#group option").all_inner_texts()
    assert stages[0] == "all" and len(stages) > 5
    counts = []
    for stage in stages[1:]:
        page.locator("#group").select_option(stage)
        counts.append(rows.count())
        assert page.locator("tr.group").filter(visible=True).all_inner_texts() == [stage]
    assert sum(counts) == len(effects) and min(counts) > 0
    page.locator("#group").select_option("")
    page.locator("#verdict").select_option("worse")
    assert rows.count() == sum(effect["verdict"] == "worse" for effect in effects)
    page.get_by_role("button", name="mean difference").click()
    first = rows.evaluate_all("all => all.map((each) => each.dataset.study)")
    worse = sorted((each for each in effects if each["verdict"] == "worse"), key=lambda each: each["mean_difference"])
    assert first == [each["detail"] for each in worse]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_slide_can_be_read(scheme, width, slides, shots, visit):
    page = visit(slides, width, scheme)
    all_slides = page.locator(".slide")
    count = all_slides.count()
    assert count == 6 and broken_images(page) == [] and too_wide(page) == []
    for at in range(count if width > 700 else 1):
        page.screenshot(path=shots / f"slide{at + 1}-{width}-{scheme}.png", full_page=width < 700)
        assert overlaps(page) == [] and faint(page) == []
        if width > 700:
            assert all_slides.filter(visible=True).count() == 1
            assert page.locator("#place").inner_text() == f"{at + 1} / {count}"
            slide = all_slides.nth(at)
            assert slide.evaluate(
                "each => [each.scrollHeight - each.clientHeight, each.scrollWidth - each.clientWidth]"
            ) == [0, 0]
        page.keyboard.press("ArrowRight")


def test_texts_that_are_printed_over_each_other_are_noticed(tmp_path, visit):
    style = "position: absolute; left: 20px; top: "
    told = f'<p style="{style}20px">one</p><p style="{style}24px">two</p><p style="{style}90px">three</p>'
    (tmp_path / "page.html").write_text(told)
    assert overlaps(visit(tmp_path / "page.html")) == ["one | two"]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_verdict_on_many_arms_fits_its_slide(width, states, shots, visit, tmp_path):
    study = read_study("fixed", "mini", f"sqlite:///{states / 'mlflow.db'}")
    with pytest.MonkeyPatch.context() as patch:
        blank.instead(patch.setattr)
        (file,) = formats.build(study, study_page.build(study, tmp_path), "slides")
    page = visit(file, width)
    page.keyboard.press("ArrowRight")
    page.screenshot(path=shots / f"many-{width}.png")
    slide = page.locator(".slide").nth(1)
    assert slide.locator("[data-arm]").count() == len(STUDIES["fixed"][0])
    assert overlaps(page) == [] and too_wide(page) == []
    assert slide.evaluate("each => each.scrollHeight - each.clientHeight") == 0


def test_arrow_keys_turn_the_slides_and_the_address_keeps_the_place(slides, visit):
    page = visit(slides, 1440)
    for key, at in (("ArrowRight", 2), ("End", 6), ("ArrowRight", 6), ("ArrowLeft", 5), ("Home", 1), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        assert page.locator("#place").inner_text() == f"{at} / 6" and page.url.endswith(f"#{at}")
    page.keyboard.press(" ")
    assert visit(page.url, 1440).locator("#place").inner_text() == "2 / 6"


def test_on_paper_each_slide_is_a_page(slides, shots, visit):
    page = visit(slides, 1440)
    file = page.pdf(path=shots / "slides.pdf", prefer_css_page_size=True)
    assert file.count(b"/Type /Page\n") + file.count(b"/Type/Page\n") + file.count(b"/Type /Page/") == 6
