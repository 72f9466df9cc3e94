"""The optimizer step that all training stages share: AdamW as the paper sets it, and gradient accumulation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import repeat
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from repro import details as d
from repro.detail import Pick
from repro.errors import UserError
from repro.models import ranks, wrapping

if TYPE_CHECKING:
    from accelerate import Accelerator

MicroBatch = TypeVar("MicroBatch")


def adamw(
    networks: Iterable[nn.Module], learning_rate: float, pick: Pick, factors: Iterable[float] = repeat(1.0)
) -> Optimizer:
    """AdamW over the trainable weights of all networks; a shared weight enters once (N+ details 9, 10 and 20).

    `factors` multiply the learning rate of each network; those with the same one are one group.
    """
    trained: dict[nn.Parameter, float] = {}
    for network, factor in zip(networks, factors):
        for weight in network.parameters():
            if weight.requires_grad:
                trained.setdefault(weight, factor)
    groups = [
        {"params": [p for p, own in trained.items() if own == factor], "factor": factor}
        for factor in dict.fromkeys(trained.values())
    ]
    # Fused, since the default launches a dozen kernels per weight on a CPU.
    return pick(d.ADAM_FLAVOUR)(
        groups, lr=learning_rate, eps=pick(d.ADAM_EPSILON), weight_decay=pick(d.WEIGHT_DECAY), fused=True
    )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)  # a checkpoint of before there were factors has none


def step(
    accelerator: Accelerator, optimizer: Optimizer, losses: Iterable[Tensor], max_grad_norm: float = math.inf
) -> float:
    """One optimizer step on the sum of the micro-batch losses of all ranks; returns that sum.

    Each loss is already divided by the denominator of the whole step over all ranks, so the split changes nothing. Where
    the loss or the gradient norm is not finite, the weights stay as they are and the result is NaN.
    """
    loss = gradients(accelerator, optimizer, losses, max_grad_norm)
    if math.isfinite(loss):
        optimizer.step()
    return loss


def gradients(
    accelerator: Accelerator, optimizer: Optimizer, losses: Iterable[Tensor], max_grad_norm: float = math.inf
) -> float:
    """The first half of `step`: the weights have their gradients, and the result is that of `step`."""
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    for loss in losses:
        # Ranks average their gradients, and this is the gradient of a sum.
        accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    grad_norm = float(accelerator.clip_grad_norm_(weights, max_grad_norm))
    loss = accelerator.reduce(total).item()
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        return math.nan
    return loss


def accumulation_steps(
    accelerator: Accelerator, network: nn.Module, micro_batches: Sequence[MicroBatch]
) -> Iterator[MicroBatch]:
    """Yields each micro-batch of an optimizer step; run its forward and backward pass before asking for the next.

    DDP reduces the gradients in the last one only. FSDP and DeepSpeed reduce them in every one, since gradients that are
    not reduced yet take the memory of a whole network.
    """
    for number, micro_batch in enumerate(micro_batches, 1):
        accelerator.sync_gradients = number == len(micro_batches)
        skip_sync = not (accelerator.sync_gradients or wrapping.is_sharded(accelerator))
        with accelerator.no_sync(network) if skip_sync else nullcontext():
            yield micro_batch


def local_micro_batches(rows: Tensor, micro_batch: int) -> list[tuple[Tensor, Tensor]]:
    """[N] rows of a step -> this rank's micro-batches: [B] rows, and [B] bool: false on filler rows.

    Every rank gets the same number of them.
    """
    own, real = ranks.shard(rows)
    return list(zip(own.split(micro_batch), real.split(micro_batch)))


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices of one shuffled epoch, the last incomplete batch dropped; UserError where no batch is complete."""
    if count < size:
        raise UserError(f"{count} training rows are fewer than a batch of {size}; give more rows or a smaller batch")
    order = torch.randperm(count, generator=generator)
    yield from order[: count - count % size].split(size)


def endless_batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices of epoch after epoch, each shuffled anew (N+ detail 21)."""
    while True:
        yield from batches(count, size, generator)
