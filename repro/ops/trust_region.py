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
TOLERANCE = 1e-10  # squared length of what is left to solve, as a share of that of the target


@dataclass(frozen=True)
class TrustRegion:
    """How far a step goes, in nats per token of KL(old, new), and how it is found."""

    radius: float
    damping: float
    iterations: int
    factor: float  # from one try of the line search to the next
    most: int  # tries of the line search


ANYWHERE = TrustRegion(radius=math.inf, damping=0.0, iterations=0, factor=1.0, most=0)


def as_chosen(chosen: Objective) -> Objective:
    """The objective that the recipe chooses: `chosen`."""
    return chosen


def of_its_own(chosen: Objective, own: Objective) -> Objective:
    """An objective that goes with the step: `own`, whatever the recipe chooses.

    `chosen` is not read.
    """
    return own


@dataclass(frozen=True)
class Step:
    """How an optimizer step moves the policy: the name of a step, the policy's objective beside it, and its region.

    `objective` maps the objective that the recipe chooses to the one that the policy has.
    """

    kind: str
    objective: Callable[[Objective], Objective] = as_chosen
    region: TrustRegion = ANYWHERE


def conjugate_gradient(
    fisher: Callable[[PerWeight], PerWeight], target: PerWeight, damping: float, iterations: int
) -> PerWeight:
    """The x that solves a system of equations whose matrix is known by its products alone, after so many iterations.

    (F + damping I) x = b

    It is exact after as many iterations as the matrix has different eigenvalues, and ends early where nothing is left to
    solve. A target of zeros gives zeros.

    Args:
        fisher: v -> F v, both [weights]; F symmetric, without negative eigenvalues.
        target: [weights] b.
        damping: not negative; towards infinity, x is the target over the damping.
        iterations: at most so many, a product each.

    Source: Hestenes and Stiefel 1952; TRPO (Schulman et al. 2015, arXiv 1502.05477, appendix C.1). Departure: the damping is
    not in the paper; its authors' code has 0.1.
    """
    solution, left, along = torch.zeros_like(target), target.clone(), target.clone()
    length = left @ left
    enough = TOLERANCE * length
    for _ in range(iterations):
        product = fisher(along) + damping * along
        curvature = along @ product
        if length <= enough or curvature <= 0:  # by rounding, where there is no damping
            break
        solution += length / curvature * along
        left -= length / curvature * product
        before, length = length, left @ left
        along = left + length / before * along
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


def backtrack(measure: Callable[[float], tuple[float, float]], radius: float, factor: float, most: int) -> float:
    """The largest fraction of a step that lowers the loss and stays within the radius; 0 where none of those tried does.

    max {f in 1, factor, factor^2, ... : loss(f) - loss(0) < 0 and KL(f) <= radius}

    Args:
        measure: a fraction f -> the change of the loss, and the KL in nats per token. What is no number is no success.
        radius: in nats per token.
        factor: from one fraction to the next, between 0 and 1.
        most: fractions that are tried.

    Source: TRPO (Schulman et al. 2015, appendix C).
    """
    for fraction in (factor**number for number in range(most)):
        change, kl = measure(fraction)
        if change < 0 and kl <= radius and math.isfinite(change):
            return fraction
    return 0.0
