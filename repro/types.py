"""The records that flow between PPO's phases, and the one legend of their shapes.

An annotation says of a tensor its dtype and the name of each dimension; a name that occurs twice in one signature or record
is one size. `episodes` are those of a batch, `query_tokens` are left-padded, `tokens` are those of a response, `vocabulary` is
what each of them is drawn from. Index t of `tokens` belongs to response token t; a value at t is that of the state *before*
token t. So index last + 1 is the terminal state: where the reward model reads its score. (The space before a lone name keeps
linters from taking it for that of a class.)

The annotations cost nothing where they are not checked; the tests check each call of `repro/ops/` and each record made
(`tests/checked_shapes.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int
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
    """One batch of episodes as the policy sampled it; immutable, and `rollout[rows]` slices every field."""

    query: Int[Tensor, "episodes query_tokens"]  # token ids, left-padded
    response: Int[Tensor, "episodes tokens"]  # token ids as they were drawn, those after the first end of text too
    logprob: Float32[Tensor, "episodes tokens"]  # of the policy that sampled, as the update compares itself with it
    sampled: Float32[Tensor, "episodes tokens"]  # the same as the sampler computed it
    ref_logprob: Float32[Tensor, "episodes tokens"]  # of the reference policy
    kl: Float32[Tensor, "episodes tokens"]  # from the policy to the reference, in nats, as it is estimated
    value: Float32[Tensor, "episodes tokens"]  # of the critic
    score: Float32[Tensor, " episodes"]  # the reward model's
    last: Int[Tensor, " episodes"]  # index of the response's last token: its end of text where it has one
    counted: Int[Tensor, " episodes"]  # index of the last token that counts: `last`, unless a recipe counts more
    has_eos: Bool[Tensor, " episodes"]

    @property
    def token_mask(self) -> TokenMask:
        """True on the tokens that losses and rewards count: the response's, its end of text included."""
        return _up_to(self.counted, self.response.shape[1])

    @property
    def value_mask(self) -> TokenMask:
        """True on the states with a value: one more than the tokens, for the state after the last."""
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
    """What the PPO loss is drawn towards, and what it was made of."""

    advantage: Float32[Tensor, "episodes tokens"]
    returns: Float32[Tensor, "episodes tokens"]
    reward: Float32[Tensor, "episodes tokens"]  # score and KL, as the advantages were computed from it

    def __getitem__(self, rows: Any) -> "Targets":
        return Targets(self.advantage[rows], self.returns[rows], self.reward[rows])

    def first(self, columns: int) -> "Targets":
        """The targets of the first response tokens."""
        return self[:, :columns]


@dataclass(frozen=True)
class LossWeights:
    """What a token weighs in the policy's loss, a state in the critic's, and 1/count of either for the metrics."""

    token: Float32[Tensor, "episodes tokens"]
    value: Float32[Tensor, "episodes tokens"]
    per_token: Float32[Tensor, "episodes tokens"]
    per_value: Float32[Tensor, "episodes tokens"]

    def __getitem__(self, rows: Any) -> "LossWeights":
        return LossWeights(self.token[rows], self.value[rows], self.per_token[rows], self.per_value[rows])

    def first(self, columns: int) -> "LossWeights":
        """The weights of the first response tokens."""
        return self[:, :columns]


def _up_to(last: TokenIndex, length: int) -> Bool[Tensor, "episodes {length}"]:
    return torch.arange(length, device=last.device)[None, :] <= last[:, None]
