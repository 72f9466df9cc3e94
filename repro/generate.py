"""Sampling: one response per query, token by token, from uniform numbers that are the episode's own. No detail is read here."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from repro import model
from repro.ops import text


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: at which temperature, at which one they are measured, and what follows an end of text."""

    temperature: float
    measured_at: float
    after_end: Callable[[Tensor, Tensor, int], Tensor] = text.stop


@torch.no_grad()
def sample(
    policy: nn.Module, query: Tensor, uniform: Tensor, how: Sampling, eos: int, pad: int
) -> tuple[Tensor, Tensor]:
    """[B, Q], [B, R] -> ([B, R] tokens, [B, R] float32 log-probabilities): one draw per uniform number in [0, 1).

    A row's tokens depend on its own numbers alone, and end of text is a token like any other (N+ detail 23.1); padding
    after it has log-probability 0.
    """
    tokens = torch.full(uniform.shape, pad, dtype=torch.long, device=query.device)
    logprob = torch.zeros(uniform.shape, dtype=torch.float32, device=query.device)
    inputs, cache = model.attend(query, pad), DynamicCache()
    mask, ended = inputs["attention_mask"], torch.zeros(len(query), dtype=torch.bool, device=query.device)
    step = inputs["input_ids"]
    for t in range(uniform.shape[1]):
        logits = policy(
            input_ids=step, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits
        logits = model.drawable(logits, pad, eos)
        drawn = draw(logits[:, -1].float() / (how.temperature + text.TEMPERATURE_EPSILON), uniform[:, t])
        tokens[:, t] = how.after_end(drawn, ended, pad)
        measured = text.logprob_of(logits, drawn[:, None], how.measured_at)[:, 0]
        logprob[:, t] = torch.where(tokens[:, t] == drawn, measured, 0.0)
        ended |= drawn == eos
        nothing = torch.full_like(drawn, -1)
        if (how.after_end(nothing, ended, pad) == pad).all():  # whatever is drawn from here on
            break
        step, mask = drawn[:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return tokens, logprob


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """[B, V], [B] -> [B]: inverse-transform sampling; never a token of probability 0."""
    cumulative = logits.softmax(-1).cumsum(-1)
    target = uniform[:, None].to(cumulative) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
