"""The site of the documentation is built without a warning, its notebook runs, and its pages have what the docstrings say."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

BUILD = "import build, pathlib, sys; sys.exit(build.build(pathlib.Path(sys.argv[1])))"
pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make site` builds it."""
    pytest.importorskip("myst_nb", reason="no Sphinx; make sphinx installs it")
    folder = tmp_path_factory.mktemp("made") / "site"
    ended = subprocess.run(
        [sys.executable, "-c", BUILD, folder],
        cwd=ROOT / "docs" / "site",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return folder


def text(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_the_front_page_leads_to_every_page(site):
    front = (site / "index.html").read_text()
    pages = {page.relative_to(site).as_posix() for page in (site / "docs").rglob("*.html")}
    assert {"docs/details.html", "docs/api/ops.html", "docs/first-study.html"} <= pages
    assert [page for page in sorted(pages) if f'href="{page}"' not in front] == []
    assert (site / "reports" / "gallery" / "index.html").is_file()


def test_the_notebook_shows_its_verdict_curves_and_formula(site):
    page = site / "docs" / "first-study.html"
    told = text(page)
    assert "off" in told and "smallest effect of interest" in told
    assert "tensor([[0.9025, 0.9500, 1.0000]])" in told
    assert re.search(r'<img[^>]+src="[^"]+\.png"', page.read_text())


def test_a_formula_has_its_shapes_equation_arguments_source_and_code(site):
    page = site / "docs" / "api" / "ops.html"
    told = text(page)
    assert "Float[Tensor, 'episodes tokens']" in told
    assert (
        '<div class="equation highlight-none' in page.read_text()
        and "A_t = sum_{l >= 0} (gamma lam)^l delta_{t+l}" in told
    )
    assert "discount of a reward that comes one token later" in told and "Source: Schulman et al. 2016" in told
    code = re.search(r'href="(\.\./\.\./source/repro/ops/advantage\.py\.html)#(L-\d+)"', page.read_text())
    assert f'id="{code[2]}"' in (page.parent / code[1]).read_text()


def test_a_record_has_its_fields_with_their_comments(site):
    assert "micro_batch: int = 64 – rows of one forward and backward pass" in text(site / "docs" / "api" / "study.html")


def test_every_metric_is_defined(site):
    from repro.study.metrics import METRICS

    told = text(site / "docs" / "api" / "metrics.html")
    assert [name for name in METRICS if name not in told] == []
