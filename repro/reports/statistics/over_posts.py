"""Compares two checkpoints post by post on the test posts; this is not a comparison over seeds."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from repro.reports.reading.study import Study
from repro.reports.statistics.resampling import bootstrap

# Final metrics that are a mean over test posts, and the column of the samples that holds each post's own value.
PER_POST = {
    "test/sampled_win_rate": "sampled_win_rate",
    "test/sampled_gold": "sampled_gold",
    "test/win_rate": "win",
    "test/gold": "gold",
    "test/score": "score",
    "test/length": "length",
}


def prompts(study: Study) -> pd.DataFrame:
    """Each arm's checkpoint against the reference's of the same seed, post by post, on the primary metric.

    The bootstrap is over posts: it tests whether these two checkpoints differ, not whether the detail matters. Empty where
    the samples do not have the metric per post.
    """
    column = PER_POST.get(study.primary, study.primary)
    return _over_posts(
        (arm, seed, _matched(table, column, study.samples[study.reference, seed], column))
        for arm, seed, table in _sampled(study)
        if arm != study.reference and (study.reference, seed) in study.samples
    )


def gains(study: Study) -> pd.DataFrame:
    """Each checkpoint, the reference's too, against the SFT policy that it started from; otherwise as `prompts`."""
    column = PER_POST.get(study.primary, study.primary)
    return _over_posts(
        (arm, seed, _matched(table, column, table, f"sft_{column}")) for arm, seed, table in _sampled(study)
    )


def _sampled(study: Study) -> list[tuple[str, int, pd.DataFrame]]:
    """Arm, seed and samples, in order."""
    return [(a, s, study.samples[a, s]) for a in study.arms for s in study.seeds if (a, s) in study.samples]


def _matched(ours: pd.DataFrame, column: str, theirs: pd.DataFrame, other: str) -> np.ndarray:
    """Differences over the posts for which both tables have the value; none where a table lacks the column."""
    if not ({"post_id", column} <= set(ours) and {"post_id", other} <= set(theirs)):
        return np.empty(0)
    place = [table.set_index("post_id", append=True) for table in (ours, theirs)]  # the same posts in the same order
    apart = pd.to_numeric(place[0][column], errors="coerce") - pd.to_numeric(place[1][other], errors="coerce")
    return apart.dropna().to_numpy()


def _over_posts(rows: Iterable[tuple[str, int, np.ndarray]]) -> pd.DataFrame:
    """arm, seed, posts, mean and its bootstrap interval; runs with fewer than two posts are left out."""
    found = [
        (arm, seed, len(apart), apart.mean(), *bootstrap(apart, np.mean)) for arm, seed, apart in rows if len(apart) > 1
    ]
    return pd.DataFrame(found, columns=["arm", "seed", "posts", "mean", "low", "high"])
