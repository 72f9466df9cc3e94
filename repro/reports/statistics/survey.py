"""All studies of one scale: the effect and verdict of every variant, and the outcomes of all runs."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from repro import record
from repro.reports.reading.study import Study
from repro.reports.reading.terms import CURVES
from repro.reports.statistics import pairing
from repro.reports.statistics.findings import Findings, analyse
from repro.reports.statistics.student import CONFIDENCE
from repro.reports.statistics.words import IDENTICAL, MISSING, RAN_AWAY, RESULTS, VERDICTS

KL = "test/kl"
CONTROL = "Control"  # the registry's group of studies whose arms differ only in random numbers
UNLISTED = "not in the registry"  # a study of a detail that has been renamed or removed since
DERIVED_OUTCOMES = (MISSING, RAN_AWAY)  # outcomes that the tracker does not record
PAIRS = ["detail", "arm", "seed", "difference"]


@dataclass(frozen=True)
class Earlier:
    """Studies whose runs another store has or had, as the page that was built from it kept them."""

    effects: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # detail -> rows as in `Survey.effects`
    pairs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PAIRS))
    lost: tuple[dict, ...] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)  # as the tracker recorded them, of all runs
    stores: tuple[Mapping, ...] = ()  # of each: studies (details), newest [ms], machine_hours, ran


@dataclass(frozen=True)
class Survey:
    """The results of all studies of a scale; every frame is in the registry's order."""

    scale: str
    effects: pd.DataFrame  # one row per detail and variant: its interval, p, looks, verdicts, outcomes and predictions
    pairs: pd.DataFrame  # detail, arm, seed, difference: on the primary metric of the detail's study
    runs: pd.DataFrame  # detail, arm, seed, outcome, stage keys and provenance; one row per run in the store
    lost: tuple[dict, ...]  # detail, arm, outcome, seeds: runs without a result, and seeds that were never run
    families: tuple[dict, ...]  # per primary metric: numbers of comparisons, and false positives expected by chance
    studied: tuple[str, ...]  # details with a study
    left_out: Mapping[str, str]  # detail -> why its runs cannot be compared
    not_run: tuple[Mapping, ...]  # registered details without a study
    variants_not_run: tuple[tuple[str, str], ...]  # (detail, label) that the registry has and the study has not
    amended: tuple[str, ...]  # details whose plan was changed between their runs
    troubles: tuple[tuple[str, str], ...]  # (detail, sentence): what cannot be read, or does not belong together
    earlier: Earlier  # the studies that are not in the store; in every field but `runs`, `amended` and `troubles`


def survey(
    scale: str,
    studies: Sequence[Study],
    left_out: Mapping[str, str],
    registered: Sequence[Mapping],
    earlier: Earlier = Earlier(),
) -> Survey:
    """Compares the arms of every study with its reference; `registered` has at least name, group and variants, in order.

    A detail of `earlier` must be neither among the studies nor left out.
    """
    place = {entry["name"]: i for i, entry in enumerate(registered)}
    ordered = sorted(studies, key=lambda study: _rank(study.detail, place))
    found = {study.detail: analyse(study) for study in ordered}
    known = {entry["name"]: entry for entry in registered}
    runs = [study.runs.assign(detail=study.detail) for study in ordered]
    rows = {study.detail: _effects(study, found[study.detail], known) for study in ordered} | dict(earlier.effects)
    studied = sorted(rows, key=lambda detail: _rank(detail, place))
    effects = _judged([rows[detail] for detail in studied])
    arms = {study.detail: study.arms for study in ordered} | {
        detail: [*frame["arm"], *frame["reference"]] for detail, frame in earlier.effects.items()
    }
    return Survey(
        scale=scale,
        effects=effects,
        pairs=_pairs(ordered, found, earlier.pairs),
        runs=pd.concat(runs, ignore_index=True) if runs else pd.DataFrame(columns=["detail", "outcome"]),
        lost=(*(loss for study in ordered for loss in _lost(study, found[study.detail])), *earlier.lost),
        families=families(effects),
        studied=tuple(studied),
        left_out=dict(left_out),
        not_run=tuple(entry for entry in registered if entry["name"] not in rows.keys() | left_out.keys()),
        variants_not_run=tuple(
            (detail, label)
            for detail in studied
            for label in known.get(detail, {}).get("variants", ())
            if label not in arms[detail]
        ),
        amended=tuple(study.detail for study in ordered if study.amended),
        troubles=tuple((study.detail, sentence) for study in ordered for sentence in study.troubles),
        earlier=earlier,
    )


def _rank(detail: str, place: Mapping[str, int]) -> tuple[int, str]:
    return place.get(detail, len(place)), detail


def _effects(study: Study, findings: Findings, known: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row per variant: its interval and verdict on the primary metric, its runs, its predictions, its KL."""
    entry = known.get(study.detail, {"group": UNLISTED, "variants": ()})
    kl = findings.intervals[findings.intervals["metric"] == KL].set_index("arm")["mean"]
    tally = findings.tally.iloc[1:].reset_index(drop=True)  # the reference comes first
    rows = findings.verdicts.assign(
        detail=study.detail,
        group=entry["group"],
        control=entry["group"] == CONTROL,
        question=study.tags[record.QUESTION],
        reference=study.reference,
        primary=study.primary,
        higher_is_better=study.higher_is_better,
        smallest_effect=study.smallest_effect,
        looks=[study.looks] * len(findings.verdicts),
        kl=findings.verdicts["arm"].map(kl).astype(float),
        outcomes=tally["outcomes"],
        absent=tally["absent"],
        ran_away=tally["ran_away"],
        predictions=[_predictions(findings.predictions, arm) for arm in findings.verdicts["arm"]],
        results=[_results(findings.predictions, arm) for arm in findings.verdicts["arm"]],
    )
    rank = {label: i for i, label in enumerate(entry["variants"])}
    return rows.sort_values("arm", key=lambda arms: arms.map(lambda arm: (rank.get(arm, len(rank)), arm)))


def _predictions(predictions: pd.DataFrame, arm: str) -> dict[str, int]:
    """How many of an arm's predictions of final values came true; those of curves are counted, not judged."""
    own = predictions[predictions["arm"] == arm]
    results = list(_results(predictions, arm).values())
    return {word: results.count(word) for word in RESULTS} | {"curves": len(own) - len(results)}


def _results(predictions: pd.DataFrame, arm: str) -> dict[str, str]:
    """Metric -> result of an arm's predictions of final values."""
    own = predictions[(predictions["arm"] == arm) & ~predictions["metric"].str.startswith(CURVES)]
    return dict(zip(own["metric"], own["result"], strict=True))


def _judged(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """All variants with p values adjusted within each primary metric, and the verdicts after the adjustment.

    A control compares a choice with itself, so it is not a test of a detail, and not part of a family.
    """
    frames = [frame for frame in frames if not frame.empty]
    if not frames:
        columns = ["detail", "arm", "primary", "n", "mean", "verdict", "corrected", "identical"]
        return pd.DataFrame(columns=columns).assign(control=pd.Series(dtype=bool))
    rows = pd.concat(frames, ignore_index=True)
    tests = rows["p"].mask(rows["control"])
    rows = rows.assign(adjusted=tests.groupby(rows["primary"]).transform(pairing.holm))
    words = [row.verdict if row.control else pairing.corrected(row.verdict, row.adjusted) for row in rows.itertuples()]
    return rows.assign(corrected=words)


def _pairs(studies: Sequence[Study], found: Mapping[str, Findings], earlier: pd.DataFrame) -> pd.DataFrame:
    """Every difference on its study's primary metric, seed by seed."""
    frames = [earlier] if len(earlier) else []
    for study in studies:
        differences = found[study.detail].differences
        frames.append(differences[differences["metric"] == study.primary].assign(detail=study.detail))
    return pd.concat(frames, ignore_index=True)[PAIRS] if frames else pd.DataFrame(columns=PAIRS)


def _lost(study: Study, findings: Findings) -> list[dict]:
    """The runs of a study that did not finish, and the seeds that were never run, by arm and outcome."""
    rows = []
    for row in findings.tally.itertuples():
        lost = {word: seeds for word, seeds in row.outcomes.items() if word != record.FINISHED}
        lost |= {MISSING: row.absent} if row.absent else {}
        lost |= {RAN_AWAY: row.ran_away} if row.ran_away else {}
        rows += [
            {
                "detail": study.detail,
                "arm": row.arm,
                "outcome": word,
                "seeds": [int(seed) for seed in seeds],
                "counted": len(set(row.counted) & set(seeds)),
            }
            for word, seeds in sorted(lost.items())
        ]
    return rows


def families(effects: pd.DataFrame) -> tuple[dict, ...]:
    """Per primary metric, the largest first: numbers of variants tested, excluding zero, and excluding zero by chance.

    `hurdle` is the mean difference, in paired standard deviations, that the smallest p of the family needs at its
    usual number of seeds: t(1 - 0.05 / (2 tests), n - 1) / sqrt(n).
    """
    found = []
    for primary, rows in effects[~effects["control"]].groupby("primary", sort=False):
        tested = rows[rows["p"].notna()]
        tests, n = len(tested), int(tested["n"].median()) if len(tested) else 0
        hurdle = stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / tests, n - 1) / math.sqrt(n) if tests else np.nan
        found.append(
            {
                "primary": primary,
                "variants": len(rows),
                "tests": tests,
                "seeds": n,
                "leave_out_zero": int(((rows["low"] > 0) | (rows["high"] < 0)).sum()),
                "expected_by_chance": tests * (1 - CONFIDENCE),
                "hurdle": float(hurdle),
                "identical": int((rows["verdict"] == IDENTICAL).sum()),
                "verdicts": {word: int((rows["verdict"] == word).sum()) for word in VERDICTS},
                "corrected": {word: int((rows["corrected"] == word).sum()) for word in VERDICTS},
            }
        )
    return tuple(sorted(found, key=lambda family: -family["variants"]))


def outcomes(survey: Survey) -> dict[str, int]:
    """How many runs of all studies ended in which way; a run shared by studies counts in each.

    Missing ones are counted too, and those that ran away, which finished or diverged as well.
    """
    counts = Counter(survey.runs["outcome"].value_counts().to_dict()) + Counter(survey.earlier.outcomes)
    more = {
        word: sum(len(loss["seeds"]) for loss in survey.lost if loss["outcome"] == word) for word in DERIVED_OUTCOMES
    }
    return {word: int(n) for word, n in (counts | more).items() if n}


def shared_reference(survey: Survey) -> dict[str, int]:
    """How many reference runs the store's studies list, and how many different results those are."""
    if "reference" not in survey.runs or record.stage_tag("evaluate") not in survey.runs:
        return {"listed": 0, "different": 0}
    references = survey.runs[survey.runs["reference"] & survey.runs[record.stage_tag("evaluate")].notna()]
    return {"listed": len(references), "different": references[record.stage_tag("evaluate")].nunique()}
