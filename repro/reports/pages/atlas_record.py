"""The JSON beside the page on all details: other pages quote it, and a later page keeps its rows where their runs have left.

A row compares runs of one store with each other, so it holds without that store, and beside the rows of others.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from repro import record as recorded
from repro.reports.pages import entries, provenance
from repro.reports.pages.markup import known
from repro.reports.reading.study import Study
from repro.reports.statistics import survey as surveys
from repro.reports.statistics.student import CONFIDENCE
from repro.reports.statistics.survey import DERIVED_OUTCOMES, PAIRS, Earlier, Survey


def record(survey: Survey, studies: Sequence[Study], kept: Mapping) -> dict:
    """The atlas as JSON; numbers that do not exist are null.

    `studies` is what the index shows of each beside its verdicts, `kept` the record whose rows `survey.earlier` has.
    """
    told = {study.detail: entries.facts(study) for study in studies}
    return {
        "scale": survey.scale,
        "confidence": CONFIDENCE,
        "studied": list(survey.studied),
        "not_run": [entry["name"] for entry in survey.not_run],
        "variants_not_run": [list(pair) for pair in survey.variants_not_run],
        "left_out": dict(survey.left_out),
        "outcomes": surveys.outcomes(survey),
        "lost": list(survey.lost),
        "machine_hours": provenance.hours(survey.runs),  # of this store
        "ran": provenance.what_ran(survey.runs),
        "earlier": list(survey.earlier.stores),
        "families": [family | {"hurdle": known(family["hurdle"])} for family in survey.families],
        "reference": dict(kept.get("reference", {})) | _of_the_reference(studies),
        "studies": {detail: kept["studies"][detail] for detail in survey.earlier.effects} | told,
        "effects": [_effect(row, survey.pairs) for row in survey.effects.itertuples()],
    }


def _of_the_reference(studies: Sequence[Study]) -> dict[str, dict]:
    """Of each final metric of the paper's choice, mean, least and most over all seeds that any study ran it on."""
    references = [study.finals[study.finals["arm"] == study.reference] for study in studies]
    if not references:
        return {}
    once = pd.concat(references).drop_duplicates(["metric", "seed"]).groupby("metric")["value"]
    found = once.agg(mean="mean", least="min", most="max", n="count")
    return {
        row.Index: {"mean": known(row.mean), "least": known(row.least), "most": known(row.most), "n": int(row.n)}
        for row in found.itertuples()
    }


def _effect(row, pairs: pd.DataFrame) -> dict:
    """One variant's numbers."""
    own = pairs[(pairs["detail"] == row.detail) & (pairs["arm"] == row.arm)]
    return {
        "detail": row.detail,
        "variant": row.arm,
        "reference": row.reference,
        "primary": row.primary,
        "higher_is_better": bool(row.higher_is_better),
        "n": int(row.n),
        "seeds": [int(seed) for seed in own["seed"]],
        "mean_difference": known(row.mean),
        "sd": known(row.sd),
        "ci95": [known(row.low), known(row.high)],
        "looks": list(row.looks),
        "p": known(row.p),
        "p_holm": known(row.adjusted),
        "smallest_effect": known(row.smallest_effect),
        "verdict": row.verdict,
        "verdict_corrected": row.corrected,
        "identical": bool(row.identical),
        "kl_difference": known(row.kl),
        "seeds_needed": known(row.seeds_needed),
        "outcomes": {word: [int(seed) for seed in seeds] for word, seeds in row.outcomes.items()},
        "missing": [int(seed) for seed in row.absent],
        "ran_away": [int(seed) for seed in row.ran_away],
        "control": bool(row.control),
        "predictions": row.predictions,
        "results": row.results,
    }


# Read back


def earlier(atlas: Mapping, stored: Collection[str], registered: Sequence[Mapping]) -> Earlier:
    """The studies of a record that are not `stored` and still `registered`, as the survey of the next page takes them.

    Records of earlier versions have no direction, which is taken to be up, nor the seeds of their differences, which are
    counted from 1.
    """
    entry_of = {entry["name"]: entry for entry in registered}
    wanted = (atlas.get("studies", {}).keys() & entry_of.keys()) - set(stored)
    of_detail: dict[str, list[Mapping]] = {}
    for effect in atlas.get("effects", ()):
        if effect["detail"] in wanted:
            of_detail.setdefault(effect["detail"], []).append(effect)
    lost = tuple(loss for loss in atlas.get("lost", ()) if loss["detail"] in of_detail)
    stores = [
        {**store, "studies": [each for each in store["studies"] if each in of_detail]}
        for store in entries.stores(atlas)
    ]
    return Earlier(
        effects={
            detail: _frame(effects, atlas["studies"][detail], entry_of[detail]) for detail, effects in of_detail.items()
        },
        pairs=pd.DataFrame(
            [
                (detail, effect["variant"], seed, difference)
                for detail, effects in of_detail.items()
                for effect in effects
                for seed, difference in _differences(effect, atlas["studies"][detail])
            ],
            columns=PAIRS,
        ),
        lost=lost,
        outcomes=_outcomes(of_detail, atlas["studies"], lost) if of_detail else {},
        stores=tuple(store for store in stores if store["studies"]),
    )


def _differences(effect: Mapping, facts: Mapping) -> list[tuple[int, float]]:
    """Seed and difference of each pair."""
    values = [float("nan") if value is None else value for value in facts["differences"].get(effect["variant"], ())]
    return list(zip(effect.get("seeds", range(1, len(values) + 1)), values, strict=True))


def _frame(effects: Sequence[Mapping], facts: Mapping, entry: Mapping) -> pd.DataFrame:
    """Rows as in `Survey.effects`, without what is computed over all details, in the registry's order of the variants."""
    rank = {label: i for i, label in enumerate(entry["variants"])}
    ordered = sorted(effects, key=lambda effect: (rank.get(effect["variant"], len(rank)), effect["variant"]))
    return pd.DataFrame([_row(effect, facts) for effect in ordered]).assign(group=entry["group"])


def _row(effect: Mapping, facts: Mapping) -> dict:
    nan = float("nan")
    numbers = {
        "mean": effect["mean_difference"],
        "sd": effect.get("sd", pd.Series([value for _, value in _differences(effect, facts)], dtype=float).std()),
        "low": effect["ci95"][0],
        "high": effect["ci95"][1],
        "p": effect["p"],
        "smallest_effect": effect["smallest_effect"],
        "kl": effect["kl_difference"],
        "seeds_needed": effect["seeds_needed"],
    }
    same = ("detail", "reference", "primary", "n", "verdict", "identical", "outcomes", "ran_away", "control")
    return (
        {name: effect[name] for name in (*same, "predictions", "results")}
        | {name: nan if value is None else value for name, value in numbers.items()}
        | {"arm": effect["variant"], "absent": effect["missing"], "looks": tuple(effect["looks"])}
        | {"higher_is_better": effect.get("higher_is_better", True), "question": facts["question"]}
    )


def _outcomes(
    of_detail: Mapping[str, Sequence[Mapping]], studies: Mapping[str, Mapping], lost: Sequence[Mapping]
) -> dict[str, int]:
    """How many runs ended in which way; the runs of a reference that are not among the lost have finished."""
    ends: Counter[str] = Counter()
    for detail, effects in of_detail.items():
        own: Counter[str] = Counter()
        for effect in effects:
            own += Counter({word: len(seeds) for word, seeds in effect["outcomes"].items()})
        reference = [loss for loss in lost if (loss["detail"], loss["arm"]) == (detail, effects[0]["reference"])]
        own += Counter({e["outcome"]: len(e["seeds"]) for e in reference if e["outcome"] not in DERIVED_OUTCOMES})
        own[recorded.FINISHED] += studies[detail]["runs"] - own.total()
        ends += own
    return dict(ends)
