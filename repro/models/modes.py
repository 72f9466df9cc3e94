"""Modes of a network: dropout in training, frozen for evaluation, activations recomputed in the backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from repro.models.scalar_model import trunk_of


def set_dropout(network: nn.Module, probability: float) -> nn.Module:
    """The network in training mode with every dropout at `probability`: 0 unless a recipe says otherwise (N+ detail 7)."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        for name in [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]:
            setattr(module, name, 0.0 if name == "layerdrop" else probability)  # of whole layers: another thing
    return network.train()


def freeze(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, without dropout and without gradients."""
    return set_dropout(network, 0.0).eval().requires_grad_(False)


@contextmanager
def recompute_activations(networks: Iterable[nn.Module], what: str) -> Iterator[None]:
    """Within, a backward pass computes the activations of "layers" again instead of keeping them; or of "nothing"."""
    trunks = [trunk_of(network) for network in networks] if what == "layers" else []
    for trunk in trunks:
        trunk.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        for trunk in trunks:
            trunk.gradient_checkpointing_disable()
