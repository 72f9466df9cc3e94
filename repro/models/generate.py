"""Sampling of one response per row of queries, token by token; no detail is read here.

Each token is drawn by inverse-transform sampling with a uniform random number of its episode's own. `Scale.sampler` chooses
the implementation: "eager" and "static" draw the same tokens; "vllm" (`repro/models/vllm_sampler.py`) draws other tokens
from the same distribution. Where a query gets several responses, its rows of a batch share one pass over it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from repro.errors import UserError
from repro.models import logprobs, prefill, ranks
from repro.models.wrapping import Learner, Learners
from repro.ops import text, truncation

if TYPE_CHECKING:  # only sampling imports it
    from transformers import Cache

# (policy, query [B, Q], uniform [B, R], sampling, eos, pad) -> what `sample_with_support` gives
Sampler = Callable[[nn.Module, Tensor, Tensor, "Sampling", int, int], tuple[Tensor, Tensor, Tensor]]
FINISH_CHECK_EVERY = 8  # tokens; asking a GPU whether all rows are finished stops it
MASK_ALIGNMENT = 8  # columns; attention kernels copy a mask whose width is not a multiple of it


@torch.no_grad()
def eager(
    policy: nn.Module, query: Tensor, uniform: Tensor, sampling: Sampling, eos: int, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A forward pass per token, with a KV cache that grows."""
    from repro.models.kv_cache import growing_cache

    tokens = torch.full(uniform.shape, pad, dtype=torch.long, device=query.device)
    logprob = torch.zeros(uniform.shape, dtype=torch.float32, device=query.device)
    finished = torch.zeros(len(query), dtype=torch.bool, device=query.device)
    cache = growing_cache(policy.config, query.shape[1] + uniform.shape[1])
    logits, mask = prefill.next_logits(policy, query, cache, pad, shared=sampling.responses > 1)
    support = room_for_support(logits, uniform, sampling)
    for t in range(uniform.shape[1]):
        logits = logprobs.mask_pad_logit(logits, pad, eos)
        drawn, tokens[:, t], logprob[:, t], support[:, t] = next_token(logits, uniform[:, t], finished, sampling, pad)
        finished |= drawn == eos
        if t + 1 == uniform.shape[1] or all_finished(finished, sampling, pad):
            break
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        logits = cached_logits(policy, drawn[:, None], mask, cache)
    return tokens, logprob, support


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled.

    `temperature` is that of sampling, [B, 1] where rows differ in it, `logprob_temperature` that of the returned
    log-probabilities. `after_eos` maps ([B] drawn tokens, [B] bool: finished, pad) to the [B] tokens of the response.
    `truncate` maps [B, V] logits at the sampling temperature to those that a token is drawn from; the returned
    log-probabilities are over the tokens that `support` packs (`ops/truncation.py`), by default over all.
    `responses` is how many a query gets: where it gets several, rows with the same query share one pass over it.
    """

    temperature: float | Tensor
    logprob_temperature: float
    after_eos: Callable[[Tensor, Tensor, int], Tensor] = text.stop_at_eos
    truncate: Callable[[Tensor], Tensor] = text.every_token
    support: Callable[[Tensor], Tensor] = truncation.whole_vocabulary
    sampler: Sampler = eager
    responses: int = 1


def greedy(sampling: Sampling) -> Sampling:
    """The same, of the likeliest token only: without ties every random number draws the same response."""
    return replace(sampling, truncate=partial(text.top_k, count=1))


def sample(
    policy: nn.Module, query: Tensor, uniform: Tensor, sampling: Sampling, eos: int, pad: int
) -> tuple[Tensor, Tensor]:
    """[B, Q] left-padded, [B, R] in [0, 1) -> ([B, R] tokens, [B, R] float32 log-probabilities in nats).

    A row's tokens depend on its own random numbers only. The end of text is sampled like any token (N+ detail 23.1);
    padding after it has log-probability 0. `uniform` may be on another device than `query`. A pass over a query that rows
    share has fewer rows, so that its products may round otherwise: results are the same to that.
    """
    return sample_with_support(policy, query, uniform, sampling, eos, pad)[:2]


def sample_with_support(
    policy: nn.Module, query: Tensor, uniform: Tensor, sampling: Sampling, eos: int, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`sample`, and [B, R, bytes] the tokens that its log-probabilities are over; every token where none was drawn."""
    return sampling.sampler(unwrap_ddp(policy), query, uniform.to(query.device), sampling, eos, pad)


def cached_logits(policy: nn.Module, ids: Tensor, mask: Tensor, cache: Cache) -> Tensor:
    """[B, T] tokens after those in the cache, and the mask of both -> [B, 1, V] logits of what follows."""
    return policy(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1).logits


def all_finished(finished: Tensor, sampling: Sampling, pad: int) -> bool:
    """[B] bool -> whether all further tokens are padding, on all ranks: with sharded weights they decode in step."""
    any_token = torch.full(finished.shape, -1, device=finished.device)
    return ranks.all_ranks(bool((sampling.after_eos(any_token, finished, pad) == pad).all()))


def unwrap_ddp(policy: nn.Module) -> nn.Module:
    """The policy without its DDP wrapper, which would broadcast buffers at every token; other wrappers stay."""
    wrapped = getattr(policy, "wrapped", policy)
    return Learner(wrapped.module, policy.name) if isinstance(wrapped, DistributedDataParallel) else policy


def room_for_support(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """[B, 1, V], [B, R] -> [B, R, bytes]: supports of every token."""
    width = sampling.support(logits[:1, -1].float()).shape[1]
    return torch.full((*uniform.shape, width), truncation.EVERY_TOKEN, dtype=torch.uint8, device=logits.device)


def next_token(
    logits: Tensor, uniform: Tensor, finished: Tensor, sampling: Sampling, pad: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[B, 1, V], [B], [B] bool -> [B] drawn; and the response's [B] tokens, [B] log-probabilities and [B, bytes] supports."""
    scaled = logits[:, -1].float() / (sampling.temperature + text.TEMPERATURE_EPSILON)
    drawn, support = draw(sampling.truncate(scaled), uniform), sampling.support(scaled)
    token = sampling.after_eos(drawn, finished, pad)
    over = truncation.within(logits, support[:, None])
    logprob = text.logprob_of(over, drawn[:, None], sampling.logprob_temperature)[:, 0]
    is_drawn = token == drawn
    support = support.masked_fill(~is_drawn[:, None], truncation.EVERY_TOKEN)
    return drawn, token, torch.where(is_drawn, logprob, 0.0), support


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """[B, V] logits, [B] in [0, 1) -> [B] tokens by inverse-transform sampling; never a token of probability 0."""
    cumulative = logits.softmax(-1).cumsum(-1)
    target = uniform[:, None].to(cumulative) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


# ---------------------------------------------------------------------------------------------- fixed shapes


@torch.no_grad()
def static(
    policy: nn.Module, query: Tensor, uniform: Tensor, sampling: Sampling, eos: int, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `eager`, with a KV cache of fixed size. On CUDA each token is one replay of a captured graph.

    So Python launches no kernels, and the CPU waits for the GPU only once every few tokens. The graph is captured anew for
    each batch: a graph that outlived it would hold its cache during the update, and read weights at addresses that may
    have changed. Large batches therefore amortise the capture.
    """
    decoder, length = _Decoder(policy, query, uniform, sampling, eos, pad), uniform.shape[1]
    decoder.prefill()
    decode_step, tokens_done = decoder.decode_step, 1
    check_every = FINISH_CHECK_EVERY if query.is_cuda else 1
    if can_capture_graph(policy, query) and length > 2:
        decode_step, tokens_done = _captured_graph(decoder.decode_step), 2
    for t in range(tokens_done, length):
        if t % check_every == 0 and all_finished(decoder.finished, sampling, pad):
            break
        decode_step()
    return decoder.tokens, decoder.logprob, decoder.support


def can_capture_graph(policy: nn.Module, query: Tensor) -> bool:
    """Whether a decoding step runs the same kernels on the same addresses every time: on CUDA, without sharded weights."""
    unsharded = type(getattr(policy, "wrapped", None)) in (type(None), Learners)
    return query.is_cuda and unsharded


@cache
def _capture_stream() -> torch.cuda.Stream:
    """One stream for all captures, since libraries keep a workspace for each stream that they have seen."""
    return torch.cuda.Stream()


def _captured_graph(step: Callable[[], None]) -> Callable[[], None]:
    """The replay of `step` as a CUDA graph. It runs `step` once first, since first calls initialise libraries."""
    stream = _capture_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # other threads may use the GPU
        step()
    return graph.replay


class _Decoder:
    """The state of sampling one batch, in tensors of fixed shape and address, the position `t` included."""

    def __init__(
        self, policy: nn.Module, query: Tensor, uniform: Tensor, sampling: Sampling, eos: int, pad: int
    ) -> None:
        from repro.models.kv_cache import static_cache

        self.policy, self.uniform, self.sampling, self.eos, self.pad = policy, uniform, sampling, eos, pad
        self.query, (rows, self.query_tokens) = query, query.shape
        columns = -(-(self.query_tokens + uniform.shape[1]) // MASK_ALIGNMENT) * MASK_ALIGNMENT
        self.last_drawn = torch.zeros_like(query[:, :1])
        self.mask = torch.zeros(rows, columns, dtype=torch.long, device=query.device)  # tokens not drawn yet are masked
        self.cache = static_cache(_full_attention_layers(policy.config), columns)
        self.tokens = torch.full(uniform.shape, pad, dtype=torch.long, device=query.device)
        self.logprob = torch.zeros(uniform.shape, dtype=torch.float32, device=query.device)
        self.finished = torch.zeros(rows, dtype=torch.bool, device=query.device)
        self.t = torch.zeros(1, dtype=torch.long, device=query.device)  # index of the next response token

    def prefill(self) -> None:
        """Run the query and draw the first token."""
        shared = self.sampling.responses > 1
        logits, mask = prefill.next_logits(self.policy, self.query, self.cache, self.pad, shared)
        self.mask[:, : self.query_tokens] = mask
        self.support = room_for_support(logits, self.uniform, self.sampling)
        self._append_token(logits)

    def decode_step(self) -> None:
        """Run the last token drawn and draw the next."""
        self._append_token(cached_logits(self.policy, self.last_drawn, self.mask, self.cache))

    def _append_token(self, logits: Tensor) -> None:
        """[B, 1, V] -> draw token `t` of every row and write it, its log-probability and its mask in place."""
        logits = logprobs.mask_pad_logit(logits, self.pad, self.eos)
        uniform = self.uniform.index_select(1, self.t)[:, 0]
        drawn, *written = next_token(logits, uniform, self.finished, self.sampling, self.pad)
        for column, values in zip((self.tokens, self.logprob, self.support), written, strict=True):
            column.index_copy_(1, self.t, values[:, None])
        self.finished.logical_or_(drawn == self.eos)
        self.last_drawn.copy_(drawn[:, None])
        self.mask.index_fill_(1, self.t + self.query_tokens, 1)
        self.t.add_(1)


def _full_attention_layers(config) -> int:
    """The number of layers; UserError where one has another attention than full causal attention."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None):
        raise UserError(
            "sampler=static needs a model whose layers all have full attention; take sampler=eager for this one"
        )
    return config.num_hidden_layers
