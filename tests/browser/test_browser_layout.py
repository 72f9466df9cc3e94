"""The study's page as it is shown in a talk, on a phone and on paper: by boxes of letters and figures, not by pixels."""

import re
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest

from repro.reports.pages import page as study_page
from repro.reports.reading.studies import read_study
from tests.browser.boxes import GLYPHS, TEXTS, outside, overlaps
from tests.browser.place import DETAIL, SCALE
from tests.browser.watch import faint, too_wide
from tests.reports.made_up import EFFECTS, Fake, experiment, log

pytestmark = pytest.mark.browser
WIDTHS, SCHEMES = (390, 800, 1440), ("light", "dark")
LEGIBLE, CLOSED = 14, 3000  # pixels of a letter in a figure at 800, and of a closed page's height at 1440
LONG = "replace_with_minus_one_where_no_end_was_0.0001"
AS_SHOWN = """(width) => { const drawing = document.querySelector("svg");
  drawing.setAttribute("width", width); drawing.removeAttribute("height"); drawing.style.display = "block"; }"""
# Whether the bar is at the top and a section's head right below it, or the page at its end.
BELOW = """(name) => { const bar = document.querySelector(".bar").getBoundingClientRect();
  const top = document.querySelector(`#${name} summary`).getBoundingClientRect().top;
  const end = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
  return bar.top === 0 && bar.bottom <= top + 1 && (top < 200 || end); }"""
SECTIONS = ("expected", "figures", "frontier", "judge", "differences", "seeds", "reward-models", "samples", "ran")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The page of a made-up study with names that are long, and a curve that never moves."""
    folder = tmp_path_factory.mktemp("made_up")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    made = experiment(uri, "whiten_adv-mini")
    for arm, rates in EFFECTS.items():
        for seed, rate in enumerate(rates, start=1):
            log(uri, made, Fake(arm, seed, win_rate=rate), start=seed)
    study = read_study("whiten_adv", "mini", uri)
    names = {arm: LONG if arm == "scale_only" else arm for arm in study.arms}
    still = study.curves["metric"] == "objective/eos_rate"
    frames = {
        name: getattr(study, name).assign(arm=getattr(study, name)["arm"].map(names)) for name in ("finals", "runs")
    }
    samples = {(names[arm], seed): table for (arm, seed), table in study.samples.items()}
    spread = np.random.default_rng(0).normal(0, 0.05, len(study.finals))
    finals = frames["finals"].assign(value=frames["finals"]["value"] + spread)
    curves = study.curves.assign(arm=study.curves["arm"].map(names), value=study.curves["value"].mask(still, 0.0))
    told = replace(
        study, arms=tuple(names.values()), samples=samples, runs=frames["runs"], finals=finals, curves=curves
    )
    return study_page.build(told, folder / "page")


def opened(page):
    """The page with all that is closed opened."""
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    return page


# ------------------------------------------------------------------------------------------------ at every width


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_lies_over_another_or_beyond_the_page_closed_or_open(width, scheme, built, shots, visit):
    page = visit(built, width, scheme)
    for state in ("closed", "open"):
        if state == "open":
            opened(page)
        assert too_wide(page) == []
        boxes = page.evaluate(f"({TEXTS})(document.body)")
        assert len(boxes) > 30 and overlaps(boxes) == []
        assert [box for box in boxes if box[0] < 0 or box[2] > width + 1] == []
        assert faint(page) == []
        page.screenshot(path=shots / f"layout-{state}-{width}-{scheme}.png")


@pytest.mark.parametrize("width", WIDTHS)
def test_no_letter_of_a_figure_is_cut_off_lies_over_another_or_is_small(width, built, visit):
    page = opened(visit(built, width))
    views = page.locator("figure.chart .view").evaluate_all(
        """all => all.map((view) => [view.querySelector("img").src, view.querySelector("img").getBoundingClientRect().width,
             view.getBoundingClientRect().height, parseFloat(view.querySelector("img").style.getPropertyValue("--top"))])"""
    )
    assert len(views) > 20
    drawing = visit("about:blank", width)
    for source, shown, height, top in views:
        drawing.set_content(f'<body style="margin: 0">{unquote(source.partition(",")[2])}')
        drawing.evaluate(AS_SHOWN, shown)
        boxes = drawing.evaluate(f"({GLYPHS})(document.querySelector('svg'))")
        size = drawing.evaluate(
            "(({ width, height }) => [width, height])(document.querySelector('svg').getBoundingClientRect())"
        )
        assert len(boxes) > 5 and overlaps(boxes, 1.0) == [] and outside(boxes, *size) == []
        assert size[1] == pytest.approx(height + top * shown, abs=1.5)
        below = [box for box in boxes if box[1] >= top * shown]
        assert all(box[1] >= top * shown - 1 or box[3] <= top * shown + 1 for box in boxes) and below
        assert min(box[4] for box in boxes) >= (LEGIBLE if width >= 800 else LEGIBLE - 0.5)


# ------------------------------------------------------------------------------------------------ the first screen


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [390, 1440])
def test_the_first_screen_has_question_takeaway_and_every_verdict(width, scheme, built, visit):
    page = visit(built, width, scheme)
    height = page.viewport_size["height"]
    told = [".lead", ".takeaway", *[f".cards .verdict:nth-child({i}) .badge" for i in (1, 2)]]
    told += [".predicted", "#fig-effect .view"] if width == 1440 else []
    for part in told:
        box = page.locator(part).first.bounding_box()
        assert box and box["y"] >= 0 and box["y"] + box["height"] <= height, part


def test_a_closed_page_is_short(built, place, visit):
    for address in (built, place.study / "index.html"):
        assert visit(address, 1440).evaluate("document.documentElement.scrollHeight") <= CLOSED


def test_a_run_too_small_to_show_anything_says_so_first(place, visit):
    page = visit(place.study / "index.html")
    study = read_study(DETAIL, SCALE, place.store)
    ended = study.finals[study.finals["metric"].isin(("test/eos_rate", "test/sampled_eos_rate"))]["value"]
    alike = study.finals[study.finals["metric"] == study.primary]["value"].nunique() == 1
    assert page.locator(".takeaway").inner_text().startswith("This is a tiny run") == (not ended.any() or alike)


# ------------------------------------------------------------------------------------------------ tables


def test_on_a_phone_the_result_of_every_prediction_is_seen(built, visit):
    page = visit(f"{built.as_uri()}#expected", 390)
    ends = page.locator("#expected td .badge").evaluate_all("all => all.map((e) => e.getBoundingClientRect().right)")
    assert len(ends) > 1 and max(ends) <= 390


def test_at_a_desk_no_table_goes_on_past_its_edge(place, visit):
    page = opened(visit(place.study / "index.html", 1440))
    wide = page.locator(".scroll").evaluate_all(
        "all => all.filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.ariaLabel)"
    )
    assert wide == []


# ------------------------------------------------------------------------------------------------ sections


@pytest.mark.parametrize("width", WIDTHS)
def test_the_contents_stay_in_view_and_a_link_opens_its_section(width, built, visit):
    page = visit(built, width)
    assert page.locator("details.part[open]").count() == 0
    for name in SECTIONS:
        page.locator(f".bar a[href='#{name}']").click()
        assert page.locator(f"#{name} > details").get_attribute("open") is not None
        page.wait_for_function(BELOW, arg=name)


def test_an_address_opens_what_it_leads_to_and_all_is_opened_and_closed_at_once(built, visit):
    page = visit(f"{built.as_uri()}#fig-score_against_kl")
    assert (
        page.locator("details.part[open]").count() == 1
        and page.locator("#frontier > details").get_attribute("open") == ""
    )
    button, parts = page.locator("#all"), page.locator("details.part").count()
    button.click()
    assert page.locator("details.part[open]").count() == parts > 8
    assert button.inner_text() == "Close all"
    button.click()
    assert page.locator("details.part[open]").count() == 0


def test_a_find_of_a_word_opens_the_section_that_has_it(built, visit):
    page = visit(f"{built.as_uri()}#:~:text=Robust%20statistics")
    page.wait_for_selector("#differences > details[open]")
    assert page.locator("details.part[open]").count() == 1


# ------------------------------------------------------------------------------------------------ on paper


def test_on_paper_every_section_is_open_and_no_figure_is_cut(built, shots, visit):
    page = visit(built, 800)
    page.emulate_media(media="print")
    assert page.locator(".bar, .files, button").filter(visible=True).count() == 0
    for name in (*SECTIONS, "reproduce"):
        assert page.locator(f"#{name} .body").bounding_box()["height"] > 30, name
    rules = page.locator(".panel, .verdict").evaluate_all(
        "all => [...new Set(all.map((e) => getComputedStyle(e).breakInside))]"
    )
    assert rules == ["avoid"]
    heights = page.locator(".panel").evaluate_all("all => all.map((each) => each.getBoundingClientRect().height)")
    assert len(heights) > 20 and max(heights) < 900  # pixels: a sheet has about a thousand
    told = page.pdf(path=shots / "layout.pdf", format="A4")
    sheets = re.findall(rb"/MediaBox\s*\[([^\]]*)\]", told)
    assert len(sheets) > 5 and len(set(sheets)) == 1 and b"595" in sheets[0]
    assert page.locator("details.part[open]").count() == 0
