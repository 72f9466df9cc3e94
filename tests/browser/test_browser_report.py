"""The pages of a real study in a browser: they load from a folder without a network, are legible, and work."""

from dataclasses import replace
from urllib.parse import unquote

import pytest

from repro.reports.pages import page as study_page
from repro.reports.reading.studies import read_study
from tests.browser.place import ARM, ARMS, DETAIL, REFERENCE, SCALE, SEEDS
from tests.browser.watch import broken_images, faint, too_wide

pytestmark = pytest.mark.browser
PAGES = {
    "index": "index.html",
    "study": "whiten_adv-smoke/index.html",
    "episodes": "whiten_adv-smoke/episodes/seed1.html",
    "atlas": "atlas-smoke/index.html",
    "paper": "paper/index.html",
}
POSTS = 40  # of the test set that a page shows


# ------------------------------------------------------------------------------------------------ every page


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_from_its_folder_and_can_be_read(name, scheme, width, place, shots, visit):
    page = visit(place.pages / PAGES[name], width, scheme)
    assert broken_images(page) == []
    assert too_wide(page) == []
    page.screenshot(path=shots / f"{name}-{width}-{scheme}.png", full_page=True)
    assert faint(page) == []
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert too_wide(page) == [] and faint(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_to_a_file_or_to_a_place_in_it(name, place, visit):
    page = visit(place.pages / PAGES[name])
    targets = page.eval_on_selector_all("a[href]", "links => links.map((each) => each.getAttribute('href'))")
    assert targets
    for target in targets:
        file, _, part = target.partition("#")
        assert ((place.pages / PAGES[name]).parent / unquote(file)).exists(), target
        assert file or page.locator(f"[id='{part}']").count() == 1, target


@pytest.mark.parametrize("name", PAGES)
def test_on_paper_a_page_has_no_controls(name, place, shots, visit):
    page = visit(place.pages / PAGES[name])
    page.emulate_media(media="print")
    assert page.locator("nav, .controls, #panel").filter(visible=True).count() == 0
    assert page.locator("h1").is_visible()
    page.pdf(path=shots / f"{name}.pdf")


def test_each_figure_of_the_study_is_drawn_in_its_page_or_given_as_a_file(place, visit):
    links = []
    for name, figures in (("index", 5), ("data", 3)):
        page = visit(place.study / f"{name}.html")
        links += page.locator("a[href$='.svg']").evaluate_all("all => all.map((each) => each.getAttribute('href'))")
        assert page.locator("figure:has(img):has(a[href$='.svg'])").count() > figures
        bare = page.locator("figure:not(:has(img))")
        assert bare.count() == page.locator("figure:has(.still):not(:has(a[href$='.svg']))").count()
        assert (
            page.locator(".panel:has(a[href$='.svg']) img").count()
            == page.locator(".panels:has(.panel + .panel) img").count()
        )
    assert sorted(links) == sorted(f"figures/{file.name}" for file in (place.study / "figures").glob("*.svg"))


def test_one_comes_from_the_index_to_the_study_to_an_episode_and_back(place, visit):
    page = visit(place.pages / "index.html")
    page.get_by_role("link", name="whiten_adv").first.click()
    assert page.url.startswith((place.study / "index.html").as_uri())
    page.locator(".bar").get_by_role("link", name="Reproduce").click()
    page.locator("#reproduce").get_by_role("link", name="page").last.click()
    assert page.url.startswith((place.study / "episodes" / "seed2.html").as_uri())
    assert page.locator("#arm").input_value() == ARM
    page.locator(".kicker a").click()
    assert page.url == (place.study / "index.html").as_uri()


def test_the_index_finds_a_study_by_its_words_and_its_verdict(place, visit):
    page = visit(place.pages / "index.html")
    cards = page.locator(".card").filter(visible=True)
    assert cards.count() == 1
    page.locator("#find").fill("advantages MATTER")
    assert cards.count() == 1
    page.locator("#verdict").select_option("better")
    assert cards.count() == 0 and page.locator("#shown").inner_text() == "0 of 1 studies"
    page.locator("#verdict").select_option("undecided")
    assert cards.count() == 1
    page.locator("#find").fill("no such words")
    assert cards.count() == 0


# ------------------------------------------------------------------------------------------------ samples


@pytest.fixture(scope="module")
def wrote(place):
    """seed -> post id -> arm -> what the store says that it wrote, in the order of the test set."""
    return {
        seed: {
            post: {arm: place.samples(arm, seed).set_index("post_id").loc[post] for arm in ARMS}
            for post in place.samples(REFERENCE, seed)["post_id"].head(POSTS)
        }
        for seed in SEEDS
    }


def ids(page):
    """The posts that are shown, from top to bottom."""
    return [text.split(" ")[0] for text in page.locator(".post:visible > details > summary").all_inner_texts()]


def samples_of(study):
    """The address of the samples of a study's page, which opens their section."""
    return f"{(study / 'index.html').as_uri()}#samples"


OUTCOMES = {
    "": lambda own, reference: True,
    "wins": lambda own, reference: own["win"] == 1,
    "loses": lambda own, reference: own["win"] == 0,
    "above": lambda own, reference: round(own["gold"], 4) > round(reference["gold"], 4),
    "below": lambda own, reference: round(own["gold"], 4) < round(reference["gold"], 4),
    "open": lambda own, reference: not own["ended"],
}
ORDERS = {
    "gain": lambda own, reference: round(own["score"], 4) - round(reference["score"], 4),
    "loss": lambda own, reference: round(reference["score"], 4) - round(own["score"], 4),
    "kl": lambda own, reference: round(own["kl"], 4),
}


def options(page, control):
    return page.locator(f"{control} option").evaluate_all("all => all.map((each) => each.value)")


def test_samples_are_filtered_by_seed_arm_and_outcome_as_the_data_says(place, wrote, visit):
    page = visit(samples_of(place.study))
    assert set(options(page, "#show")) == OUTCOMES.keys() and set(options(page, "#arm")) == {"", *ARMS}
    counts = set()
    for seed in SEEDS:
        page.locator("#seed").select_option(str(seed))
        for arm in ("", ARM):
            page.locator("#arm").select_option(arm)
            for name, holds in OUTCOMES.items():
                page.locator("#show").select_option(name)
                expected = [
                    post
                    for post, arms in wrote[seed].items()
                    if any(holds(arms[each], arms[REFERENCE]) for each in ([arm] if arm else arms))
                ]
                assert ids(page) == expected, (seed, arm, name)
                assert page.locator("#shown").inner_text() == f"{len(expected)} of {len(wrote[seed])} posts"
                assert page.locator(f"[data-seed]:visible:not([data-seed='{seed}'])").count() == 0
                counts.add(len(expected))
    assert len(counts) > 3


@pytest.mark.parametrize("column", ["query", "reference", "summary", "sft_summary"])
def test_samples_are_found_by_a_word_of_the_post_or_of_any_summary(column, place, wrote, visit):
    seed = SEEDS[0]
    texts = {
        post: " ".join(arms[arm][name] for arm in arms for name in ("query", "reference", "summary", "sft_summary"))
        for post, arms in wrote[seed].items()
    }
    word = max(wrote[seed]["test-0"][ARM][column].split(), key=len)
    expected = [post for post, text in texts.items() if word.lower() in text.lower()]
    page = visit(samples_of(place.study))
    page.locator("#find").fill(word.upper())
    assert ids(page) == expected and "test-0" in expected


SCRIPT = "<script>alert('summary')</script>"


@pytest.fixture(scope="module")
def changed_samples(place):
    """Six posts, had the arm won, tied and lost, with other lengths, scores and KLs, and under the first post a script."""
    study = read_study(DETAIL, SCALE, place.store)
    base = study.samples[REFERENCE, SEEDS[0]].head(6).assign(win=0, length=4, score=0.0, kl=1.0)
    own = (
        study.samples[ARM, SEEDS[0]]
        .head(6)
        .assign(
            win=[1, 0.5, 0, 1, 0, 0],
            length=[5, 40, 3, 30, 6, 7],
            score=[1.0, 3.0, -1.0, 2.0, -3.0, -2.0],
            kl=[2, 1, 5, 3, 0, 4],
        )
    )
    own["summary"] = [SCRIPT, *own["summary"][1:]]
    return {(REFERENCE, SEEDS[0]): base, (ARM, SEEDS[0]): own}


@pytest.fixture(scope="module")
def changed(place, changed_samples, tmp_path_factory):
    """The study's page with those samples."""
    study = read_study(DETAIL, SCALE, place.store)
    return study_page.build(replace(study, samples=changed_samples), tmp_path_factory.mktemp("changed"))


@pytest.mark.parametrize("order", ORDERS)
def test_samples_are_ordered_as_the_data_says(order, changed_samples, changed, visit):
    arm, reference = (changed_samples[each, SEEDS[0]].set_index("post_id") for each in (ARM, REFERENCE))
    key = ORDERS[order]
    first = {post: max(key(own.loc[post], reference.loc[post]) for own in (arm, reference)) for post in arm.index}
    page = visit(samples_of(changed.parent))
    assert set(options(page, "#sort")) == {"", "length", *ORDERS}
    page.locator("#sort").select_option(order)
    assert len(set(first.values())) > 3 and set(ids(page)) == first.keys()
    shown = [first[post] for post in ids(page)]
    assert shown == sorted(shown, reverse=True) and ids(page) != list(first)
    page.locator("#sort").select_option("")
    assert ids(page) == list(first)


def test_a_summary_that_is_a_script_is_text(changed, visit):
    page = visit(samples_of(changed.parent))
    page.on("dialog", lambda dialog: pytest.fail(f"the page ran {dialog.message}"))
    assert page.locator(f".post [data-arm={ARM}] .text").first.inner_text().startswith(SCRIPT)
    page.locator("#find").fill("<script>")
    assert ids(page) == ["test-0"]


def test_wins_ties_and_losses_are_told_apart_and_lengths_ordered(changed, visit):
    page = visit(samples_of(changed.parent))
    page.locator("#arm").select_option(ARM)
    page.locator("#show").select_option("wins")
    assert ids(page) == ["test-0", "test-3"]
    page.locator("#sort").select_option("length")
    assert ids(page) == ["test-3", "test-0"]
    page.locator("#show").select_option("loses")
    assert ids(page) == ["test-5", "test-4", "test-2"]


def test_what_was_chosen_is_in_the_address(changed, visit):
    page = visit(samples_of(changed.parent))
    page.locator("#show").select_option("wins")
    page.locator("#sort").select_option("length")
    again = visit(page.url)
    assert ids(again) == ids(page) == ["test-3", "test-0"] and again.locator("#show").input_value() == "wins"


# ------------------------------------------------------------------------------------------------ the watch itself


def test_what_goes_wrong_on_a_page_is_noticed(tmp_path, watch, visit):
    told = """<p style="color: #999">faint</p><img src="gone.png" alt="gone"><div style="width: 2000px">wide</div>
    <script>console.error("said"); fetch("http://example.com/"); setTimeout(() => { throw Error("thrown"); });</script>"""
    (tmp_path / "page.html").write_text(told)
    page = visit(tmp_path / "page.html")
    page.wait_for_timeout(200)
    assert watch.left == ["http://example.com/"]
    assert all(
        any(word in trouble for trouble in watch.troubles) for word in ("said", "thrown", "example.com", "gone.png")
    )
    assert broken_images(page) == ["gone"] and "the page" in too_wide(page) and "faint" in faint(page)[0]
    watch.left.clear()
    watch.troubles.clear()
