"""What all pages share: the templates' environment, and pictures inside a page."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from repro.reports.figures.chart import Drawn, Panel
from repro.reports.figures.numbers import count, difference, number, signed, span
from repro.reports.pages import commands
from repro.reports.reading import terms
from repro.reports.statistics import words

TEMPLATES = Path(__file__).parent / "templates"
WIDTH = re.compile(r"""<svg [^>]*?width=["']([\d.]+)pt""")
# Control characters, changes of direction, half surrogates: as repro/errors.py has it, which pages do not import.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LONG = 24  # letters of a word that a line of a phone has no room for beside others
UNQUOTED = " /:=;,()!?*+~<>'{}"  # what a data address may have as it is in a page, beside letters and digits


def render(template: str, **values: object) -> str:
    """A page from its template; everything that came from a run is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "typed": commands.typed,
        "breakable": breakable,
        "number": number,
        "signed": signed,
        "counted": count,
        "when": when,
    }
    environment.globals |= {
        "name": terms.name,
        "said": terms.said,
        "label": terms.label,
        "span": span,
        "difference": difference,
        "words": words,
    }
    return environment.get_template(template).render(**values)


def harmless(value: object) -> object:
    """A text with everything escaped that a terminal would obey, a reader could not see, or UTF-8 has no bytes for.

    A model's text and a person's post may hold any character; line breaks and tabs stay, and what is no text stays as it is.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), value)


def breakable(text: str) -> Markup:
    """A text in which words too long for a phone may be broken after `_` and `=`, and so never within a number."""
    words = re.split(r"(\s+)", str(harmless(text)))
    parts = [
        re.sub(r"([_=])(?=.)", r"\1<wbr>", str(escape(each))) if len(each) > LONG else escape(each) for each in words
    ]
    return Markup("").join(map(Markup, parts))


def picture(name: str, title: str, caption: str, figures: Path) -> dict[str, str]:
    """A figure's words, its width [points] and its SVG as a data address, which keeps ids of several drawings apart."""
    svg = (figures / f"{name}.svg").read_text(encoding="utf-8").strip()
    width = WIDTH.search(svg)
    assert width, f"{name}.svg does not say how wide it is"
    points = str(round(float(width[1])))
    return {"name": name, "title": title, "caption": caption, "source": data_address(svg), "points": points}


def panels(drawn: Drawn, figures: Path) -> dict:
    """A figure's words and its panels, each with its SVG as a data address and where it stands in its file and in the whole.

    Places are in widths of the panel: how far its legend reaches, its height, and the width and origin of the whole.
    """
    chart = drawn.chart
    return {
        "name": chart.name,
        "title": chart.title,
        "caption": chart.caption,
        "takeaway": drawn.takeaway,
        "still": drawn.still,
        "whole": bool(drawn.panels),
        "legend": drawn.legend,
        "panels": [_panel(each, drawn, figures) for each in drawn.panels],
    }


def _panel(panel: Panel, drawn: Drawn, figures: Path) -> dict:
    x, y, width, height = panel.box
    svg = (figures / f"{panel.stem}.svg").read_text(encoding="utf-8").strip()
    return {
        "stem": panel.stem,
        "title": panel.title,
        "source": data_address(svg),
        "strip": round(drawn.strip / width, 5),
        "ratio": f"{width:g} / {height:g}",
        "whole": " ".join(f"{part / width:.5g}" for part in (drawn.size[0], x, y)),
    }


def data_address(svg: str) -> Markup:
    """A drawing as an address that stands in a page between double quotes: only what would end either is encoded."""
    return Markup(f"data:image/svg+xml,{quote(svg, safe=UNQUOTED)}")


def whisker(row: Mapping, low: float, high: float, seeds: Iterable[float] = ()) -> dict:
    """Where an interval, its mean, zero and the smallest effect lie in a small drawing from `low` to `high`.

    In percent of its width. An interval that goes on outside is cut, and `beyond` says at which edges; `off` is the mean as
    text where that is outside, to stand at its edge. `row` has low, high, mean and smallest_effect.
    """

    def at(value: float) -> float:
        return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)

    ends = {} if math.isnan(row["low"]) else {"low": at(row["low"]), "high": at(row["high"])}
    mean = {"mean": at(row["mean"])} if low <= row["mean"] <= high else {}
    least, most = (row["mean"],) * 2 if math.isnan(row["low"]) else (row["low"], row["high"])  # of one seed, the mean
    beyond = [edge for edge, cut in ((0, least < low), (100, most > high)) if cut]
    off = signed(row["mean"]) if row["mean"] < low or row["mean"] > high else ""
    band = [] if math.isnan(row["smallest_effect"]) else [at(-row["smallest_effect"]), at(row["smallest_effect"])]
    inside = [at(seed) for seed in seeds if low <= seed <= high]
    return {"zero": at(0.0), "band": band, "ends": ends, "mean": mean, "beyond": beyond, "off": off, "seeds": inside}


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


def day(milliseconds: int) -> str:
    """A time of the store [ms since 1970] as date, in UTC."""
    return when(milliseconds).partition(" ")[0]


def when(milliseconds: int) -> str:
    """A time of the store [ms since 1970] as date and minute, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")
