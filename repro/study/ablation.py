"""A study: the arms of one detail, its seeds and scale, and what was declared before its runs."""

import math
import os
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from repro.detail import Detail, Recipe, others
from repro.errors import UserError, cut, nearest, quoted, reason
from repro.study import metrics, scale
from repro.study.scale import Scale, check_seeds, whole_number

FOLDER = Path("ablations")
PRIMARY = "test/sampled_win_rate"  # what decides where nothing else is declared
IMPLIED = f"no file in {FOLDER}/: the study that the declaration implies"
DECIDED = "decided"  # what a study with looks runs until
LOOKS = (4, 6, 8, 12)  # its seeds at each look where nothing else is declared: even, since workers come in twos
MOST = 1_000  # seeds at a last look
FEWEST = 3  # seeds at a first look: the interval of two reaches nine of their spreads to either side
_TYPES = {
    str: "text",
    dict: "a table",
    list: "a list",
    bool: "true or false",
    (int, float): "a number",
}
_KINDS: dict[str, type | tuple[type, ...]] = {
    "detail": str,
    "question": str,
    "scale": str,
    "set": dict,
    "with": dict,
    "seeds": list,
    "looks": list,
    "arms": list,
    "primary": str,
    "higher_is_better": bool,
    "smallest_effect": (int, float),
    "ceiling": bool,
}


@dataclass(frozen=True)
class Ablation:
    """Arms by label, the reference's first; the verdict is on `primary`, in whose unit `smallest_effect` is.

    With `looks` the study grows: it is judged at so many of its seeds, one number after another, until all is decided. A
    `ceiling` is run beside the arms, and no verdict is about it.
    """

    detail: Detail
    question: str
    arms: Mapping[str, Recipe]
    seeds: tuple[int, ...]
    scale: Scale
    primary: str
    higher_is_better: bool
    smallest_effect: float
    looks: tuple[int, ...] = ()
    ceiling: Mapping[str, Recipe] = field(default_factory=dict)

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Label -> recipe of all that is run on each seed: the arms, and the ceiling where there is one."""
        return {**self.arms, **self.ceiling}

    def at(self, look: int, arms: Collection[str]) -> "Ablation":
        """The part of the study that a look needs: reference, ceiling and these arms, on the first `look` seeds."""
        kept = {label: recipe for label, recipe in self.arms.items() if label in {self.detail.reference, *arms}}
        return replace(self, arms=kept, seeds=self.seeds[:look])


def load(
    name: str,
    scale_name: str = "",
    seeds: Sequence[str] = (),
    changes: Mapping[str, str] = {},
    shared: Mapping[str, str] = {},
    arms: Sequence[str] = (),
    folder: Path = FOLDER,
    until: str = "",
    looks: Sequence[str] = (),
    with_ceiling: bool = False,
) -> Ablation:
    """The study of `ablations/<name>.toml`, or without one what a detail's declaration implies; what is given overrides both.

    What the declaration implies is every variant, at scale mini and on its seeds, judged by `test/sampled_win_rate`.
    `shared` is detail -> label: choices that all arms make, the reference too. `until` is "decided" for a study that grows
    by looks. `with_ceiling` adds the reference with the gold score as reward. UserError where any of it makes no sense.
    """
    from repro import details  # brings torch, for the functions of its variants; `names` does without
    from repro.study import ceiling

    if "seeds" in changes:
        raise UserError('seeds are no budget; give them as --seeds 1 2 3 (with make: SEEDS="1 2 3")')
    declared = _declared(name, folder)
    detail = details.find(declared["detail"])
    shared = _shared(declared, shared)
    budget = scale.find(*_scale_and_changes(declared, scale_name, changes))
    smallest_effect = _above_zero(declared.get("smallest_effect", 0.05))
    primary = declared.get("primary", PRIMARY)
    if not metrics.known(primary):
        raise UserError(
            f"repro/study/metrics.py has no metric {quoted(primary)} to be primary; {nearest(primary, metrics.METRICS)}"
        )
    schedule = _looks(until, looks or declared.get("looks", LOOKS), bool(looks), seeds)
    chosen = _arms(detail, arms or declared.get("arms", detail.variants), shared)
    own = _is_own(declared, scale_name)
    beside = with_ceiling or (own and declared.get("ceiling", False))
    above = ceiling.ceiling_of(detail, chosen, primary) if beside else {}
    _require_a_comparison(detail, {**chosen, **above})
    ceiling.check(above, budget)
    check_budget((*chosen.values(), *above.values()), budget)
    return Ablation(
        detail=detail,
        question=declared.get("question", detail.question),
        arms=chosen,
        seeds=tuple(range(1, schedule[-1] + 1))
        if schedule
        else _seeds(seeds or (declared if own else {}).get("seeds", budget.seeds)),
        scale=replace(budget, name=recorded_name(budget.name, shared)),
        primary=primary,
        higher_is_better=declared.get("higher_is_better", True),
        smallest_effect=smallest_effect,
        looks=schedule,
        ceiling=above,
    )


def check_budget(recipes: Iterable[Recipe], budget: Scale) -> None:
    """UserError where a recipe cannot be run with this budget: with its sharding, its batch, or its reward model."""
    from repro import details

    for recipe in recipes:
        details.check_sharing(recipe, budget.sharding, budget.precision)
        details.check_batch(recipe, budget.ppo_batch, budget.processes)
        details.check_rounds(recipe, budget.rm_from)


def in_atlas(name: str, scale_name: str, seeds: Sequence[str], changes: Mapping[str, str] = {}) -> Ablation:
    """The study of a detail as the atlas runs it: every variant, at the scale's own budget and the paper's other choices."""
    study = load(name, scale_name, seeds, changes)
    budget = scale.find(scale_name, changes)
    return replace(study, arms=_arms(study.detail, study.detail.variants, {}), scale=budget, ceiling={})


def names(
    name: str,
    scale_name: str = "",
    changes: Mapping[str, str] = {},
    shared: Mapping[str, str] = {},
    folder: Path = FOLDER,
) -> tuple[str, str]:
    """Detail and scale as the store calls them: all that a report has to know of the study."""
    declared = _declared(name, folder)
    full = scale.full_name(*_scale_and_changes(declared, scale_name, changes))
    return declared["detail"], recorded_name(full, _shared(declared, shared))


def recorded(name: str, scale_name: str = "", folder: Path = FOLDER) -> tuple[str, str]:
    """Detail and scale of a study in the store, where `scale_name` is the full name of one, or without it the study's own."""
    detail, own = names(name, folder=folder)
    return detail, scale_name or own


def has_file(name: str, folder: Path = FOLDER) -> bool:
    """Whether the folder declares a study of that name; a name with a path in it is none, wherever that leads."""
    return bool(name) and Path(name).name == name and os.path.lexists(folder / f"{name}.toml")


def source(name: str, folder: Path = FOLDER) -> str:
    """In a clause, what declares the study of that name: its file, or else its detail's declaration alone."""
    return f"declared in {folder / name}.toml" if has_file(name, folder) else IMPLIED


def _declared(name: str, folder: Path) -> dict:
    """What the study's file says; without one, the detail of that name, if there is such a detail."""
    return _read(folder / f"{name}.toml") if has_file(name, folder) else {"detail": name}


def _arms(detail: Detail, labels: Iterable[object], shared: Mapping[str, str]) -> dict[str, Recipe]:
    """Label -> recipe, the reference first; UserError for a label that is none, or that clashes with what all arms share."""
    from repro import details

    base = Recipe()
    for name, label in shared.items():
        base = base.but(details.find(name), label)
    arms = {label: base.but(detail, label) for label in dict.fromkeys([detail.reference, *map(str, labels)])}
    for recipe in arms.values():
        details.check(recipe)
    return arms


def _require_a_comparison(detail: Detail, arms: Mapping[str, Recipe]) -> None:
    """UserError where the reference is alone."""
    if len(arms) == 1:
        raise UserError(
            f"{detail.reference} is the reference of {detail.name}, and there is no other arm to compare it with; "
            f"name one: {', '.join(others(detail))}"
        )


def _shared(declared: Mapping, given: Mapping[str, str]) -> dict[str, str]:
    """Detail -> label of the choices that all arms share: those that are given, before those of the file's `with`."""
    shared = {name: str(label) for name, label in declared.get("with", {}).items()} | dict(given)
    if declared["detail"] in shared:
        raise UserError(f"{declared['detail']} is what the study varies; it cannot be what all of its arms share")
    if not shared:
        return {}
    from repro import details

    # What the reference does anyway is no choice.
    return {name: label for name, label in shared.items() if label != details.find(name).reference}


def recorded_name(scale_name: str, shared: Mapping[str, str]) -> str:
    """The name of a scale where all arms make further choices, which is another study."""
    return scale.short("+".join([scale_name, *(f"{name}={label}" for name, label in sorted(shared.items()))]))


def _is_own(declared: Mapping, scale_name: str) -> bool:
    """Whether the study runs at the file's scale: its seeds and `set` are about that and no other."""
    return scale_name in ("", declared.get("scale", "mini"))


def _scale_and_changes(declared: Mapping, scale_name: str, changes: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The scale's name and its changes: those that are given, before those that the file declares."""
    own = declared.get("scale", "mini")
    declared_changes = declared.get("set", {}) if _is_own(declared, scale_name) else {}
    return scale_name or own, {name: str(value) for name, value in declared_changes.items()} | dict(changes)


def _read(path: Path) -> dict:
    try:
        declared = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}); a file of TOML is needed") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {reason(error)}; correct it") from None
    for name, value in declared.items():
        if name not in _KINDS:
            raise UserError(f"{path}: there is no field {quoted(name)}; {nearest(name, _KINDS)}")
        if not isinstance(value, _KINDS[name]) or (isinstance(value, bool) and _KINDS[name] is not bool):
            raise UserError(
                f"{path}: {name} = {cut(repr(value))} has the wrong type; it must be {_TYPES[_KINDS[name]]}"
            )
    if "detail" not in declared:
        raise UserError(f'{path}: the field detail is missing; say which detail it varies, as detail = "whiten_adv"')
    # Of a scale that is not the file's, and of a study without looks, these are not used; wrong they are all the same.
    _seeds(declared.get("seeds", (1,)))
    _numbers_of_seeds(declared.get("looks", LOOKS))
    return declared


def _above_zero(declared: float) -> float:
    """The smallest effect; UserError where there is no such effect."""
    try:
        number = float(declared)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not 0 < number < math.inf:
        raise UserError(f"smallest_effect = {number} must be above 0, and finite")
    return number


def _looks(until: str, words: Sequence[object], given: bool, seeds: Sequence[str]) -> tuple[int, ...]:
    """The schedule of a study that runs until it is decided; none of one that does not."""
    if not until:
        if given:
            raise UserError(
                "--looks is the schedule of a study that grows; add --until decided (with make: UNTIL=decided)"
            )
        return ()
    if until != DECIDED:
        raise UserError(
            f"--until {quoted(until)} is not known; give --until {DECIDED}, or --seeds for a number of your own"
        )
    if seeds:
        raise UserError(
            f"--until {DECIDED} takes seeds 1, 2, ... as its looks need them; leave --seeds out, or give "
            "--looks 4 6 8 12 with other numbers"
        )
    return _numbers_of_seeds(words)


def _numbers_of_seeds(words: Sequence[object]) -> tuple[int, ...]:
    """The looks that words spell; UserError where they do not grow, or are none."""
    shown = cut(" ".join(map(str, words)))
    try:
        looks = tuple(whole_number(str(word)) for word in words)
    except ValueError:
        raise UserError(f"looks {shown!r} are not all integers; give numbers of seeds, as 4 6 8 12") from None
    if not looks or looks[0] < FEWEST or any(later <= look for look, later in pairwise(looks)):
        raise UserError(f"looks {shown} must be growing numbers of seeds, the first at least {FEWEST}, as 4 6 8 12")
    if looks[-1] > MOST:
        raise UserError(f"looks {shown} end above {MOST} seeds; give numbers of seeds, as 4 6 8 12")
    return looks


def _seeds(words: Sequence[object]) -> tuple[int, ...]:
    try:
        seeds = tuple(whole_number(str(word)) for word in words)
    except ValueError:
        raise UserError(f"seeds {cut(' '.join(map(str, words)))!r} are not all integers; give some, as 1 2 3") from None
    if not seeds:
        raise UserError("there are no seeds; give at least one, better three")
    check_seeds(seeds)
    return seeds
