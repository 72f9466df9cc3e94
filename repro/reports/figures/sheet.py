"""A sheet: panels of one size below a strip for the legend, so that each of them can be cut out as a figure of its own.

A panel is as wide as a phone, and its letters are of one size: a page shows as many side by side as it has room for.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro.reports.figures import style

WIDTH, COLUMNS = 3.5, 2  # inches of a panel, and panels side by side in the whole: letters stay legible at half a page
LEFT, RIGHT, BOTTOM, LINE = 0.85, 0.14, 0.56, 0.19  # inches around the axes, and of a line of text
LETTERS, BOLD = 40, 34  # that fit across a panel, in the usual face and in a title's
LABEL = 31  # letters of a line of the legend
NAME, LETTER = 16, 0.084  # letters of a line of an arm's name beside its row, and the inches of one
POINTS = 72  # of an inch
EDGE = 0.08  # inches that text keeps from a panel's left edge
LEGEND, CELL = "legend", "panel"  # names of a sheet's groups in its drawing

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Entry:
    """A line of a legend."""

    label: str
    colour: str
    dashes: tuple[float, ...] = ()
    marker: str = ""

    @property
    def shape(self) -> str:
        """The marker as an outline; nothing where there is none."""
        return dict(zip(style.MARKERS, style.SHAPES, strict=True)).get(self.marker, "")

    @property
    def dash_array(self) -> str:
        """The dashes as SVG spells them, at a width of two."""
        return " ".join(f"{2 * length:g}" for length in self.dashes)

    def line(self) -> Line2D:
        """The line as matplotlib draws it."""
        look = {"color": self.colour, "marker": self.marker or "None", "markersize": 5, "linewidth": 2}
        label = "\n".join(text_lines(self.label, LABEL))
        return Line2D([], [], dashes=self.dashes or (None, None), label=label, **look)


@dataclass(frozen=True)
class Shape:
    """How wide a sheet's panels are [inches], and how many stand side by side."""

    width: float = WIDTH
    columns: int = COLUMNS


PHONE = Shape()
SLIDE = Shape(width=2.9, columns=3)  # wider than high


class Sheet(Figure):
    """A figure that knows the place of each of its panels [points from the upper left: x, y, width, height]."""

    def __init__(self, keys: Sequence[str], height: float, strip: float, shape: Shape = PHONE, **options: Any) -> None:
        rows, columns = -(-len(keys) // shape.columns), min(shape.columns, len(keys))
        super().__init__(figsize=(shape.width * columns, strip + height * rows), **options)
        self.strip = strip * POINTS
        self.entries: tuple[Entry, ...] = ()  # of the legend
        self.titles: Mapping[str, str] = {}  # of the panels
        size = (shape.width * POINTS, height * POINTS)
        self.boxes: dict[str, Box] = {
            key: (i % columns * size[0], self.strip + i // columns * size[1], *size) for i, key in enumerate(keys)
        }


def sheet(
    titles: Mapping[str, str],
    height: float,
    legend: Sequence[Entry] = (),
    left: float = LEFT,
    bottom: float = BOTTOM,
    shape: Shape = PHONE,
) -> tuple[Sheet, dict[str, Axes]]:
    """A sheet with a panel for each key under its title, and the legend that all of them share; each key's axes.

    `height` [inches] is that of the axes alone; titles of two lines make all panels of a sheet higher.
    """
    bold = round(BOLD * shape.width / WIDTH)
    words = {key: text_lines(title, bold) for key, title in titles.items()}
    top = LINE * max(map(len, words.values())) + 0.2
    columns = _legend_columns(legend, shape)
    lines = sum(len(text_lines(entry.label, LABEL)) for entry in legend)
    strip = 0.22 * -(-lines // columns) + 0.06 if legend else 0.0
    figure = Sheet(list(titles), top + height + bottom, strip, shape)
    figure.entries, figure.titles = tuple(legend), titles
    if legend:
        box = figure.legend(handles=[entry.line() for entry in legend], ncols=columns, **style.STRIP)
        box.set_gid(LEGEND)
    return figure, {key: _axes(figure, key, words[key], (left, bottom, height)) for key in titles}


def _axes(figure: Sheet, key: str, title: list[str], place: tuple[float, float, float]) -> Axes:
    """The axes of one panel, with its title from the panel's left edge on."""
    left, bottom, height = place
    x, y, wide, tall = (points / POINTS for points in figure.boxes[key])
    across, down = figure.get_size_inches()
    floor = down - y - tall
    box = ((x + left) / across, (floor + bottom) / down, (wide - left - RIGHT) / across, height / down)
    axes = figure.add_axes(box)
    axes.set_gid(f"{CELL}{list(figure.boxes).index(key)}")
    axes.annotate(
        "\n".join(title),
        ((x + EDGE) / across, (floor + tall - 0.08) / down),
        xycoords="figure fraction",
        va="top",
        annotation_clip=False,
        **style.TITLE,
    )
    return axes


def _legend_columns(legend: Sequence[Entry], shape: Shape) -> int:
    """Two entries side by side where all are short, on a wide sheet one for each panel, else one."""
    longest = max((len(entry.label) for entry in legend), default=0)
    if shape.columns > COLUMNS and longest <= LABEL:
        return shape.columns
    return 2 if longest <= LETTERS // 2 - 5 and len(legend) > 1 else 1


def entries(
    shown: Sequence[str], arms: tuple[str, ...], suffixes: Mapping[str, str] = MappingProxyType({})
) -> list[Entry]:
    """The entries of a legend for the arms that are shown, the reference named as such; `suffixes` follow names."""
    return [
        Entry(
            (f"{arm} (reference)" if arm == arms[0] else arm) + suffixes.get(arm, ""),
            style.colours(arms)[arm],
            style.dashes(arms)[arm] or (),
            style.markers(arms)[arm],
        )
        for arm in shown
    ]


def text_lines(text: str, width: int) -> list[str]:
    """A text in lines of a width, broken at spaces, and within a word only where a name may be."""
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    return [part for line in lines for part in (name_lines(line, width).split("\n") if len(line) > width else [line])]


def name_lines(name: str, width: int = NAME) -> str:
    """A name in lines, broken after `_`, `=`, `/` or a space, never within a number or a word."""
    lines = [""]
    for part in re.findall(r"[^_=/ ]+[_=/ ]?|.", name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip(" ") for line in lines)


def room(names: Sequence[str]) -> float:
    """Inches left of the axes for names beside rows."""
    longest = max((len(line) for name in names for line in name_lines(name).split("\n")), default=0)
    return max(0.35, 0.2 + LETTER * longest)


def file_name(chart: str, key: str) -> str:
    """The name of a panel's files: the figure's, and what the panel shows."""
    return f"{chart}-{re.sub(r'[^A-Za-z0-9.]+', '_', key).strip('_') or 'panel'}"
