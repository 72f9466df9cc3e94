"""Two texts that begin alike as one row: the beginning is read once, and the two endings do not see each other."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Branches:
    """B rows of P beginning, left-padded, and then of C and R endings, each right-padded; T = P + C + R.

    A causal model says of each ending's tokens what it says of them in a text of their own, to rounding.
    """

    ids: Tensor  # [B, T]
    mask: Tensor  # [B, 1, T, T] bool: which places each one attends to
    positions: Tensor  # [1, T]: both endings go on where the beginning stops
    last: Tensor  # [B, 2] place of the last token of either text


def joinable(first: Tensor, second: Tensor, pad: int) -> bool:
    """Whether [B, T] texts can be joined: padded on the right alone, so that what begins alike stands at the same places."""
    return first.shape == second.shape and all(_begins_and_goes_on(ids != pad) for ids in (first, second))


def _begins_and_goes_on(is_token: Tensor) -> bool:
    """[B, T] -> whether each row is tokens from its first place on, and then padding: where padding is the end of text, a
    text may have one within.
    """
    return bool(is_token[:, 0].all() & (is_token[:, :-1] | ~is_token[:, 1:]).all())


def join(first: Tensor, second: Tensor, endings: tuple[Tensor, Tensor], pad: int) -> Branches:
    """[B, T] right-padded texts twice, and how many tokens of each [B] are at least its ending."""
    lengths = [(ids != pad).sum(1) for ids in (first, second)]
    alike = (first == second).long().cumprod(1).sum(1)
    start = torch.stack([alike, *(length - ending for length, ending in zip(lengths, endings))]).amin(0).clamp(min=0)
    begun = _columns(first, start - start.max(), int(start.max()), start, pad)
    ends = [
        _columns(ids, start, int((length - start).max()), length, pad) for ids, length in zip((first, second), lengths)
    ]
    ids, widths = torch.cat([begun, *ends], 1), [begun.shape[1], *(end.shape[1] for end in ends)]
    last = [begun.shape[1] + length - start - 1 for length in lengths]
    last[1] = torch.where(lengths[1] > start, last[1] + widths[1], begun.shape[1] - 1)
    return Branches(ids, _mask(ids != pad, *widths), _positions(*widths, ids.device), torch.stack(last, 1))


def _columns(ids: Tensor, start: Tensor, width: int, end: Tensor, pad: int) -> Tensor:
    """[B, T], [B] -> [B, width]: each row's tokens from its `start` on, padding where there are none before its `end`."""
    index = start[:, None] + torch.arange(width, device=ids.device)
    inside = (index >= 0) & (index < end[:, None])
    return torch.where(inside, ids.gather(1, index.clamp(0, ids.shape[1] - 1)), pad)


def _mask(is_token: Tensor, begun: int, first: int, second: int) -> Tensor:
    """[B, T] bool -> [B, 1, T, T]: causal, the second ending blind to the first, padding seen by itself alone."""
    total = begun + first + second
    allowed = torch.ones(total, total, dtype=torch.bool, device=is_token.device).tril()
    allowed[begun + first :, begun : begun + first] = False
    # A row that saw nothing would be 0/0.
    itself = torch.eye(total, dtype=torch.bool, device=is_token.device)
    return ((allowed & is_token[:, None]) | itself)[:, None]


def _positions(begun: int, first: int, second: int, device: torch.device) -> Tensor:
    """-> [1, T]"""
    starts = ((0, begun), (begun, first), (begun, second))
    return torch.cat([torch.arange(start, start + width, device=device) for start, width in starts])[None]
