"""Two texts that begin alike as one row: the beginning is read once, and the two endings do not see each other."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Texts = Int[Tensor, "rows width"]
Lengths = Int[Tensor, " rows"]


@dataclass(frozen=True)
class Branches:
    """Rows of a beginning, left-padded, and then of two endings, each right-padded: what a model's forward pass is given.

    A causal model says of each ending's tokens what it says of them in a text of their own, to rounding.
    """

    ids: Int[Tensor, "rows columns"]
    mask: Bool[Tensor, "rows 1 columns columns"]  # which places each one attends to
    positions: Int[Tensor, "1 columns"]  # both endings go on where the beginning stops
    last: Int[Tensor, "rows 2"]  # place of the last token of either text


def joinable(first: Int[Tensor, "_ _"], second: Int[Tensor, "_ _"], pad: int) -> bool:
    """Whether texts can be joined: of one shape, and padded on the right alone.

    Then what begins alike stands at the same places.

    Args:
        first: [rows, width] ids.
        second: [rows, width] ids; of another shape, nothing can be joined.
        pad: id of padding.
    """
    return first.shape == second.shape and all(_begins_and_goes_on(ids != pad) for ids in (first, second))


def _begins_and_goes_on(is_token: Bool[Tensor, "rows width"]) -> bool:
    """Whether each row is tokens from its first place on, and then padding.

    Where padding is the end of text, a text may have one within.
    """
    return bool(is_token[:, 0].all() & (is_token[:, :-1] | ~is_token[:, 1:]).all())


def join(first: Texts, second: Texts, endings: tuple[Lengths, Lengths], pad: int) -> Branches:
    """Each row's two texts as one: what both begin with, as far as their endings allow, and then both endings.

    Args:
        first: [rows, width] ids, right-padded (`joinable`).
        second: [rows, width] the same.
        endings: [rows] twice, how many of each text's tokens are at least its ending: those of the response.
        pad: id of padding.
    """
    lengths = [(ids != pad).sum(1) for ids in (first, second)]
    alike = (first == second).long().cumprod(1).sum(1)
    start = torch.stack([alike, *(length - ending for length, ending in zip(lengths, endings))]).amin(0).clamp(min=0)
    begun = _columns(first, start - start.max(), int(start.max()), start, pad)
    ends = [
        _columns(ids, start, int((length - start).max()), length, pad) for ids, length in zip((first, second), lengths)
    ]
    ids, widths = torch.cat([begun, *ends], 1), (begun.shape[1], ends[0].shape[1], ends[1].shape[1])
    last = [begun.shape[1] + length - start - 1 for length in lengths]
    last[1] = torch.where(lengths[1] > start, last[1] + widths[1], begun.shape[1] - 1)
    return Branches(ids, _mask(ids != pad, *widths), _positions(*widths, ids.device), torch.stack(last, 1))


def _columns(ids: Texts, start: Lengths, width: int, end: Lengths, pad: int) -> Int[Tensor, "rows {width}"]:
    """Each row's tokens from its `start` on, padding where there are none before its `end`."""
    index = start[:, None] + torch.arange(width, device=ids.device)
    inside = (index >= 0) & (index < end[:, None])
    return torch.where(inside, ids.gather(1, index.clamp(0, ids.shape[1] - 1)), pad)


def _mask(
    is_token: Bool[Tensor, "rows columns"], begun: int, first: int, second: int
) -> Bool[Tensor, "rows 1 columns columns"]:
    """Causal, the second ending blind to the first, padding seen by itself alone."""
    total = begun + first + second
    allowed = torch.ones(total, total, dtype=torch.bool, device=is_token.device).tril()
    allowed[begun + first :, begun : begun + first] = False
    # A row that saw nothing would be 0/0.
    itself = torch.eye(total, dtype=torch.bool, device=is_token.device)
    return ((allowed & is_token[:, None]) | itself)[:, None]


def _positions(begun: int, first: int, second: int, device: torch.device) -> Int[Tensor, "1 {begun+first+second}"]:
    """The position of each column: both endings go on where the beginning stops."""
    starts = ((0, begun), (begun, first), (begun, second))
    return torch.cat([torch.arange(start, start + width, device=device) for start, width in starts])[None]
