"""How weights are trained, in full or as an adapter; what they were; how they are averaged; AdamW with TensorFlow's epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from repro.models.scalar_model import ScalarModel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# ---------------------------------------------------------------------------------------------- adapters


PolicyCriticReference = tuple[nn.Module, nn.Module, nn.Module]


def full_weights(
    policy: PreTrainedModel, critic: nn.Module, reference: PreTrainedModel, seed: int
) -> PolicyCriticReference:
    """Train all weights of policy and critic; the reference is a network of its own."""
    return policy, critic, reference


def lora(policy: PreTrainedModel, critic: nn.Module, reference: PreTrainedModel, seed: int) -> PolicyCriticReference:
    """Train low-rank adapters (r 8, alpha 32) on all linear layers of policy and critic, and all of the critic's head.

    The reference is the policy with its adapter disabled. Saving merges the adapters into the weights.
    """
    from peft import LoraConfig, get_peft_model

    def adapted(network: PreTrainedModel) -> nn.Module:
        # A fresh configuration each time, since peft writes the layers' names into it.
        return get_peft_model(network, LoraConfig(r=8, lora_alpha=32, target_modules="all-linear"))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = adapted(policy)
        if isinstance(critic, ScalarModel):  # an arm without a critic has none to adapt
            critic.trunk = adapted(critic.trunk)
    return policy, critic, AdapterOff(policy)


class AdapterOff(nn.Module):
    """The policy with its adapter disabled: its initial weights, at no extra memory."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = [policy]  # in a list, so that the weights are not registered as this module's

    @property
    def config(self) -> PreTrainedConfig:
        return self.policy[0].config

    def get_output_embeddings(self) -> nn.Module:
        return self.policy[0].get_output_embeddings()

    def forward(self, **inputs: Tensor) -> Tensor:
        with self.policy[0].disable_adapter():
            return self.policy[0](**inputs)


# ---------------------------------------------------------------------------------------------- moved, and as they were


class EarlierWeights:
    """A network with the weights that it has now, for when it will have others; the weights exist twice, nothing else does."""

    def __init__(self, network: nn.Module, weights: Sequence[nn.Parameter]) -> None:
        self.network, self.weights = network, weights
        self.earlier = [weight.detach().clone() for weight in weights]

    def __call__(self, **inputs: Any) -> Any:
        now = [weight.data for weight in self.weights]
        self._point_at(self.earlier)
        try:
            return self.network(**inputs)
        finally:
            self._point_at(now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    @torch.no_grad()
    def move(self, step: Tensor) -> None:
        """The network gets its earlier weights plus a step, [all weights] in their order."""
        parts = step.split([weight.numel() for weight in self.weights])
        for weight, earlier, part in zip(self.weights, self.earlier, parts, strict=True):
            weight.copy_(earlier + part.view_as(earlier))

    def _point_at(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.data = value


# ---------------------------------------------------------------------------------------------- averages of weights


def no_update(target: nn.Module, source: nn.Module) -> None:
    """The target's weights stay as they are."""


@torch.no_grad()
def ema_update(target: nn.Module, source: nn.Module, decay: float) -> None:
    """w_target = decay * w_target + (1 - decay) * w_source, for every weight."""
    for target_weight, source_weight in zip(target.parameters(), source.parameters(), strict=True):
        target_weight.lerp_(source_weight, 1 - decay)


@dataclass(frozen=True)
class ReferencePolicy:
    """The policy that the KL penalty refers to: the stage that trained it, and (reference, policy) -> None after an update."""

    stage: str
    update: Callable[[nn.Module, nn.Module], None] = no_update

    def dtype(self, frozen_dtype: str) -> str:
        """The dtype of its weights: `frozen_dtype`, or float32 for a moving average, whose small steps bfloat16 would lose."""
        return frozen_dtype if self.update is no_update else "float32"

    def stateful(self, reference: nn.Module) -> dict[str, nn.Module]:
        """What a checkpoint has to hold: the reference where it changes."""
        return {} if self.update is no_update else {"reference": reference}


class LastWeights:
    """No average: the policy's own weights, with the interface of `WeightAverage`."""

    def __init__(self, policy: nn.Module) -> None:
        self.module = policy

    def update_parameters(self, policy: nn.Module) -> None:
        pass

    def stateful(self) -> dict[str, nn.Module]:
        """What a checkpoint has to hold beside the policy: nothing."""
        return {}


class WeightAverage(AveragedModel):
    """An average of the policy's weights over optimizer steps; `module` has the averaged weights."""

    def stateful(self) -> dict[str, nn.Module]:
        """What a checkpoint has to hold beside the policy: the average."""
        return {"average": self}


def ema_weights(policy: nn.Module, decay: float) -> WeightAverage:
    """An exponential moving average of the weights over optimizer steps, from the first step on."""
    return WeightAverage(policy, multi_avg_fn=get_ema_multi_avg_fn(decay))


# ---------------------------------------------------------------------------------------------- optimizers


class TensorFlowAdam(torch.optim.AdamW):
    """AdamW that adds epsilon to the uncorrected second moment, as TensorFlow 1 does (N+ blog, on Adam).

    PyTorch divides by sqrt(v / (1 - beta2^t)) + eps, TensorFlow by (sqrt(v) + eps) / sqrt(1 - beta2^t). So PyTorch's step
    with eps / sqrt(1 - beta2^t) in place of eps is TensorFlow's: early steps are smaller.
    """

    def __init__(self, parameters, lr: float, eps: float, weight_decay: float, fused: bool) -> None:
        super().__init__(parameters, lr=lr, eps=eps, weight_decay=weight_decay, fused=fused)
        self.tensorflow_eps = eps

    def step(self, closure=None):
        steps = 1 + max((int(state["step"]) for state in self.state.values()), default=0)
        for group in self.param_groups:
            group["eps"] = self.tensorflow_eps / math.sqrt(1 - group["betas"][1] ** steps)
        return super().step(closure)
