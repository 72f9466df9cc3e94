"""The registry: every detail and check by its name, and the groups in the paper's order."""

from repro.detail import Check, Detail
from repro.details import (
    advantages,
    control,
    data,
    feedback,
    general,
    objective,
    optimisation,
    ppo,
    reward_and_kl,
    reward_model,
    sft,
)
from repro.errors import UserError, nearest, quoted

# In the paper's order.
PARTS = (data, general, sft, reward_model, ppo, reward_and_kl, advantages, objective, optimisation, feedback, control)

ENTRIES = tuple(each for part in PARTS for each in vars(part).values() if isinstance(each, Detail | Check))
DETAILS: dict[str, Detail] = {each.name: each for each in ENTRIES if isinstance(each, Detail)}
CHECKS: dict[str, Check] = {each.name: each for each in ENTRIES if isinstance(each, Check)}
# Group title -> names, in the order of declaration.
GROUPS = {
    part.GROUP: tuple(each.name for each in vars(part).values() if isinstance(each, Detail | Check)) for part in PARTS
}


def keyed_label(detail: Detail, label: str) -> str:
    """The label as a cache key spells it: a renamed one by its former name, so that earlier artefacts are still found."""
    former = {today: before for before, today in detail.renamed.items()}
    return former.get(label, label)


def find(name: str) -> Detail:
    """The detail of that name; a UserError names the nearest when there is none."""
    if name in CHECKS:
        raise UserError(f"{name} is a check, not a choice: every run makes it, and the report of any detail shows it")
    if name not in DETAILS:
        raise UserError(f"there is no detail {quoted(name)}; {nearest(name, DETAILS, 'make details lists all')}")
    return DETAILS[name]
