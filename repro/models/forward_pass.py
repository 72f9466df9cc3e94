"""Arguments of a forward pass: token ids behind their attention mask, and the places that are read where it can be told."""

from __future__ import annotations

from torch import Tensor, nn

from repro.ops.places import EVERY, Places

NARROWED = ("sdpa", "eager")  # attention whose mask has a row for each query: it can be asked about some places alone


def model_inputs(ids: Tensor, pad: int) -> dict[str, Tensor]:
    """[B, T] token ids -> the arguments of a forward pass: padding is masked and replaced by token 0."""
    mask = ids != pad
    return {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask.long()}


def places_kwargs(network: nn.Module, places: Places) -> dict[str, Places]:
    """The argument by which a network's forward pass is told which places are read, where it can be told."""
    config = network.config
    plain = config.model_type == "gpt_neox" and config.rope_parameters["rope_type"] == "default"
    return {"places": places} if plain and config._attn_implementation in NARROWED else {}


def supports_branches(trunk: nn.Module) -> bool:
    """Whether a network takes positions and a mask of its own for each place: it does where it can be told places."""
    return bool(places_kwargs(trunk, EVERY)) and trunk.config._attn_implementation == "sdpa"
