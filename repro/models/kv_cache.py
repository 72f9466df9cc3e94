"""Keys and values of the tokens so far, in memory that is set aside once: for `generate.eager` and `generate.static`.

A module of its own, since it extends classes of `transformers`, which nobody has to wait for who does not sample.
"""

from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache, PretrainedConfig, StaticLayer
from transformers.cache_utils import DynamicLayer


class Fixed(StaticLayer):
    """One layer's keys and values in one precision: under autocast rotary positions leave keys in float32."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)


class Growing(DynamicLayer):
    """One layer's keys and values, of the tokens so far: the library's layer copies all of them at every token."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """[B, H, T, head] more of each -> [B, H, all so far, head], views of what has room for `columns` of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            shape = (*key_states.shape[:2], self.columns, key_states.shape[3])
            self.room = key_states.new_empty(shape), value_states.new_empty(shape)
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        for room, states in zip(self.room, (key_states, value_states)):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self.room)
        return self.keys, self.values


def static_cache(layers: int, columns: int) -> Cache:
    """An empty cache of so many tokens, all of which every step reads, behind a mask."""
    return Cache(layers=[Fixed(columns) for _ in range(layers)])


def growing_cache(config: PretrainedConfig, columns: int) -> Cache:
    """An empty cache with room for so many tokens; layers of other kinds than full attention keep what the library has."""
    cache = DynamicCache(config=config)
    cache.layers = [Growing(columns) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
