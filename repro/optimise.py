"""What SFT, the reward model and PPO share: AdamW as the paper sets it, and one optimizer step over micro-batches."""

from collections.abc import Iterable, Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from repro.errors import UserError

ADAM_EPSILON = 1e-5  # N+ details 9, 10 and 20; betas and weight decay are PyTorch's defaults


def adamw(networks: Iterable[nn.Module], learning_rate: float) -> AdamW:
    return AdamW([p for network in networks for p in network.parameters()], lr=learning_rate, eps=ADAM_EPSILON)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def step(accelerator: Accelerator, optimizer: torch.optim.Optimizer, losses: Iterable[Tensor]) -> float:
    """Add up the gradients of micro-batch losses and step once; a non-finite loss is returned without a step.

    Each loss carries its share of the whole step's denominator, so the split changes nothing.
    """
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for loss in losses:
        # Ranks average gradients; the shares are of a sum.
        accelerator.backward(loss * accelerator.num_processes)
        total += loss.item()
    if total == total and abs(total) != float("inf"):
        optimizer.step()
    return total


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
