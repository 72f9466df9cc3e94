"""A study as slides: one HTML file that needs nothing else, turned by the arrow keys, printed one slide a page."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten

import pandas as pd

from repro.reports.figures import chart, curves, style
from repro.reports.pages import ceiling, facts, markup, page, provenance, samples
from repro.reports.reading.artifacts import read_config
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

FIGURES = ("effect", "before_after")  # of the study's page, each shown on a slide
CURVES = "Learning curves"
LONGEST = 260  # characters of a summary on a slide
OPENING = 200  # characters of a post
POSTS = 3  # the first of the test set, not a selection
PREDICTED = 6  # lines of predictions that the first slide has room for
TITLE, POST = re.compile(r"TITLE:\s*(.+)"), re.compile(r"POST:\s*(.+?)\s*(?:TL;DR:)?$", re.DOTALL)


def write(study: Study, findings: Findings, folder: Path) -> list[Path]:
    """Writes `slides.html` into a folder beside the study's page; the file, in a list."""
    file = folder / "slides.html"
    file.write_text(render(study, findings, folder.parent / "figures"), encoding="utf-8")
    return [file]


def render(study: Study, findings: Findings, figures: Path) -> str:
    """The HTML of the slides; `figures` has the SVG files of the study's page."""
    config = read_config(study)
    drawn = {name: _picture(name, figures) for name in FIGURES} | {"learning_curves": _curves(study, findings)}
    return markup.render(
        "slides.html.j2",
        study=study,
        about=facts.line(study, config),
        facts=facts.rows(study, config),
        verdicts=page.cards(study, findings),
        interval_of=page.interval_of(study),
        predictions=predictions(findings),
        warnings=page.warnings(study, findings),
        drawn=drawn,
        ceiling=ceiling.sentence(study, findings),
        posts=[_short(post) for post in samples.posts(study)[:POSTS]],
        ran=provenance.what_ran(study.runs),
        hours=provenance.hours(study.runs),
        outcomes=page.outcomes(findings),
    )


def predictions(findings: Findings) -> list[dict]:
    """What was predicted and what became of it, a line for all arms of which that is the same; none where these are many."""
    rows = findings.predictions
    if rows.empty:
        return []
    same = rows.groupby(["metric", "predicted", "result"], sort=False)["arm"].agg(list).reset_index()
    listed = same.rename(columns={"arm": "arms"}).to_dict("records")
    return listed if len(listed) <= PREDICTED else []


def _picture(name: str, figures: Path) -> dict[str, str]:
    """A figure of the study's page; nothing where the study has no data for it."""
    if not (figures / f"{name}.svg").is_file():
        return {}
    found = next(each for each in page.CHARTS if each.name == name)
    return markup.picture(name, found.title, found.caption, figures)


def _curves(study: Study, findings: Findings) -> dict[str, str]:
    """The few curves that can be read on a slide, side by side; nothing where the study has none, or none of them varies."""
    data = curves.slide_data(study, findings)
    return {} if data.empty else _drawn(data, study)


def _drawn(data: pd.DataFrame, study: Study) -> dict[str, str]:
    """The slide's curves as a picture, of whose file nothing is left."""
    caption = (
        "Thick lines are means over an arm's seeds, bands their 95 % t intervals, faint lines single seeds; right "
        "of a dotted line, the primary metric on the test posts."
    )
    with TemporaryDirectory() as folder, style.panel_context():
        figure = curves.draw_slide(data, study)
        if figure is None:
            return {}
        chart.save(figure, Path(folder) / "learning_curves")
        return markup.picture("learning_curves", CURVES, caption, Path(folder))


def _short(post: dict) -> dict:
    """A post of the first seed that has it, with texts that fit on a slide."""
    row: dict = post["rows"][0] if post["rows"] else {"seed": "", "cells": []}
    parts = [found[1] for part in (TITLE, POST) if (found := part.search(str(post["query"])))]
    cells = [cell | {"text": shorten(str(cell["text"]), LONGEST, placeholder=" …")} for cell in row["cells"]]
    return {
        "opening": shorten(". ".join(parts) or str(post["query"]), OPENING, placeholder=" …"),
        "reference": shorten(str(post["reference"]), LONGEST, placeholder=" …"),
        "seed": row["seed"],
        "cells": cells,
    }
