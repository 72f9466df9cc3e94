"""What figures share: grids of panels, the order of rows, and limits of axes."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDE = 50  # a positive curve whose peak is this many times its median is drawn on a log axis


def interval(
    axes: Axes, span: tuple[float, float], height: float, ends: tuple[float, float], color: str, **look: float
) -> None:
    """A horizontal interval between the ends of the axis, with an arrow head where it extends past them."""
    axes.hlines(height, max(span[0], ends[0]), min(span[1], ends[1]), color=color, **look)
    for cut, end, head in ((span[0] < ends[0], ends[0], "<"), (span[1] > ends[1], ends[1], ">")):
        if cut:
            axes.plot(end, height, marker=head, color=color, markersize=4, clip_on=False)


def better(higher_is_better: bool, low: str = "left", high: str = "right") -> str:
    """Which side of an axis is the better one."""
    return f"{high if higher_is_better else low} is better"


def frame_limits(axes: Axes, values: pd.Series) -> None:
    """Limits from the seeds themselves, since the t interval of a few seeds can be many times wider than they are."""
    values = values.dropna()
    if values.empty:
        return
    if values.min() > 0 and values.max() > WIDE * values.median():
        axes.set_yscale("log")
        return
    axes.set_ylim(padded(values))


def padded(values: pd.Series) -> tuple[float, float]:
    """The stretch of an axis that holds the values, with a margin."""
    low, high = values.min(), values.max()
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def grid(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, each width x height [inches], at most `columns` side by side."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in panels[count:]:
        spare.remove()
    return figure, list(panels[:count])


def in_order(frame: pd.DataFrame, metrics: tuple[str, ...], arms: tuple[str, ...]) -> pd.DataFrame:
    """The rows by metric as listed, then by arm (reference first), seed and step."""
    rank = {"metric": {m: i for i, m in enumerate(metrics)}, "arm": {a: i for i, a in enumerate(arms)}}
    keys = [k for k in ("metric", "arm", "seed", "step") if k in frame]
    return frame.sort_values(keys, key=lambda c: c.map(rank[c.name]) if c.name in rank else c, ignore_index=True)
