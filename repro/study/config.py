"""A study as plain data, every choice of every arm and every field of its Scale: kept with its runs, and given back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from repro import record
from repro.detail import Detail, Recipe
from repro.errors import UserError, cut, nearest, quoted, reason
from repro.study import metrics
from repro.study.ablation import Ablation, check_budget
from repro.study.scale import EMBEDDED, SOURCES, Scale, checked

VERSION = 1
# In the place of the folder of files that come with the project, which lies elsewhere on each machine.
SHIPPED = "shipped:"
_KINDS = {
    "config": int,
    "detail": str,
    "question": str,
    "arms": dict,
    "scale": dict,
    "seeds": list,
    "looks": list,
    "primary": str,
    "higher_is_better": bool,
    "smallest_effect": (int, float),
}


def as_config(study: Ablation) -> dict[str, Any]:
    """The study as data for JSON: of each arm the label of every detail, of its Scale every field."""
    from repro.details import DETAILS

    scale = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(study.scale).items()}
    return {
        "config": VERSION,
        "detail": study.detail.name,
        "question": study.question,
        "arms": {
            label: {name: recipe.label(detail) for name, detail in DETAILS.items()}
            for label, recipe in study.arms.items()
        },
        "scale": scale | {name: _portable(getattr(study.scale, name)) for name in SOURCES},
        "seeds": list(study.seeds),
        "looks": list(study.looks),
        "primary": study.primary,
        "higher_is_better": study.higher_is_better,
        "smallest_effect": study.smallest_effect,
        **({record.CEILING: True} if study.ceiling else {}),
    }


def read_config(path: Path) -> Ablation:
    """The study in a file that `as_config` made; UserError where it is none, or of a version with other details or fields."""
    try:
        given = json.loads(path.read_bytes().decode())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}); give the config.json of a run") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {reason(error)}; give the config.json of a run") from None
    return from_config(given, str(path))


def from_config(given: Any, source: str = "the config") -> Ablation:
    """The study that `as_config` turned into data; UserError, which begins with `source`, where there is no such study."""
    from repro import details
    from repro.study import ceiling

    wrong = (
        [name for name, kind in _KINDS.items() if not _is(given, name, kind)] if isinstance(given, dict) else [*_KINDS]
    )
    if wrong:
        raise UserError(
            f"{source}: the field {wrong[0]} is missing or has the wrong type; give the config.json of a run"
        )
    if given["config"] != VERSION:
        raise UserError(
            f"{source} is of version {given['config']}, and this one reads {VERSION}; use the commit of its run"
        )
    detail, scale = details.find(given["detail"]), _scale(given["scale"], source)
    arms = {label: _recipe(choices, source) for label, choices in given["arms"].items()}
    if next(iter(arms), "") != detail.reference or any(each.label(detail) != label for label, each in arms.items()):
        raise UserError(
            f"{source}: its arms are not variants of {detail.name}, the reference first; use the commit of its run"
        )
    if not metrics.known(given["primary"]):
        raise UserError(f"{source}: there is no metric {quoted(given['primary'])} to be primary")
    seeds, looks = _numbers(given["seeds"], "seeds", source), _numbers(given["looks"], "looks", source)
    seeds = tuple(range(1, looks[-1] + 1)) if looks else seeds  # the config of an early look goes on to the later ones
    own = {name: given[name] for name in ("question", "primary", "higher_is_better", "smallest_effect")}
    above = ceiling.ceiling_of(detail, arms, own["primary"]) if given.get(record.CEILING) is True else {}
    ceiling.check(above, scale)
    check_budget((*arms.values(), *above.values()), scale)
    return Ablation(detail=detail, arms=arms, seeds=seeds, scale=scale, looks=looks, ceiling=above, **own)


def _is(given: Mapping[str, Any], name: str, kind: Any) -> bool:
    value = given.get(name)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _recipe(choices: Any, source: str) -> Recipe:
    """An arm's recipe, from the label of every detail."""
    from repro import details

    if not isinstance(choices, dict):
        raise UserError(f"{source}: an arm is the label of each detail, not {cut(repr(choices))}")
    recipe = Recipe()
    for name, label in choices.items():
        detail: Detail = details.find(name)
        recipe = recipe if label == detail.reference else recipe.but(detail, str(label))
    details.check(recipe)
    return recipe


def _scale(given: Mapping[str, Any], source: str) -> Scale:
    """The Scale, its shipped files found on this machine."""
    known = {field.name: field for field in fields(Scale)}
    for name, value in given.items():
        if name not in known:
            raise UserError(f"{source}: a scale has no field {quoted(name)}; {nearest(name, known)}")
        kind: Any = known[name].type
        wanted: Any = list if name == "seeds" else (int, float) if kind is float else kind
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise UserError(f"{source}: the scale's field {name} = {cut(repr(value))} has the wrong type")
    found: dict[str, Any] = {name: _local(value) if name in SOURCES else value for name, value in given.items()}
    try:
        return checked(Scale(**found | {"seeds": _numbers(found.get("seeds", []), "seeds", source)}))
    except TypeError as error:  # a field without a default is missing
        raise UserError(f"{source}: {reason(error)}; give the config.json of a run") from None


def _numbers(given: Any, name: str, source: str) -> tuple[int, ...]:
    if not isinstance(given, list) or any(type(each) is not int or each < 0 for each in given):
        raise UserError(f"{source}: {name} = {cut(repr(given))} must be whole numbers of at least 0")
    return tuple(given)


def _portable(value: str) -> str:
    """A source, with the project's own files named as such."""
    path = Path(value)
    return f"{SHIPPED}{path.relative_to(EMBEDDED).as_posix()}" if path.is_relative_to(EMBEDDED) else value


def _local(value: str) -> str:
    return str(EMBEDDED / value.removeprefix(SHIPPED)) if value.startswith(SHIPPED) else value
