"""GPT-NeoX, Pythia's architecture, as `transformers` has it: the same numbers with less work.

Its layers are run by the functions below, which rotate queries and keys in three passes over memory where the library takes
a dozen, and whose last layer works only at the places that somebody reads: keys and values of the others are all that is
left of them by then. Weights, configuration and files stay the library's.
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


def with_less_work(network: nn.Module) -> nn.Module:
    """The network, its GPT-NeoX layers run by this module if it has any; not where its positions are of another kind."""
    if any(isinstance(m, GPTNeoXRotaryEmbedding) and m.rope_type != "default" for m in network.modules()):
        return network
    for module in network.modules():
        if isinstance(module, GPTNeoXRotaryEmbedding):
            module.forward = MethodType(_rotation, module)
        elif isinstance(module, GPTNeoXLayer):
            module.forward = MethodType(_layer, module)
    for module in network.modules():
        if isinstance(module, GPTNeoXPreTrainedModel) and hasattr(module, "layers"):
            module.layers[-1].forward = MethodType(_last_layer, module.layers[-1])
    return network


# ---------------------------------------------------------------------------------------------- rotary positions


@dataclass(frozen=True)
class Rotation:
    """What turns the first 2n numbers of each query and key, pairs (i, i + n) of them.

    A number becomes `same` times itself, plus `later` times the one n places on, plus `earlier` times the one n places back;
    where they are 0 nothing is read across the end of a row. Each is [1, T * H * 3 * head] where all rows have the same
    positions, so that memory is gone through in long runs, else [B, T, 1, 3 * head].
    """

    same: Tensor
    later: Tensor
    earlier: Tensor
    n: int

    def turn(self, qkv: Tensor, sign: float) -> Tensor:
        """[B, T, H, 3 * head] -> the same, turned by the positions' angles; back by them where `sign` is -1."""
        n, values = self.n, qkv.flatten(1) if self.same.dim() == 2 else qkv
        turned = values * self.same
        turned[..., :-n].addcmul_(values[..., n:], self.later[..., :-n], value=sign)
        turned[..., n:].addcmul_(values[..., :-n], self.earlier[..., n:], value=sign)
        return turned.view_as(qkv).to(qkv.dtype)


class _Turn(torch.autograd.Function):
    """A rotation's gradient is the rotation back, which reads nothing of the forward pass."""

    @staticmethod
    def forward(context: Any, qkv: Tensor, rotation: Rotation) -> Tensor:
        context.rotation = rotation
        return rotation.turn(qkv, 1.0)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return context.rotation.turn(gradient, -1.0), None


def _rotation(rotary: GPTNeoXRotaryEmbedding, x: Tensor, position_ids: Tensor) -> Rotation:
    """[1 or B, T] positions -> the rotation of all layers' queries and keys."""
    heads = rotary.config.num_attention_heads
    frequency, on, back = _of_numbers(rotary, x.device)
    angle = position_ids[:, :, None, None].float() * frequency  # 0 of numbers that are not turned
    same, sine = angle.cos(), angle.sin()
    parts = (same, sine * on, sine * back)
    if len(position_ids) == 1:
        parts = (each.expand(-1, -1, heads, -1).flatten(1) for each in parts)
    return Rotation(*parts, len(rotary.inv_freq))


def _of_numbers(rotary: GPTNeoXRotaryEmbedding, device: torch.device) -> Tensor:
    """[3, 3 * head]: of each number of one head's query, key and value, how fast it turns, and the sign of the sine with which
    the number n places on and the one n places back come in.
    """
    known = vars(rotary).get("of_numbers")
    if known is None or known.device != device:
        n, head = len(rotary.inv_freq), rotary.config.hidden_size // rotary.config.num_attention_heads
        known = torch.zeros(3, 3, head, device=device)
        known[0, :2, : 2 * n] = rotary.inv_freq.float().repeat(2).to(device)
        known[1, :2, :n], known[2, :2, n : 2 * n] = -1.0, 1.0
        known = rotary.of_numbers = known.flatten(1)
    return known


# ---------------------------------------------------------------------------------------------- layers


def _layer(layer: GPTNeoXLayer, hidden_states: Tensor, places: Places = EVERY, **inputs: Any) -> Tensor:
    """Every layer but the last needs every place: later ones read its keys and values."""
    return _last_layer(layer, hidden_states, **inputs)


def _last_layer(
    layer: GPTNeoXLayer, hidden_states: Tensor, places: Places = EVERY, position_ids: Any = None, **inputs: Any
) -> Tensor:
    """[B, T, D] -> [B, K, D]: the layer's output at these places."""
    if layer.gradient_checkpointing and layer.training:
        # The library makes the `forward` of a class compute activations again, which this one stands in front of.
        again = partial(_output, layer, places=places, **inputs | {"layer_past": None})
        return layer._gradient_checkpointing_func(again, hidden_states)
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
    """[B, T, D] -> [B, K, D]: what each of the places takes from those before it and in the cache."""
    qkv = attention.query_key_value(hidden_states)
    qkv = _Turn.apply(qkv.unflatten(-1, (-1, 3 * attention.head_size)), position_embeddings)
    query, key, value = qkv.unflatten(-1, (3, attention.head_size)).unbind(-2)  # [B, T, H, head] each
    query, key, value = at(query, places).transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if layer_past is not None:
        key, value = layer_past.update(key, value, attention.layer_idx)
    interface = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    mixed, _ = interface(
        attention,
        query,
        key,
        value,
        _mask_at(attention_mask, places, hidden_states.shape[1], key),
        scaling=attention.scaling,
        dropout=attention.attention_dropout if attention.training else 0.0,
        **kwargs,
    )
    return attention.dense(mixed.flatten(2))


def _mask_at(mask: Tensor | None, places: Places, tokens: int, key: Tensor) -> Tensor | None:
    """[B or 1, 1, T, T'] -> [B or 1, 1, K, T']: the mask's rows of these places of T tokens.

    No mask is a causal one, of a text's first tokens: a cache of fixed size may have room for more.
    """
    if isinstance(places, slice) and places == EVERY:
        return mask
    if mask is None:
        mask = torch.ones(1, 1, tokens, key.shape[2], dtype=torch.bool, device=key.device).tril()
    if isinstance(places, slice):
        return mask[:, :, places]
    return at(mask.expand(len(places), -1, -1, -1)[:, 0], places)[:, None]
