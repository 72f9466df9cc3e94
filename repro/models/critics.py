"""Critics: their initialisation and their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repro.models import forward_pass, pretrained
from repro.models.scalar_model import ScalarModel, head_normal, head_zeros
from repro.ops.places import Places, at, last

if TYPE_CHECKING:  # imported where it is used, since the registry is read without these libraries
    from transformers import PreTrainedModel

InitialiseHead = Callable[[nn.Linear, torch.Generator], None]


def response_values(critic: nn.Module, query: Tensor, response: Tensor, pad: int) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: the value of the state before each response token."""
    ids = torch.cat([query, response[:, :-1]], 1)
    return critic(**forward_pass.model_inputs(ids, pad), places=last(response.shape[1]))


def from_reward_model(reward_model: Path, sft: Path, generator: torch.Generator) -> ScalarModel:
    """The critic starts from the reward model, normalisation included (N+ detail 22)."""
    return pretrained.load_scalar(reward_model)


def with_random_head(reward_model: Path, sft: Path, generator: torch.Generator) -> ScalarModel:
    """The critic starts from the SFT policy's trunk, with the random head that a reward model starts with."""
    return _on_sft(sft, head_normal, generator)


def with_zero_head(reward_model: Path, sft: Path, generator: torch.Generator) -> ScalarModel:
    """The critic starts from the SFT policy's trunk, with a head of zeros."""
    return _on_sft(sft, head_zeros, generator)


def from_reward_model_with_zero_head(reward_model: Path, sft: Path, generator: torch.Generator) -> ScalarModel:
    """The critic starts from the reward model's trunk, with a head of zeros: it knows what was learnt, and says nothing yet."""
    return _with_head(pretrained.load_scalar(reward_model).trunk, head_zeros, generator)


def _on_sft(sft: Path, initialise: InitialiseHead, generator: torch.Generator) -> ScalarModel:
    return _with_head(pretrained.load_policy(sft).base_model, initialise, generator)


def _with_head(trunk: PreTrainedModel, initialise: InitialiseHead, generator: torch.Generator) -> ScalarModel:
    critic = ScalarModel(trunk)
    initialise(critic.head, generator)
    return critic


def needed(construct: Callable[[], ScalarModel]) -> ScalarModel:
    """The critic that the recipe describes."""
    return construct()


def not_needed(construct: Callable[[], ScalarModel]) -> NoCritic:
    """No critic, where no advantage reads its values: none is loaded and none is trained."""
    return NoCritic()


# What an arm has of a critic, given the function that constructs it.
Choice = Callable[[Callable[[], ScalarModel]], nn.Module]


class NoCritic(nn.Module):
    """Stands where a critic may: the value of every state is 0, at no cost in memory or time."""

    def forward(self, input_ids: Tensor, places: Places, **_: Tensor) -> Tensor:
        """[B, T] -> [B, K] float32 zeros at these places."""
        return at(torch.zeros(input_ids.shape, dtype=torch.float32, device=input_ids.device), places)


def save(critic: nn.Module, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Save the critic; nothing where there is none."""
    if not isinstance(critic, NoCritic):
        pretrained.save_scalar(critic, folder, weights)


def with_own_trunk(critic: ScalarModel, policy: nn.Module) -> ScalarModel:
    """The critic shares no weight with the policy (N+ detail 22)."""
    return critic


def on_policy_trunk(critic: ScalarModel, policy: PreTrainedModel) -> ScalarModel:
    """The critic is a head of zeros on the policy's trunk, which both losses train (Ziegler et al. 2019, code)."""
    shared = ScalarModel(policy.base_model)
    nn.init.zeros_(shared.head.weight)
    nn.init.zeros_(shared.head.bias)
    return shared
