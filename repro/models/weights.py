"""How weights are trained and followed: in full or by an adapter, averaged or not, and Adam's two flavours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from repro.models.scalar_model import ScalarModel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# ---------------------------------------------------------------------------------------------- adapters


Trained = tuple[nn.Module, ScalarModel, nn.Module]


def full_weights(policy: PreTrainedModel, critic: ScalarModel, reference: PreTrainedModel, seed: int) -> Trained:
    """All weights of policy and critic are trained; the reference is a copy of its own."""
    return policy, critic, reference


def lora(policy: PreTrainedModel, critic: ScalarModel, reference: PreTrainedModel, seed: int) -> Trained:
    """Low-rank adapters (r 8, alpha 32) on all linear layers of both; the reference is the policy without its own.

    The critic's head is trained in full. Saving merges the adapters into the weights.
    """
    from peft import LoraConfig, get_peft_model

    def adapted(network: PreTrainedModel) -> nn.Module:
        # A configuration of its own: peft writes the names of the layers it finds into it.
        return get_peft_model(network, LoraConfig(r=8, lora_alpha=32, target_modules="all-linear"))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy, critic.trunk = adapted(policy), adapted(critic.trunk)
    return policy, critic, AdapterOff(policy)


class AdapterOff(nn.Module):
    """The policy with its adapter switched off: the one it started from, at no memory."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = [policy]  # in a list, so that its weights are not this module's too

    @property
    def config(self) -> PreTrainedConfig:
        return self.policy[0].config

    def get_output_embeddings(self) -> nn.Module:
        return self.policy[0].get_output_embeddings()

    def forward(self, **inputs: Tensor) -> Tensor:
        with self.policy[0].disable_adapter():
            return self.policy[0](**inputs)


# ---------------------------------------------------------------------------------------------- weights that follow others


def stay(follower: nn.Module, leader: nn.Module) -> None:
    """The follower does not."""


@torch.no_grad()
def follow(follower: nn.Module, leader: nn.Module, keep: float) -> None:
    """Each weight becomes keep of itself and 1 - keep of the leader's."""
    for mine, theirs in zip(follower.parameters(), leader.parameters(), strict=True):
        mine.lerp_(theirs, 1 - keep)


@dataclass(frozen=True)
class Reference:
    """The policy that the KL is measured to: the stage that made it, and how it moves after each update."""

    start: str
    move: Callable[[nn.Module, nn.Module], None] = stay

    def weights(self, frozen: str) -> str:
        """What it is held in: steps as small as those of one that moves are lost in bfloat16."""
        return frozen if self.move is stay else "float32"

    def held(self, reference: nn.Module) -> dict[str, nn.Module]:
        """What of it a checkpoint needs: nothing, while it stays what it was."""
        return {} if self.move is stay else {"reference": reference}


class LastWeights:
    """No average: what is kept is the policy as its last step left it."""

    def __init__(self, policy: nn.Module) -> None:
        self.module = policy

    def update_parameters(self, policy: nn.Module) -> None:
        pass

    def held(self) -> dict[str, nn.Module]:
        """What a checkpoint needs beside the policy."""
        return {}


class Average(AveragedModel):
    """An average over the steps so far; a checkpoint holds it."""

    def held(self) -> dict[str, nn.Module]:
        return {"average": self}


def averaged_weights(policy: nn.Module, keep: float) -> Average:
    """An exponential moving average of the weights over optimizer steps, from the first step on."""
    return Average(policy, multi_avg_fn=get_ema_multi_avg_fn(keep))


# ---------------------------------------------------------------------------------------------- optimizers


class TensorFlowAdam(torch.optim.AdamW):
    """AdamW whose epsilon stands beside the uncorrected second moment, as in TensorFlow 1 (N+ blog, on Adam).

    PyTorch divides by sqrt(v / (1 - beta2^t)) + eps, TensorFlow by (sqrt(v) + eps) / sqrt(1 - beta2^t): the same with
    eps / sqrt(1 - beta2^t) for eps, so that early steps are smaller.
    """

    def __init__(self, parameters, lr: float, eps: float, weight_decay: float, fused: bool) -> None:
        super().__init__(parameters, lr=lr, eps=eps, weight_decay=weight_decay, fused=fused)
        self.plain_eps = eps

    def step(self, closure=None):
        steps = 1 + max((int(state["step"]) for state in self.state.values()), default=0)
        for group in self.param_groups:
            group["eps"] = self.plain_eps / math.sqrt(1 - group["betas"][1] ** steps)
        return super().step(closure)
