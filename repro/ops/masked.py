"""Reductions and whitening that take their mask: what stands in masked places, NaN included, changes no result.

`reduce` sums a tensor over all ranks; with `one_rank`, its default, nothing is exchanged.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from repro.types import PerToken, Scalar, TokenMask

Reduce = Callable[[Tensor], Tensor]
EPSILON = 1e-8  # beside the variance; the paper's code has it too


def one_rank(value: Tensor) -> Tensor:
    """The sum of `value` over a single rank: the tensor itself."""
    return value


def keep(values: Shaped[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """`values` where `mask` is true, 0 elsewhere; a multiplication by the mask would keep a NaN.

    Args:
        values: [*shape] of any dtype, which the result has too.
        mask: [*shape] true where a value counts.
    """
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], reduce: Reduce = one_rank) -> Scalar:
    """Mean over the true places of all ranks; 0 where there are none.

    sum_{i in mask} x_i / max(|mask|, 1)

    Args:
        values: [*shape] x.
        mask: [*shape] which of them count.
        reduce: sums over ranks.
    """
    total, count = reduce(torch.stack([keep(values, mask).sum(), mask.sum().to(values.dtype)]))
    return total / count.clamp(min=1)


def moments(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], reduce: Reduce = one_rank, correction: int = 0
) -> tuple[Scalar, Scalar]:
    """Mean and variance over the true places of all ranks.

    m = sum_{i in mask} x_i / |mask|,  v = sum_{i in mask} (x_i - m)^2 / max(|mask| - correction, 1)

    Args:
        values: [*shape] x.
        mask: [*shape] which of them count.
        reduce: sums over ranks.
        correction: 0 is the biased variance of the paper's code, 1 is Bessel's (TRL's).
    """
    centre = mean(values, mask, reduce)
    # Masked before the square: the gradient of a square is 0 times what stands there, and 0 times NaN is NaN.
    squares = keep(values - centre, mask) ** 2
    total, count = reduce(torch.stack([squares.sum(), mask.sum().to(values.dtype)]))
    return centre, total / (count - correction).clamp(min=1)


def whiten(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], reduce: Reduce = one_rank, correction: int = 0
) -> Float[Tensor, "*shape"]:
    """Values with mean 0 and variance 1 over the true places of all ranks; 0 elsewhere.

    (x - m) / sqrt(v + 1e-8)

    Arguments, m and v as in `moments`. Source: N+ detail 25. Departure: the paper's code takes the moments of each rank.
    """
    centre, variance = moments(values, mask, reduce, correction)
    return keep(values - centre, mask) * torch.rsqrt(variance + EPSILON)


def scale(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], reduce: Reduce = one_rank, correction: int = 0
) -> Float[Tensor, "*shape"]:
    """Values with variance 1 and their own mean over the true places of all ranks; 0 elsewhere.

    (x - m) / sqrt(v + 1e-8) + m

    Arguments, m and v as in `moments`. Source: N+ detail 24, `whiten(..., shift_mean=False)` in the code. Departure: the
    paper's code takes the moments of each rank.
    """
    centre, variance = moments(values, mask, reduce, correction)
    return keep(keep(values - centre, mask) * torch.rsqrt(variance + EPSILON) + centre, mask)


def unchanged(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], reduce: Reduce = one_rank, correction: int = 0
) -> Float[Tensor, "*shape"]:
    """Values as they are on true places; 0 elsewhere.

    Stands where `whiten` may, so it takes the same arguments; `reduce` and `correction` are not read.
    """
    return keep(values, mask)


Whiten = Callable[..., Tensor]  # whiten, scale, unchanged


def over_batch(whiten: Whiten, values: PerToken, mask: TokenMask, reduce: Reduce = one_rank) -> PerToken:
    """Whitened by the moments of the whole batch, over all ranks.

    Args:
        whiten: `whiten`, `scale` or `unchanged`.
        values: [episodes, tokens] of this rank.
        mask: [episodes, tokens] which of them count.
        reduce: sums over ranks.

    Departure: N+ code is `over_rank`, which depends on how many ranks there are.
    """
    return whiten(values, mask, reduce)


def over_rank(whiten: Whiten, values: PerToken, mask: TokenMask) -> PerToken:
    """Whitened by the moments of this rank's episodes.

    Arguments as in `over_batch`. Source: N+ code.
    """
    return whiten(values, mask, one_rank)


def over_micro_batch(whiten: Whiten, values: PerToken, mask: TokenMask, micro_batch: int) -> PerToken:
    """Whitened by the moments of each micro-batch of this rank.

    Args:
        whiten: `whiten`, `scale` or `unchanged`.
        values: [episodes, tokens] in the order in which the episodes were sampled.
        mask: [episodes, tokens] which of them count.
        micro_batch: episodes of each; the last may have fewer.

    Source: N+ blog, on whitening.
    """
    parts = zip(values.split(micro_batch), mask.split(micro_batch))
    return torch.cat([whiten(some, where, one_rank) for some, where in parts])
