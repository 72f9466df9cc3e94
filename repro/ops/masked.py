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


def moments(values: Tensor, mask: Tensor, reduce: Reduce = one_rank, correction: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance over true places, over all ranks; the sum of squares is divided by count - correction.

    Correction 0 is the biased variance of the paper's code, 1 is Bessel's (TRL's).
    """
    centre = mean(values, mask, reduce)
    # Masked before the square: the gradient of a square is 0 times what stands there, and 0 times NaN is NaN.
    squares = keep(values - centre, mask) ** 2
    total, count = reduce(torch.stack([squares.sum(), mask.sum().to(values.dtype)]))
    return centre, total / (count - correction).clamp(min=1)


def whiten(values: Tensor, mask: Tensor, reduce: Reduce = one_rank, correction: int = 0) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-8) over true places (N+ detail 25); 0 elsewhere."""
    centre, variance = moments(values, mask, reduce, correction)
    return keep(values - centre, mask) * torch.rsqrt(variance + EPSILON)


def scale(values: Tensor, mask: Tensor, reduce: Reduce = one_rank, correction: int = 0) -> Tensor:
    """As `whiten`, with the mean added back (N+ detail 24: `shift_mean=False`); 0 elsewhere."""
    centre, variance = moments(values, mask, reduce, correction)
    return keep(keep(values - centre, mask) * torch.rsqrt(variance + EPSILON) + centre, mask)


def unchanged(values: Tensor, mask: Tensor, reduce: Reduce = one_rank, correction: int = 0) -> Tensor:
    """`values` on true places, 0 elsewhere."""
    return keep(values, mask)


Whiten = Callable[..., Tensor]  # (values, mask, reduce), and by its name the correction of the variance -> values


def over_batch(whiten: Whiten, values: Tensor, mask: Tensor, micro_batch: int, reduce: Reduce) -> Tensor:
    """The moments are those of the whole batch, over all ranks."""
    return whiten(values, mask, reduce)


def over_rank(whiten: Whiten, values: Tensor, mask: Tensor, micro_batch: int, reduce: Reduce) -> Tensor:
    """The moments are those of this rank's episodes, as in the paper's code."""
    return whiten(values, mask, one_rank)


def over_micro_batch(whiten: Whiten, values: Tensor, mask: Tensor, micro_batch: int, reduce: Reduce) -> Tensor:
    """The moments are those of `micro_batch` episodes, in the order in which they were sampled."""
    parts = zip(values.split(micro_batch), mask.split(micro_batch))
    return torch.cat([whiten(some, where, one_rank) for some, where in parts])
