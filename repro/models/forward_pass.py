"""Arguments of a forward pass: token ids, their attention mask, and the places whose output is read (`ops/places.py`)."""

from __future__ import annotations

from torch import Tensor, nn

from repro.ops.places import EVERY, Places

QUERY_MASKED = ("sdpa", "eager")  # attention with a mask row per query, so that it can run for some places only


def model_inputs(ids: Tensor, pad: int) -> dict[str, Tensor]:
    """[B, T] token ids -> `input_ids` with padding replaced by token 0, and `attention_mask` without it."""
    mask = ids != pad
    return {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask.long()}


def places_kwargs(network: nn.Module, places: Places) -> dict[str, Places]:
    """The keyword argument `places` for a network whose forward pass takes it (`models/neox.py`); else nothing."""
    config = network.config
    plain = config.model_type == "gpt_neox" and config.rope_parameters["rope_type"] == "default"
    return {"places": places} if plain and config._attn_implementation in QUERY_MASKED else {}


def supports_branches(trunk: nn.Module) -> bool:
    """Whether a network takes position ids and a [B, 1, T, T] mask, as two texts with one prefix need (`ops/branch.py`)."""
    return bool(places_kwargs(trunk, EVERY)) and trunk.config._attn_implementation == "sdpa"
