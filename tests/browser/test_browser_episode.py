"""Episodes token by token in a browser: what is shown of a token is what the run recorded of it."""

import math
import re

import pytest

from tests.browser.boxes import overlaps
from tests.browser.place import ARM, ARMS, REFERENCE, SEEDS

pytestmark = pytest.mark.browser
SEED = SEEDS[0]
EPISODE = 97  # one of the last update's, in which the arms have parted
END = (
    "\N{MATHEMATICAL LEFT ANGLE BRACKET}end\N{MATHEMATICAL RIGHT ANGLE BRACKET}"  # how the page writes the end of text
)
# Quantity of the page -> how it follows from what was recorded of token t.
TOLD = {
    "advantage": lambda said, t: said["advantage"][t],
    "return \N{MINUS SIGN} value": lambda said, t: said["returns"][t] - said["value"][t],
    "reward": lambda said, t: said["reward"][t],
    "KL": lambda said, t: said["logprob"][t] - said["ref_logprob"][t],
    "log ratio": lambda said, t: said["updated_logprob"][t] - said["logprob"][t],
    "ratio": lambda said, t: math.exp(said["updated_logprob"][t] - said["logprob"][t]),
    "value": lambda said, t: said["value"][t],
    "log p(policy)": lambda said, t: said["logprob"][t],
    "log p(SFT)": lambda said, t: said["ref_logprob"][t],
    "return": lambda said, t: said["returns"][t],
    "score so far": lambda said, t: said["score_so_far"][t],
}


@pytest.fixture(scope="module")
def recorded(place):
    """Arm -> what its policy said in the episode."""
    found = {arm: place.told(arm, SEED, "episodes.json")["episodes"] for arm in ARMS}
    return {arm: next(each for each in told if each["episode"] == EPISODE)["policy"] for arm, told in found.items()}


@pytest.fixture
def opened(place, visit):
    """`opened(arm, width=1280)`: the page at the arm's episode."""
    address = (place.study / "episodes" / f"seed{SEED}.html").as_uri()
    return lambda arm, width=1280: visit(f"{address}#{arm}-{EPISODE}", width)


def panel(page):
    """The numbers that stand in the panel: quantity -> as written."""
    names, values = (page.locator(f"#panel {kind}").all_inner_texts() for kind in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def number(text):
    """A number as the page writes it."""
    return float(text.replace("\N{MINUS SIGN}", "-"))


def as_told(shown, said, place):
    """The panel's numbers must be those of a token, as exactly as they are written."""
    assert shown.keys() == TOLD.keys()
    for name, text in shown.items():
        digits = len(text.partition(".")[2])
        # The page keeps four significant digits, and then shows fewer.
        expected = TOLD[name](said, place)
        close = pytest.approx(expected, abs=0.51 * 10**-digits + 1e-3 * abs(expected))
        assert number(text) == close, name


def heat(page, row=0):
    """The tokens of one line of the response's heat map."""
    return page.locator("#response .rows .tokens").nth(row).locator(".t:visible")


def test_pointing_at_a_token_shows_what_was_recorded_of_it(recorded, opened, shots):
    page, said = opened(ARM), recorded[ARM]
    tokens = heat(page)
    assert tokens.count() >= len(said["tokens"]) > 5
    for place in (0, 4, len(said["tokens"]) - 1):
        tokens.nth(place).hover()
        as_told(panel(page), said, place)
        assert f"token {place + 1} of {len(said['tokens'])}" in page.locator("#panel").inner_text()
        assert tokens.nth(place).inner_text().strip() in (said["tokens"][place].strip(), END)
    page.screenshot(path=shots / "episodes-1280-pointed.png")


def test_the_keyboard_reaches_every_token(recorded, opened):
    page, said = opened(ARM), recorded[ARM]
    heat(page).first.focus()
    as_told(panel(page), said, 0)
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    as_told(panel(page), said, 3)
    page.keyboard.press("ArrowDown")
    reached = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert reached == heat(page, 1).nth(3).get_attribute("aria-label")
    page.keyboard.press("ArrowLeft")
    as_told(panel(page), said, 2)


def test_a_finger_shows_them_too_and_the_panel_fits_the_phone(recorded, opened, shots):
    page, said = opened(ARM, width=390), recorded[ARM]
    heat(page).nth(2).tap()
    as_told(panel(page), said, 2)
    page.screenshot(path=shots / "episodes-390-tapped.png")
    box = page.locator("#panel").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] < 844 / 3


def test_arm_episode_and_quantity_are_chosen(place, recorded, opened):
    page = opened(REFERENCE)
    heat(page).nth(1).hover()
    as_told(panel(page), recorded[REFERENCE], 1)
    page.locator("#arm").select_option(ARM)
    heat(page).nth(1).hover()
    as_told(panel(page), recorded[ARM], 1)
    page.locator("#next").click()
    assert page.url.endswith(f"#{ARM}-{EPISODE + 1}")
    later = next(each for each in place.told(ARM, SEED, "episodes.json")["episodes"] if each["episode"] == EPISODE + 1)
    heat(page).nth(1).hover()
    as_told(panel(page), later["policy"], 1)
    assert later["query"].split() == page.locator("#post p").first.inner_text().split()


def test_the_arms_stand_beside_each_other_in_the_quantity_that_is_chosen(recorded, opened):
    page = opened(ARM)
    lines = page.locator("#arms .tokens")
    assert lines.count() == 2
    for words, key in (("reward", "reward"), ("value", "value")):
        page.locator("#quantity").get_by_text(words, exact=True).click()
        for line, arm in zip(lines.all(), ARMS, strict=True):
            label = line.locator(".t").first.get_attribute("aria-label")
            assert number(re.search(rf", {words} (\S+)$", label)[1]) == pytest.approx(recorded[arm][key][0], abs=6e-3)


def test_stronger_numbers_have_stronger_colours(recorded, opened):
    page, said = opened(ARM), recorded[ARM]["advantage"]
    share = "each.style.getPropertyValue('--share')"
    shares = heat(page).evaluate_all(f"all => all.map((each) => [each.className, Number({share})])")
    for (kind, share), value in zip(shares, said, strict=False):
        assert ("up" in kind.split()) == (value > 0) and ("down" in kind.split()) == (value < 0) and 0 <= share <= 1
    order = sorted(range(len(said)), key=lambda t: abs(said[t]))
    ranked = [shares[t][1] for t in order]
    assert ranked == sorted(ranked) and ranked[0] < ranked[-1]


def test_both_policies_are_shown_on_the_same_two_texts(place, recorded, opened):
    page, last = opened(ARM), place.told(ARM, SEED, "episodes.json")["episodes"]
    sft = next(each for each in last if each["episode"] == EPISODE)["sft"]
    assert page.locator("#aligned h3").count() == 2
    line = page.locator("#aligned .rows").nth(1).locator(".tokens").nth(2).locator(".t")
    assert line.count() == len(sft["tokens"])
    line.nth(3).hover()
    told = panel(page)
    for name, value in {"KL": sft["policy_logprob"][3] - sft["logprob"][3], "log p(SFT)": sft["logprob"][3]}.items():
        assert number(told[name]) == pytest.approx(value, abs=6e-3)


def test_arrows_mark_the_advantages_whose_sign_whitening_turned(recorded, opened):
    page = opened(REFERENCE)
    marked = {}
    for line, (arm, said) in zip(page.locator("#arms .tokens").all(), recorded.items(), strict=True):
        raw = [later - value for later, value in zip(said["returns"], said["value"], strict=True)]
        turned = [t for t, given in enumerate(said["advantage"]) if given * raw[t] < 0]
        shown = line.locator(".t").evaluate_all("all => all.map((each) => each.classList.contains('turned'))")
        assert [t for t, mark in enumerate(shown) if mark] == turned
        marked[arm] = turned
    assert marked[REFERENCE] and not marked[ARM]


@pytest.mark.parametrize("width", [390, 700, 1000, 1440])
def test_letters_of_the_charts_are_not_small_and_no_two_words_meet(width, opened):
    for svg in opened(ARM, width).locator(".charts svg").all():
        boxes, pixels = svg.evaluate(
            """(svg) => [[...svg.querySelectorAll("text")].map((text) => {
                 const box = text.getBoundingClientRect();
                 return [box.left, box.top, box.right, box.bottom, text.textContent];
               }), svg.getBoundingClientRect().width / svg.viewBox.baseVal.width]"""
        )
        assert overlaps([[left - 2, top, right + 2, bottom, words] for left, top, right, bottom, words in boxes]) == []
        assert len(boxes) > 5 and pixels >= 0.99  # of a unit, of which letters have eleven
