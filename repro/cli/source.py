"""Finds in the project's syntax trees where a detail or check is declared, where it is read, and where a metric is logged."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
Node = ast.Assign | ast.Call | ast.FunctionDef  # what may declare, read or log


class Place(NamedTuple):
    """A line of the source; `file` is relative to the repository's root."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Source:
    """The syntax trees of `root`'s `repro`; every result is in the order of files and lines."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @cached_property
    def _nodes(self) -> list[tuple[str, Node]]:
        """The assignments, calls and functions of each file, whose name is relative to the root."""
        files = [
            (file.relative_to(self._root).as_posix(), file) for file in sorted((self._root / "repro").rglob("*.py"))
        ]
        return [(name, node) for name, file in files for node in ast.walk(_tree(file)) if isinstance(node, Node)]

    def outline(self) -> list[dict[str, str]]:
        """Name and group of each detail in the registry's order, without importing the registry."""
        folder = self._root / "repro" / "details"
        parts = [_tree(folder / f"{name}.py").body for name in _value(_tree(folder / "registry.py").body, "PARTS")]
        return [
            {"name": name, "group": _value(part, "GROUP")}
            for part in parts
            for kind, _, name in filter(None, map(_declared, part))
            if kind == "Detail"
        ]

    def declarations(self) -> dict[str, tuple[str, Place]]:
        """Constant and place by name, of each `CONSTANT = Detail(name="name", ...)` or `Check(...)`."""
        found = {}
        for file, node in self._nodes:
            declared = _declared(node)
            if declared:
                _, constant, name = declared
                found[name] = constant, Place(file, node.lineno)
        return found

    def reads(self) -> dict[str, tuple[Place, ...]]:
        """Places by constant, of each `pick(CONSTANT)` or `context.pick(d.CONSTANT)`."""
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
        """The functions that contain one of these names, its last part, or an f-string that can give it."""
        wanted = set(metrics)
        return tuple(
            place
            for place, strings in self._writers
            if any(_gives(written, metric) for written in strings for metric in wanted)
        )

    @cached_property
    def _writers(self) -> list[tuple[Place, set[str]]]:
        """Every function's place, with the strings of its body."""
        functions = ((file, node) for file, node in self._nodes if isinstance(node, ast.FunctionDef))
        return sorted((Place(file, node.lineno), _strings(node)) for file, node in functions)


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _value(body: list[ast.stmt], constant: str) -> Any:
    """The value of a module's constant: a literal, or the names in a tuple of names."""
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Tuple(elts=names)) if name == constant:
                return [each.id for each in names if isinstance(each, ast.Name)]
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name == constant:
                return ast.literal_eval(value)
    raise LookupError(f"no module-level {constant}")


def _declared(node: ast.AST) -> tuple[str, str, str] | None:
    """Kind, constant and name of `CONSTANT = Detail(name="name", ...)` or `Check(...)`; None of anything else."""
    match node:
        case ast.Assign(
            targets=[ast.Name(id=constant)],
            value=ast.Call(func=ast.Name(id="Detail" | "Check" as kind), keywords=words),
        ):
            (name,) = (ast.literal_eval(word.value) for word in words if word.arg == "name")
            return kind, constant, name
    return None


def _gives(written: str, metric: str) -> bool:
    """Whether a string, with * for the filled-in parts, can be this metric, which may contain * too."""
    group, _, rest = metric.partition("/")
    return written == rest or (written.partition("/")[0] == group and fnmatchcase(metric, written))


def _strings(function: ast.FunctionDef) -> set[str]:
    """Every string of a function's body; of an f-string its pattern, with * for the filled-in parts."""
    found = set()
    for node in ast.walk(function):
        match node:
            case ast.Constant(value=str(text)):
                found.add(text)
            case ast.JoinedStr(values=parts):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in parts))
    return found
