"""Log-probabilities of responses, and whatever else is measured of their logits, a block of logits at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from repro.models import forward_pass, padding, wrapping
from repro.ops import text
from repro.ops.places import last
from repro.ops.vocabulary import selected_logprob

# Places of responses whose logits exist at once: 0.4 GB of them in float32 with Pythia's vocabulary.
LOGITS_AT_ONCE = 2_048
NO_TOKEN = -1  # stands where a token may be given and none is
# What is set in the configuration of a model that changes its logits after the output layer.
AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


def response_logits(policy: nn.Module, query: Tensor, response: Tensor, pad: int, eos: int) -> Tensor:
    """[B, Q], [B, R] -> [B, R, V]: the logits that each response token was drawn from.

    The last token predicts nothing, so it is not run; logits of the query are not computed.
    """
    ids = torch.cat([query, response[:, :-1]], 1)
    tokens = response.shape[1]
    inputs = forward_pass.model_inputs(ids, pad) | forward_pass.places_kwargs(policy, last(tokens))
    logits = policy(**inputs, logits_to_keep=tokens, use_cache=False).logits
    return mask_pad_logit(logits, pad, eos)


def token_logprobs(logits: Tensor, response: Tensor, pad: int, eos: int, temperature: float) -> Tensor:
    """[B, R, V], [B, R] -> [B, R] float32: log-probability of each response token; 0 of padding."""
    tokens = response.clamp(max=logits.shape[-1] - 1)
    return text.logprob_of(logits, tokens, temperature).masked_fill(padding.is_padding(response, pad, eos), 0.0)


def response_logprobs(
    policy: nn.Module, query: Tensor, response: Tensor, pad: int, eos: int, temperature: float
) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: `token_logprobs` of a forward pass."""
    return response_measures(policy, query, response, pad, eos, temperature)[0]


def response_measures(
    policy: nn.Module,
    query: Tensor,
    response: Tensor,
    pad: int,
    eos: int,
    temperature: float,
    *others: Callable[[Tensor, float], Tensor],
    positions: int = LOGITS_AT_ONCE,
) -> tuple[Tensor, ...]:
    """[B, Q], [B, R] -> [B, R] float32 each: log-probability of each response token, and `others` of (its logits [..., V],
    temperature), as an entropy; 0 of padding.
    """
    ids, never = torch.cat([query, response[:, :-1]], 1), pad if pad != eos else NO_TOKEN

    def measure(logits: Tensor, tokens: Tensor) -> Tensor:
        logits = mask_pad_logit(logits, pad, eos)
        logprob = text.logprob_of(logits, tokens.clamp(max=logits.shape[-1] - 1), temperature)
        return torch.stack([logprob, *(other(logits, temperature) for other in others)], -1)

    if others:
        found = measure_logits(policy, ids, response, pad, measure, positions)
    else:
        found = selected_logprobs(policy, ids, response, pad, temperature + text.TEMPERATURE_EPSILON, never)[..., None]
    return found.masked_fill(padding.is_padding(response, pad, eos)[..., None], 0.0).unbind(-1)


def selected_logprobs(
    policy: nn.Module, ids: Tensor, tokens: Tensor, pad: int, temperature: float, never: int = NO_TOKEN
) -> Tensor:
    """[B, T], [B, N] -> [B, N] float32: log-probability of each token after one of the last N places of `ids`.

    `never` is a token that cannot be drawn. Logits exist a block at a time, where the output layer allows it.
    """

    def measure(logits: Tensor, tokens: Tensor) -> Tensor:
        logits = mask_logit(logits, never) / temperature
        tokens = tokens.clamp(max=logits.shape[-1] - 1)[..., None]
        return logits.float().log_softmax(-1).gather(-1, tokens)

    network = wrapping.unwrap(policy)
    head = network.get_output_embeddings()
    if _changes_logits(network) or type(head) is not nn.Linear or head.bias is not None:
        return measure_logits(policy, ids, tokens, pad, measure)[..., 0]

    def of_hidden(hidden: Tensor) -> Tensor:
        flat = tokens.clamp(max=len(head.weight) - 1).flatten()
        return selected_logprob(hidden.flatten(0, 1), head.weight, flat, temperature, never).view_as(tokens)

    with _instead_of(head, of_hidden):
        return policy(**_inputs(network, ids, tokens, pad)).logits


def measure_logits(
    policy: nn.Module,
    ids: Tensor,
    tokens: Tensor,
    pad: int,
    measure: Callable[[Tensor, Tensor], Tensor],
    positions: int = LOGITS_AT_ONCE,
) -> Tensor:
    """[B, T], [B, N] -> [B, N, K]: what `measure` makes, [n, V] and [n] -> [n, K], of the logits of the last N places.

    Logits exist for `positions` places at a time, in the backward pass too, which computes them again.
    """
    network = wrapping.unwrap(policy)
    inputs, head = _inputs(network, ids, tokens, pad), network.get_output_embeddings()
    if _changes_logits(network):
        return measure(policy(**inputs).logits, tokens)
    project = head.forward

    def part(hidden: Tensor, tokens: Tensor) -> Tensor:
        return measure(project(hidden), tokens)

    def of_hidden(hidden: Tensor) -> Tensor:
        if tokens.numel() <= positions:
            return part(hidden, tokens)
        parts = zip(hidden.flatten(0, 1).split(positions), tokens.flatten().split(positions))
        found = [checkpoint(part, *each, use_reentrant=False, preserve_rng_state=False) for each in parts]
        return torch.cat(found).unflatten(0, tokens.shape)

    with _instead_of(head, of_hidden):
        return policy(**inputs).logits


def _inputs(network: nn.Module, ids: Tensor, tokens: Tensor, pad: int) -> dict[str, Any]:
    """What a forward pass is given that is read at as many of the last places as there are tokens in a row."""
    count = tokens.shape[1]
    return (
        forward_pass.model_inputs(ids, pad)
        | {"logits_to_keep": count, "use_cache": False}
        | forward_pass.places_kwargs(network, last(count))
    )


def _changes_logits(network: nn.Module) -> bool:
    """Whether logits are more than the output layer makes of hidden states."""
    return any(getattr(network.config.get_text_config(), name, None) for name in AFTER_THE_HEAD)


@contextmanager
def _instead_of(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within, the output layer gives something else than logits of its hidden states; so it runs where ranks expect it."""
    project, patched = head.forward, "forward" in vars(head)
    head.forward = forward
    try:
        yield
    finally:
        head.forward = project
        if not patched:
            del head.forward


def response_kl(
    policy: nn.Module, reference: nn.Module, query: Tensor, response: Tensor, pad: int, eos: int, temperature: float
) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: KL(policy, reference) in nats over the vocabulary at each token; 0 of padding.

    As many episodes at a time as have `LOGITS_AT_ONCE` places, which bounds memory where no gradient is asked for.
    """
    rows = max(1, LOGITS_AT_ONCE // response.shape[1])
    parts = [
        text.kl_of(*(response_logits(network, *part, pad, eos) for network in (policy, reference)), temperature)
        for part in zip(query.split(rows), response.split(rows))
    ]
    return torch.cat(parts).masked_fill(padding.is_padding(response, pad, eos), 0.0)


def mask_pad_logit(logits: Tensor, pad: int, eos: int) -> Tensor:
    """[..., V] logits, in which a padding token of its own cannot be drawn: a mask would take it for a hole.

    Pythia's output layer has a place for it (50277 of 50304), with some probability that training never moved.
    """
    return mask_logit(logits, pad if pad != eos else NO_TOKEN)


def mask_logit(logits: Tensor, token: int) -> Tensor:
    """[..., V] logits, in which one token cannot be drawn; with `NO_TOKEN`, unchanged."""
    if not 0 <= token < logits.shape[-1]:
        return logits
    return logits.index_fill(-1, torch.full((1,), token, device=logits.device), -math.inf)
