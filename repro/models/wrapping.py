"""Wrapping of networks by accelerate: device, autocast, and DDP or sharded weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:  # imported where it is used, since the registry is read without these libraries
    from accelerate import Accelerator


def unwrap(network: nn.Module) -> nn.Module:
    """The network without any wrapper."""
    from accelerate.utils import extract_model_from_parallel

    return network.network if isinstance(network, Learner) else extract_model_from_parallel(network)


class Learners(nn.Module):
    """The networks that one optimizer trains, as one module, since accelerate wraps one module per optimizer."""

    def __init__(self, **networks: nn.Module) -> None:
        super().__init__()
        self._no_split_modules = getattr(next(iter(networks.values())), "_no_split_modules", None) or ()
        for name, network in networks.items():
            self.add_module(name, network)

    def forward(self, network: str, **inputs: Any) -> Any:
        return self.get_submodule(network)(**inputs)


class Learner:
    """One network of a wrapped `Learners`: calls go through the wrapper, attributes come from the network."""

    def __init__(self, wrapped: nn.Module, name: str) -> None:
        self.wrapped, self.name = wrapped, name

    def __call__(self, **inputs: Any) -> Any:
        return self.wrapped(self.name, **inputs)

    @property
    def network(self) -> nn.Module:
        """The network without its wrapper; under FSDP its weights are shards."""
        from accelerate.utils import extract_model_from_parallel

        return extract_model_from_parallel(self.wrapped).get_submodule(self.name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


def place_on_device(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A frozen network on this rank's device, under the autocast of training; it is never sharded."""
    network.to(accelerator.device)
    network.forward = _within(accelerator.autocast, network.forward)
    return network


def _within(context: Callable[[], AbstractContextManager], forward: Callable) -> Callable:
    def run(*args: Any, **kwargs: Any) -> Any:
        with context():
            return forward(*args, **kwargs)

    return run


def prepare_for_training(
    accelerator: Accelerator, network: nn.Module, optimizer: Optimizer
) -> tuple[nn.Module, Optimizer]:
    """Network and optimizer as accelerate wraps them for training, the forward pass under autocast."""
    if accelerator.is_fsdp2:  # whose own mixed precision would round outputs too, log-probabilities among them
        network.forward = _within(accelerator.autocast, network.forward)
    return accelerator.prepare(network, optimizer)


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether ranks shard the weights that they train, by FSDP or DeepSpeed."""
    from accelerate.utils import DistributedType

    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def gather_weights(accelerator: Accelerator, wrapped: nn.Module) -> dict[str, Tensor]:
    """The full weights of a network whose weights are sharded, on rank 0; empty where no weights are sharded.

    Every rank has to call it.
    """
    return accelerator.get_state_dict(wrapped) if is_sharded(accelerator) else {}


def submodule_weights(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of one network of `Learners`, without its name as a prefix."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
