"""A figure of a study: a tidy frame and a drawing of only that frame, so that its CSV has everything it shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from reports.figures import style
from reports.reading.study import Study
from reports.statistics.findings import Findings


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
            data.to_csv(folder / f"{chart.name}.csv", index=False)
            drawn.append(chart)
    return drawn


def save(figure: Figure, stem: Path) -> None:
    """Writes a figure as PNG and SVG without a date or a version in it, so that equal data gives equal files."""
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine(None)  # laid out once instead of for each file: the layout takes half of the time
    figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
