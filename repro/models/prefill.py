"""Queries that several rows share are run once, into a KV cache that each row goes on from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from repro.models import forward_pass
from repro.ops.places import EVERY, last

if TYPE_CHECKING:  # only what has a KV cache imports it
    from transformers import Cache


def prefill(
    forward: Callable[..., Tensor], query: Tensor, cache: Cache, pad: int, shared: bool = True
) -> tuple[Tensor, Tensor]:
    """[B, Q] left-padded -> [B, ...] what `forward` gives of each row, and the [B, Q] mask; the cache has all rows' queries.

    `forward` maps D rows of inputs, with the cache, to [D, ...]. Queries that rows share are run once, if that is asked for
    and the cache can select rows; else all rows are run.
    """
    from repro.models.kv_cache import can_select_rows

    run, row = distinct(query) if shared and can_select_rows(cache) else (query, EVERY)
    inputs = forward_pass.model_inputs(run, pad)
    output = forward(**inputs, past_key_values=cache)
    if isinstance(row, Tensor):
        cache.batch_select_indices(row)
    return output[row], inputs["attention_mask"][row]


def distinct(query: Tensor) -> tuple[Tensor, slice | Tensor]:
    """[B, Q] -> [D, Q] the queries that are in it, and which of them each row is; the rows as they are where none is twice."""
    run, row = query.unique(dim=0, return_inverse=True)
    return (run, row) if len(run) < len(query) else (query, EVERY)


def next_logits(policy: nn.Module, query: Tensor, cache: Cache, pad: int, shared: bool = True) -> tuple[Tensor, Tensor]:
    """`prefill` of a policy: [B, Q] -> [B, 1, V] logits of the token that follows each query, and the [B, Q] mask."""
    return prefill(partial(_next_logits, policy), query, cache, pad, shared)


def _next_logits(policy: nn.Module, **inputs: Tensor) -> Tensor:
    places = forward_pass.places_kwargs(policy, last(1))  # of the query only its last position is read
    return policy(**inputs, use_cache=True, logits_to_keep=1, **places).logits
