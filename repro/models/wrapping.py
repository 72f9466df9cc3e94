"""How accelerate wraps networks: on this rank's device, under its autocast, with weights that ranks may share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:  # imported where they are used: whoever reads the registry does without
    from accelerate import Accelerator


def unwrap(network: nn.Module) -> nn.Module:
    """The network itself, however ranks have wrapped it."""
    from accelerate.utils import extract_model_from_parallel

    return network.network if isinstance(network, Learner) else extract_model_from_parallel(network)


class Learners(nn.Module):
    """The networks that one optimizer trains, as one module: ranks that share weights wrap it as a whole."""

    def __init__(self, **networks: nn.Module) -> None:
        super().__init__()
        self._no_split_modules = getattr(next(iter(networks.values())), "_no_split_modules", None) or ()
        for name, network in networks.items():
            self.add_module(name, network)

    def forward(self, network: str, **inputs: Any) -> Any:
        return self.get_submodule(network)(**inputs)


class Learner:
    """One network of `Learners`, called through whatever ranks have wrapped them in."""

    def __init__(self, wrapped: nn.Module, name: str) -> None:
        self.wrapped, self.name = wrapped, name

    def __call__(self, **inputs: Any) -> Any:
        return self.wrapped(self.name, **inputs)

    @property
    def network(self) -> nn.Module:
        """The network itself, its weights perhaps in shards."""
        from accelerate.utils import extract_model_from_parallel

        return extract_model_from_parallel(self.wrapped).get_submodule(self.name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


def place_on_device(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A frozen network on this rank's device, under the precision that training has; no rank shares it."""
    network.to(accelerator.device)
    network.forward = _under(accelerator.autocast, network.forward)
    return network


def _under(context: Callable[[], AbstractContextManager], forward: Callable) -> Callable:
    def run(*args: Any, **kwargs: Any) -> Any:
        with context():
            return forward(*args, **kwargs)

    return run


def prepare_for_training(
    accelerator: Accelerator, network: nn.Module, optimizer: Optimizer
) -> tuple[nn.Module, Optimizer]:
    """What is trained, as accelerate wraps it for this rank, under its autocast however ranks share the weights."""
    if accelerator.is_fsdp2:  # it would hand out rounded weights and outputs, log-probabilities among them
        network.forward = _under(accelerator.autocast, network.forward)
    return accelerator.prepare(network, optimizer)


def gather_weights(accelerator: Accelerator, wrapped: nn.Module) -> dict[str, Tensor]:
    """All weights of a network that ranks share, on the first of them; nothing where each rank has them all.

    Every rank has to call it.
    """
    from accelerate.utils import DistributedType

    shared = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    return accelerator.get_state_dict(wrapped) if shared else {}


def submodule_weights(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Of the weights of `Learners` those of one network."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
