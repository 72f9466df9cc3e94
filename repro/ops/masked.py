"""Reductions that take their mask: what stands in masked places, NaN included, changes no result."""

from collections.abc import Callable

import torch
from torch import Tensor

# Sums a tensor over all ranks; on one rank it is the identity.
Reduce = Callable[[Tensor], Tensor]
EPSILON = 1e-8


def one_rank(value: Tensor) -> Tensor:
    """The reduction over a single rank: the tensor itself."""
    return value


def keep(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where `mask` is true, 0 elsewhere; a NaN there is gone, where a multiplication would keep it."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def mean(values: Tensor, mask: Tensor, reduce: Reduce = one_rank) -> Tensor:
    """Mean over true places, over all ranks; 0 where there are none."""
    total, count = reduce(torch.stack([keep(values, mask).sum(), mask.sum().to(values.dtype)]))
    return total / count.clamp(min=1)


def moments(values: Tensor, mask: Tensor, reduce: Reduce = one_rank) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over true places, over all ranks (N+ code: no Bessel correction)."""
    centre = mean(values, mask, reduce)
    # Masked before the square: the gradient of a square is 0 times what stands there, and 0 times NaN is NaN.
    return centre, mean(keep(values - centre, mask) ** 2, mask, reduce)


def whiten(values: Tensor, mask: Tensor, reduce: Reduce = one_rank) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-8) over true places (N+ detail 25); 0 elsewhere."""
    centre, variance = moments(values, mask, reduce)
    return keep(values - centre, mask) * torch.rsqrt(variance + EPSILON)


def scale(values: Tensor, mask: Tensor, reduce: Reduce = one_rank) -> Tensor:
    """As `whiten`, with the mean added back (N+ detail 24: `shift_mean=False`); 0 elsewhere."""
    centre, variance = moments(values, mask, reduce)
    return keep(keep(values - centre, mask) * torch.rsqrt(variance + EPSILON) + centre, mask)


def unchanged(values: Tensor, mask: Tensor, reduce: Reduce = one_rank) -> Tensor:
    """`values` on true places, 0 elsewhere."""
    return keep(values, mask)
