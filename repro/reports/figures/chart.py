"""A figure of a study: a tidy frame and a drawing of only that frame, so that its CSV has everything it shows.

It is written as a whole and panel by panel, each as SVG, PNG and CSV; it is drawn once, and its panels are cut out of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from repro.reports.figures import style, vector
from repro.reports.figures.cutting import Drawing
from repro.reports.figures.numbers import number
from repro.reports.figures.sheet import POINTS, Box, Entry, Sheet, file_name
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

DIGITS = "%.7g"  # of a CSV's fractions: all that a float32 holds, and every number of episodes
ALIKE = 1e-6  # values that differ by less than this share of the largest are drawn as one
ZERO = (0.0,)  # what differences are looked at beside
COLOURS = 256  # of a PNG: what is drawn has few, and edges are shades of them


def by_metric(data: pd.DataFrame, key: str) -> pd.DataFrame:
    """The rows of the panel of a metric."""
    return data[data["metric"] == key]


@dataclass(frozen=True)
class Chart:
    """One figure: its file name, words, data (empty where a study has none) and how that data is drawn.

    `takeaway` says in a sentence what that data shows, `rows` which of it a panel has, `still` what it says in words in
    place of panels in which nothing varies; the drawing has no such panel, and is none where nothing varies at all.
    """

    name: str
    title: str
    caption: str
    data: Callable[[Study, Findings], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Study], Sheet | None]
    takeaway: Callable[[pd.DataFrame, Study], str]
    rows: Callable[[pd.DataFrame, str], pd.DataFrame] = by_metric
    still: Callable[[pd.DataFrame], list[str]] = lambda data: []


@dataclass(frozen=True)
class Panel:
    """A panel of a drawn figure: what it shows, its title, the name of its files and its place [points] in the whole."""

    key: str
    title: str
    stem: str
    box: Box


@dataclass(frozen=True)
class Drawn:
    """A figure that was written: its panels, the size of the whole and the height of the legend's strip [points]."""

    chart: Chart
    takeaway: str
    still: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    size: tuple[float, float] = (0.0, 0.0)
    strip: float = 0.0
    legend: tuple[Entry, ...] = ()


def save_all(charts: Sequence[Chart], study: Study, findings: Findings, folder: Path) -> list[Drawn]:
    """Writes every chart that the study has data for, whole and by panel, as PNG, SVG and CSV, and gives those charts."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for chart in charts:
        data = chart.data(study, findings)
        if not data.empty:
            drawn.append(_save_one(chart, data, study, folder))
    return drawn


def _save_one(chart: Chart, data: pd.DataFrame, study: Study, folder: Path) -> Drawn:
    """Writes one chart and its panels; a figure of a single panel has no further files."""
    write_csv(data, folder / f"{chart.name}.csv")
    described = chart.takeaway(data, study), tuple(chart.still(data))
    with style.panel_context():
        figure = chart.draw(data, study)
        if figure is None:
            return Drawn(chart, *described)
        several = len(figure.boxes) > 1
        panels = tuple(
            Panel(key, figure.titles[key], file_name(chart.name, key) if several else chart.name, box)
            for key, box in figure.boxes.items()
        )
        save(figure, folder / chart.name, [panel.stem for panel in panels] if several else ())
    for panel in panels if several else ():
        write_csv(chart.rows(data, panel.key), folder / f"{panel.stem}.csv")
    across, down = figure.get_size_inches()
    return Drawn(chart, *described, panels, (across * POINTS, down * POINTS), figure.strip, figure.entries)


def save(figure: Figure, stem: Path, panels: Sequence[str] = ()) -> None:
    """Writes a figure as PNG and SVG without a date or a version in it, so that equal data gives equal files.

    Both are made small: the PNG has 256 colours of its own, a third of the bytes, and the SVG is compact. `panels` are the
    names of files beside them, for the panels of a sheet in their order.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)  # laid out once, not again for each file: finding the places is half of the time
    bitmap, drawing = BytesIO(), StringIO()
    figure.savefig(bitmap, format="png", pil_kwargs={"compress_level": 0})
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    few = Image.open(bitmap).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(stem.with_suffix(".png"))
    stem.with_suffix(".svg").write_text(vector.compact(drawing.getvalue()), encoding="utf-8")
    if panels and isinstance(figure, Sheet):
        _save_panels(figure, stem.parent, panels, few, drawing.getvalue())


def _save_panels(figure: Sheet, folder: Path, panels: Sequence[str], bitmap: Image.Image, svg: str) -> None:
    """Cuts each panel, with the legend above it, out of what was drawn of the whole."""
    drawing, scale = Drawing(svg), bitmap.width / figure.get_figwidth() / POINTS
    strip = round(scale * figure.strip)
    for place, (stem, box) in enumerate(zip(panels, figure.boxes.values(), strict=True)):
        cut = vector.compact(drawing.panel(place, box, figure.strip))
        (folder / f"{stem}.svg").write_text(cut, encoding="utf-8")
        x, y, width, height = (round(scale * points) for points in box)
        out = Image.new("P", (width, strip + height))
        out.putpalette(bitmap.getpalette() or [])
        out.paste(bitmap.crop((0, 0, width, strip)), (0, 0))
        out.paste(bitmap.crop((x, y, x + width, y + height)), (0, strip))
        out.save(folder / f"{stem}.png")


def write_csv(data: pd.DataFrame, path: Path) -> None:
    """Writes a table; compressed where its name ends in .gz, without a time, so that equal data gives equal files."""
    compression = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
    data.to_csv(path, index=False, float_format=DIGITS, compression=compression)


def varying(data: pd.DataFrame, columns: Sequence[str] = ("value",), beside: Sequence[float] = ()) -> list[str]:
    """The metrics of a frame, in its order, that take more than one value; differences are looked at `beside` zero."""
    return [metric for metric, rows in data.groupby("metric", sort=False) if _varies(rows, columns, beside)]


def still_lines(
    data: pd.DataFrame,
    words: str = "is {} everywhere",
    columns: Sequence[str] = ("value",),
    beside: Sequence[float] = (),
) -> list[str]:
    """A sentence for each metric whose values are all the same, or missing."""
    shown = set(varying(data, columns, beside))
    return [
        f"{terms.label(metric)} {words.format(number(value)) if np.isfinite(value) else 'was not recorded'}."
        for metric, rows in data.groupby("metric", sort=False)
        if metric not in shown
        for value in [rows[columns[-1]].mean()]
    ]


def _varies(rows: pd.DataFrame, columns: Sequence[str], beside: Sequence[float]) -> bool:
    values = rows[list(columns)].to_numpy(float)
    known = np.concatenate([values[np.isfinite(values)], beside])
    return len(known) > len(beside) and bool(np.ptp(known) > ALIKE * max(1e-6, float(np.abs(known).max())))
