"""Whether a study is so small that nothing which depends on the score can be seen in it, whatever the number of seeds."""

import pandas as pd

from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics.student import ROUNDING

ENDED = ("test/eos_rate", "test/sampled_eos_rate")


def nothing_to_see(study: Study) -> str:
    """A sentence on why, from the final values; empty where there is something to see, or fewer than two runs."""
    ended = study.finals.loc[study.finals["metric"].isin(ENDED), "value"].dropna()
    primary = study.finals[study.finals["metric"] == study.primary].dropna(subset="value")
    why = []
    if len(primary) > 1 and len(ended) and not ended.any():
        why.append("no summary of any run ended within the limit")
    if _all_alike(primary, study):
        why.append(f"every run has the same {terms.said(study.primary)} ({primary['value'].iloc[0]:.3g})")
    if not why:
        return ""
    return f"This is a tiny run: {' and '.join(why)}. Nothing that depends on the score can be seen at this size."


def _all_alike(primary: pd.DataFrame, study: Study) -> bool:
    """Whether the primary metric has one value in all runs, of arms as well as of seeds."""
    if primary["seed"].nunique() < 2 or primary["arm"].nunique() < 2:
        return False
    return bool(primary["value"].max() - primary["value"].min() < ROUNDING)
