"""Position ids: column indices, or counted from the attention mask."""

from __future__ import annotations

from torch import nn

from repro.models.scalar_model import trunk_of


def implicit(network: nn.Module) -> nn.Module:
    """Positions are column indices, padding included, as in the paper's code: rotary attention depends on distances only."""
    return network


def from_mask(network: nn.Module) -> nn.Module:
    """Positions count tokens that are not padding, so that a text's first token has position 0 on either side of padding."""
    trunk_of(network).register_forward_pre_hook(_count_positions, with_kwargs=True)
    return network


def _count_positions(trunk: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Adds `position_ids` to the arguments of the trunk.

    With a KV cache the mask covers the whole text and the ids only its last tokens. A [B, 1, T, T] mask does not determine
    positions, so its caller passes them.
    """
    if kwargs["attention_mask"].dim() == 4:
        return args, kwargs
    ids = args[0] if args else kwargs["input_ids"]
    positions = (kwargs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return args, kwargs | {"position_ids": positions[:, -ids.shape[1] :]}


POSITION_IDS = {"implicit": implicit, "from_mask": from_mask}
