"""Mixed precision: what autocast computes in, and which dtype frozen weights have."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from repro.models.scalar_model import ScalarModel, trunk_of

if TYPE_CHECKING:  # imported where they are used: whoever reads the registry does without
    from accelerate import Accelerator


def as_declared(precision: str) -> str:
    """accelerate's word for a scale's precision: bfloat16 autocast where "auto" finds a device that likes it."""
    likes_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bf16" if precision == "bfloat16" or (precision == "auto" and likes_bfloat16) else "no"


def never(precision: str) -> str:
    """float32 throughout."""
    return "no"


def bfloat16(precision: str) -> str:
    """bfloat16 autocast over float32 weights, on any device."""
    return "bf16"


def cast_weights(network: nn.Module, weights: str) -> nn.Module:
    """The frozen network with its transformer's weights in "float32" or "bfloat16"; a scalar head stays as it is.

    Buffers stay too: rotary frequencies in bfloat16 would put tokens in other places.
    """
    for parameter in trunk_of(network).parameters() if isinstance(network, ScalarModel) else network.parameters():
        parameter.data = parameter.data.to(getattr(torch, weights))
    return network


def cached_autocast(accelerator: Accelerator) -> AbstractContextManager:
    """Within, autocast rounds a weight once and not in every forward pass; not where ranks share weights, which come and go."""
    from accelerate.utils import DistributedType

    shared = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    return nullcontext() if shared else accelerator.autocast()
