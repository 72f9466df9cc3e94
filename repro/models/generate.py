"""Sampling: one response per query, token by token. No detail is read here.

Each token is drawn with a uniform number that is the episode's own. `Scale.sampler` says how: "eager" and "static" draw the
same tokens; "vllm" (`repro/models/vllm_sampler.py`) draws others from the same distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from repro.errors import UserError
from repro.models import forward_pass, logprobs, ranks
from repro.models.wrapping import Learner, Learners
from repro.ops import text
from repro.ops.places import Places, last

# (policy, query [B, Q], uniform [B, R], how, eos, pad) -> ([B, R] tokens, [B, R] float32 log-probabilities)
Sampler = Callable[[nn.Module, Tensor, Tensor, "Sampling", int, int], tuple[Tensor, Tensor]]
LOOK_EVERY = 8  # tokens between looks at whether all rows have ended, where a look stops the GPU
ALIGNED = 8  # columns: attention kernels copy a mask whose width is no multiple


@torch.no_grad()
def eager(
    policy: nn.Module, query: Tensor, uniform: Tensor, how: Sampling, eos: int, pad: int
) -> tuple[Tensor, Tensor]:
    """One forward pass a token, over a cache that grows."""
    from repro.models.kv_cache import growing_cache

    tokens = torch.full(uniform.shape, pad, dtype=torch.long, device=query.device)
    logprob = torch.zeros(uniform.shape, dtype=torch.float32, device=query.device)
    inputs, cache = (
        forward_pass.model_inputs(query, pad),
        growing_cache(policy.config, query.shape[1] + uniform.shape[1]),
    )
    mask, ended = inputs["attention_mask"], torch.zeros(len(query), dtype=torch.bool, device=query.device)
    step, read = inputs["input_ids"], forward_pass.places_kwargs(policy, last(1))
    for t in range(uniform.shape[1]):
        logits = policy(
            input_ids=step, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1, **read
        ).logits
        logits = logprobs.mask_pad_logit(logits, pad, eos)
        drawn = draw(logits[:, -1].float() / (how.temperature + text.TEMPERATURE_EPSILON), uniform[:, t])
        tokens[:, t] = how.after_end(drawn, ended, pad)
        measured = text.logprob_of(logits, drawn[:, None], how.measured_at)[:, 0]
        logprob[:, t] = torch.where(tokens[:, t] == drawn, measured, 0.0)
        ended |= drawn == eos
        if all_ended(ended, how, pad):
            break
        read = {}  # there is but one place
        step, mask = drawn[:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return tokens, logprob


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: at which temperature, at which one they are measured, what follows an end, and by whom."""

    temperature: float
    measured_at: float
    after_end: Callable[[Tensor, Tensor, int], Tensor] = text.stop_at_eos
    sampler: Sampler = eager


def sample(
    policy: nn.Module, query: Tensor, uniform: Tensor, how: Sampling, eos: int, pad: int
) -> tuple[Tensor, Tensor]:
    """[B, Q], [B, R] -> ([B, R] tokens, [B, R] float32 log-probabilities): one draw per uniform number in [0, 1).

    A row's tokens depend on its own numbers alone, and end of text is a token like any other (N+ detail 23.1); padding
    after it has log-probability 0. The numbers may lie on another device than the queries.
    """
    return how.sampler(unwrap_ddp(policy), query, uniform.to(query.device), how, eos, pad)


def all_ended(ended: Tensor, how: Sampling, pad: int) -> bool:
    """[B] bool -> whether padding is all that is still to come, whatever is drawn, on all ranks: some share weights."""
    nothing = torch.full(ended.shape, -1, device=ended.device)
    return ranks.all_ranks(bool((how.after_end(nothing, ended, pad) == pad).all()))


def unwrap_ddp(policy: nn.Module) -> nn.Module:
    """The policy without DDP, which would send its buffers to all ranks at every token; as it is where weights are shared."""
    wrapped = getattr(policy, "wrapped", policy)
    return Learner(wrapped.module, policy.name) if isinstance(wrapped, DistributedDataParallel) else policy


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """[B, V], [B] -> [B]: inverse-transform sampling; never a token of probability 0."""
    cumulative = logits.softmax(-1).cumsum(-1)
    target = uniform[:, None].to(cumulative) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


# ---------------------------------------------------------------------------------------------- fixed shapes


@torch.no_grad()
def static(
    policy: nn.Module, query: Tensor, uniform: Tensor, how: Sampling, eos: int, pad: int
) -> tuple[Tensor, Tensor]:
    """As `eager`, over a cache of fixed size; on CUDA a token is one replay of a captured graph, so no kernel is launched
    from Python and the CPU waits for the GPU once every few tokens.

    The graph lives as long as the batch: one that outlived it would hold its cache through the update, and read weights
    where they no longer are. A large batch therefore pays; several small ones capture each their own.
    """
    rows, length = _Rows(policy, query, uniform, how, eos, pad), uniform.shape[1]
    rows.begin()
    advance, done, every = rows.advance, 1, 1
    if query.is_cuda:
        every = LOOK_EVERY
    if capturable(policy, query) and length > 2:
        advance, done = _captured(rows.advance), 2
    for t in range(done, length):
        if t % every == 0 and all_ended(rows.ended, how, pad):
            break
        advance()
    return rows.tokens, rows.logprob


def capturable(policy: nn.Module, query: Tensor) -> bool:
    """Whether a decoding step is the same kernels on the same addresses each time: not where ranks share the weights."""
    plain = type(getattr(policy, "wrapped", None)) in (type(None), Learners)
    return query.is_cuda and plain


@cache
def _capture_stream() -> torch.cuda.Stream:
    """One for all captures: libraries keep a workspace for each stream that they have seen."""
    return torch.cuda.Stream()


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """What replays the step as a CUDA graph; it has run once by then, since first calls set libraries up."""
    stream = _capture_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # other threads may talk to the GPU
        step()
    return graph.replay


class _Rows:
    """A batch that is being sampled, in tensors that stay where they are; how far it is stands in one of them too."""

    def __init__(self, policy: nn.Module, query: Tensor, uniform: Tensor, how: Sampling, eos: int, pad: int) -> None:
        from repro.models.kv_cache import static_cache

        self.policy, self.uniform, self.how, self.eos, self.pad = policy, uniform, how, eos, pad
        (rows, self.start), inputs = query.shape, forward_pass.model_inputs(query, pad)
        columns = -(-(self.start + uniform.shape[1]) // ALIGNED) * ALIGNED
        self.query, self.step = inputs["input_ids"], torch.zeros_like(query[:, :1])
        self.mask = torch.zeros(rows, columns, dtype=torch.long, device=query.device)  # nothing has been drawn yet
        self.mask[:, : self.start] = inputs["attention_mask"]
        self.cache = static_cache(_full_attention_layers(policy.config), columns)
        self.tokens = torch.full(uniform.shape, pad, dtype=torch.long, device=query.device)
        self.logprob = torch.zeros(uniform.shape, dtype=torch.float32, device=query.device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=query.device)
        self.t = torch.zeros(1, dtype=torch.long, device=query.device)

    def begin(self) -> None:
        """Reads the query and draws the first token."""
        self._take(
            self._logits(self.query, self.mask[:, : self.start], **forward_pass.places_kwargs(self.policy, last(1)))
        )

    def advance(self) -> None:
        """Reads the token drawn last and draws the next."""
        self._take(self._logits(self.step, self.mask))

    def _logits(self, ids: Tensor, mask: Tensor, **read: Places) -> Tensor:
        return self.policy(
            input_ids=ids, attention_mask=mask, past_key_values=self.cache, use_cache=True, logits_to_keep=1, **read
        ).logits

    def _take(self, logits: Tensor) -> None:
        logits, uniform = (
            logprobs.mask_pad_logit(logits, self.pad, self.eos),
            self.uniform.index_select(1, self.t)[:, 0],
        )
        drawn = draw(logits[:, -1].float() / (self.how.temperature + text.TEMPERATURE_EPSILON), uniform)
        token = self.how.after_end(drawn, self.ended, self.pad)
        measured = text.logprob_of(logits, drawn[:, None], self.how.measured_at)[:, 0]
        self.tokens.index_copy_(1, self.t, token[:, None])
        self.logprob.index_copy_(1, self.t, torch.where(token == drawn, measured, 0.0)[:, None])
        self.ended.logical_or_(drawn == self.eos)
        self.step.copy_(drawn[:, None])
        self.mask.index_fill_(1, self.t + self.start, 1)
        self.t.add_(1)


def _full_attention_layers(config) -> int:
    """How many layers; UserError where one does not attend to all that came before."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None):
        raise UserError(
            "sampler=static needs a model whose layers all have full attention; take sampler=eager for this one"
        )
    return config.num_hidden_layers
