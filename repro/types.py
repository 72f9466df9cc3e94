"""The records that PPO's phases hand to each other, and the one legend of their shapes.

An annotation says of a tensor its dtype and the name of each dimension; a name that occurs twice in one signature or record
is one size. `episodes` are those of a batch, `query_tokens` are left-padded, `tokens` are those of a response, `vocabulary` is
what each of them is drawn from. Index t of `tokens` belongs to response token t; a value at t is that of the state *before*
token t. So the index after the last token is the terminal state, whose reward is the reward model's score. (The space before a
lone name keeps linters from taking it for that of a class.)

The annotations cost nothing where they are not checked; the tests check each call of `repro/ops/` and each record made
(`tests/checked_shapes.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor

Metrics = dict[str, float]

Scalar = Float[Tensor, ""]
PerEpisode = Float[Tensor, " episodes"]
EpisodeMask = Bool[Tensor, " episodes"]
EpisodeTokens = Int[Tensor, " episodes"]  # one token of each episode
TokenIndex = Int[Tensor, " episodes"]  # the index of a token in each episode's response
PerToken = Float[Tensor, "episodes tokens"]
TokenMask = Bool[Tensor, "episodes tokens"]
Tokens = Int[Tensor, "episodes tokens"]


@dataclass(frozen=True)
class Rollout:
    """A batch of episodes sampled from the policy; immutable. `rollout[rows]` slices every field."""

    query: Int[Tensor, "episodes query_tokens"]  # token ids of the prompt, left-padded
    response: Int[Tensor, "episodes tokens"]  # token ids as sampled, including those after the first end of text
    logprob: Float32[Tensor, "episodes tokens"]  # under the policy before the update: the denominator of the ratio
    sampler_logprob: Float32[Tensor, "episodes tokens"]  # the same log-probability as the sampler computed it
    ref_logprob: Float32[Tensor, "episodes tokens"]  # under the reference policy
    kl: Float32[Tensor, "episodes tokens"]  # estimate of KL(policy, reference) in nats
    value: Float32[Tensor, "episodes tokens"]  # the critic's
    score: Float32[Tensor, " episodes"]  # the reward model's
    last_token: Int[Tensor, " episodes"]  # index of the response's last token: its end of text where it has one
    last_counted: Int[Tensor, " episodes"]  # index of the last token that losses and rewards count (`after_eos`)
    has_eos: Bool[Tensor, " episodes"]
    member_scores: Float32[Tensor, "episodes members"]  # of each reward model of an ensemble; no columns without one
    support: UInt8[Tensor, "episodes tokens bytes"]  # the tokens that the softmax is over, a bit each; no bytes: all

    @property
    def token_mask(self) -> TokenMask:
        """True on the tokens that count in losses and rewards, the end of text included."""
        return up_to(self.last_counted, self.response.shape[1])

    @property
    def value_mask(self) -> TokenMask:
        """True on the states that count: those before each token of `token_mask`, and the terminal state."""
        return up_to(self.last_counted + 1, self.response.shape[1])

    def first_tokens(self, count: int) -> "Rollout":
        """The same episodes with response columns 0 to `count` - 1 only."""
        per_token = ("response", "logprob", "sampler_logprob", "ref_logprob", "kl", "value", "support")
        return replace(self, **{name: getattr(self, name)[:, :count] for name in per_token})

    def __len__(self) -> int:
        return len(self.query)

    def __getitem__(self, rows: Any) -> "Rollout":
        return Rollout(*(value[rows] for value in self))

    def __iter__(self) -> Iterator[Tensor]:
        return (getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Targets:
    """The regression and gradient targets of the PPO loss."""

    advantage: Float32[Tensor, "episodes tokens"]
    returns: Float32[Tensor, "episodes tokens"]  # the critic's regression target
    reward: Float32[Tensor, "episodes tokens"]  # score and KL penalty, as the advantages were computed from it

    def __getitem__(self, rows: Any) -> "Targets":
        return Targets(self.advantage[rows], self.returns[rows], self.reward[rows])

    def first_tokens(self, count: int) -> "Targets":
        """The same targets for response columns 0 to `count` - 1 only."""
        return self[:, :count]


@dataclass(frozen=True)
class LossWeights:
    """The weights of tokens and states in the two losses, and those of a plain mean for the metrics."""

    policy: Float32[Tensor, "episodes tokens"]
    critic: Float32[Tensor, "episodes tokens"]
    token_mean: Float32[Tensor, "episodes tokens"]
    state_mean: Float32[Tensor, "episodes tokens"]

    def __getitem__(self, rows: Any) -> "LossWeights":
        return LossWeights(self.policy[rows], self.critic[rows], self.token_mean[rows], self.state_mean[rows])

    def first_tokens(self, count: int) -> "LossWeights":
        """The same weights for response columns 0 to `count` - 1 only."""
        return self[:, :count]


def up_to(index: TokenIndex, length: int) -> Bool[Tensor, "episodes {length}"]:
    """True up to and including each row's index."""
    return torch.arange(length, device=index.device)[None, :] <= index[:, None]
