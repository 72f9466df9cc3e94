"""A faster forward pass of GPT-NeoX, Pythia's architecture in `transformers`, with the same outputs.

The functions below replace `forward` of its layers. They rotate queries and keys in three passes over memory instead of a
dozen. The last layer runs only at the places whose output is read; at the others only its keys and values are needed.
Weights, configuration and files stay the library's.
"""

from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPTNeoXPreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt_neox.modeling_gpt_neox import (
    GPTNeoXAttention,
    GPTNeoXLayer,
    GPTNeoXRotaryEmbedding,
    eager_attention_forward,
)

from repro.ops.places import EVERY, Places, at


def patch_layers(network: nn.Module) -> nn.Module:
    """The network, its GPT-NeoX layers (if any) run by this module; unchanged where rotary embeddings are of another kind."""
    if any(isinstance(m, GPTNeoXRotaryEmbedding) and m.rope_type != "default" for m in network.modules()):
        return network
    for module in network.modules():
        if isinstance(module, GPTNeoXRotaryEmbedding):
            module.forward = MethodType(_rotary_forward, module)
        elif isinstance(module, GPTNeoXLayer):
            module.forward = MethodType(_layer_forward, module)
    for module in network.modules():
        if isinstance(module, GPTNeoXPreTrainedModel) and hasattr(module, "layers"):
            module.layers[-1].forward = MethodType(_last_layer_forward, module.layers[-1])
    return network


# ---------------------------------------------------------------------------------------------- rotary positions


@dataclass(frozen=True)
class Rotation:
    """The rotation of the first 2n elements of each query and key, as n pairs (i, i + n).

    x'[i] = cosine[i] x[i] + sine_next[i] x[i + n] + sine_previous[i] x[i - n]. A sine is 0 where its element is not rotated
    or would lie beyond the head. Each is [1, T * H * 3 * head] where all rows have the same positions, so that memory is read
    in long runs, else [B, T, 1, 3 * head].
    """

    cosine: Tensor
    sine_next: Tensor
    sine_previous: Tensor
    n: int

    def apply(self, qkv: Tensor, sign: float) -> Tensor:
        """[B, T, H, 3 * head] -> the same, rotated by the positions' angles times `sign`."""
        n, values = self.n, qkv.flatten(1) if self.cosine.dim() == 2 else qkv
        rotated = values * self.cosine
        rotated[..., :-n].addcmul_(values[..., n:], self.sine_next[..., :-n], value=sign)
        rotated[..., n:].addcmul_(values[..., :-n], self.sine_previous[..., n:], value=sign)
        return rotated.view_as(qkv).to(qkv.dtype)


class _Rotate(torch.autograd.Function):
    """The gradient is the inverse rotation, which needs nothing saved from the forward pass."""

    @staticmethod
    def forward(context: Any, qkv: Tensor, rotation: Rotation) -> Tensor:
        context.rotation = rotation
        return rotation.apply(qkv, 1.0)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return context.rotation.apply(gradient, -1.0), None


def _rotary_forward(rotary: GPTNeoXRotaryEmbedding, x: Tensor, position_ids: Tensor) -> Rotation:
    """[1 or B, T] positions -> the rotation of queries and keys in all layers."""
    heads = rotary.config.num_attention_heads
    frequency, sign_next, sign_previous = _element_constants(rotary, x.device)
    angle = position_ids[:, :, None, None].float() * frequency  # 0 for elements that are not rotated
    cosine, sine = angle.cos(), angle.sin()
    sine_next, sine_previous = sine * sign_next, sine * sign_previous
    if len(position_ids) == 1:
        cosine, sine_next, sine_previous = (
            each.expand(-1, -1, heads, -1).flatten(1) for each in (cosine, sine_next, sine_previous)
        )
    return Rotation(cosine, sine_next, sine_previous, len(rotary.inv_freq))


def _element_constants(rotary: GPTNeoXRotaryEmbedding, device: torch.device) -> Tensor:
    """[3, 3 * head]: of each element of one head's query, key and value its frequency, and the signs of its two sines.

    Cached on the module.
    """
    constants = vars(rotary).get("element_constants")
    if constants is None or constants.device != device:
        n, head = len(rotary.inv_freq), rotary.config.hidden_size // rotary.config.num_attention_heads
        constants = torch.zeros(3, 3, head, device=device)
        constants[0, :2, : 2 * n] = rotary.inv_freq.float().repeat(2).to(device)
        constants[1, :2, :n], constants[2, :2, n : 2 * n] = -1.0, 1.0
        constants = rotary.element_constants = constants.flatten(1)
    return constants


# ---------------------------------------------------------------------------------------------- layers


def _layer_forward(layer: GPTNeoXLayer, hidden_states: Tensor, places: Places = EVERY, **inputs: Any) -> Tensor:
    """A layer before the last: it computes every place, since later layers need its keys and values."""
    return _last_layer_forward(layer, hidden_states, **inputs)


def _last_layer_forward(
    layer: GPTNeoXLayer, hidden_states: Tensor, places: Places = EVERY, position_ids: Any = None, **inputs: Any
) -> Tensor:
    """[B, T, D] -> [B, K, D]: the layer's output at these places."""
    if layer.gradient_checkpointing and layer.training:
        # The library's activation checkpointing wraps the `forward` of the class, which this one replaces.
        recompute = partial(_output, layer, places=places, **inputs | {"layer_past": None})
        return layer._gradient_checkpointing_func(recompute, hidden_states)
    return _output(layer, hidden_states, places, **inputs)


def _output(layer: GPTNeoXLayer, hidden_states: Tensor, places: Places, **inputs: Any) -> Tensor:
    attended = _attend(layer.attention, layer.input_layernorm(hidden_states), places, **inputs)
    attended, hidden_states = layer.post_attention_dropout(attended), at(hidden_states, places)
    if layer.use_parallel_residual:
        return (
            layer.post_mlp_dropout(layer.mlp(layer.post_attention_layernorm(hidden_states))) + attended + hidden_states
        )
    hidden_states = attended + hidden_states
    return layer.post_mlp_dropout(layer.mlp(layer.post_attention_layernorm(hidden_states))) + hidden_states


def _attend(
    attention: GPTNeoXAttention,
    hidden_states: Tensor,
    places: Places,
    attention_mask: Tensor | None = None,
    position_embeddings: Rotation | None = None,
    layer_past: Any = None,
    use_cache: Any = None,
    **kwargs: Any,
) -> Tensor:
    """[B, T, D] -> [B, K, D]: attention output at K places, over the positions up to each and those in the cache."""
    qkv = attention.query_key_value(hidden_states)
    qkv = _Rotate.apply(qkv.unflatten(-1, (-1, 3 * attention.head_size)), position_embeddings)
    query, key, value = qkv.unflatten(-1, (3, attention.head_size)).unbind(-2)  # [B, T, H, head] each
    query, key, value = at(query, places).transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if layer_past is not None:
        key, value = layer_past.update(key, value, attention.layer_idx)
    interface = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    attended, _ = interface(
        attention,
        query,
        key,
        value,
        _mask_at(attention_mask, places, hidden_states.shape[1], key),
        scaling=attention.scaling,
        dropout=attention.attention_dropout if attention.training else 0.0,
        **kwargs,
    )
    return attention.dense(attended.flatten(2))


def _mask_at(mask: Tensor | None, places: Places, tokens: int, key: Tensor) -> Tensor | None:
    """[B or 1, 1, T, T'] -> [B or 1, 1, K, T']: the rows of the mask at these places.

    No mask means a causal one over the first T of T' positions, since a cache of fixed size may have more columns.
    """
    if isinstance(places, slice) and places == EVERY:
        return mask
    if mask is None:
        mask = torch.ones(1, 1, tokens, key.shape[2], dtype=torch.bool, device=key.device).tril()
    if isinstance(places, slice):
        return mask[:, :, places]
    return at(mask.expand(len(places), -1, -1, -1)[:, 0], places)[:, None]
