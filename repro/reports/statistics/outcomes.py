"""How the runs ended, which of them count towards a verdict, and which exceeded the KL cap (ran away)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from repro import record
from repro.reports.reading.study import Study
from repro.reports.statistics.resampling import by_arm, share
from repro.reports.statistics.words import RUNNING, UNDECIDED


def ended_seeds(study: Study) -> dict[str, set[int]]:
    """Arm -> the seeds that have ended, with any outcome, in this arm and in the reference."""
    ran = study.runs[study.runs["outcome"].isin(record.OUTCOMES)].groupby("arm")["seed"].agg(set)
    return {arm: ran.get(arm, set()) & ran.get(study.reference, set()) for arm in study.arms[1:]}


def stopped_at(study: Study, looks: pd.DataFrame) -> dict[str, tuple[int, ...]]:
    """Arm -> the seeds planned for it: all of the study's, or those up to the look that decided it."""
    decided = looks[looks["verdict"] != UNDECIDED].set_index("arm")["look"].to_dict()
    most = max(study.seeds, default=0)
    return {arm: tuple(seed for seed in study.seeds if seed <= decided.get(arm, most)) for arm in study.arms}


def tally(
    runs: pd.DataFrame, primary: pd.DataFrame, arms: tuple[str, ...], planned: Mapping[str, tuple[int, ...]]
) -> pd.DataFrame:
    """Per arm (reference first): seeds by outcome, seeds never run, and seeds that count towards the verdict.

    A seed counts when the primary metric (tidy values) exists for it in the arm and in the reference, whatever its
    outcome: a diverged run that was evaluated counts, a finished one without a number does not.
    """
    measured = primary.dropna(subset="value").groupby("arm")["seed"].agg(set)
    rows = []
    for arm in arms:
        ran = runs[runs["arm"] == arm]
        outcomes = {word: sorted(group) for word, group in ran.groupby("outcome")["seed"]}
        counted = measured.get(arm, set()) & measured.get(arms[0], set())
        rows.append(
            {
                "arm": arm,
                "planned": len(planned[arm]),
                "outcomes": outcomes,
                "absent": sorted(set(planned[arm]) - set(ran["seed"])),
                "counted": sorted(counted),
            }
        )
    return pd.DataFrame(rows)


def runaways(study: Study) -> pd.DataFrame:
    """Per arm (reference first): seeds whose policy ended further from the SFT policy than the study's cap [nats].

    Columns cap, kl_known (runs with a KL), ran_away (seeds), ran_away_low and ran_away_high (exact interval of their
    share of kl_known). The KL is the larger of the last one in training and that on the test posts. Without a recorded
    cap no run counts as run away.
    """
    cap = float(pd.to_numeric(study.tags.get(record.KL_CAP, ""), errors="coerce"))
    rows = []
    for arm, kl in by_arm(_last_kl(study), study.arms):
        away = sorted(int(seed) for seed in kl[kl > cap].index.get_level_values("seed"))
        low, high = share(len(away), len(kl)) if np.isfinite(cap) else (np.nan, np.nan)
        rows.append((arm, cap, len(kl), away, low, high))
    return pd.DataFrame(rows, columns=["arm", "cap", "kl_known", "ran_away", "ran_away_low", "ran_away_high"])


def _last_kl(study: Study) -> pd.Series:
    """[arm, seed] -> the KL to the SFT policy at the end of each run that has ended and recorded one."""
    ended = study.runs.loc[study.runs["outcome"] != RUNNING, ["arm", "seed"]]
    curve = study.curves[study.curves["metric"] == "objective/kl"].merge(ended)
    curve = curve.dropna(subset="value").sort_values("step")
    tested = study.finals[study.finals["metric"] == "test/kl"].dropna(subset="value")
    last = [frame.groupby(["arm", "seed"])["value"].last() for frame in (curve, tested)]
    return pd.concat(last).groupby(level=["arm", "seed"]).max()
