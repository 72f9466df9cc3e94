"""Mixed precision: the dtype of autocast and of frozen weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

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


def cached_autocast(accelerator: Accelerator) -> AbstractContextManager:
    """One autocast context around many forward passes, which casts each weight once; no context with sharded weights."""
    from accelerate.utils import DistributedType

    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    return nullcontext() if sharded else accelerator.autocast()
