"""The records that flow between the pieces, and the one legend of their shapes.

B episodes, Q query tokens (left-padded), R response tokens, V vocabulary.
Index t of a `[B, R]` tensor belongs to response token t; a value at t is that of the state *before* token t. So
index last + 1 is the terminal state: where the reward model reads its score.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

Metrics = dict[str, float]


@dataclass(frozen=True)
class Rollout:
    """One batch of episodes as the policy sampled it; immutable, and `rollout[rows]` slices every field."""

    query: Tensor  # [B, Q] token ids, left-padded
    response: Tensor  # [B, R] token ids as they were drawn, those after the first end of text too
    logprob: Tensor  # [B, R] float32, of the policy that sampled, as the update compares itself with it
    sampled: Tensor  # [B, R] float32, the same as the sampler computed it
    ref_logprob: Tensor  # [B, R] float32, of the reference policy
    kl: Tensor  # [B, R] float32, what the policy is from the reference, in nats, as it is estimated
    value: Tensor  # [B, R] float32, of the critic
    score: Tensor  # [B] float32, the reward model's
    last: Tensor  # [B] index of the response's last token: its end of text where it has one
    counted: Tensor  # [B] index of the last token that losses and rewards count: `last`, unless a recipe counts more
    has_eos: Tensor  # [B] bool

    @property
    def token_mask(self) -> Tensor:
        """[B, R] true on the tokens that count: the response's, its end of text included."""
        return _up_to(self.counted, self.response.shape[1])

    @property
    def value_mask(self) -> Tensor:
        """[B, R] true on the states with a value: one more than the tokens, for the state after the last."""
        return _up_to(self.counted + 1, self.response.shape[1])

    def first(self, columns: int) -> "Rollout":
        """The episodes as if they had been sampled to so many response tokens at the most."""
        of_tokens = ("response", "logprob", "sampled", "ref_logprob", "kl", "value")
        return replace(self, **{name: getattr(self, name)[:, :columns] for name in of_tokens})

    def __len__(self) -> int:
        return len(self.query)

    def __getitem__(self, rows: Any) -> "Rollout":
        return Rollout(*(value[rows] for value in self))

    def __iter__(self) -> Iterator[Tensor]:
        return (getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Targets:
    """What the PPO loss is drawn towards, and what it was made of: all [B, R] float32."""

    advantage: Tensor
    returns: Tensor
    reward: Tensor  # of each token, score and KL, as the advantages were computed from it

    def __getitem__(self, rows: Any) -> "Targets":
        return Targets(self.advantage[rows], self.returns[rows], self.reward[rows])

    def first(self, columns: int) -> "Targets":
        """The targets of the first response tokens."""
        return self[:, :columns]


def _up_to(last: Tensor, length: int) -> Tensor:
    return torch.arange(length, device=last.device)[None, :] <= last[:, None]
