"""Modes of a network: dropout in training, frozen for inference, activation checkpointing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn

from repro.models.scalar_model import trunk_of


def set_dropout(network: nn.Module, probability: float) -> nn.Module:
    """The network in training mode with every dropout at `probability`, which is 0 in the paper (N+ detail 7)."""
    for module, name in _dropouts(network):
        setattr(module, name, 0.0 if name == "layerdrop" else probability)  # layerdrop drops whole layers
    return network.train()


def _dropouts(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where a network holds a probability of dropout: modules, and the names of attributes of theirs."""
    return [
        (module, name)
        for module in network.modules()
        for name, value in vars(module).items()
        if isinstance(value, float) and ("drop" in name or (isinstance(module, nn.Dropout) and name == "p"))
    ]


def dropout_as_it_is(networks: Iterable[nn.Module]) -> AbstractContextManager:
    """Dropout stays as it is within the context."""
    return nullcontext()


@contextmanager
def dropout_within(networks: Iterable[nn.Module], probability: float) -> Iterator[None]:
    """Within the context every dropout of the networks is at `probability`; afterwards each is as it was."""
    before = [(module, name, getattr(module, name)) for network in networks for module, name in _dropouts(network)]
    for network in networks:
        set_dropout(network, probability)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def freeze(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, without dropout, its weights without gradients."""
    return set_dropout(network, 0.0).eval().requires_grad_(False)


@contextmanager
def recompute_activations(networks: Iterable[nn.Module], unit: str) -> Iterator[None]:
    """Activation checkpointing within the context: the backward pass recomputes each of the "layers", or "nothing"."""
    with_weights = [network for network in networks if any(True for _ in network.parameters())]
    trunks = [trunk_of(network) for network in with_weights] if unit == "layers" else []
    for trunk in trunks:
        trunk.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        for trunk in trunks:
            trunk.gradient_checkpointing_disable()
