"""The support of a truncated sampler, which is the tokens that it may draw, a bit each; and the softmax over it alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from repro.ops import text

BITS = 8
EVERY_TOKEN = 255  # a byte whose tokens are all in the support

Logits = Float[Tensor, "texts vocabulary"]


def whole_vocabulary(logits: Logits) -> UInt8[Tensor, "texts 0"]:
    """The support where log-probabilities are over all tokens: no bytes.

    Stands where `support_of` may; of `logits`, [texts, vocabulary], only the number of texts is read.
    """
    return logits.new_empty(len(logits), 0, dtype=torch.uint8)


def support_of(logits: Logits, truncate: Callable[[Logits], Logits]) -> UInt8[Tensor, "texts bytes"]:
    """Which tokens a truncation leaves to be drawn, a bit each: bit v mod 8 of byte v // 8 is token v's.

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


def within(
    logits: Float[Tensor, "*places vocabulary"], support: UInt8[Tensor, "*places bytes"]
) -> Float[Tensor, "*places vocabulary"]:
    """Logits with -inf outside the support, so that a softmax is over the tokens in it; as they are where it has no bytes.

    log p(x) = z_x - log sum_{v in support} exp(z_v),  after the log of a softmax

    Args:
        logits: [*places, vocabulary] z, of any policy.
        support: [*places, bytes] of the policy that sampled, as `support_of` packs them; of no bytes, it is every token.

    Source: as `support_of`.
    """
    if not support.shape[-1]:
        return logits
    inside = (support[..., None] >> _places_of_bits(support)) & 1
    return logits.masked_fill(inside.flatten(-2)[..., : logits.shape[-1]] == 0, -torch.inf)


@dataclass(frozen=True)
class Truncation:
    """Which tokens may be drawn, and which of them the log-probabilities of training are over.

    `truncate` maps [texts, vocabulary] logits at the sampling temperature to those that a token is drawn from, and `support`
    maps them to what is stored with the rollout: `whole_vocabulary`, where training's softmax is over all tokens.

    With a support the old, new and reference log-probabilities, the KL and an entropy bonus are all over it. So the ratio is 1
    before the first step, and the KL to the reference is 0 as long as both have the same weights: it is that of two policies
    that draw from one support, and what either has outside costs nothing.
    """

    truncate: Callable[[Logits], Logits] = text.every_token
    support: Callable[[Logits], UInt8[Tensor, "texts bytes"]] = whole_vocabulary


def _places_of_bits(beside: Tensor) -> UInt8[Tensor, " 8"]:
    return torch.arange(BITS, dtype=torch.uint8, device=beside.device)
