"""How far each arm ends from the ceiling, which a policy reaches that the gold score itself has paid."""

import pandas as pd

from repro import record
from repro.reports.reading.study import Study
from repro.reports.statistics.pairing import intervals
from repro.reports.statistics.student import ROUNDING, t_interval

COLUMNS = ["arm", "n", "mean", "low", "high", "share"]


def gaps(study: Study) -> pd.DataFrame:
    """A row for each arm that has a seed with a ceiling, the reference first; no rows where the study has no ceiling.

    `mean` with its 95 % t interval is arm - ceiling in the primary metric, over the `n` seeds that have both. `share` is how
    much of the way from before PPO to the ceiling the arm goes, a ratio of means over those of its seeds where the start is
    known: (arm - before) / (ceiling - before). It is NaN where these seeds do not tell the
    ceiling from the start, by the 95 % t interval of the way: a share of nothing is noise.
    """
    ceiling, measured = level(study), set(study.finals["metric"])
    if study.primary not in measured.intersection(record.CEILING_METRICS) or ceiling.empty:
        return pd.DataFrame(columns=COLUMNS)
    wide = study.finals.pivot(index=["arm", "seed"], columns="metric", values="value").reset_index()
    wide = wide.assign(ceiling=wide["seed"].map(ceiling)).dropna(subset=[study.primary, "ceiling"])
    paired = wide[["arm"]].assign(metric=study.primary, difference=wide[study.primary] - wide["ceiling"])
    rows = intervals(paired).set_index("arm").reindex([arm for arm in study.arms if arm in set(wide["arm"])])
    shares = {arm: _share(own, study.primary) for arm, own in wide.groupby("arm")}
    return rows.assign(share=pd.Series(shares, dtype=float)).rename_axis("arm").reset_index()[COLUMNS]


def level(study: Study) -> pd.Series:
    """Seed -> the ceiling's value of the primary metric."""
    own = study.ceiling[study.ceiling["metric"] == study.primary]
    return own.set_index("seed")["value"].dropna()


def reached(study: Study) -> tuple[float, float, float]:
    """The ceiling's mean over its seeds, and the ends of its 95 % t interval."""
    values = level(study)
    return (float(values.mean()), *t_interval(values))


def _share(runs: pd.DataFrame, primary: str) -> float:
    """How much of the way an arm goes, over its runs whose value before PPO is known."""
    if f"sft_{primary}" not in runs:
        return float("nan")
    known = runs[[f"sft_{primary}", primary, "ceiling"]].dropna()
    way, gone = (known[end] - known[f"sft_{primary}"] for end in ("ceiling", primary))
    low, _ = t_interval(way)
    return float(gone.mean() / way.mean()) if low > ROUNDING else float("nan")
