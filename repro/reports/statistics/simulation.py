"""Tests the verdicts on studies with a known truth: simulated ones, planted effects, families, and real A/A studies.

A simulation draws paired differences of known mean from shapes that runs have; an A/A study compares a recipe with
itself under another label, so that every "better" and "worse" in it is false.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from repro.reports.reading.study import Study
from repro.reports.statistics import pairing, resampling, sequential, student
from repro.reports.statistics.words import MOVED, NO_DIFFERENCE, UNDECIDED, WORSE

SIZES = tuple(range(3, 11))  # seeds of a simulated study
SHOWN_SIZES = (3, 5, 8, 10)  # seeds of a real one, and those that tables show
EFFECTS = (0.5, 1.0, 2.0)  # planted, in spreads of the paired differences
VARIANTS = 50  # in a family, against one reference
GENERATOR = 20_261_120
FAR = 12.0  # distance of a hacked seed from the others, in their spreads: ten to fourteen in runs without a KL penalty
HACKED = 0.1  # share of hacked seeds
ERROR = 1 - student.CONFIDENCE
FIRST = (3, 5)  # seeds at the first look
SMALLEST_EFFECTS = (0.3, 0.5, 1.0)  # smallest effects of interest, in spreads
SEQUENTIAL_EFFECTS = (1.0, 1.7, 2.5)  # of sequential studies: 0.05 where a spread is 0.05, 0.03 and 0.02
ARMS = (2, 4, 8)  # of sequential studies of more than one
MOST = 400  # seeds after a follow-up, where more are asked for

REAL = ["shape", "n", "effect", "studies", "shown", "shown_low", "shown_high", "no_difference"]

Shape = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


# Shapes of paired differences, each of mean zero and spread one


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal differences, as Student's t assumes."""
    return rng.standard_normal(shape)


def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student t with three degrees of freedom: outliers now and then, at either side."""
    return rng.standard_t(3, shape) / np.sqrt(3)


def lottery_of_either(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Two arms of which each loses `FAR` in one seed of ten, whichever it is: what the same recipe twice gives."""
    lost, won = (rng.random(shape) < HACKED for _ in range(2))
    return (rng.standard_normal(shape) + FAR * (won * 1.0 - lost)) / np.sqrt(1 + 2 * FAR**2 * HACKED * (1 - HACKED))


def lottery_of_one(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """An arm that gains a little in nine seeds of ten and loses it all, `FAR`, in the tenth."""
    lost = rng.random(shape) < HACKED
    return (rng.standard_normal(shape) - FAR * (lost - HACKED)) / np.sqrt(1 + FAR**2 * HACKED * (1 - HACKED))


def measured(values: np.ndarray) -> Shape:
    """Draws from the measured differences of an A/A study, scaled to spread one.

    Either sign is as likely: the two labels are exchangeable, so zero is the true mean whatever these seeds' was, and a
    leaning of theirs to one side is luck.
    """
    scaled = values / np.sqrt(np.mean(values**2))
    return lambda rng, shape: rng.choice(scaled, shape) * rng.choice([-1.0, 1.0], shape)


SHAPES: dict[str, Shape] = {
    "normal": normal,
    "t, 3 df": heavy,
    "lottery of either arm": lottery_of_either,
    "lottery of one arm": lottery_of_one,
}
RUNS = {name: SHAPES[name] for name in ("normal", "lottery of one arm")}  # of a run in a family, not of a difference


# Studies of known truth


def words(paired: np.ndarray, smallest_effect: float) -> np.ndarray:
    """[studies] verdicts on paired differences [studies, n]."""
    centre = paired.mean(axis=-1)
    half = student.half_width(paired.std(axis=-1, ddof=1), paired.shape[-1])
    return student.verdict(centre - half, centre + half, smallest_effect, higher_is_better=True)


def judged(paired: np.ndarray) -> dict[str, float]:
    """How many of the studies [studies, n] are better or worse where every effect counts.

    That is, the interval excludes zero: a smallest effect of interest turns some of these words into "no difference".
    """
    return {"studies": len(paired)} | rate(np.isin(words(paired, 0.0), MOVED))


def rate(flags: np.ndarray) -> dict[str, float]:
    """`shown`, the share of flags that are set, and its exact interval; NaN of none."""
    low, high = resampling.share(int(flags.sum()), len(flags))
    return {"shown": share_of(flags), "shown_low": low, "shown_high": high}


def alike(paired: np.ndarray, smallest_effect: float) -> float:
    """Share of studies [studies, n] with the word "no difference" at a smallest effect of interest."""
    return share_of(words(paired, smallest_effect) == NO_DIFFERENCE)


def share_of(flags: np.ndarray) -> float:
    """Share of the flags that are set; NaN of none."""
    return float(flags.mean()) if len(flags) else np.nan


def simulate(shapes: Mapping[str, Shape], studies: int) -> pd.DataFrame:
    """One row per shape, n and true effect [spreads]: `judged`, and how often "no difference" is said.

    The smallest effect of interest is the true one, of the sign for which the word comes more often; one spread where
    the true effect is zero. A study of n seeds is the first n of the same ten, so different n are not independent.
    """
    rows = []
    for place, (name, shape) in enumerate(shapes.items()):
        drawn = shape(np.random.default_rng([GENERATOR, place]), (studies, max(SIZES)))
        rows += [
            {"shape": name, "n": n, "effect": effect}
            | judged(drawn[:, :n] + effect)
            | {"shown_at_x": share_of(np.isin(words(drawn[:, :n] + effect, effect or 1.0), MOVED))}
            | {"no_difference": max(alike(drawn[:, :n] + sign * effect, effect or 1.0) for sign in (1, -1))}
            for effect in (0.0, *EFFECTS)
            for n in SIZES
        ]
    return pd.DataFrame(rows)


def simulate_beside(shapes: Mapping[str, Shape], studies: int) -> pd.DataFrame:
    """One row per shape and n: how often a 5 % sign-flip test is wrong, and the intervals beside t's miss the truth."""
    rows = []
    for place, (name, shape) in enumerate(shapes.items()):
        rng = np.random.default_rng([GENERATOR, 100 + place])
        many = shape(rng, (1_000_000,))
        for n in (n for n in SHOWN_SIZES if n >= resampling.ENOUGH_SEEDS):
            drawn = shape(rng, (studies, n))
            rows.append(
                {"shape": name, "n": n, "studies": studies, "sign_flip": (resampling.sign_flip_p(drawn) < ERROR).mean()}
                | {"iqm_misses": _misses(*resampling.bootstrap(drawn, resampling.iqm), float(resampling.iqm(many)))}
                | {"p_misses": _misses(*_shares(drawn), (many > 0).mean())}
            )
    return pd.DataFrame(rows)


def _shares(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends [studies] of the exact interval of the share above zero of each row [studies, n]."""
    ends = np.array([resampling.share(count, drawn.shape[1]) for count in range(drawn.shape[1] + 1)])
    return tuple(ends[(drawn > 0).sum(axis=1)].T)


def _misses(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    """Share of intervals that do not hold the truth."""
    return float(((truth < low) | (truth > high)).mean())


def simulate_families(shapes: Mapping[str, Shape], families: int) -> pd.DataFrame:
    """One row per shape of a run and n: false words among `VARIANTS` arms that share one reference, without and with Holm.

    Their differences are correlated by one half. Holm's procedure rejects any of m if and only if m times the smallest
    p is below .05, so that alone is asked of a family.
    """
    rows = []
    for place, (name, shape) in enumerate(shapes.items()):
        rng = np.random.default_rng([GENERATOR, 200 + place])
        for n in SHOWN_SIZES:
            runs = shape(rng, (families, 1 + VARIANTS, n))
            p = stats.ttest_1samp(runs[:, 1:] - runs[:, :1], 0.0, axis=-1).pvalue  # [families, VARIANTS]
            false = (p < ERROR).sum(axis=1)
            row = {"shape": name, "n": n, "families": families, "false_words": false.mean()}
            row |= {"worst": np.quantile(false, 0.95)}
            rows.append(row | {"correction": "none"} | rate(false > 0))
            rows.append(row | {"correction": "Holm"} | rate(VARIANTS * p.min(axis=1) < ERROR))
    return pd.DataFrame(rows)


def simulate_follow_up(studies: int) -> pd.DataFrame:
    """One row per first n and X [spreads]: normal differences of no effect, and the seeds added once that would decide."""
    rows = []
    for first in FIRST:
        drawn = normal(np.random.default_rng([GENERATOR, 300 + first]), (studies, MOST))
        for x in SMALLEST_EFFECTS:
            early = words(drawn[:, :first], x)
            late = np.where(early == UNDECIDED, _later(drawn, first, x), early)
            row = {"n": first, "x": x, "studies": studies, "first_look": share_of(np.isin(early, MOVED))}
            row |= {"undecided": share_of(late == UNDECIDED)}
            rows.append(row | rate(np.isin(late, MOVED)))
    return pd.DataFrame(rows)


def simulate_looks(shapes: Mapping[str, Shape], looks: Sequence[int], studies: int) -> pd.DataFrame:
    """One row per shape, X and true effect [spreads]: studies of one variant that grow by `looks` until they are decided.

    `shown` is how often their word is false, with its exact interval, `decided` how often there is one, `seeds` the mean
    number that it took.
    """
    rows = []
    for place, (name, shape) in enumerate(shapes.items()):
        drawn = shape(np.random.default_rng([GENERATOR, 400 + place]), (studies, looks[-1]))
        for x in SEQUENTIAL_EFFECTS:
            for effect in (0.0, x, 2 * x):
                verdicts, seeds = sequential.simulated(drawn + effect, sequential.Rule(tuple(looks), x), arms=1)
                row = {"shape": name, "x": x, "effect": effect, "decided": share_of(verdicts != UNDECIDED)}
                rows.append(row | {"seeds": seeds.mean()} | rate(_is_false(verdicts, effect)))
    return pd.DataFrame(rows)


def simulate_looks_of_arms(looks: Sequence[int], studies: int) -> pd.DataFrame:
    """One row per number of arms, X and true effect [spreads] of every arm: studies that grow by `looks`.

    Differences are normal, and correlated by one half, since the arms share the reference's runs. `shown` is how often the
    word of any arm is false, with its exact interval; `decided` and `seeds` are means over arms.
    """
    rows = []
    for arms in ARMS:
        runs = normal(np.random.default_rng([GENERATOR, 500 + arms]), (studies, 1 + arms, looks[-1]))
        drawn = ((runs[:, 1:] - runs[:, :1]) / np.sqrt(2)).reshape(-1, looks[-1])
        for x in SEQUENTIAL_EFFECTS:
            for effect in (0.0, x):
                verdicts, seeds = sequential.simulated(drawn + effect, sequential.Rule(tuple(looks), x), arms)
                row = {"arms": arms, "x": x, "effect": effect, "decided": share_of(verdicts != UNDECIDED)}
                any_false = _is_false(verdicts, effect).reshape(studies, arms).any(axis=1)
                rows.append(row | {"seeds": seeds.mean()} | rate(any_false))
    return pd.DataFrame(rows)


def _is_false(verdicts: np.ndarray, effect: float) -> np.ndarray:
    """Whether each word is false: of no effect one that moves, of an effect of X or more *worse* and *no difference*."""
    return np.isin(verdicts, (WORSE, NO_DIFFERENCE) if effect else tuple(MOVED))


def _later(drawn: np.ndarray, first: int, x: float) -> np.ndarray:
    """[studies] verdicts on as many of the differences [studies, MOST] as decide at the spread of the first ones."""
    sizes = np.arange(first, MOST + 1)
    spread = drawn[:, :first].std(axis=1, ddof=1)
    enough = 2 * spread[:, None] * student.half_width(1.0, sizes) <= x
    n = np.where(enough.any(axis=1), sizes[enough.argmax(axis=1)], MOST)
    used = np.where(np.arange(MOST) < n[:, None], drawn, np.nan)
    centre, half = np.nanmean(used, axis=1), student.half_width(np.nanstd(used, axis=1, ddof=1), n)
    return student.verdict(centre - half, centre + half, x, higher_is_better=True)


# Real A/A studies


def differences(study: Study, metrics: Sequence[str]) -> dict[str, pd.Series]:
    """Metric -> differences [seed] of the study's second arm to its reference, of the metrics that change at all."""
    values = study.finals[study.finals["metric"].isin(metrics)].assign(step=0)
    paired = pairing.differences(values, study.reference)
    paired = paired[paired["arm"].isin(study.arms[1:2])].set_index("seed")
    found = {metric: paired.loc[paired["metric"] == metric, "difference"] for metric in metrics}
    return {metric: values for metric, values in found.items() if values.std() > student.ROUNDING}


def real(paired: Mapping[str, pd.Series]) -> pd.DataFrame:
    """One row per name and n: disjoint studies of n seeds, judged; "no difference" at one spread of all seeds."""
    rows = []
    for name, values in paired.items():
        for n in SHOWN_SIZES:
            studies = values.to_numpy()[: len(values) // n * n].reshape(-1, n)
            row = {"shape": name, "n": n, "effect": 0.0} | judged(studies)
            rows.append(row | {"no_difference": alike(studies, values.std())})
    return pd.DataFrame(rows, columns=REAL)
