"""What SFT, the reward model and PPO share: AdamW as the paper sets it, and one optimizer step over micro-batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from repro import details as d
from repro.detail import Pick
from repro.errors import UserError
from repro.models import ranks

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def adamw(networks: Iterable[nn.Module], learning_rate: float, pick: Pick) -> Optimizer:
    """The optimizer of all weights of the networks that are trained, each once (N+ details 9, 10 and 20)."""
    trained = dict.fromkeys(p for network in networks for p in network.parameters() if p.requires_grad)
    # Fused: all weights in one kernel, where the library by itself takes a dozen for each of them on a CPU.
    return pick(d.ADAM_FLAVOUR)(
        list(trained), lr=learning_rate, eps=pick(d.ADAM_EPSILON), weight_decay=pick(d.WEIGHT_DECAY), fused=True
    )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def step(accelerator: Accelerator, optimizer: Optimizer, losses: Iterable[Tensor], longest: float = math.inf) -> float:
    """Add up the gradients of micro-batch losses and step once, with a gradient no longer than `longest`: the loss.

    Each loss carries its share of the whole step's denominator, over all ranks, so the split changes nothing. Where the
    loss or the gradient is not finite there is no step, and the loss is returned as NaN.
    """
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    for loss in losses:
        # Ranks average gradients; the shares are of a sum.
        accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    length = float(accelerator.clip_grad_norm_(weights, longest))
    loss = accelerator.reduce(total).item()
    if not (math.isfinite(loss) and math.isfinite(length)):
        return math.nan
    optimizer.step()
    return loss


def shared(accelerator: Accelerator, network: nn.Module, parts: Sequence[T]) -> Iterator[T]:
    """The parts of a step, to be run forward and backward one by one; ranks add up their gradients in the last one's.

    Ranks that share weights add them up in each, since what they have not added up takes the room of a whole network.
    """
    from accelerate.utils import DistributedType

    plain = (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)  # each rank has all of the weights
    for number, part in enumerate(parts, 1):
        accelerator.sync_gradients = number == len(parts)
        waits = accelerator.distributed_type in plain and not accelerator.sync_gradients
        with accelerator.no_sync(network) if waits else nullcontext():
            yield part


def dealt(rows: Tensor, micro_batch: int) -> list[tuple[Tensor, Tensor]]:
    """[N] rows of a step -> this rank's micro-batches, as many as any other's, each with [B] bool: which rows count."""
    own, counts = ranks.shard(rows)
    return list(zip(own.split(micro_batch), counts.split(micro_batch)))


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices of one shuffled pass, without the last incomplete batch; a UserError where there is not one whole."""
    if count < size:
        raise UserError(f"{count} training rows are fewer than a batch of {size}; give more rows or a smaller batch")
    order = torch.randperm(count, generator=generator)
    yield from order[: count - count % size].split(size)


def endless_batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices without end: reshuffled at every pass (N+ detail 21)."""
    while True:
        yield from batches(count, size, generator)
