"""Mixed precision: the dtype of autocast and of frozen weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repro.models import wrapping
from repro.models.scalar_model import ScalarModel, trunk_of

if TYPE_CHECKING:  # imported where they are used: whoever reads the registry does without
    from accelerate import Accelerator


def by_scale(precision: str) -> str:
    """accelerate's `mixed_precision` for Scale.precision: "auto" is bfloat16 on a GPU that supports it, else float32."""
    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bf16" if precision == "bfloat16" or (precision == "auto" and has_bfloat16) else "no"


def float32(precision: str) -> str:
    """float32 throughout."""
    return "no"


def bfloat16(precision: str) -> str:
    """bfloat16 autocast over float32 weights, on any device."""
    return "bf16"


def cast_weights(network: nn.Module, weights: str) -> nn.Module:
    """The frozen network with the weights of its transformer in "float32" or "bfloat16".

    A scalar head and all buffers keep their dtype: bfloat16 rotary frequencies would shift positions.
    """
    for parameter in trunk_of(network).parameters() if isinstance(network, ScalarModel) else network.parameters():
        parameter.data = parameter.data.to(getattr(torch, weights))
    return network


def sample_as_trained(accelerator: Accelerator, policy: nn.Module) -> AbstractContextManager:
    """The sampler computes as the update does."""
    return cached_autocast(accelerator)


def sample_in_bfloat16(accelerator: Accelerator, policy: nn.Module) -> AbstractContextManager:
    """The sampler computes in bfloat16, whatever the update does."""
    return torch.autocast(accelerator.device.type, dtype=torch.bfloat16)


@contextmanager
def sample_with_int8_weights(accelerator: Accelerator, policy: nn.Module) -> Iterator[None]:
    """The sampler's matrices are rounded to 8 bits with a scale for each row; afterwards they are as before."""
    before = {weight: weight.detach().clone() for weight in policy.parameters() if weight.dim() == 2}
    try:
        with torch.no_grad():
            for weight in before:
                weight.copy_(rounded_to_int8(weight))
        with cached_autocast(accelerator):
            yield
    finally:
        with torch.no_grad():
            for weight, value in before.items():
                weight.copy_(value)


def rounded_to_int8(weight: Tensor) -> Tensor:
    """[rows, columns] -> the nearest of 255 evenly spaced numbers from -max to max of each row."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny) / 127
    return (weight / scale).round() * scale


def cached_autocast(accelerator: Accelerator) -> AbstractContextManager:
    """One autocast context around many forward passes, which casts each weight once; no context with sharded weights."""
    return nullcontext() if wrapping.is_sharded(accelerator) else accelerator.autocast()
