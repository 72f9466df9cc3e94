"""Places of a text: which columns of each row are read.

`Places` is a slice, which is the same of all rows, or [rows, places] indices, which are each row's own.
"""

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

Places = slice | Int[Tensor, "rows places"]
EVERY = slice(None)


def at(values: Shaped[Tensor, "rows columns *rest"], places: Places) -> Shaped[Tensor, "rows places *rest"]:
    """The values at these places of each row; a place may be read twice.

    y_{b, k} = x_{b, places_{b, k}}

    Args:
        values: [rows, columns, *rest] x.
        places: a slice of the columns, or [rows, places] indices of them.
    """
    if isinstance(places, slice):
        return values[:, places]
    index = places.reshape(*places.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(*places.shape, *values.shape[2:]))


def last(count: int) -> slice:
    """The last `count` places of each row, at least 1."""
    return slice(-count, None)


def last_true(flags: Bool[Tensor, "rows columns"]) -> Int[Tensor, "rows 1"]:
    """Index of the last true place of each row; 0 where there is none.

    max {t : flags_t}

    Args:
        flags: [rows, columns]; of which are tokens, for instance, to find each text's last (N+ detail 12).
    """
    index = torch.arange(flags.shape[1], device=flags.device)
    return torch.where(flags, index, 0).amax(1, keepdim=True)
