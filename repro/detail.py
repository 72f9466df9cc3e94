"""The project's core types: a Detail is one choice, a Recipe is an arm, a Pick gives a stage the arm's variants.

A Check is something that the paper measures rather than chooses; a Clash is a combination of choices that makes no sense.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from repro.errors import UserError, nearest, quoted

STAGES = ("data", "base", "sft", "rm", "baseline", "ppo", "feedback", "evaluate")
# Reads the details that decide which steps an arm has. As such they are in no key: the steps say them.
PIPELINE = "pipeline"


@dataclass(frozen=True)
class ByName:
    """A function beside others that take more: it is called with all that the call site has, and gets what it names.

    So that a formula takes what it reads and nothing else, whatever the variants beside it take.
    """

    function: Callable[..., Any]

    def __call__(self, **given: Any) -> Any:
        return self.function(**{name: value for name, value in given.items() if name in _parameters(self.function)})


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


class Variant(NamedTuple):
    """The function or constant that a detail's one call site uses, and a description of what it does."""

    value: Any
    does: str


@dataclass(frozen=True, eq=False)
class Detail:
    """One implementation choice, declared once in `repro/details/`.

    `stages` are those that may read it, and `PIPELINE` where it decides which steps an arm has. `paper` says where it is
    stated, and `numbers` which of the paper's 25 enumerated details it is about. `reference` is the label of the paper's
    variant. `hypothesis` says what another variant should change and why; `expected` says the same as metric -> "up", "down"
    or "same", or metric -> label -> one of these where arms differ. `renamed` is former label -> label: a former one is
    refused with the new one's name, and cache keys go on spelling it (`repro.details.keyed_label`).
    """

    name: str
    stages: tuple[str, ...]
    paper: str
    question: str
    reference: str
    variants: Mapping[str, Variant]
    hypothesis: str
    expected: Mapping[str, str | Mapping[str, str]]
    numbers: tuple[int, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.reference in self.variants, f"{self.name}: the reference {self.reference!r} is not a variant"
        readers = {*STAGES, PIPELINE}
        assert self.stages and set(self.stages) <= readers, f"{self.name}: unknown stage in {self.stages}"
        for label, variant in self.variants.items():
            assert isinstance(variant, Variant) and variant.does, f"{self.name}: {label!r} does not say what it does"
        for effect in self.expected.values():
            directions = {effect} if isinstance(effect, str) else set(effect.values())
            assert directions <= {"up", "down", "same"}, f"{self.name}: an expected effect is up, down or same"
            assert isinstance(effect, str) or set(effect) <= set(self.variants), (
                f"{self.name}: an effect of a variant that is not declared is expected"
            )
        assert set(self.renamed.values()) <= set(self.variants), f"{self.name}: renamed to a label that is not declared"
        assert not set(self.renamed) & set(self.variants), f"{self.name}: a former label is in use again"


@dataclass(frozen=True, eq=False)
class Check:
    """Something that the paper measures: `stages` log it as `metrics`, names or patterns in `repro/study/metrics.py`."""

    name: str
    stages: tuple[str, ...]
    paper: str
    question: str
    measures: str
    found: str  # what the paper reports
    metrics: tuple[str, ...]
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert self.stages and set(self.stages) <= set(STAGES), f"{self.name}: unknown stage in {self.stages}"
        assert self.metrics, f"{self.name}: a check names the metrics that are logged"


@dataclass(frozen=True)
class Recipe:
    """An arm, as its difference from the paper: `Recipe()` is the reproduction."""

    choices: tuple[tuple[str, str], ...] = ()

    def but(self, detail: Detail, label: str) -> "Recipe":
        """This recipe with `detail` at `label`; the UserError for an unknown label names the nearest one."""
        if label not in detail.variants:
            raise UserError(_no_variant(detail, label))
        rest = {name: other for name, other in self.choices if name != detail.name}
        if label != detail.reference:
            rest[detail.name] = label
        return Recipe(tuple(sorted(rest.items())))

    def label(self, detail: Detail) -> str:
        """The label of the variant that this arm has of a detail."""
        return dict(self.choices).get(detail.name, detail.reference)


@dataclass(frozen=True)
class Clash:
    """Labels of two details that make no sense together, and why; only in arms that also make the choices `beside`."""

    one: Detail
    labels: tuple[str, ...]
    other: Detail
    other_labels: tuple[str, ...]
    why: str
    beside: tuple[tuple[Detail, tuple[str, ...]], ...] = ()

    def check(self, recipe: Recipe) -> None:
        """UserError that names both choices, if the recipe makes them."""
        choices = ((self.one, self.labels), (self.other, self.other_labels), *self.beside)
        clashes = all(recipe.label(detail) in labels for detail, labels in choices)
        if clashes:
            remedies = [f"{detail.name}={detail.reference}" for detail in (self.other, self.one)]
            if self.beside:
                remedies = [", ".join(remedies), f"change {' or '.join(detail.name for detail, _ in self.beside)}"]
            raise UserError(
                f"{self.one.name}={recipe.label(self.one)} and {self.other.name}={recipe.label(self.other)} make no sense "
                f"together: {self.why}; set {' or '.join(remedies)}"
            )


class Pick:
    """Gives a stage this arm's variants; refuses details not declared for the stage, and records those that were read."""

    def __init__(self, recipe: Recipe, stage: str) -> None:
        self.recipe, self.stage = recipe, stage
        self.read: set[str] = set()

    def __call__(self, detail: Detail) -> Any:
        if self.stage not in detail.stages:
            raise LookupError(
                f"stage {self.stage!r} reads {detail.name!r}, declared for {detail.stages}: its key omits it"
            )
        self.read.add(detail.name)
        return detail.variants[self.recipe.label(detail)].value


def _no_variant(detail: Detail, label: str) -> str:
    if label in detail.renamed:
        return f"{detail.name}={label} is now called {detail.name}={detail.renamed[label]}; write that instead"
    return f"{detail.name} has no variant {quoted(label)}; {nearest(label, detail.variants)}"


def others(detail: Detail) -> tuple[str, ...]:
    """A detail's labels, without the reference."""
    return tuple(label for label in detail.variants if label != detail.reference)
