"""The records that PPO's phases hand to each other, and the legend of their shapes.

B episodes, Q prompt tokens (left-padded), R response tokens, V vocabulary.
Index t of a `[B, R]` tensor belongs to response token t. The value at t is the value of the state *before* token t, so the
index after the last token is the terminal state. The reward model's score is the reward of that state.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

Metrics = dict[str, float]


@dataclass(frozen=True)
class Rollout:
    """A batch of episodes sampled from the policy; immutable. `rollout[rows]` slices every field."""

    query: Tensor  # [B, Q] token ids of the prompt, left-padded
    response: Tensor  # [B, R] token ids as sampled, including those after the first end of text
    logprob: Tensor  # [B, R] float32, log-probability under the policy before the update: the denominator of the ratio
    sampler_logprob: Tensor  # [B, R] float32, the same log-probability as the sampler computed it
    ref_logprob: Tensor  # [B, R] float32, log-probability under the reference policy
    kl: Tensor  # [B, R] float32, estimate of KL(policy, reference) in nats
    value: Tensor  # [B, R] float32, the critic's
    score: Tensor  # [B] float32, the reward model's
    last_token: Tensor  # [B] index of the response's last token: its end of text where it has one
    last_counted: Tensor  # [B] index of the last token in losses and rewards: `last_token`, or R - 1 in some recipes
    has_eos: Tensor  # [B] bool

    @property
    def token_mask(self) -> Tensor:
        """[B, R] bool: true on the tokens that count in losses and rewards, the end of text included."""
        return _up_to(self.last_counted, self.response.shape[1])

    @property
    def value_mask(self) -> Tensor:
        """[B, R] bool: true on the states that count: those before each token of `token_mask`, and the terminal state."""
        return _up_to(self.last_counted + 1, self.response.shape[1])

    def first_tokens(self, count: int) -> "Rollout":
        """The same episodes with response columns 0 to `count` - 1 only."""
        per_token = ("response", "logprob", "sampler_logprob", "ref_logprob", "kl", "value")
        return replace(self, **{name: getattr(self, name)[:, :count] for name in per_token})

    def __len__(self) -> int:
        return len(self.query)

    def __getitem__(self, rows: Any) -> "Rollout":
        return Rollout(*(value[rows] for value in self))

    def __iter__(self) -> Iterator[Tensor]:
        return (getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Targets:
    """The regression and gradient targets of the PPO loss: [B, R] float32 each."""

    advantage: Tensor
    returns: Tensor  # the critic's regression target
    reward: Tensor  # per token, score and KL penalty, as the advantages were computed from it

    def __getitem__(self, rows: Any) -> "Targets":
        return Targets(self.advantage[rows], self.returns[rows], self.reward[rows])

    def first_tokens(self, count: int) -> "Targets":
        """The same targets for response columns 0 to `count` - 1 only."""
        return self[:, :count]


def _up_to(index: Tensor, length: int) -> Tensor:
    """[B] -> [B, length] bool: true up to and including each row's index."""
    return torch.arange(length, device=index.device)[None, :] <= index[:, None]
