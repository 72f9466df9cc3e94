"""A study as slides: one HTML file that needs nothing else, turned by the arrow keys, printed one slide a page."""

import re
from pathlib import Path
from textwrap import shorten

from repro.reports.pages import ceiling, markup, page, provenance, samples
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

FIGURES = ("effect", "learning_curves", "before_after")  # of the study's page, each shown on a slide
LONGEST = 260  # characters of a summary on a slide
OPENING = 200  # characters of a post
POSTS = 3  # the first of the test set, not a selection
TITLE = re.compile(r"TITLE:\s*(.+)")


def write(study: Study, findings: Findings, folder: Path) -> list[Path]:
    """Writes `slides.html` into a folder beside the study's page; the file, in a list."""
    file = folder / "slides.html"
    file.write_text(render(study, findings, folder.parent / "figures"), encoding="utf-8")
    return [file]


def render(study: Study, findings: Findings, figures: Path) -> str:
    """The HTML of the slides; `figures` has the SVG files of the study's page."""
    drawn = {name: _picture(name, figures) for name in FIGURES}
    return markup.render(
        "slides.html.j2",
        study=study,
        verdicts=page.cards(study, findings),
        interval_of=page.interval_of(study),
        predictions=findings.predictions["result"].value_counts().to_dict() if len(findings.predictions) else {},
        warnings=page.warnings(study, findings),
        drawn=drawn,
        ceiling=ceiling.sentence(study, findings),
        posts=[_short(post) for post in samples.posts(study)[:POSTS]],
        ran=provenance.what_ran(study.runs),
        hours=provenance.hours(study.runs),
        outcomes=page.outcomes(findings),
    )


def _picture(name: str, figures: Path) -> dict[str, str]:
    """A figure of the study's page; nothing where the study has no data for it."""
    if not (figures / f"{name}.svg").is_file():
        return {}
    chart = next(each for each in page.CHARTS if each.name == name)
    return markup.picture(name, chart.title, chart.caption, figures)


def _short(post: dict) -> dict:
    """A post of the first seed that has it, with texts that fit on a slide."""
    row: dict = post["rows"][0] if post["rows"] else {"seed": "", "cells": []}
    title = TITLE.search(str(post["query"]))
    cells = [cell | {"text": shorten(str(cell["text"]), LONGEST, placeholder=" …")} for cell in row["cells"]]
    return {
        "opening": shorten(title[1] if title else str(post["query"]), OPENING, placeholder=" …"),
        "reference": shorten(str(post["reference"]), LONGEST, placeholder=" …"),
        "seed": row["seed"],
        "cells": cells,
    }
