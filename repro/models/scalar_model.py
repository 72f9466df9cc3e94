"""The scalar model, a transformer with a scalar head: the class of reward models and critics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repro.models import forward_pass
from repro.models.wrapping import Learner
from repro.ops.places import EVERY, Places, at

if TYPE_CHECKING:  # imported where it is used, since the registry is read without these libraries
    from transformers import PreTrainedModel


class ScalarModel(nn.Module):
    """output = (head(hidden state) - bias) / gain at each token; a reward model pools it, a critic reads all (N+ detail 11).

    `reward_token` names the pooling of a reward model, a key of `POOLINGS`; it is saved in the configuration.
    """

    def __init__(self, trunk: PreTrainedModel, reward_token: str = "eos") -> None:
        super().__init__()
        self.trunk = trunk
        self._no_split_modules = getattr(trunk, "_no_split_modules", None) or ()  # FSDP wraps each of these
        self.reward_token = reward_token
        self.head = nn.Linear(output_width(trunk), 1)
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("gain", torch.ones(()))

    def forward(self, places: Places = EVERY, **inputs: Tensor) -> Tensor:
        """`input_ids`, `attention_mask` [B, T] -> [B, K] float32: the normalised output at these places.

        With a KV cache, `past_key_values`, the ids are what follows the texts in it.
        """
        places_kwargs = forward_pass.places_kwargs(self.trunk, places)
        use_cache = "past_key_values" in inputs
        hidden = self.trunk(**inputs, **places_kwargs, use_cache=use_cache).last_hidden_state
        hidden = hidden if places_kwargs else at(hidden, places)
        with torch.autocast(hidden.device.type, enabled=False):  # autocast would round the score to bfloat16
            output = nn.functional.linear(hidden.float(), self.head.weight.float(), self.head.bias.float())
            return (output.squeeze(-1) - self.bias) / self.gain


def output_width(trunk: PreTrainedModel) -> int:
    """Width of a trunk's output; the smallest OPT projects its hidden states down."""
    config = trunk.config.get_text_config()
    return getattr(config, "word_embed_proj_dim", config.hidden_size)


def head_normal(head: nn.Linear, generator: torch.Generator) -> None:
    """Weights from N(0, 1/sqrt(d + 1)), bias 0 (N+ detail 11)."""
    nn.init.normal_(head.weight, std=1 / math.sqrt(head.in_features + 1), generator=generator)
    nn.init.zeros_(head.bias)


def head_library_default(head: nn.Linear, generator: torch.Generator) -> None:
    """Weights and bias uniform within 1/sqrt(d), the default of `nn.Linear`."""
    bound = 1 / math.sqrt(head.in_features)
    nn.init.uniform_(head.weight, -bound, bound, generator=generator)
    nn.init.uniform_(head.bias, -bound, bound, generator=generator)


def head_zeros(head: nn.Linear, generator: torch.Generator) -> None:
    """Weights and bias 0: every text scores 0 before the first step."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)


def trunk_of(network: nn.Module) -> nn.Module:
    """The transformer under a policy's or a scalar model's head."""
    network = network.network if isinstance(network, Learner) else network
    return network.trunk if isinstance(network, ScalarModel) else network.base_model
