"""Links of the documentation lead somewhere: on GitHub, where it is Markdown, and on the site that `make site` makes of it."""

import importlib.util
import json
import subprocess
from functools import cache

import pytest
from markdown_it import MarkdownIt

from repro.cli.docs import slug
from tests.paths import ROOT

PAGES = ("*.md", "docs/*.md", "docs/*.ipynb")  # of git: a star is any number of folders


def tracked(*patterns):
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(listed.stdout.split())


@cache
def parsed(page):
    """(places that a link may name, links and pictures) of a page or of the texts of a notebook."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    anchors = {slug(line.content) for tag, line in zip(tokens, tokens[1:]) if tag.type == "heading_open"}
    parts = [part for token in tokens for part in token.children or ()]
    return anchors, [link for part in parts if (link := part.attrs.get("href") or part.attrs.get("src"))]


def leads_nowhere(page, link):
    """Why, or nothing where it leads somewhere."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return "no such file"
    if anchor.startswith("L") and target.suffix == ".py":
        return "" if int(anchor[1:]) <= len(target.read_text().splitlines()) else "no such line"
    if anchor and target.suffix == ".md":
        return "" if anchor in parsed(target)[0] else "no such heading"
    return ""


@pytest.mark.parametrize("name", tracked(*PAGES))
def test_every_link_leads_somewhere_on_github(name):
    page = ROOT / name
    links = [link for link in parsed(page)[1] if "://" not in link]
    assert [(link, why) for link in links if (why := leads_nowhere(page, link))] == []


def test_what_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b` c\n\n[x](#a-b-c) [y](#else) ![z](z.png) [w](page.md#a-b-c) [v](code.py#L2)\n")
    (tmp_path / "code.py").write_text("1\n")
    told = {link: leads_nowhere(page, link) for link in parsed(page)[1]}
    assert told == {
        "#a-b-c": "",
        "#else": "no such heading",
        "z.png": "no such file",
        "page.md#a-b-c": "",
        "code.py#L2": "no such line",
    }


def test_a_notebook_is_kept_without_what_it_printed():
    for name in tracked("docs/*.ipynb"):
        cells = json.loads((ROOT / name).read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), name


@pytest.fixture(scope="module")
def links():
    """The module that checks the site."""
    spec = importlib.util.spec_from_file_location("links", ROOT / "docs" / "site" / "links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_link_of_the_site_that_leads_nowhere_is_found(links, tmp_path):
    (tmp_path / "a b.html").write_text(
        '<a href="sub/c.html#there">1</a><img src="no.png"><a href="https://x.org/y">2</a>'
    )
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.html").write_text(
        '<p id="there"><a href="../a%20b.html">3</a><a href="#gone">4</a><a href="../..">5</a>'
    )
    assert links.broken(tmp_path) == ["a b.html: no.png", "sub/c.html: #gone", "sub/c.html: ../.."]


def test_the_gallery_has_no_link_that_leads_nowhere(links):
    assert links.broken(ROOT / "reports" / "gallery") == []


@pytest.mark.parametrize("folder", ["ops", "stages"])
def test_the_pages_of_the_api_have_every_module_of_a_folder_that_they_are_about(folder):
    page = (ROOT / "docs" / "api" / f"{folder}.md").read_text().split()
    modules = [file.stem for file in (ROOT / "repro" / folder).glob("*.py") if file.stem != "__init__"]
    assert [name for name in modules if f"repro.{folder}.{name}" not in page] == []
