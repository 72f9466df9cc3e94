"""The tokens that a truncated sampler kept, a bit each, and the softmax over them alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from repro.ops import text

BITS = 8
EVERY_TOKEN = 255  # a byte whose tokens are all kept

Logits = Float[Tensor, "texts vocabulary"]


def unrecorded(logits: Logits) -> UInt8[Tensor, "texts 0"]:
    """No set of kept tokens, where log-probabilities are over all tokens: no bytes.

    Stands where `kept_tokens` may; of `logits`, [texts, vocabulary], only the number of texts is read.
    """
    return logits.new_empty(len(logits), 0, dtype=torch.uint8)


def kept_tokens(logits: Logits, truncate: Callable[[Logits], Logits]) -> UInt8[Tensor, "texts bytes"]:
    """Which tokens a truncation keeps, a bit each: bit v mod 8 of byte v // 8 is token v's.

    A batch of rollouts has vocabulary / 8 bytes for each token: 133 kB for 64 episodes of 26 tokens from 640, and 170 MB, over
    all ranks, for the paper's 512 episodes of 53 tokens from 50,304.

    Args:
        logits: [texts, vocabulary] at the sampling temperature.
        truncate: gives those of tokens that may not be drawn a logit of -inf.

    Source: DeepSeek-V3.2 (2025, arXiv 2512.02556).
    """
    keep = truncate(logits) > -torch.inf
    keep = torch.nn.functional.pad(keep, (0, -keep.shape[1] % BITS)).unflatten(1, (-1, BITS))
    return (keep.to(torch.uint8) << _places_of_bits(logits)).sum(-1, dtype=torch.uint8)


def only_kept(
    logits: Float[Tensor, "*places vocabulary"], kept: UInt8[Tensor, "*places bytes"]
) -> Float[Tensor, "*places vocabulary"]:
    """Logits with -inf for the tokens that were not kept, so that a softmax is over the others; as they are without a set.

    log p(x) = z_x - log sum_{v kept} exp(z_v),  after the log of a softmax

    Args:
        logits: [*places, vocabulary] z, of any policy.
        kept: [*places, bytes] of the policy that sampled, as `kept_tokens` packs them; of no bytes, every token stays.

    Source: as `kept_tokens`.
    """
    if not kept.shape[-1]:
        return logits
    keep = (kept[..., None] >> _places_of_bits(kept)) & 1
    return logits.masked_fill(keep.flatten(-2)[..., : logits.shape[-1]] == 0, -torch.inf)


@dataclass(frozen=True)
class Truncation:
    """Which tokens may be drawn, and which of them the log-probabilities of training are over.

    `truncate` maps [texts, vocabulary] logits at the sampling temperature to those that a token is drawn from, and `record`
    maps them to the set that is stored with the rollout: `unrecorded`, where training's softmax is over all tokens.

    With a set the old, new and reference log-probabilities, the KL and an entropy bonus are all over it. So the ratio is 1
    before the first step, and the KL to the reference is 0 as long as both have the same weights: it is that of two policies
    that draw from one set, and what either has outside costs nothing.
    """

    truncate: Callable[[Logits], Logits] = text.every_token
    record: Callable[[Logits], UInt8[Tensor, "texts bytes"]] = unrecorded


def _places_of_bits(beside: Tensor) -> UInt8[Tensor, " 8"]:
    return torch.arange(BITS, dtype=torch.uint8, device=beside.device)
