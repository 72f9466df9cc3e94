"""The two curves of Gao et al. 2022 (arXiv 2210.10760): gold score over d = sqrt(KL), fitted by least squares over seeds.

Both are linear in alpha and beta, R(d) = d alpha - b(d) beta, so least squares has a closed form, and a bootstrap that draws
seeds needs no more of each seed than the sums of its normal equations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000  # of the bootstrap
GENERATOR = 2210_10760  # the same numbers give the same page
LEVEL = 0.95

# (d, R) of one seed's points: d = sqrt(KL) in sqrt nats, R the gold score less the SFT policy's, in points.
Points = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Curve:
    """R(d) = alpha d - beta b(d): alpha in points per sqrt nat; at beta above 0 it has a peak and falls past it."""

    formula: str
    bend: Callable[[np.ndarray], np.ndarray]  # b
    peak: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (alpha, beta) -> d of the peak

    def at(self, d: np.ndarray | float, alpha: np.ndarray | float, beta: np.ndarray | float) -> np.ndarray:
        """R at each d [sqrt nats]; parameters of many resamples are columns, [resamples, 1]."""
        d = np.asarray(d, dtype=float)
        return alpha * d - beta * self.bend(d)


def _d_log_d(d: np.ndarray) -> np.ndarray:
    """d log d, continued by 0 at d = 0."""
    return d * np.log(np.where(d > 0, d, 1.0))


BEST_OF_N = Curve("d (α − β d)", np.square, lambda alpha, beta: alpha / (2 * beta))
RL = Curve("d (α − β log d)", _d_log_d, lambda alpha, beta: np.exp(alpha / beta - 1))


@dataclass(frozen=True)
class Fit:
    """A fitted curve: alpha and beta of all seeds, of each resample of them, and of each seed alone."""

    curve: Curve
    alpha: float
    beta: float
    resampled: np.ndarray  # [resamples, 2]
    each: np.ndarray  # [seeds, 2]; NaN where a seed has too few points

    def interval(self, parameter: int) -> tuple[float, float]:
        """The percentile interval of alpha (0) or beta (1), by bootstrap over seeds; NaN with fewer than two seeds."""
        return _percentiles(self.resampled[:, parameter])

    def band(self, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same interval of R at each d."""
        values = self.curve.at(d[None, :], self.resampled[:, :1], self.resampled[:, 1:])
        return _percentiles(values)

    def at(self, d: np.ndarray | float) -> np.ndarray:
        """R of the fitted curve at d."""
        return self.curve.at(d, self.alpha, self.beta)

    @property
    def peak(self) -> float:
        """The d at which the curve turns to fall; infinite where beta is not above 0."""
        with np.errstate(over="ignore"):
            return float(self.curve.peak(self.alpha, self.beta)) if self.beta > 0 else np.inf


def fit(curve: Curve, seeds: Sequence[Points], resamples: int = RESAMPLES) -> Fit:
    """Least squares over the points of all seeds, each point with the same weight, with a bootstrap that draws whole seeds.

    Alone, a seed is fitted where it has two points at different d above 0; all together need that as well.
    """
    normal = np.stack([_normal(curve, *points) for points in seeds])
    each = np.stack([_solved(equations) for equations in normal])
    drawn = np.random.default_rng(GENERATOR).integers(len(seeds), size=(resamples, len(seeds)))
    counts = np.stack([(drawn == seed).sum(1) for seed in range(len(seeds))], 1)
    resampled = np.stack([_solved(equations) for equations in np.tensordot(counts, normal, 1)])
    if len(seeds) < 2:
        resampled = np.full_like(resampled, np.nan)
    alpha, beta = _solved(normal.sum(0))
    return Fit(curve, float(alpha), float(beta), resampled, each)


def _normal(curve: Curve, d: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """[2, 3] the normal equations of one seed, X'X beside X'R, with X = (d, -b(d))."""
    design = np.stack([d, -curve.bend(d)], 1)
    return design.T @ np.column_stack([design, gold])


def _solved(equations: np.ndarray) -> np.ndarray:
    """(alpha, beta) of [2, 3] normal equations; NaN where they do not determine both."""
    square = equations[:, :2]
    if np.linalg.matrix_rank(square, tol=1e-9 * max(np.abs(square).max(), 1e-300), hermitian=True) < 2:
        return np.full(2, np.nan)
    return np.linalg.solve(square, equations[:, 2])


def _percentiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the middle 95 % along the first axis; resamples whose points do not determine the curve are left out."""
    tail = 100 * (1 - LEVEL) / 2
    known = values[np.isfinite(values).reshape(len(values), -1).all(1)]
    if not len(known):
        return np.full(values.shape[1:], np.nan)[()], np.full(values.shape[1:], np.nan)[()]
    return tuple(np.percentile(known, [tail, 100 - tail], axis=0))
