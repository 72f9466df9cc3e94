"""What all pages share: text that came from a run is text, whatever is in it."""

import re
from dataclasses import replace

import pytest

from repro.reports.pages import inspect, markup, page
from tests.bad_input.hostile import LIVE, OBEYED, TEXTS


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_keeps_its_words_and_loses_what_would_be_obeyed(text):
    shown = markup.harmless(text)
    assert not OBEYED.search(shown)
    assert re.sub(r"\\(x..|u....|r)", "", shown) == OBEYED.sub("", text).replace("\u2028", "")


@pytest.mark.parametrize("value", [3, 0.5, None, True, ["\x1b"], markup.Markup("<b>")])
def test_what_is_no_text_stays_as_it_is(value):
    assert markup.harmless(value) is value


@pytest.mark.parametrize("text", [" a\nb\tc ", "caf\u00e9", "\U0001f600", "\u4f60\u597d", ""])
def test_lines_tabs_and_letters_of_any_language_stay(text):
    assert markup.harmless(text) == text


@pytest.mark.parametrize("template", sorted(markup.TEMPLATES.glob("*.j2")), ids=lambda file: file.name)
def test_a_box_that_scrolls_is_reached_by_the_keyboard_and_has_a_name(template):
    boxes = re.findall(r'<div class="scroll[^>]*>', template.read_text())
    assert all('tabindex="0" role="region" aria-label="' in box for box in boxes)


@pytest.fixture(scope="module")
def hostile(study):
    """The made-up study, whose texts are all hostile."""
    text = " ".join(TEXTS.values())
    kept = text.replace("\ud83d", "")  # pandas holds no half surrogates
    samples = {
        place: table.assign(post_id=kept, query=kept, reference=kept, summary=kept, sft_summary=kept)
        for place, table in study.samples.items()
    }
    tags = study.tags | dict.fromkeys(("question", "hypothesis", "paper", "judge"), text)
    return replace(study, samples=samples, tags=tags, troubles=(text,))


def test_a_studys_page_runs_nothing(hostile, undrawn, tmp_path, monkeypatch):
    monkeypatch.setattr(inspect, "read_traces", lambda _: {})
    built = page.build(hostile, tmp_path)
    for file in (built, *tmp_path.rglob("*.html")):
        html = file.read_text()
        assert not LIVE.search(html) and not OBEYED.search(html)
    assert "\\x1b[31mred" in built.read_text()
