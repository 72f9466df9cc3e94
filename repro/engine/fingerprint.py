"""The fingerprint of a stage's code, which its artefact records: what was it made with, and has that changed since?

A key says what a stage was asked to compute. It does not say how: a bug that is mended leaves it as it is, so that a tidied
function does not throw a cache away. The fingerprint tells the two apart for a person. It covers the stage's module, every
module of `ROOMS` that this one imports, and the variants of details that the stage may read; comments, docstrings and layout
are no part of it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import repro
from repro.detail import Recipe
from repro.details import DETAILS
from repro.stages.stage import Stage, digest

ROOMS = ("data", "models", "ops", "stages")  # what computes; the other floors decide what is run, and show it
ROOT = Path(repro.__file__).parent


def code_of(stage: Stage, recipe: Recipe) -> dict[str, str]:
    """What the stage is made of -> a digest of it: modules by their files, chosen variants as `detail=label`."""
    chosen = {
        f"{each.name}={recipe.label(each)}": list(_leaves(each.variants[recipe.label(each)].value))
        for each in DETAILS.values()
        if stage.name in each.stages
    }
    functions = {each.__module__ for leaves in chosen.values() for each in leaves if callable(each)}
    modules = _closure(frozenset({stage.run.__module__, *functions}))
    return {_file(name): _digest(name) for name in modules} | {
        name: digest([_name(each) for each in leaves])[:8] for name, leaves in chosen.items()
    }


def _name(leaf: Any) -> str:
    return f"{leaf.__module__}.{leaf.__qualname__}" if callable(leaf) else repr(leaf)


def constants(value: Any) -> list[str]:
    """The constants that a variant holds, in order; its functions are code, and no part of them."""
    return [repr(each) for each in _leaves(value) if not callable(each)]


def pinned(label: str, value: Any) -> bool:
    """Whether the label says all constants of the variant: `0.1` of 0.1, say, and any label of a function."""
    found = constants(value)
    return not found or (len(found) == 1 and found[0] in (repr(label), repr(_number(label)), repr(_number(label, int))))


def _number(label: str, kind: type = float) -> float | None:
    try:
        return kind(label)
    except ValueError:
        return None


def _leaves(value: Any) -> Iterator[Any]:
    """A variant's functions and constants, out of whatever holds them."""
    if isinstance(value, partial):
        held = [value.func, *value.args, *value.keywords.values()]
    elif is_dataclass(value) and not isinstance(value, type):
        held = [getattr(value, each.name) for each in fields(value)]
    elif isinstance(value, Mapping):
        held = [each for pair in value.items() for each in pair]
    elif isinstance(value, tuple | list):
        held = list(value)
    else:
        yield value
        return
    for each in held:
        yield from _leaves(each)


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between two fingerprints, by name."""
    return sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))


@cache
def _closure(names: frozenset[str]) -> tuple[str, ...]:
    """These modules and all that they import, of those that compute."""
    found: set[str] = set()
    waiting = [name for name in names if _computes(name)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [each for each in _imports(name) if _computes(each)]
    return tuple(sorted(found))


def _computes(module: str) -> bool:
    return module.startswith(tuple(f"repro.{room}." for room in ROOMS)) and _path(module).is_file()


def _path(module: str) -> Path:
    plain = ROOT.joinpath(*module.split(".")[1:])
    return plain / "__init__.py" if plain.is_dir() else plain.with_suffix(".py")


def _file(module: str) -> str:
    return f"repro/{_path(module).relative_to(ROOT).as_posix()}"


@cache
def _tree(module: str) -> ast.Module:
    """The module's code without docstrings."""
    tree = ast.parse(_path(module).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body[0] = ast.Pass()
    return tree


@cache
def _imports(module: str) -> tuple[str, ...]:
    found: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
    return tuple(sorted(found))


@cache
def _digest(module: str) -> str:
    return hashlib.sha256(ast.unparse(_tree(module)).encode()).hexdigest()[:8]
