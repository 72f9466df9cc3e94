"""The registry for readers: every detail and check with its places in the source, as a list, a card, or JSON."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property, singledispatch
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from repro.cli.source import ROOT, Place, Source
from repro.detail import Check, Detail, others
from repro.details import CHECKS, CLASHES, DETAILS, GROUPS
from repro.errors import UserError, nearest, quoted
from repro.study import ablation
from repro.study.metrics import METRICS

DIRECTIONS = {"up": "rises", "down": "falls", "same": "stays"}


# ---------------------------------------------------------------------------------------------- the facts


@dataclass(frozen=True)
class Entry:
    """A detail or a check, with the places of its declaration and of the calls that read or log it."""

    declared: Detail | Check
    group: str

    @property
    def name(self) -> str:
        return self.declared.name

    @cached_property
    def place(self) -> Place:
        return _declarations()[self.name][1]

    @cached_property
    def calls(self) -> tuple[Place, ...]:
        if isinstance(self.declared, Check):
            return _source().loggers(self.declared.metrics)
        return _reads().get(_declarations()[self.name][0], ())

    @property
    def kind(self) -> str:
        return type(self.declared).__name__.lower()

    @property
    def read_by(self) -> str:
        return {"detail": "read by", "check": "logged by"}[self.kind]


@cache
def entries() -> dict[str, Entry]:
    """Every detail and check by name, in the order of the groups."""
    declared = DETAILS | CHECKS
    return {name: Entry(declared[name], group) for group, names in GROUPS.items() for name in names}


@cache
def _source() -> Source:
    return Source(ROOT)


@cache
def _declarations() -> dict[str, tuple[str, Place]]:
    return _source().declarations()


@cache
def _reads() -> dict[str, tuple[Place, ...]]:
    return _source().reads()


def find(name: str) -> Entry:
    """The entry of that name; a UserError names the nearest when there is none."""
    if name not in entries():
        raise UserError(
            f"there is no detail or check {quoted(name)}; {nearest(name, entries(), 'make details lists all')}"
        )
    return entries()[name]


def meaning(metric: str) -> str:
    """The definition of a metric in `repro/study/metrics.py`, by its name or the first pattern that it matches.

    A definition "as test/, of ..." becomes the definition of the same name under test/, followed by "of ...".
    """
    pattern = metric if metric in METRICS else next((each for each in METRICS if fnmatchcase(metric, each)), "")
    if not pattern:
        raise UserError(f"there is no metric {quoted(metric)} in repro/study/metrics.py; {nearest(metric, METRICS)}")
    other = re.fullmatch(r"as (\w+/\w*), (.+)", METRICS[pattern])
    if not other:
        return METRICS[pattern]
    return f"{meaning(other[1] + metric.removeprefix(pattern.rstrip('*')))}; {other[2]}"


def in_words(effect: str | Mapping[str, str], label: str = "{}") -> str:
    """An expected effect as a predicate: `rises`, or where variants differ `rises at 0, 0.01; falls at 0.2`."""
    if isinstance(effect, str):
        return DIRECTIONS[effect]
    labels = {
        direction: [label.format(each) for each in effect if effect[each] == direction] for direction in DIRECTIONS
    }
    return "; ".join(f"{DIRECTIONS[direction]} at {', '.join(found)}" for direction, found in labels.items() if found)


def clashes(declared: Detail | Check) -> list[str]:
    """Sentences on the choices that make no sense with this one; those with the same reason share a sentence."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for clash in CLASHES:
        one, other = _at(clash.one, clash.labels), _at(clash.other, clash.other_labels)
        beside = " and ".join(_at(*choice) for choice in clash.beside)
        where = f", where {beside}" if beside else ""
        if clash.one is declared:
            found.setdefault((one, where, clash.why), []).append(other)
        elif clash.other is declared:
            found.setdefault((other, where, clash.why), []).append(one)
    return [f"{own} with {_any_of(clashing)}{where}: {why}" for (own, where, why), clashing in found.items()]


def _any_of(choices: list[str]) -> str:
    """Choices of which each is meant, as `a, b or c`."""
    return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))


def _at(detail: Detail, labels: tuple[str, ...]) -> str:
    if len(labels) > 1 and set(labels) == set(others(detail)):
        return f"{detail.name} not {detail.reference}"
    return f"{detail.name} = {' or '.join(labels)}"


def numbers(declared: Detail | Check) -> str:
    """The paper's numbers for this one, as `N+ 5, 14`; empty where the paper does not enumerate it."""
    return f"N+ {', '.join(map(str, declared.numbers))}" if declared.numbers else ""


def counted(chosen: Iterable[Entry]) -> str:
    """As `66 details and 6 checks`."""
    kinds = [entry.kind for entry in chosen]
    return " and ".join(f"{kinds.count(kind)} {kind}s" for kind in ("detail", "check"))


# ---------------------------------------------------------------------------------------------- for programs


def record(entry: Entry) -> dict[str, Any]:
    """An entry as JSON; the fields of the other kind (detail or check) are empty."""
    declared = entry.declared
    return {
        "name": entry.name,
        "kind": entry.kind,
        "group": entry.group,
        "numbers": list(declared.numbers),
        "paper": declared.paper,
        "stages": list(declared.stages),
        "question": declared.question,
        **_own_fields(declared),
        "declared": str(entry.place),
        "call_sites": [str(place) for place in entry.calls],
    }


@singledispatch
def _own_fields(declared: Detail | Check) -> dict[str, Any]:
    """What a detail has and a check has not, and the other way round."""
    raise NotImplementedError


@_own_fields.register
def _(declared: Detail) -> dict[str, Any]:
    labels = (declared.reference, *others(declared))
    return {
        "reference": declared.reference,
        "variants": [{"label": label, "does": declared.variants[label].does} for label in labels],
        "hypothesis": declared.hypothesis,
        "expected": {
            metric: effect if isinstance(effect, str) else dict(effect) for metric, effect in declared.expected.items()
        },
        "measures": "",
        "found": "",
        "metrics": list(declared.expected),
    }


@_own_fields.register
def _(declared: Check) -> dict[str, Any]:
    return {
        "reference": "",
        "variants": [],
        "hypothesis": "",
        "expected": {},
        "measures": declared.measures,
        "found": declared.found,
        "metrics": list(declared.metrics),
    }


# ---------------------------------------------------------------------------------------------- for the terminal

WIDE = 120  # columns; a terminal this wide shows the questions too
READABLE = 100  # columns of running text


def listing(width: int) -> RenderableType:
    """Every entry under its group's heading, in one line, or two on a wide terminal; the reference is first, in green."""
    everything = entries()
    names = max(map(len, everything))
    marks = max(len(numbers(entry.declared)) for entry in everything.values())
    parts: list[RenderableType] = []
    for group, members in GROUPS.items():
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=names)
        table.add_column(width=marks, style="dim")
        table.add_column(ratio=1)
        for name in members:
            table.add_row(*_line(everything[name], width))
        parts += [Text(f"\n{group}", style="bold underline"), table]
    end = f"\n{counted(everything.values())}, a detail's reference first.\nMore on one: make details DETAIL=name"
    return Group(*parts, Text(end))


def _line(entry: Entry, width: int) -> tuple[Text, Text, RenderableType]:
    lines = _lines(entry.declared)
    return (
        Text(entry.name, style="bold"),
        Text(numbers(entry.declared)),
        Group(*(lines if width >= WIDE else lines[:1])),
    )


@singledispatch
def _lines(declared: Detail | Check) -> list[Text]:
    """The lines of one in the list of all; the first is enough where there is little room."""
    raise NotImplementedError


@_lines.register
def _(declared: Detail) -> list[Text]:
    labels = Text(", ").join([Text(declared.reference, style="green"), *map(Text, others(declared))])
    return [labels, Text(declared.question, style="dim")]


@_lines.register
def _(declared: Check) -> list[Text]:
    return [Text.assemble(("check ", "cyan"), (declared.question, "dim"))]


def card(entry: Entry) -> RenderableType:
    """All facts on one entry."""
    declared = entry.declared
    facts = [
        ("group", entry.group),
        ("stated in", declared.paper),
        (entry.read_by, ", ".join(declared.stages)),
        ("declared", str(entry.place)),
        *(("at", str(place)) for place in entry.calls),
    ]
    return Group(
        Text.assemble((entry.name, "bold"), (f"  {entry.kind}", "dim")),
        Text(declared.question),
        Text(),
        _pairs((Text(term, style="dim"), Text(fact)) for term, fact in facts),
        *_own_card(declared),
        *_makes_no_sense(clashes(declared)),
    )


def _makes_no_sense(found: list[str]) -> list[RenderableType]:
    return [_titled("makes no sense", Text("\n".join(found)))] if found else []


@singledispatch
def _own_card(declared: Detail | Check) -> list[RenderableType]:
    """The parts of a card that a detail has and a check has not, and the other way round."""
    raise NotImplementedError


@_own_card.register
def _(declared: Detail) -> list[RenderableType]:
    labels = [Text(declared.reference, style="green"), *map(Text, others(declared))]
    variants = ((label, Text(declared.variants[label.plain].does)) for label in labels)
    return [
        _titled("variants, the reference first", _pairs(variants)),
        _titled("hypothesis", Text(declared.hypothesis)),
        _titled("prediction, relative to the reference", _pairs(_expected(declared))),
        _titled("study", Text(f"make ablation DETAIL={declared.name}\n{ablation.source(declared.name)}")),
    ]


@_own_card.register
def _(declared: Check) -> list[RenderableType]:
    watched = ((Text(metric, style="bold"), Text(meaning(metric))) for metric in declared.metrics)
    return [
        _titled("measures", Text(declared.measures)),
        _titled("the paper found", Text(declared.found)),
        _titled("logged", _pairs(watched)),
    ]


def _expected(detail: Detail) -> Iterator[tuple[Text, Text]]:
    for metric, effect in detail.expected.items():
        yield Text(metric, style="bold"), Text.assemble(in_words(effect), (f"\n{meaning(metric)}", "dim"))


def _titled(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(f"\n{title}", style="bold underline"), Padding(body, (0, 0, 0, 2)))


def _pairs(rows: Iterable[tuple[Text, Text]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for row in rows:
        table.add_row(*row)
    return table
