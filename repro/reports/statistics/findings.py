"""All statistics of a study.

The unit is the training seed: arms share seeds, data and every stage that the detail does not change, so the difference
arm - reference is taken within a seed. docs/statistics.md explains the procedure, and docs/calibration.md measures how often
its verdicts are wrong.
"""

from dataclasses import dataclass

import pandas as pd

from repro.reports.reading.study import Study
from repro.reports.statistics.ceiling import gaps
from repro.reports.statistics.hypotheses import predictions
from repro.reports.statistics.judging import judge
from repro.reports.statistics.outcomes import runaways, stopped_at, tally
from repro.reports.statistics.over_posts import gains, prompts
from repro.reports.statistics.pairing import differences, intervals
from repro.reports.statistics.resampling import levels, robust


@dataclass(frozen=True)
class Findings:
    """All statistics of a study; each frame but `differences`, `intervals` and `predictions` is of the primary metric."""

    differences: pd.DataFrame  # metric, arm, seed, difference
    intervals: pd.DataFrame  # metric, arm, n, mean, sd, low, high; of the primary metric those of the verdicts
    verdicts: pd.DataFrame  # arm, n, mean, sd, low, high, p, verdict, reason, seeds_needed, more_seeds, identical
    looks: pd.DataFrame  # look, arm, n, mean, sd, low, high, error, verdict; empty for a fixed number of seeds
    predictions: pd.DataFrame  # arm, metric, predicted, n, mean, low, high, result
    tally: pd.DataFrame  # arm, planned, outcomes, absent, counted, and the columns of `runaways`
    levels: pd.DataFrame  # arm (reference first), n, iqm, iqm_low, iqm_high: the metric itself
    robust: pd.DataFrame  # arm, n, iqm, iqm_low, iqm_high, p_improvement, p_low, p_high, sign_flip_p: its differences
    prompts: pd.DataFrame  # arm, seed, posts, mean, low, high: this checkpoint less the reference's of the same seed
    gains: pd.DataFrame  # arm (reference first), seed, posts, mean, low, high: this checkpoint less its SFT policy
    ceiling: pd.DataFrame  # arm (reference first), n, mean, low, high: the arm less the ceiling; share of the way to it


def analyse(study: Study) -> Findings:
    """All comparisons of a study, each arm against its reference."""
    values = pd.concat([study.curves, study.finals.assign(step=0)], ignore_index=True)
    paired = differences(values, study.reference)
    primary = values[values["metric"] == study.primary]
    arms = study.arms[1:]
    judged, looks = judge(study, paired[paired["metric"] == study.primary])
    summary = _as_judged(intervals(paired), judged, study.primary)
    return Findings(
        differences=paired,
        intervals=summary,
        verdicts=judged,
        looks=looks,
        predictions=predictions(
            summary,
            arms,
            study.expected,
            study.primary,
            study.smallest_effect,
            judged.loc[judged["identical"], "arm"].tolist(),
        ),
        tally=tally(study.runs, primary, study.arms, stopped_at(study, looks)).merge(runaways(study), on="arm"),
        levels=levels(primary, study.arms),
        robust=robust(paired[paired["metric"] == study.primary], arms, study.higher_is_better),
        prompts=prompts(study),
        gains=gains(study),
        ceiling=gaps(study),
    )


def _as_judged(summary: pd.DataFrame, judged: pd.DataFrame, primary: str) -> pd.DataFrame:
    """The intervals, with the primary metric's from the verdicts: those of a sequential study are wider."""
    paired = judged[judged["n"] > 0].assign(metric=primary)
    return pd.concat([summary[summary["metric"] != primary], paired[summary.columns]], ignore_index=True)
