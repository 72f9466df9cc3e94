"""Places of a text: which columns of each row somebody reads."""

import torch
from torch import Tensor

# A slice, which is the same of all rows, or [B, K] indices.
Places = slice | Tensor
EVERY = slice(None)


def at(values: Tensor, places: Places) -> Tensor:
    """[B, T, ...] -> [B, K, ...]: the values at these places of each row."""
    if isinstance(places, slice):
        return values[:, places]
    index = places.reshape(*places.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(*places.shape, *values.shape[2:]))


def last(count: int) -> slice:
    """The last `count` places of each row."""
    return slice(-count, None)


def last_true(flags: Tensor) -> Tensor:
    """[B, T] bool -> [B, 1]: the last place of each row at which it is true; 0 where there is none."""
    index = torch.arange(flags.shape[1], device=flags.device)
    return torch.where(flags, index, 0).amax(1, keepdim=True)
