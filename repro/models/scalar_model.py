"""The scalar model, a transformer with a linear head of one output: reward models and critics are of this class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repro.models import forward_pass
from repro.models.wrapping import Learner
from repro.ops.places import EVERY, Places, at

if TYPE_CHECKING:  # imported where they are used: whoever reads the registry does without
    from transformers import PreTrainedModel


class ScalarModel(nn.Module):
    """A trunk with a linear head: a reward model read at one token, or a critic read at all of them (N+ detail 11).

    `reward_token` names the one of `POOLINGS` that makes its outputs one reward; it is saved with the configuration.
    """

    def __init__(self, trunk: PreTrainedModel, reward_token: str = "eos") -> None:
        super().__init__()
        self.trunk = trunk
        self._no_split_modules = getattr(trunk, "_no_split_modules", None) or ()  # what accelerate shards one by one
        self.reward_token = reward_token
        self.head = nn.Linear(output_width(trunk), 1)
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("gain", torch.ones(()))

    def forward(self, places: Places = EVERY, **inputs: Tensor) -> Tensor:
        """`input_ids` [B, T] and the like -> [B, K] float32: normalised output at these places."""
        told = forward_pass.places_kwargs(self.trunk, places)
        hidden = self.trunk(**inputs, **told, use_cache=False).last_hidden_state
        hidden = hidden if told else at(hidden, places)
        with torch.autocast(hidden.device.type, enabled=False):  # it would round the score to bfloat16
            output = nn.functional.linear(hidden.float(), self.head.weight.float(), self.head.bias.float())
            return (output.squeeze(-1) - self.bias) / self.gain


def output_width(trunk: PreTrainedModel) -> int:
    """Numbers that a trunk says of each token; the smallest OPT projects its hidden ones down."""
    config = trunk.config.get_text_config()
    return getattr(config, "word_embed_proj_dim", config.hidden_size)


def head_normal(head: nn.Linear, generator: torch.Generator) -> None:
    """Weights from N(0, 1/sqrt(d + 1)), bias 0 (N+ detail 11)."""
    nn.init.normal_(head.weight, std=1 / math.sqrt(head.in_features + 1), generator=generator)
    nn.init.zeros_(head.bias)


def head_library_default(head: nn.Linear, generator: torch.Generator) -> None:
    """Weights and bias uniform within 1/sqrt(d), as `nn.Linear` starts."""
    bound = 1 / math.sqrt(head.in_features)
    nn.init.uniform_(head.weight, -bound, bound, generator=generator)
    nn.init.uniform_(head.bias, -bound, bound, generator=generator)


def head_zeros(head: nn.Linear, generator: torch.Generator) -> None:
    """All zeros: every text scores 0 before the first step."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)


def trunk_of(network: nn.Module) -> nn.Module:
    """The transformer under a policy's or a scalar model's head."""
    network = network.network if isinstance(network, Learner) else network
    return network.trunk if isinstance(network, ScalarModel) else network.base_model
