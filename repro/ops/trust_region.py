"""A step of set length in KL: the natural gradient by conjugate gradient, its scale, and the search along it (TRPO)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repro.ops.loss import Objective
from repro.types import Scalar

PerWeight = Float[Tensor, " weights"]
TOLERANCE = 1e-10  # |residual|^2 at which conjugate gradient stops, as a share of |target|^2


@dataclass(frozen=True)
class TrustRegion:
    """How far a step goes, and how it is found."""

    radius: float  # delta, the largest mean KL(old, new) of a step, in nats per token
    damping: float
    cg_iterations: int  # of conjugate gradient
    backtrack_ratio: float  # from one fraction that the line search tries to the next
    max_backtracks: int  # fractions that it tries


ANYWHERE = TrustRegion(radius=math.inf, damping=0.0, cg_iterations=0, backtrack_ratio=1.0, max_backtracks=0)


@dataclass(frozen=True)
class Step:
    """How an optimizer step moves the policy: the name of a step, the objective that it needs in place of the recipe's, if
    any, and its region.
    """

    kind: str
    objective: Objective | None = None
    region: TrustRegion = ANYWHERE


def conjugate_gradient(
    fisher_vector_product: Callable[[PerWeight], PerWeight], target: PerWeight, damping: float, iterations: int
) -> PerWeight:
    """The x that solves a system of equations whose matrix is known by its products alone, after so many iterations.

    (F + damping I) x = b

    It is exact after as many iterations as the matrix has different eigenvalues, and ends early where nothing is left to
    solve. A target of zeros gives zeros.

    Args:
        fisher_vector_product: v -> F v, both [weights]; F symmetric, without negative eigenvalues.
        target: [weights] b.
        damping: not negative; towards infinity, x is the target over the damping.
        iterations: at most so many, a product each.

    Source: Hestenes and Stiefel 1952; TRPO (Schulman et al. 2015, arXiv 1502.05477, appendix C.1). Departure: the damping is
    not in the paper; its authors' code has 0.1.
    """
    solution, residual, direction = torch.zeros_like(target), target.clone(), target.clone()
    residual_sq = residual @ residual
    tolerance = TOLERANCE * residual_sq
    for _ in range(iterations):
        product = fisher_vector_product(direction) + damping * direction
        curvature = direction @ product
        if residual_sq <= tolerance or curvature <= 0:  # by rounding, where there is no damping
            break
        solution += residual_sq / curvature * direction
        residual -= residual_sq / curvature * product
        previous_sq, residual_sq = residual_sq, residual @ residual
        direction = residual + residual_sq / previous_sq * direction
    return solution


def step_scale(direction: PerWeight, product: PerWeight, radius: float) -> Scalar:
    """The factor at which a direction reaches the radius, as far as the KL is a parabola; 0 where it is flat.

    sqrt(2 radius / x^T F x)

    Args:
        direction: [weights] x.
        product: [weights] F x, without damping.
        radius: in nats per token.

    Source: TRPO (Schulman et al. 2015, appendix C). Departure: in the authors' code the product is damped, so that a step is
    shorter than the radius.
    """
    curvature = direction @ product
    return torch.where(curvature > 0, (2 * radius / curvature).sqrt(), 0.0)


def backtrack(
    measure: Callable[[float], tuple[float, float]], radius: float, backtrack_ratio: float, max_backtracks: int
) -> float:
    """The largest fraction of a step that lowers the loss and stays within the radius; 0 where none of those tried does.

    max {f in 1, ratio, ratio^2, ... : loss(f) - loss(0) < 0 and KL(f) <= radius}

    Args:
        measure: a fraction f -> the change of the loss, and the KL in nats per token. What is no number is no success.
        radius: in nats per token.
        backtrack_ratio: from one fraction to the next, between 0 and 1.
        max_backtracks: fractions that are tried.

    Source: TRPO (Schulman et al. 2015, appendix C).
    """
    for fraction in (backtrack_ratio**number for number in range(max_backtracks)):
        change, kl = measure(fraction)
        if change < 0 and kl <= radius and math.isfinite(change):
            return fraction
    return 0.0
