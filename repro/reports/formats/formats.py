"""The forms that a study can be had in, by the word that a person types."""

from collections.abc import Callable, Mapping
from pathlib import Path

from repro.reports.figures import length
from repro.reports.formats import latex, slides, tables
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings, analyse

FOLDER = "formats"  # beside the study's page
FORMATS: Mapping[str, Callable[[Study, Findings, Path], list[Path]]] = {
    "slides": slides.write,
    "latex": latex.write,
    "csv": tables.write,
}


def build(study: Study, page: Path, form: str) -> list[Path]:
    """Writes a study in one of `FORMATS` into a folder beside its built page; the files.

    Slides show the SVG files of that page.
    """
    study, folder = length.controlled(study), page.parent / FOLDER  # as the page has it
    folder.mkdir(exist_ok=True)
    return FORMATS[form](study, analyse(study), folder)
