"""A figure of a study: a tidy frame and a drawing of only that frame, so that its CSV has everything it shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from repro.reports.figures import style, vector
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

DIGITS = "%.7g"  # of a CSV's fractions: all that a float32 holds, and every number of episodes
COLOURS = 256  # of a PNG: what is drawn has few, and edges are shades of them


@dataclass(frozen=True)
class Chart:
    """One figure: its file name, words, data (empty where a study has none) and how that data is drawn."""

    name: str
    title: str
    caption: str
    data: Callable[[Study, Findings], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Study], Figure]


def save_all(charts: Sequence[Chart], study: Study, findings: Findings, folder: Path) -> list[Chart]:
    """Writes `<name>.png`, `.svg` and `.csv` of every chart that the study has data for, and gives those charts."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for chart in charts:
        data = chart.data(study, findings)
        if not data.empty:
            with style.context():
                save(chart.draw(data, study), folder / chart.name)
            write_csv(data, folder / f"{chart.name}.csv")
            drawn.append(chart)
    return drawn


def save(figure: Figure, stem: Path) -> None:
    """Writes a figure as PNG and SVG without a date or a version in it, so that equal data gives equal files.

    Both are made small: the PNG has 256 colours of its own, a third of the bytes, and the SVG is compact.
    """
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine(None)  # laid out once, not again for each file: finding the places is half of the time
    bitmap, drawing = BytesIO(), StringIO()
    figure.savefig(bitmap, format="png", pil_kwargs={"compress_level": 0})
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    few = Image.open(bitmap).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(stem.with_suffix(".png"))
    stem.with_suffix(".svg").write_text(vector.compact(drawing.getvalue()), encoding="utf-8")


def write_csv(data: pd.DataFrame, path: Path) -> None:
    """Writes a table; compressed where its name ends in .gz, without a time, so that equal data gives equal files."""
    compression = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
    data.to_csv(path, index=False, float_format=DIGITS, compression=compression)
