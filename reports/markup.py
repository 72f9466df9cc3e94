"""What all pages share: how numbers read, the templates' environment, and pictures inside a page."""

import base64
import json
import math
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports import style
from reports.statistics import ROUNDING

TEMPLATES = Path(__file__).parent / "templates"
MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


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
    environment.globals |= {"name": style.name, "label": style.label, "span": span}
    return environment.get_template(template).render(**values)


def picture(name: str, title: str, caption: str, figures: Path) -> dict[str, str]:
    """A figure's words and its SVG as a data address, which keeps the ids of several drawings apart."""
    svg = base64.b64encode((figures / f"{name}.svg").read_bytes()).decode("ascii")
    return {"name": name, "title": title, "caption": caption, "source": f"data:image/svg+xml;base64,{svg}"}


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


def number(value: float, sign: str = "") -> str:
    """A number at a readable precision with a true minus sign; a dash where there is none."""
    if value is None or math.isnan(value):
        return DASH
    size = abs(value)
    if size < ROUNDING:
        value = 0.0
    elif size < 0.0001:
        return f"{value:{sign}.1e}".replace("-", MINUS)
    digits = 4 if ROUNDING < size < 0.001 else 3 if size < 1 else 2 if size < 100 else 0
    return f"{value:{sign},.{digits}f}".replace("-", MINUS)


def signed(value: float) -> str:
    """A difference: as `number`, with its sign."""
    return number(value, "+")


def span(low: float, high: float) -> str:
    """An interval in words; "not defined" where fewer than two values were behind it."""
    return "not defined" if math.isnan(low) else f"{signed(low)} to {signed(high)}"


def count(n: int, noun: str) -> str:
    """A number of things, in the singular for one."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def when(milliseconds: int) -> str:
    """A time of the store [ms since 1970] as date and minute, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")
