"""Log-probabilities of responses, and other functions of their logits, computed a block of logits at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from repro.models import forward_pass, padding, prefill, wrapping
from repro.ops import text, truncation
from repro.ops.places import last
from repro.ops.vocabulary import selected_logprob

# Response tokens whose logits exist at once: 0.4 GB in float32 with Pythia's vocabulary.
LOGITS_AT_ONCE = 2_048
NO_TOKEN = -1  # in place of a token that is excluded from sampling
WHOLE_VOCABULARY = torch.empty(0, dtype=torch.uint8)  # in place of supports of a softmax: it is over all tokens
NOTHING_CACHED: Mapping[str, Any] = MappingProxyType({})
# Settings in the configuration of models that transform logits after the output layer.
LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


def response_logits(policy: nn.Module, query: Tensor, response: Tensor, pad: int, eos: int) -> Tensor:
    """[B, Q], [B, R] -> [B, R, V]: the logits that each response token was sampled from.

    The last response token is not run, since it predicts nothing; logits of the query are not computed.
    """
    ids = torch.cat([query, response[:, :-1]], 1)
    tokens = response.shape[1]
    inputs = forward_pass.model_inputs(ids, pad) | forward_pass.places_kwargs(policy, last(tokens))
    logits = policy(**inputs, logits_to_keep=tokens, use_cache=False).logits
    return mask_pad_logit(logits, pad, eos)


def token_logprobs(logits: Tensor, response: Tensor, pad: int, eos: int, temperature: float) -> Tensor:
    """[B, R, V], [B, R] -> [B, R] float32: log-probability in nats of each response token; 0 for padding."""
    tokens = response.clamp(max=logits.shape[-1] - 1)
    return text.logprob_of(logits, tokens, temperature).masked_fill(padding.is_padding(response, pad, eos), 0.0)


def response_logprobs(
    policy: nn.Module,
    query: Tensor,
    response: Tensor,
    pad: int,
    eos: int,
    temperature: float,
    support: Tensor = WHOLE_VOCABULARY,
) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: `token_logprobs` of a forward pass, over the tokens of `support`."""
    return response_measures(policy, query, response, pad, eos, temperature, support=support)[0]


@torch.no_grad()
def logprobs_after_queries(
    policy: nn.Module, query: Tensor, response: Tensor, pad: int, eos: int, temperature: float
) -> Tensor:
    """`response_logprobs` without gradients, where queries that rows share are run once, and then what follows each."""
    from repro.models.kv_cache import growing_cache

    cache = growing_cache(policy.config, query.shape[1] + response.shape[1])
    logits, mask = prefill.next_logits(policy, query, cache, pad)
    first = token_logprobs(mask_pad_logit(logits, pad, eos), response[:, :1], pad, eos, temperature)
    ids, tokens = response[:, :-1], response[:, 1:]
    if not ids.numel():
        return first
    cached = {"attention_mask": torch.cat([mask, (ids != pad).long()], 1), "past_key_values": cache, "use_cache": True}
    divisor = temperature + text.TEMPERATURE_EPSILON
    rest = selected_logprobs(policy, ids, tokens, pad, divisor, never_drawn(pad, eos), cached)
    return torch.cat([first, rest.masked_fill(padding.is_padding(tokens, pad, eos), 0.0)], 1)


def response_measures(
    policy: nn.Module,
    query: Tensor,
    response: Tensor,
    pad: int,
    eos: int,
    temperature: float,
    *others: Callable[[Tensor, float], Tensor],
    positions: int = LOGITS_AT_ONCE,
    support: Tensor = WHOLE_VOCABULARY,
) -> tuple[Tensor, ...]:
    """[B, Q], [B, R] -> [B, R] float32 each: log-probability in nats of each response token, and each of `others`.

    `others` are functions, (logits [..., V], temperature) -> [...], such as an entropy. `support` has the tokens that all of
    them are over, [B, R, bytes] as `ops/truncation.py` packs them, or every one. All results are 0 for padding.
    """
    ids = torch.cat([query, response[:, :-1]], 1)
    supports = _for_each_token(response, support)

    def measure(logits: Tensor, tokens: Tensor, supports: Tensor) -> Tensor:
        logits = truncation.within(mask_pad_logit(logits, pad, eos), supports)
        logprob = text.logprob_of(logits, tokens.clamp(max=logits.shape[-1] - 1), temperature)
        return torch.stack([logprob, *(other(logits, temperature) for other in others)], -1)

    if others or support.numel():
        measures = measure_logits(policy, ids, response, pad, measure, positions, supports)
    else:
        divisor = temperature + text.TEMPERATURE_EPSILON
        measures = selected_logprobs(policy, ids, response, pad, divisor, never_drawn(pad, eos))[..., None]
    return measures.masked_fill(padding.is_padding(response, pad, eos)[..., None], 0.0).unbind(-1)


def _for_each_token(response: Tensor, support: Tensor) -> Tensor:
    """[B, R], and a support or none -> [B, R, bytes], of no bytes where there is none: a place for each token of a response."""
    return support if support.numel() else response.new_empty(*response.shape, 0, dtype=torch.uint8)


def selected_logprobs(
    policy: nn.Module,
    ids: Tensor,
    tokens: Tensor,
    pad: int,
    temperature: float,
    excluded: int = NO_TOKEN,
    cached: Mapping[str, Any] = NOTHING_CACHED,
) -> Tensor:
    """[B, T] ids, [B, N] tokens -> [B, N] float32: log-probability in nats of token n as predicted at position T - N + n.

    Logits are divided by `temperature` as it is. `excluded` is a token of probability 0. `cached` are arguments of the forward
    pass for what stands before the ids, the KV cache and the mask of both. Logits exist a block at a time, if the output
    layer is a plain linear one.
    """

    def measure(logits: Tensor, tokens: Tensor) -> Tensor:
        logits = mask_logit(logits, excluded).float() / temperature
        tokens = tokens.clamp(max=logits.shape[-1] - 1)[..., None]
        return logits.log_softmax(-1).gather(-1, tokens)

    network = wrapping.unwrap(policy)
    head = network.get_output_embeddings()
    if _transforms_logits(network) or type(head) is not nn.Linear or head.bias is not None:
        return measure_logits(policy, ids, tokens, pad, measure, cached=cached)[..., 0]

    def of_hidden(hidden: Tensor) -> Tensor:
        flat = tokens.clamp(max=len(head.weight) - 1).flatten()
        return selected_logprob(hidden.flatten(0, 1), head.weight, flat, temperature, excluded).view_as(tokens)

    with _replaced_forward(head, of_hidden):
        return policy(**_inputs(network, ids, tokens, pad, cached)).logits


def measure_logits(
    policy: nn.Module,
    ids: Tensor,
    tokens: Tensor,
    pad: int,
    measure: Callable[..., Tensor],
    positions: int = LOGITS_AT_ONCE,
    *beside: Tensor,
    cached: Mapping[str, Any] = NOTHING_CACHED,
) -> Tensor:
    """[B, T] ids, [B, N] tokens -> [B, N, K]: `measure` ([n, V] logits, [n] tokens -> [n, K]) at the last N positions.

    It gets the same positions of the tensors `beside`, [B, N, ...] each, too. `cached` is as in `selected_logprobs`.
    Logits exist for `positions` of them at a time, also in the backward pass, which recomputes them.
    """
    network = wrapping.unwrap(policy)
    inputs, head = _inputs(network, ids, tokens, pad, cached), network.get_output_embeddings()
    if _transforms_logits(network):
        return measure(policy(**inputs).logits, tokens, *beside)
    project = head.forward

    def part(hidden: Tensor, *columns: Tensor) -> Tensor:
        return measure(project(hidden), *columns)

    def of_hidden(hidden: Tensor) -> Tensor:
        if tokens.numel() <= positions:
            return part(hidden, tokens, *beside)
        parts = zip(*(each.flatten(0, 1).split(positions) for each in (hidden, tokens, *beside)))
        measured = [checkpoint(part, *each, use_reentrant=False, preserve_rng_state=False) for each in parts]
        return torch.cat(measured).unflatten(0, tokens.shape)

    with _replaced_forward(head, of_hidden):
        return policy(**inputs).logits


def _inputs(network: nn.Module, ids: Tensor, tokens: Tensor, pad: int, cached: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a forward pass whose logits are read at the last N positions, for [B, N] tokens."""
    count = tokens.shape[1]
    return (
        forward_pass.model_inputs(ids, pad)
        | {"logits_to_keep": count, "use_cache": False}
        | forward_pass.places_kwargs(network, last(count))
        | dict(cached)
    )


def _transforms_logits(network: nn.Module) -> bool:
    """Whether the model transforms its logits after the output layer."""
    return any(getattr(network.config.get_text_config(), name, None) for name in LOGIT_TRANSFORMS)


@contextmanager
def _replaced_forward(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context the output layer runs `forward` on its hidden states.

    So it still runs inside the model's forward pass, where DDP and FSDP expect it.
    """
    project, patched = head.forward, "forward" in vars(head)
    head.forward = forward
    try:
        yield
    finally:
        head.forward = project
        if not patched:
            del head.forward


def response_kl(
    policy: nn.Module,
    reference: nn.Module,
    query: Tensor,
    response: Tensor,
    pad: int,
    eos: int,
    temperature: float,
    support: Tensor = WHOLE_VOCABULARY,
) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: KL(policy, reference) in nats at each token; 0 for padding.

    It is over the vocabulary, or over the tokens of `support`, as in `response_measures`. `LOGITS_AT_ONCE` tokens at a time,
    which bounds memory without gradients.
    """
    rows = max(1, LOGITS_AT_ONCE // response.shape[1])
    supports = _for_each_token(response, support)

    def logits(network: nn.Module, query: Tensor, response: Tensor, supports: Tensor) -> Tensor:
        return truncation.within(response_logits(network, query, response, pad, eos), supports)

    parts = [
        text.kl_of(logits(policy, *part), logits(reference, *part), temperature)
        for part in zip(query.split(rows), response.split(rows), supports.split(rows))
    ]
    return torch.cat(parts).masked_fill(padding.is_padding(response, pad, eos), 0.0)


def mask_pad_logit(logits: Tensor, pad: int, eos: int) -> Tensor:
    """[..., V] logits with -inf for the padding token, unless it is the end of text: sampled, it would be masked out.

    Pythia's output layer has a row for it (50277 of 50304), untrained and so with some probability.
    """
    return mask_logit(logits, never_drawn(pad, eos))


def never_drawn(pad: int, eos: int) -> int:
    """The token that no response is sampled with: padding, unless it is the end of text."""
    return pad if pad != eos else NO_TOKEN


def mask_logit(logits: Tensor, token: int) -> Tensor:
    """[..., V] logits with -inf for one token; unchanged for `NO_TOKEN`."""
    if not 0 <= token < logits.shape[-1]:
        return logits
    return logits.index_fill(-1, torch.full((1,), token, device=logits.device), -math.inf)
