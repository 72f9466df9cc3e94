"""Position ids: each column's number, or counted from the attention mask."""

from __future__ import annotations

from torch import nn

from repro.models.scalar_model import trunk_of


def implicit(network: nn.Module) -> nn.Module:
    """Positions count columns, padding included: with rotary positions only distances matter (the paper's code)."""
    return network


def from_mask(network: nn.Module) -> nn.Module:
    """Positions count the tokens that are not padding, so that a text's first is 0 on whichever side it is padded."""
    trunk_of(network).register_forward_pre_hook(_count_positions, with_kwargs=True)
    return network


def _count_positions(trunk: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Of a cached step the mask covers the whole text and the ids its last tokens. A mask of every place's own [B, 1, T, T]
    says nothing of positions, and whoever gives it gives them too.
    """
    if kwargs["attention_mask"].dim() == 4:
        return args, kwargs
    ids = args[0] if args else kwargs["input_ids"]
    positions = (kwargs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return args, kwargs | {"position_ids": positions[:, -ids.shape[1] :]}


POSITION_IDS = {"implicit": implicit, "from_mask": from_mask}
