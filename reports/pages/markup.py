"""What all pages share: the templates' environment, and pictures inside a page."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports.figures.numbers import count, number, signed, span
from reports.reading import terms

TEMPLATES = Path(__file__).parent / "templates"
POINT = re.compile(r"([ML]) (-?\d+\.\d\d)\d* (-?\d+\.\d\d)\d*")  # of a path in an SVG, by what is kept of it
WIDTH = re.compile(r'<svg [^>]*?width="([\d.]+)pt"')
UNQUOTED = " /:=;,()!?*+~"  # what a data address may have as it is, beside letters and digits


def render(template: str, **values: object) -> str:
    """A page from its template; everything that came from a run is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "counted": count, "when": when}
    environment.globals |= {"name": terms.name, "label": terms.label, "span": span}
    return environment.get_template(template).render(**values)


def picture(name: str, title: str, caption: str, figures: Path) -> dict[str, str]:
    """A figure's words, its width [points] and its SVG as a data address, which keeps ids of several drawings apart.

    Its lines to a hundredth of a point, percent-encoded and without line ends: a third smaller than the file in base64.
    """
    svg = " ".join((figures / f"{name}.svg").read_text(encoding="utf-8").split())
    svg = POINT.sub(r"\1 \2 \3", svg)
    source = f"data:image/svg+xml,{quote(svg, safe=UNQUOTED)}"
    points = str(round(float(WIDTH.search(svg)[1])))
    return {"name": name, "title": title, "caption": caption, "source": source, "points": points}


def whisker(row: Mapping, low: float, high: float, seeds: Iterable[float] = ()) -> dict:
    """Where an interval, its mean, zero and the smallest effect lie in a small drawing from `low` to `high`.

    In percent of its width. What is outside is left out, an interval cut; `beyond` says at which edges it goes on.
    `row` has low, high, mean and smallest_effect.
    """

    def at(value: float) -> float:
        return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)

    ends = {} if math.isnan(row["low"]) else {"low": at(row["low"]), "high": at(row["high"])}
    mean = {"mean": at(row["mean"])} if low <= row["mean"] <= high else {}
    beyond = [edge for edge, cut in ((0, row["low"] < low), (100, row["high"] > high)) if cut]
    band = [] if math.isnan(row["smallest_effect"]) else [at(-row["smallest_effect"]), at(row["smallest_effect"])]
    inside = [at(seed) for seed in seeds if low <= seed <= high]
    return {"zero": at(0.0), "band": band, "ends": ends, "mean": mean, "beyond": beyond, "seeds": inside}


def folder(detail: str, scale: str) -> str:
    """Name of the folder of a study's page; the usual scale is not in it."""
    return detail if scale == "mini" else f"{detail}-{scale}"


def write_json(record: dict, path: Path) -> None:
    """Writes strict JSON, which has neither NaN nor infinities."""
    path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def known(value: float) -> float | None:
    """A number for strict JSON; null where it is none."""
    return float(value) if math.isfinite(value) else None


def parsed(text: str) -> dict:
    """A tag's JSON; nothing where the tag was not recorded."""
    return json.loads(text) if text.startswith("{") else {}


def when(milliseconds: int) -> str:
    """A time of the store [ms since 1970] as date and minute, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")
