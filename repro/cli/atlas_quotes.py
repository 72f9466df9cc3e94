"""What the atlas of the gallery found, as `docs/details.md`, `docs/results.md`, `docs/claims.md` and the README quote it.

Between `<!-- atlas -->` and `<!-- /atlas -->` a table is the atlas'. Elsewhere a quotation is a detail, its variant and the
difference with its interval, as in `` `whiten_adv=off` −0.003 (−0.010 to +0.004) ``: whoever writes one writes any numbers, and
`make docs` sets those of the atlas. Verdicts, numbers of seeds and conclusions beside them are for a person to read again.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from repro.api.folders import GALLERY
from repro.study.ablation import PRIMARY

PAGES = tuple(Path(page) for page in ("README.md", "docs/claims.md", "docs/results.md"))
ATLAS = GALLERY / "atlas" / "atlas.json"
BLOCK = re.compile(r"(?<=<!-- atlas -->\n).*?(?=<!-- /atlas -->)", re.DOTALL)
_INTERVAL = r"[+−]\d\.\d{3} \([+−]\d\.\d{3} to [+−]\d\.\d{3}\)"
QUOTE = re.compile(rf"`(\w+)=([^`\s]+)`(?P<between> \| | ){_INTERVAL}")
NO_BREAK = "\N{NO-BREAK SPACE}"
HEADER = (
    "detail",
    "variant",
    "paper's choice",
    "seeds",
    "difference in win rate (95 %)",
    "verdict at 0.05",
    "predictions of final values",
)


@cache
def effects(atlas: Path) -> Mapping[tuple[str, str], Mapping]:
    """(detail, variant) -> its record in an `atlas.json`, in the file's order, of those with an interval."""
    if not atlas.is_file():
        return {}
    rows = json.loads(atlas.read_text(encoding="utf-8"))["effects"]
    return {(row["detail"], row["variant"]): row for row in rows if None not in row["ci95"]}


@cache
def reference(atlas: Path) -> Mapping[str, Mapping]:
    """Metric -> its mean, least and most over the seeds of the paper's choice in an `atlas.json`, of those that are numbers."""
    rows = json.loads(atlas.read_text(encoding="utf-8")).get("reference", {}) if atlas.is_file() else {}
    return {metric: row for metric, row in rows.items() if row["mean"] is not None}


def measured(metric: str, reference: Mapping[str, Mapping]) -> str:
    """The mean of a metric over the seeds of the paper's choice, with its least and most; empty where nothing was measured.

    For a name with a `*`: the means of all metrics that match it, each by what it has in the place of the `*`.
    """
    if own := reference.get(metric):
        return f"{_number(own['mean'])} ({_number(own['least'])} to {_number(own['most'])}, {own['n']} seeds)"
    before = metric.partition("*")[0]
    means = {name.removeprefix(before): row["mean"] for name, row in reference.items() if fnmatch(name, metric)}
    return ", ".join(f"{name}: {_number(means[name])}" for name in sorted(means, key=_by_number))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}".replace("-", "−")


def _by_number(name: str) -> tuple[float, str]:
    """Numbers in their order, then other names in that of the alphabet."""
    return (float(name) if re.fullmatch(r"\d+\.?\d*", name) else math.inf, name)


def effect(row: Mapping) -> str:
    """A difference with its interval."""
    mean, low, high = (f"{value:+.3f}".replace("-", "−") for value in (row["mean_difference"], *row["ci95"]))
    return f"{mean} ({low} to {high})"


def sentence(row: Mapping) -> str:
    """The effect, its seeds and its verdict."""
    return f"{effect(row)}, {row['n']} seeds: {row['verdict']}"


def predictions(row: Mapping) -> str:
    """How many predictions had which result."""
    counted = [f"{n} {word}" for word, n in row["predictions"].items() if n and word != "curves"]
    return ", ".join(counted) or "none"


def rows(found: Iterable[Mapping]) -> Iterator[tuple[str, ...]]:
    """A table's rows under `HEADER`; a detail is named in its first."""
    last = None
    for row in found:
        named = f"`{row['detail']}`" if row["detail"] != last else ""
        last = row["detail"]
        words = row["verdict"] if not row["control"] else f"{row['verdict']} (control)"
        other = f" of `{row['primary']}`" if row["primary"] != PRIMARY else ""  # the heading has the win rate
        yield (
            named,
            f"`{row['variant']}`",
            f"`{row['reference']}`",
            str(row["n"]),
            effect(row).replace(" ", NO_BREAK) + other,
            words,
            predictions(row),
        )


def quoted(text: str, found: Mapping[tuple[str, str], Mapping], table: str) -> str:
    """The text with the atlas' table in its block, and the atlas' numbers in its quotations."""

    def numbers(quote: re.Match) -> str:
        row = found.get((quote[1], quote[2]))
        return f"`{quote[1]}={quote[2]}`{quote['between']}{effect(row)}" if row else quote[0]

    return QUOTE.sub(numbers, BLOCK.sub(lambda _: table, text))
