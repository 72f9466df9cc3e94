"""The style of all figures: colours, dashes and markers by an arm's position."""

from contextlib import AbstractContextManager
from itertools import cycle
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

# Okabe and Ito's palette, with four colours moved a little so that they stay apart for common colour blindness on a dark page
# too, which turns lightness round; the reference is always the dark one.
PALETTE = ("#1a1a1a", "#0072b2", "#d55e00", "#03ac7c", "#b793b3", "#eeb000", "#64aaf8")
Pattern = tuple[float, ...] | Literal[""]  # of a line: how long it is drawn and not, in turn; nothing where it is solid
DASHES: tuple[Pattern, ...] = ("", (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (3, 1, 1, 1, 1, 1), (8, 3), (2, 2, 6, 2))
SFT = "#888888"  # the policy before PPO, which is no arm
CEILING = "#8a6d3b"  # the gold score as reward, which is no arm either
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# The markers as outlines about the origin, three units to either side.
SHAPES = (
    "M3 0A3 3 0 1 1-3 0A3 3 0 1 1 3 0z",
    "M-3-3h6v6h-6z",
    "M0-3.4L3.4 3H-3.4z",
    "M0-4L4 0 0 4-4 0z",
    "M0 3.4L3.4-3H-3.4z",
    "M-1.2-3.6h2.4v2.4h2.4v2.4h-2.4v2.4h-2.4v-2.4h-2.4v-2.4h2.4z",
    "M-3.4-1.7L-1.7-3.4 0-1.7 1.7-3.4 3.4-1.7 1.7 0 3.4 1.7 1.7 3.4 0 1.7-1.7 3.4-3.4 1.7-1.7 0z",
)
RC = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.formatter.useoffset": False,
    "text.parse_math": False,  # an arm's name may have dollar signs
    "svg.hashsalt": "reports",  # a fixed salt: the same numbers give the same file
    "svg.fonttype": "path",
}
# Of a study's figures: no letter is smaller than ten points, so that a panel can be read from a phone and in a talk.
LEAST = 10  # points
PANEL = RC | {
    "savefig.dpi": 192,  # two pixels for each of a screen without magnification
    "font.size": LEAST,
    "axes.titlesize": LEAST,
    "axes.labelsize": LEAST,
    "xtick.labelsize": LEAST,
    "ytick.labelsize": LEAST,
    "legend.fontsize": LEAST,
    "figure.dpi": 72,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.labelpad": 3,
}
TITLE = {"fontsize": LEAST + 0.5, "fontweight": "bold", "color": "#1a1a1a"}
STRIP = {
    "loc": "upper left",
    "handlelength": 3.4,
    "borderaxespad": 0.2,
    "borderpad": 0.1,
    "labelspacing": 0.35,
    "columnspacing": 1.0,
}
SEED = {"linewidth": 0.6, "zorder": 1.5}
ZERO_LINE = {"color": "#555555", "linewidth": 0.9}  # the line of no difference
HALF_LINE = {"color": "#bbbbbb", "linewidth": 0.9}  # of guessing, or of a policy as good as the references
BAND = {"color": "#f0e6c8", "zorder": 0, "linewidth": 0}  # the differences that are too small to matter
DIGIT = 0.085  # inches that a digit of an axis takes across
NOTE = {"fontsize": LEAST, "color": "#555555"}


def context() -> AbstractContextManager[None]:
    """The style's settings for as long as the context is open."""
    return mpl.rc_context(RC)


def panel_context() -> AbstractContextManager[None]:
    """The settings of a study's figures for as long as the context is open."""
    return mpl.rc_context(PANEL)


def faint(seeds: int) -> float:
    """How opaque the line of one seed is: the more there are, the less, so that bands and means stay in front."""
    return min(0.5, 0.1 + 0.6 / max(1, seeds))


def colours(arms: tuple[str, ...]) -> dict[str, str]:
    """Arm -> colour by position; the palette repeats after seven arms, dashes and markers with it."""
    return dict(zip(arms, cycle(PALETTE)))


def dashes(arms: tuple[str, ...]) -> dict[str, Pattern]:
    """Arm -> dash pattern by position, so that lines can be told apart in grey."""
    return dict(zip(arms, cycle(DASHES)))


def dash(arm: str, arms: tuple[str, ...]) -> tuple[float | None, ...]:
    """One arm's dash pattern as a line takes it."""
    return dashes(arms)[arm] or (None, None)


def markers(arms: tuple[str, ...]) -> dict[str, str]:
    """Arm -> marker by position, so that marks can be told apart in grey."""
    return dict(zip(arms, cycle(MARKERS)))


def symmetric_log(axes: Axes, linear: float) -> None:
    """A horizontal axis that is logarithmic past `linear` on either side, with numbers as they are spelled elsewhere."""
    axes.set_xscale("symlog", linthresh=linear)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))


def few_ticks(axes: Axes, axis: str = "both") -> None:
    """At most five steps of numbers along an axis that is not logarithmic, and across no more than have room side by side."""
    for name, one in (("x", axes.xaxis), ("y", axes.yaxis)):
        if axis in (name, "both") and one.get_scale() == "linear":
            axes.locator_params(axis=name, nbins=5)
            for steps in (4, 3, 2, 1) if name == "x" else ():
                if side_by_side(axes):
                    break
                axes.locator_params(axis=name, nbins=steps)


def side_by_side(axes: Axes) -> bool:
    """Whether the numbers below a horizontal axis stand apart."""
    places, (low, high) = axes.get_xticks(), sorted(axes.get_xlim())
    longest = max(map(len, axes.xaxis.get_major_formatter().format_ticks(places)), default=0)
    step = (places[1] - places[0]) / (high - low) * axes.bbox.width / axes.figure.dpi if len(places) > 1 else np.inf
    return bool(step > (longest + 1) * DIGIT)


def quiet(axes: Axes) -> None:
    """Remove the grid lines of a vertical axis of categories."""
    axes.grid(visible=False, axis="y")
