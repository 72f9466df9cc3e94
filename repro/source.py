"""Where the project's own source declares a detail or check, reads it, and logs a metric: found in its syntax trees."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """A line of the source; `file` is relative to the repository's root."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Source:
    """The trees of `root`'s `repro`; every answer is in the order of the files and lines."""

    def __init__(self, root: Path) -> None:
        self._nodes = [
            (file.relative_to(root).as_posix(), node)
            for file in sorted((root / "repro").rglob("*.py"))
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        ]

    def declarations(self) -> dict[str, tuple[str, Place]]:
        """Constant and place by name, of each `CONSTANT = Detail(name="name", ...)` or `Check(...)`."""
        found = {}
        for file, node in self._nodes:
            match node:
                case ast.Assign(targets=[ast.Name(id=constant)], value=ast.Call(func=ast.Name(id="Detail" | "Check"))):
                    names = [word.value for word in node.value.keywords if word.arg == "name"]
                    found[ast.literal_eval(*names)] = constant, Place(file, node.lineno)
        return found

    def reads(self) -> dict[str, tuple[Place, ...]]:
        """Places by constant, of each `pick(CONSTANT)` or `work.pick(details.CONSTANT)`."""
        found: dict[str, set[Place]] = defaultdict(set)
        for file, node in self._nodes:
            match node:
                case ast.Call(
                    func=ast.Name(id="pick") | ast.Attribute(attr="pick"),
                    args=[ast.Name(id=constant) | ast.Attribute(attr=constant)],
                ):
                    found[constant].add(Place(file, node.lineno))
        return {constant: tuple(sorted(places)) for constant, places in found.items()}

    def loggers(self, metrics: Iterable[str]) -> tuple[Place, ...]:
        """The functions that write one of these names, or its last part, or an f-string that gives it."""
        wanted = set(metrics)
        return tuple(
            place
            for place, strings in self._writers
            if any(_gives(written, metric) for written in strings for metric in wanted)
        )

    @cached_property
    def _writers(self) -> list[tuple[Place, set[str]]]:
        """Every function with the strings of its body."""
        functions = ((file, node) for file, node in self._nodes if isinstance(node, ast.FunctionDef))
        return sorted((Place(file, node.lineno), _strings(node)) for file, node in functions)


def _gives(written: str, metric: str) -> bool:
    """Whether a string, with * for what is filled in, can be this metric, itself perhaps with *."""
    group, _, rest = metric.partition("/")
    return written == rest or (written.partition("/")[0] == group and fnmatchcase(metric, written))


def _strings(function: ast.FunctionDef) -> set[str]:
    """Every string of a function's body; of an f-string its pattern, with * for what is filled in."""
    found = set()
    for node in ast.walk(function):
        match node:
            case ast.Constant(value=str(text)):
                found.add(text)
            case ast.JoinedStr(values=parts):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "*" for part in parts))
    return found
