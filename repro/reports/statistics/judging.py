"""The verdict on each arm, from the primary metric, and the reason where there is none."""

from functools import partial

import numpy as np
import pandas as pd

from repro.reports.reading.study import Study
from repro.reports.statistics import sequential
from repro.reports.statistics.outcomes import ended_seeds
from repro.reports.statistics.pairing import identical, intervals, paired_p, rows_of
from repro.reports.statistics.sample_size import seeds_needed, seeds_to_decide
from repro.reports.statistics.student import ROUNDING, verdict
from repro.reports.statistics.words import IDENTICAL, UNDECIDED

NO_SPREAD = "all differences of this arm are equal, so that there is no spread to judge them by"
TOO_FEW = "an interval needs two paired seeds"


def judge(study: Study, paired: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`Findings.verdicts` and `Findings.looks`, from the differences (arm, seed) on the primary metric."""
    arms, looks = study.arms[1:], pd.DataFrame(columns=sequential.HISTORY)
    if study.looks:
        rule = sequential.Rule(study.looks, study.smallest_effect, study.higher_is_better)
        looks = sequential.history(paired, ended_seeds(study), rule, partial(_same_until, study))
        judged = sequential.verdicts(looks, paired, arms, rule)
    else:
        summary = intervals(paired.assign(metric=study.primary))
        judged = verdicts(summary, arms, study.primary, study.smallest_effect, study.higher_is_better)
        p = paired.groupby("arm")["difference"].agg(paired_p)
        judged = judged.assign(p=judged["arm"].map(p).astype(float))
    same = [identical(study.finals, arm, study.reference, study.primary) for arm in arms]
    judged = but_identical(judged, np.array(same, dtype=bool))
    flat = judged["reason"] == NO_SPREAD
    return judged.assign(low=judged["low"].mask(flat), high=judged["high"].mask(flat)), looks


def _same_until(study: Study, arm: str, look: int) -> bool:
    """Whether an arm is identical to the reference in the seeds up to a look."""
    return identical(study.finals[study.finals["seed"] <= look], arm, study.reference, study.primary)


def verdicts(
    summary: pd.DataFrame, arms: tuple[str, ...], primary: str, smallest_effect: float, higher_is_better: bool
) -> pd.DataFrame:
    """One row per arm on the primary metric: n, mean, sd, low, high, verdict, reason, seeds_needed, more_seeds.

    n is 0 without a pair. `reason` says why no verdict is possible, apart from an undecided interval. `more_seeds` is the
    number of further seeds that would decide at this spread (`seeds_to_decide`), 0 where it is decided.
    """
    rows = rows_of(summary, primary, arms)
    words = verdict(rows["low"], rows["high"], smallest_effect, higher_is_better)
    decide = np.array([seeds_to_decide(sd, smallest_effect) for sd in rows["sd"]], dtype=float)
    return rows.assign(
        verdict=words,
        reason=np.select([rows["n"] < 2, rows["sd"] < ROUNDING], [TOO_FEW, NO_SPREAD], ""),
        seeds_needed=[seeds_needed(sd, smallest_effect) for sd in rows["sd"]],
        more_seeds=np.where(words == UNDECIDED, decide - rows["n"], 0.0),
    )


def but_identical(judged: pd.DataFrame, same: np.ndarray) -> pd.DataFrame:
    """The verdicts with the word `identical` for arms that equal the reference in all values: of one seed too."""
    return judged.assign(
        identical=same,
        mean=judged["mean"].mask(same, 0.0),  # before the first look of a study that grows it has none
        verdict=judged["verdict"].mask(same, IDENTICAL),
        reason=judged["reason"].mask(same, ""),
        more_seeds=judged["more_seeds"].mask(same, 0.0),
    )
