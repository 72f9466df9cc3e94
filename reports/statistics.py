"""Paired comparisons over seeds: differences, Student-t intervals, verdict words, checks of predictions.

The unit is the training seed: arms share seeds, data and the stages that a detail cannot touch, so the difference
arm - reference is taken within a seed. Everything here is a pure function of tidy frames; docs/statistics.md says why,
and docs/calibration.md how often the words are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from reports import sequential
from reports.student import CONFIDENCE, ROUNDING, half_width, verdict

if TYPE_CHECKING:
    from reports.read import Study

POWER = 0.8
MOST_SEEDS = 1000  # past this a study of seeds is not the instrument
# Seeds for what stands beside the t interval: of five, sign flips cannot reach p < .05 (2/2^5 = .062; 2/2^6 = .031), the
# inter-quartile mean is that of three values, and not even five out of five puts the improvement's interval above 1/2.
ENOUGH_SEEDS = 6
RESAMPLES = 2000  # of a bootstrap; its ends then move by about a twentieth of the interval
BATCH = 250  # of those at a time, which bounds memory
GENERATOR = 2403_17031  # the same numbers give the same page
NO_SPREAD = "all differences are equal: the metric does not move at this scale"
ENDED = ("finished", "diverged", "failed")  # outcomes after which nothing more comes of a run
TOO_FEW = "an interval needs two paired seeds"
# Final metrics that are a mean over test posts, and the column of the samples that holds each post's own value.
PER_POST = {
    "test/sampled_win_rate": "sampled_win_rate",
    "test/sampled_gold": "sampled_gold",
    "test/win_rate": "win",
    "test/gold": "gold",
    "test/score": "score",
    "test/length": "length",
}
PREDICTED = {"up": 1, "down": -1, "same": 0}


@dataclass(frozen=True)
class Findings:
    """What a study's numbers say; every frame but `differences`, `intervals` and `predictions` is of the primary metric."""

    differences: pd.DataFrame  # metric, arm, seed, difference
    intervals: pd.DataFrame  # metric, arm, n, mean, sd, low, high
    verdicts: pd.DataFrame  # arm, n, mean, sd, low, high, p, verdict, reason, seeds_needed, more_seeds, identical
    looks: (
        pd.DataFrame
    )  # look, arm, n, mean, sd, low, high, error, verdict; empty where the seeds were fixed beforehand
    predictions: pd.DataFrame  # arm, metric, predicted, n, mean, low, high, result
    tally: pd.DataFrame  # arm, planned, outcomes, absent, counted, and the columns of `runaways`
    levels: pd.DataFrame  # arm (reference first), n, iqm, iqm_low, iqm_high: the metric itself
    robust: pd.DataFrame  # arm, n, iqm, iqm_low, iqm_high, p_improvement, p_low, p_high, sign_flip_p: its differences
    prompts: pd.DataFrame  # arm, seed, posts, mean, low, high: this checkpoint less the reference's of the same seed
    gains: pd.DataFrame  # arm (reference first), seed, posts, mean, low, high: this checkpoint less its SFT policy


def analyse(study: Study) -> Findings:
    """All comparisons of a study, each arm against its reference."""
    values = pd.concat([study.curves, study.finals.assign(step=0)], ignore_index=True)
    paired = differences(values, study.reference)
    summary = intervals(paired)
    primary = values[values["metric"] == study.primary]
    arms = study.arms[1:]
    judged, looks = judge(study, paired[paired["metric"] == study.primary])
    return Findings(
        differences=paired,
        intervals=summary,
        verdicts=judged,
        looks=looks,
        predictions=predictions(
            _as_judged(summary, judged, study.primary), arms, study.moves, study.primary, study.smallest_effect
        ),
        tally=tally(study.runs, primary, study.arms, stopped_at(study, looks)).merge(runaways(study), on="arm"),
        levels=levels(primary, study.arms),
        robust=robust(paired[paired["metric"] == study.primary], arms, study.higher_is_better),
        prompts=prompts(study),
        gains=gains(study),
    )


def judge(study: Study, paired: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`Findings.verdicts` and `Findings.looks`, from the differences (arm, seed) on the primary metric."""
    arms, looks = study.arms[1:], pd.DataFrame(columns=sequential.HISTORY)
    if study.looks:
        rule = sequential.Rule(study.looks, study.smallest_effect, study.higher_is_better)
        looks = sequential.history(paired, _ended(study), rule)
        judged = sequential.verdicts(looks, paired, arms, rule)
    else:
        summary = intervals(paired.assign(metric=study.primary))
        judged = verdicts(summary, arms, study.primary, study.smallest_effect, study.higher_is_better)
        p = paired.groupby("arm")["difference"].agg(paired_p)
        judged = judged.assign(p=judged["arm"].map(p).astype(float))
    same = [identical(study.finals, arm, study.reference, study.primary) for arm in arms]
    return but_identical(judged, np.array(same, dtype=bool)), looks


def _as_judged(summary: pd.DataFrame, judged: pd.DataFrame, primary: str) -> pd.DataFrame:
    """The intervals, with those of the primary metric as the verdicts have them: looks take wider ones."""
    return pd.concat([summary[summary["metric"] != primary], judged.assign(metric=primary)[summary.columns]])


def _ended(study: Study) -> dict[str, set[int]]:
    """Arm -> the seeds that have come to an end, whichever, in it and in the reference."""
    ran = study.runs[study.runs["outcome"].isin(ENDED)].groupby("arm")["seed"].agg(set)
    return {arm: ran.get(arm, set()) & ran.get(study.reference, set()) for arm in study.arms[1:]}


def stopped_at(study: Study, looks: pd.DataFrame) -> dict[str, tuple[int, ...]]:
    """Arm -> the seeds that it was to run: all of the study's, or as many as there were when a look decided about it."""
    decided = looks[looks["verdict"] != "undecided"].set_index("arm")["look"].to_dict()
    most = max(study.seeds, default=0)
    return {arm: tuple(seed for seed in study.seeds if seed <= decided.get(arm, most)) for arm in study.arms}


# Paired differences and Student's t


def differences(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Arm - reference for each metric and seed, from tidy values (metric, arm, seed, step, value).

    A curve is averaged over the steps that both arms have, so a run that ended early is compared with the same
    stretch of its reference; a single value has one step.
    """
    return step_by_step(values, reference).groupby(["metric", "arm", "seed"], as_index=False)["difference"].mean()


def step_by_step(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """metric, seed, step, arm, difference: arm - reference at every step that both have, from tidy values."""
    table = values.pivot(index=["metric", "seed", "step"], columns="arm", values="value")
    table = table.reindex(columns=table.columns.union([reference]))  # a reference that failed has no values at all
    apart = table.sub(table[reference], axis=0).drop(columns=reference)
    return apart.melt(ignore_index=False, var_name="arm", value_name="difference").dropna().reset_index()


def intervals(paired: pd.DataFrame) -> pd.DataFrame:
    """n, mean, sd and 95 % interval of the paired differences of each metric and arm; as `t_interval`, for all at once."""
    rows = paired.groupby(["metric", "arm"])["difference"].agg(n="count", mean="mean", sd="std").reset_index()
    half = half_width(rows["sd"], rows["n"])
    return rows.assign(low=rows["mean"] - half, high=rows["mean"] + half)


def paired_p(values: pd.Series) -> float:
    """Two-sided p of Student's paired t test on the differences of one arm.

    1 where all of them are zero; NaN for fewer than two, or where they agree in something else than zero: the test
    measures by their spread, and takes three equal differences, which coarse shares do give, for a certainty.
    """
    if values.count() < 2:
        return np.nan
    if values.std(ddof=1) < ROUNDING:
        return 1.0 if abs(values.mean()) < ROUNDING else np.nan
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def holm(p: pd.Series) -> pd.Series:
    """Holm's step-down adjustment of a family of p values, valid however they depend on each other; NaN stays NaN.

    The i-th smallest of m becomes the largest of (m - j + 1) p_j over j <= i, at most 1 (Holm 1979). A value that is
    missing is no test, and does not count in m.
    """
    known = p.dropna()
    if known.empty:
        return p
    return pd.Series(multipletests(known, method="holm")[1], index=known.index).reindex(p.index)


def corrected(word: str, adjusted: float) -> str:
    """A verdict once all are counted: better and worse need an adjusted p below 5 %, else they are undecided."""
    return word if word not in ("better", "worse") or adjusted < 1 - CONFIDENCE else "undecided"


def identical(finals: pd.DataFrame, arm: str, reference: str, primary: str) -> bool:
    """Whether every final value of an arm equals the reference's, in every seed in which both have the primary one."""
    wide = finals.pivot(index=["arm", "seed"], columns="metric", values="value")
    wide = wide.dropna(subset=[primary]) if primary in wide else wide.head(0)
    if not {arm, reference} <= set(wide.index.unique("arm")):
        return False
    ours, theirs = wide.loc[arm], wide.loc[reference]
    both = ours.index.intersection(theirs.index)
    return len(both) > 0 and ours.loc[both].equals(theirs.loc[both])


def power(n: np.ndarray | int, effect: float) -> np.ndarray | float:
    """How often a two-sided paired t test at 5 % leaves out zero where the true mean is `effect` spreads, elementwise.

    P(|T| > t(0.975, n-1)) with T noncentral t, n-1 degrees of freedom, noncentrality effect sqrt(n).
    """
    critical = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    shift = effect * np.sqrt(n)
    return stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)


def seeds_needed(sd: float, effect: float) -> float:
    """Fewest seeds with which a two-sided paired t test at 5 % shows `effect` with 80 % power at this spread.

    NaN where spread or effect is unknown or zero; infinity where `MOST_SEEDS` are not enough.
    """
    return _first(lambda n: power(n, effect / sd) >= POWER, sd, effect)


def seeds_to_decide(sd: float, effect: float) -> float:
    """Fewest seeds whose interval is, at this spread, no wider than `effect`; NaN and infinity as in `seeds_needed`.

    Such an interval cannot hold both zero and an effect of either sign, so it decides wherever it lies; an interval
    that is undecided is always wider.
    """
    return _first(lambda n: 2 * half_width(sd, n) <= effect, sd, effect)


def _first(enough: Callable[[np.ndarray], np.ndarray], sd: float, effect: float) -> float:
    """The fewest seeds that are enough; NaN without a spread or an effect, infinity past `MOST_SEEDS`."""
    if not (sd > ROUNDING and effect > 0):
        return np.nan
    n = np.arange(2, MOST_SEEDS + 1)
    found = n[enough(n)]
    return float(found[0]) if found.size else np.inf


def verdicts(
    summary: pd.DataFrame, arms: tuple[str, ...], primary: str, smallest_effect: float, higher_is_better: bool
) -> pd.DataFrame:
    """One row per arm on the primary metric: n, mean, sd, low, high, verdict, reason, seeds_needed, more_seeds.

    n is 0 without a pair; `reason` says why there is no verdict where it is not the interval that leaves it open;
    `more_seeds` would decide at this spread (`seeds_to_decide`), 0 where it is decided.
    """
    rows = _rows(summary, primary, arms)
    words = verdict(rows["low"], rows["high"], smallest_effect, higher_is_better)
    decide = np.array([seeds_to_decide(sd, smallest_effect) for sd in rows["sd"]], dtype=float)
    return rows.assign(
        verdict=words,
        reason=np.select([rows["n"] < 2, rows["sd"] < ROUNDING], [TOO_FEW, NO_SPREAD], ""),
        seeds_needed=[seeds_needed(sd, smallest_effect) for sd in rows["sd"]],
        more_seeds=np.where(words == "undecided", decide - rows["n"], 0.0),
    )


def but_identical(judged: pd.DataFrame, same: np.ndarray) -> pd.DataFrame:
    """Verdicts with the arms marked that equal the reference in everything: of two seeds or more, no difference."""
    certain = same & (judged["n"] >= 2)
    return judged.assign(
        identical=same,
        verdict=judged["verdict"].mask(certain, "no difference"),
        reason=judged["reason"].mask(certain, ""),
        more_seeds=judged["more_seeds"].mask(certain, 0.0),
    )


# Beside the t interval, from `ENOUGH_SEEDS` on


def levels(primary: pd.DataFrame, arms: tuple[str, ...]) -> pd.DataFrame:
    """Inter-quartile mean of each arm's own values [arm, seed, value] of the primary metric, over all its seeds."""
    own = primary.groupby(["arm", "seed"])["value"].mean().dropna()
    return pd.DataFrame([{"arm": arm, "n": len(v)} | _iqm(v) for arm, v in _by_arm(own, arms)])


def robust(paired: pd.DataFrame, arms: tuple[str, ...], higher_is_better: bool) -> pd.DataFrame:
    """One row per arm on the primary metric's differences: inter-quartile mean, P(improvement), sign-flip p.

    They ask what one seed far from the others cannot decide. All are NaN with fewer than `ENOUGH_SEEDS`.
    """
    columns = ["arm", "n", "iqm", "iqm_low", "iqm_high", "p_improvement", "p_low", "p_high", "sign_flip_p"]
    own = paired.set_index(["arm", "seed"])["difference"]
    rows = [
        {"arm": arm, "n": len(v), "sign_flip_p": float(sign_flip_p(v.to_numpy()))}
        | _iqm(v)
        | _improvement(v, higher_is_better)
        for arm, v in _by_arm(own, arms)
    ]
    return pd.DataFrame(rows, columns=columns)


def iqm(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the middle half: a quarter of the values, rounded down, is left out at each end (Agarwal et al. 2021)."""
    return stats.trim_mean(values, 0.25, axis=axis)


def sign_flip_p(values: np.ndarray) -> np.ndarray:
    """Two-sided p of the mean of [..., n] under all (to thirteen seeds; past that, random) flips of the values' signs.

    It assumes that a difference is as likely to have either sign, not its distribution; NaN below `ENOUGH_SEEDS`.
    """
    if values.shape[-1] < ENOUGH_SEEDS:
        return np.full(values.shape[:-1], np.nan)
    how = {"permutation_type": "samples", "vectorized": True, "axis": -1, "batch": BATCH, "rng": GENERATOR}
    return stats.permutation_test((values,), np.mean, **how).pvalue


def bootstrap(values: np.ndarray, statistic: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile bootstrap interval of a statistic of [..., n] that takes an axis; NaN where all are equal."""
    how = {"n_resamples": RESAMPLES, "method": "percentile", "axis": -1, "batch": BATCH, "rng": GENERATOR}
    ends = stats.bootstrap((values,), statistic, confidence_level=CONFIDENCE, **how).confidence_interval
    return tuple(np.where(np.ptp(values, axis=-1) < ROUNDING, np.nan, end)[()] for end in ends)


def _iqm(values: pd.Series) -> dict[str, float]:
    """Inter-quartile mean with its bootstrap interval."""
    if len(values) < ENOUGH_SEEDS:
        return dict.fromkeys(("iqm", "iqm_low", "iqm_high"), np.nan)
    low, high = bootstrap(values.to_numpy(), iqm)
    return {"iqm": float(iqm(values.to_numpy())), "iqm_low": low, "iqm_high": high}


def _improvement(values: pd.Series, higher_is_better: bool) -> dict[str, float]:
    """Share of seeds in which the arm is the better one, a tie counting half, with its exact binomial interval.

    Within a seed, not over all pairs of runs (U / n^2, which is for arms that share nothing): seeds differ by more than
    arms do, and the noise that the two runs share would count. A tie widens the interval at both ends.
    """
    n = len(values)
    if n < ENOUGH_SEEDS:
        return dict.fromkeys(("p_improvement", "p_low", "p_high"), np.nan)
    won = int((values > ROUNDING).sum() if higher_is_better else (values < -ROUNDING).sum())
    tied = int((values.abs() <= ROUNDING).sum())
    return {"p_improvement": (won + tied / 2) / n, "p_low": share(won, n)[0], "p_high": share(won + tied, n)[1]}


def share(count: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's exact 95 % interval of a share, `count` of `n`; NaN of none."""
    return tuple(stats.binomtest(count, n).proportion_ci(CONFIDENCE)) if n else (np.nan, np.nan)


def _by_arm(values: pd.Series, arms: tuple[str, ...]) -> list[tuple[str, pd.Series]]:
    """The values [arm, seed] of each arm in order; none for an arm that has none."""
    return [(arm, values[values.index.get_level_values("arm") == arm]) for arm in arms]


# Over posts: this checkpoint against that one


def prompts(study: Study) -> pd.DataFrame:
    """Each arm's checkpoint against the reference's of the same seed, post by post, on the primary metric.

    The bootstrap is over posts: it says whether these two checkpoints differ, and nothing about the detail. Empty where
    the samples do not hold the metric per post.
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


# What was predicted


def predictions(
    summary: pd.DataFrame,
    arms: tuple[str, ...],
    moves: dict[str, str | dict[str, str]],
    primary: str,
    smallest_effect: float,
) -> pd.DataFrame:
    """Each predicted movement beside what happened, one row per metric and arm.

    Only the primary metric has a smallest effect, so "same" can be confirmed there; elsewhere it can be contradicted.
    """
    rows = [
        _rows(summary, metric, arms).assign(metric=metric, predicted=[_direction(move, arm) for arm in arms])
        for metric, move in moves.items()
    ]
    if not rows:
        return pd.DataFrame(columns=["arm", "metric", "predicted", "n", "mean", "low", "high", "result"])
    frame = pd.concat(rows, ignore_index=True)
    frame = frame[frame["predicted"] != ""].reset_index(drop=True)
    margin = np.where(frame["metric"] == primary, smallest_effect, 0.0)
    result = [agreement(r.predicted, r.low, r.high, m) for r, m in zip(frame.itertuples(), margin, strict=True)]
    return frame.assign(result=result)


def agreement(predicted: str, low: float, high: float, margin: float) -> str:
    """as predicted, opposite or not resolved, for a predicted direction and the interval of the difference."""
    within = -margin <= low and high <= margin
    if predicted == "same":
        if within:
            return "as predicted"
        return "opposite" if low > 0 or high < 0 else "not resolved"
    observed = int(low > 0) - int(high < 0)
    if observed == 0:
        return "not resolved"
    return "as predicted" if observed == PREDICTED[predicted] else "opposite"


# What became of the runs


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
    cap nothing is said.
    """
    cap = float(pd.to_numeric(study.tags.get("kl_cap", ""), errors="coerce"))
    rows = []
    for arm, kl in _by_arm(_last_kl(study), study.arms):
        away = sorted(int(seed) for seed in kl[kl > cap].index.get_level_values("seed"))
        low, high = share(len(away), len(kl)) if np.isfinite(cap) else (np.nan, np.nan)
        rows.append((arm, cap, len(kl), away, low, high))
    return pd.DataFrame(rows, columns=["arm", "cap", "kl_known", "ran_away", "ran_away_low", "ran_away_high"])


def _last_kl(study: Study) -> pd.Series:
    """[arm, seed] the KL to the SFT policy with which each run ended; runs without one are not in it."""
    curve = study.curves[study.curves["metric"] == "objective/kl"].dropna(subset="value").sort_values("step")
    tested = study.finals[study.finals["metric"] == "test/kl"].dropna(subset="value")
    last = [frame.groupby(["arm", "seed"])["value"].last() for frame in (curve, tested)]
    return pd.concat(last).groupby(level=["arm", "seed"]).max()


# Shared


def complete_steps(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of each metric and arm at steps that all its seeds reached, so a mean is always of the same runs."""
    seeds = curves.groupby(["metric", "arm"])["seed"].transform("nunique")
    here = curves.dropna(subset="value").groupby(["metric", "arm", "step"])["seed"].transform("nunique")
    return curves[here.reindex(curves.index) == seeds]


def _direction(move: str | dict[str, str], arm: str) -> str:
    """Where the arm was predicted to move a metric; nothing where nothing was predicted of it."""
    return move if isinstance(move, str) else move.get(arm, "")


def _rows(summary: pd.DataFrame, metric: str, arms: tuple[str, ...]) -> pd.DataFrame:
    """A metric's intervals, one row per arm in order, with n 0 for an arm that has no pair."""
    rows = summary[summary["metric"] == metric].set_index("arm").reindex(list(arms))
    return rows.assign(n=rows["n"].fillna(0).astype(int)).drop(columns="metric").rename_axis("arm").reset_index()
