"""Where the project's own source declares a detail or check, reads it, and logs a metric: found in its syntax trees."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Place(NamedTuple):
    """A line of the source; `file` is relative to the repository's root."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Source:
    """The trees of `root`'s `repro`; every answer is in the order of the files and lines."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @cached_property
    def _nodes(self) -> list[tuple[str, ast.AST]]:
        """Of each file, named from the root, the nodes that some answer is about."""
        files = [
            (file.relative_to(self._root).as_posix(), file) for file in sorted((self._root / "repro").rglob("*.py"))
        ]
        return [
            (name, node)
            for name, file in files
            for node in ast.walk(_tree(file))
            if isinstance(node, ast.Assign | ast.Call | ast.FunctionDef)
        ]

    def outline(self) -> list[dict[str, str]]:
        """Name and group of each detail in the registry's order: all that there is to know without importing it."""
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


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _value(body: list[ast.stmt], constant: str) -> Any:
    """What a module gives a constant: a literal, or the names that a tuple of names consists of."""
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
