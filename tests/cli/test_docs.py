"""The page of all details: what the registry says, readable as Markdown, and never stale."""

import re
from itertools import zip_longest

import pytest
from markdown_it import MarkdownIt

from repro.cli import atlas_quotes, catalogue, docs
from repro.details import DETAILS
from repro.errors import UserError
from repro.study import ablation

LINK = re.compile(r"\[[^\[\]]+\]\(([^()]+)\)")


@pytest.mark.every_detail
def test_the_page_is_what_the_registry_says():
    written, told = (docs.ROOT / docs.PAGE).read_text().splitlines(), docs.markdown().splitlines()
    line = next((line for line, (one, two) in enumerate(zip_longest(written, told), 1) if one != two), 1)
    assert docs.PAGE not in docs.stale(), f"{docs.PAGE}:{line}: stale from here on; `make docs` writes it again"


def test_a_page_that_is_not_there_or_was_edited_is_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "PAGE", tmp_path / "details.md")
    monkeypatch.setattr(atlas_quotes, "PAGES", ())
    assert list(docs.stale()) == [docs.PAGE]
    docs.write()
    assert not docs.stale()
    docs.PAGE.write_text(docs.PAGE.read_text() + "more\n")
    assert list(docs.stale()) == [docs.PAGE]


def test_an_installed_package_has_no_page(tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "PAGE", tmp_path / "docs" / "details.md")
    with pytest.raises(UserError, match="run this in a checkout"):
        docs.write()


def test_the_enumeration_is_complete():
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", docs.markdown(), re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 26))
    assert "`whiten_adv`" in dict((number, entries) for number, _, entries in rows)["25"]


def test_every_link_of_the_page_leads_somewhere():
    told = docs.markdown()
    anchors = [docs.slug(line.lstrip("# ")) for line in told.splitlines() if line.startswith("#")]
    assert len(set(anchors)) == len(anchors)
    for target in set(LINK.findall(told)):
        path, _, anchor = target.partition("#")
        if not path:
            assert anchor in anchors
        elif not path.startswith("https://"):
            lines = (docs.ROOT / docs.PAGE.parent / path).read_text().count("\n")
            assert 0 < int(anchor.removeprefix("L") or 1) <= lines


def test_every_entry_links_its_declaration_its_calls_and_its_study():
    sections = re.split(r"^### `(\w+)`$", docs.markdown(), flags=re.MULTILINE)
    told = dict(zip(sections[1::2], sections[2::2]))
    assert list(told) == list(catalogue.entries())
    for name, entry in catalogue.entries().items():
        links = LINK.findall(told[name])
        assert [f"../{place.file}#L{place.line}" for place in (entry.place, *entry.calls)] == [
            link for link in links if "#L" in link
        ]
        declared = ablation.has_file(name, docs.ROOT / ablation.FOLDER)
        assert (f"../ablations/{name}.toml" in links) == declared
        assert (ablation.IMPLIED in told[name]) == (entry.kind == "detail" and not declared)


def test_a_report_that_was_built_is_linked(tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    link = "[report](../reports/gallery/whiten_adv/index.html)"
    assert link not in docs.markdown()
    (tmp_path / docs.GALLERY / "whiten_adv").mkdir(parents=True)
    (tmp_path / docs.GALLERY / "whiten_adv" / "index.html").touch()
    assert link in docs.markdown()


def shown(markdown):
    """What a reader of rendered Markdown sees: of each table the cells, of each paragraph the text."""
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    return ["".join(child.content for child in each.children) for each in parsed if each.type == "inline"]


@pytest.mark.parametrize(
    "text",
    [
        "|ratio - 1| of a|b",
        "score * KL *and* more, in_loss_as_estimated",
        "<|endoftext|> and [PAD](x), [B, R]",
        "~0.1~ of $x$ with \\d",
        "N(0, 1/sqrt(d + 1)) & co",
        "1. not a list",
    ],
)
def test_text_survives_markdown(text):
    assert shown(docs.table(("a", "b"), [("1", docs.prose(text))])) == ["a", "b", "1", text]


def test_code_in_a_text_stays_code():
    assert shown(f"{docs.prose('as `nn.Linear[*]` * starts *')}") == ["as nn.Linear[*] * starts *"]
    cells = shown(docs.table(("a",), [(docs.prose("`a|b*c*`"),)]))
    assert cells == ["a", "a|b*c*"]


def test_a_reader_of_the_page_sees_every_text_of_the_registry():
    seen = set(shown(docs.markdown()))
    plain = {text.replace("`", "") for text in seen}
    for detail in DETAILS.values():
        for label, variant in detail.variants.items():
            assert variant.does.replace("`", "") in plain
            assert {label, f"{label} (reference)"} & seen
        assert f"Hypothesis. {detail.hypothesis.replace('`', '')}" in plain


def test_every_metric_of_which_something_is_predicted_is_explained_once():
    seen = shown(docs.markdown().split("\n## Metrics\n")[1])
    predicted = {metric for detail in DETAILS.values() for metric in detail.expected}
    assert sorted(text for text in seen if text in predicted) == sorted(predicted)
    assert all(
        catalogue.meaning(metric).replace("`", "") in {text.replace("`", "") for text in seen} for metric in predicted
    )
