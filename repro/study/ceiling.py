"""The ceiling of a study: its reference with the gold score as reward, on the same seeds, beside the arms.

It is what this recipe reaches where nothing is lost in the reward model. No verdict is about it, so it is no arm.
"""

from collections.abc import Mapping

from repro import details, record
from repro.detail import Detail, Recipe
from repro.errors import UserError
from repro.study.scale import Scale


def ceiling_of(detail: Detail, arms: Mapping[str, Recipe], primary: str) -> dict[str, Recipe]:
    """Label -> recipe of the ceiling; UserError where the gold score as reward makes no sense beside the study's choices."""
    reference = arms[detail.reference]
    source, label = details.find(record.CEILING_DETAIL), record.CEILING_LABEL
    if detail == source:
        raise UserError(
            f"the study of {source.name} has its ceiling as the arm {label}; leave --ceiling out (with make: CEILING)"
        )
    if reference.label(source) != source.reference:
        raise UserError(
            f"all arms have {source.name}={reference.label(source)}, which is the ceiling already; leave --ceiling out"
        )
    if primary not in record.CEILING_METRICS:
        raise UserError(
            f"a ceiling is of a win rate or a gold score, and this study is judged by {primary}; leave --ceiling out"
        )
    recipe = reference.but(source, label)
    details.check(recipe)
    return {record.CEILING: recipe}


def check(ceiling: Mapping[str, Recipe], scale: Scale) -> None:
    """UserError where the ceiling needs what the scale's corpus does not know."""
    for recipe in ceiling.values():
        details.check_corpus(recipe, scale.corpus, scale.annotator)
