"""The style of all figures: colours, dashes and markers by an arm's position."""

from contextlib import AbstractContextManager

import matplotlib as mpl
from matplotlib.axes import Axes

# Okabe and Ito's palette, safe for common colour blindness; the reference is always the dark one.
PALETTE = ("#1a1a1a", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("", (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (3, 1, 1, 1, 1, 1), (8, 3), (2, 2, 6, 2))
SFT = "#888888"  # the policy before PPO, which is no arm
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
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
    "svg.hashsalt": "reports",
    "svg.fonttype": "path",
}  # a fixed salt: the same numbers give the same file


def context() -> AbstractContextManager[None]:
    """The style's settings for as long as the context is open."""
    return mpl.rc_context(RC)


def colours(arms: tuple[str, ...]) -> dict[str, str]:
    """Arm -> colour by position; the palette repeats after seven arms, dashes and markers with it."""
    return dict(zip(arms, _cycled(PALETTE, len(arms)), strict=True))


def dashes(arms: tuple[str, ...]) -> dict[str, tuple[float, ...] | str]:
    """Arm -> dash pattern by position, so that lines can be told apart in grey."""
    return dict(zip(arms, _cycled(DASHES, len(arms)), strict=True))


def dash(arm: str, arms: tuple[str, ...]) -> tuple[float | None, ...]:
    """One arm's dash pattern as a line takes it."""
    return dashes(arms)[arm] or (None, None)


def markers(arms: tuple[str, ...]) -> dict[str, str]:
    """Arm -> marker by position, so that marks can be told apart in grey."""
    return dict(zip(arms, _cycled(MARKERS, len(arms)), strict=True))


def symmetric_log(axes: Axes, linear: float) -> None:
    """A horizontal axis that is logarithmic past `linear` on either side, with numbers as they are spelled elsewhere."""
    axes.set_xscale("symlog", linthresh=linear)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))


def few_ticks(axes: Axes, axis: str = "both") -> None:
    """At most five steps of numbers along an axis that is not logarithmic: small panels have no room for more."""
    for name, one in (("x", axes.xaxis), ("y", axes.yaxis)):
        if axis in (name, "both") and one.get_scale() == "linear":
            axes.locator_params(axis=name, nbins=5)


def quiet(axes: Axes) -> None:
    """Remove the grid lines of a vertical axis of categories."""
    axes.grid(visible=False, axis="y")


def _cycled(values: tuple, count: int) -> list:
    """The first `count` values, starting again at the end."""
    return [values[i % len(values)] for i in range(count)]
