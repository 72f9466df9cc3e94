"""Keys and values in tensors that stay where they are, for `generate.static`.

A module of its own, since it extends a class of `transformers`, which nobody has to wait for who does not sample.
"""

from torch import Tensor
from transformers import Cache, StaticLayer


class Layer(StaticLayer):
    """One layer's keys and values in one precision: under autocast rotary positions leave keys in float32."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)


def static_cache(layers: int, columns: int) -> Cache:
    """An empty cache with room for so many tokens."""
    return Cache(layers=[Layer(columns) for _ in range(layers)])
