"""KV caches in preallocated memory, for `generate.eager` and `generate.static`.

In a module of their own, since they extend classes of `transformers`, which only sampling should import.
"""

from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache, PretrainedConfig, StaticLayer
from transformers.cache_utils import DynamicLayer


class StaticCacheLayer(StaticLayer):
    """One layer's cache, with keys in the dtype of values: under autocast rotary embeddings leave keys in float32."""

    keys: Tensor
    values: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)

    def batch_select_indices(self, indices: Tensor) -> None:
        """The cache of these rows, [B], in the place of all: before the first decoding step, since addresses change."""
        self.keys = self.keys.index_select(0, indices)
        self.values = self.values.index_select(0, indices)
        self.batch_size = len(indices)


class GrowingCacheLayer(DynamicLayer):
    """One layer's cache, without the library's copy of all keys and values at every token."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """[B, H, T, head] new keys and values -> [B, H, tokens so far, head] each, views of buffers of `columns` tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            shape = (*key_states.shape[:2], self.columns, key_states.shape[3])
            self.buffers = key_states.new_empty(shape), value_states.new_empty(shape)
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states)):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """The cache of these rows, [B], in the place of all."""
        self.buffers = tuple(buffer.index_select(0, indices) for buffer in self.buffers)
        self.keys, self.values = (buffer[:, :, : self.get_seq_length()] for buffer in self.buffers)


def static_cache(layers: int, columns: int) -> Cache:
    """An empty cache of fixed size: every step attends to all its columns, behind a mask."""
    return Cache(layers=[StaticCacheLayer(columns) for _ in range(layers)])


def growing_cache(config: PretrainedConfig, columns: int) -> Cache:
    """An empty cache with buffers of `columns` tokens; layers without full attention use the library's own."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingCacheLayer(columns) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_select_rows(cache: Cache) -> bool:
    """Whether `batch_select_indices` selects rows of all that the cache holds: the library's other layers may hold more."""
    return all(type(layer) in (StaticCacheLayer, GrowingCacheLayer) for layer in cache.layers)
