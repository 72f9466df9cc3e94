"""Several processes that run one stage together: who they are, which rows are whose, and what they tell each other.

Row i of a batch is rank i mod N's. All ranks take the same number of forward passes, since those that share weights wait
for each other: where one has a row less than another, it runs its last one again and nobody counts it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed

if TYPE_CHECKING:
    from accelerate import Accelerator


def initialise() -> None:
    """Joins the processes that were started together, where there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        threads = torch.get_num_threads()
        # The others wait while the first writes, and a large checkpoint takes its time.
        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=6))
        torch.set_num_threads(threads)  # on a CPU it takes as many as it thinks best, and ranks would fight for cores


def configure_sharding(accelerator: Accelerator) -> Accelerator:
    """The accelerator, told to share weights where its launcher asked for it: by itself it does so on GPUs only."""
    from accelerate import FullyShardedDataParallelPlugin, PartialState
    from accelerate.utils import DistributedType, parse_flag_from_env
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # It wants to know a micro-batch from a data loader, and there is none; the number is used for nothing here.
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and world_size() > 1 and accelerator.device.type == "cpu":
        # Every state that accelerate makes later starts from this one.
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if accelerator.is_fsdp2:  # float32 is what weights are handed out and gradients added up in
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
    return accelerator


def world_size() -> int:
    """How many processes run the stage."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def barrier() -> None:
    """Waits until all ranks are here."""
    if world_size() > 1:
        distributed.barrier()


def broadcast(value: Any) -> Any:
    """The first rank's value, on all of them."""
    if world_size() == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held)
    return held[0]


def all_gather(value: Any) -> list[Any]:
    """Every rank's value, in their order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on one of them at least."""
    return not all_ranks(not flag)


def all_ranks(flag: bool) -> bool:
    """Whether the flag is set on every one of them."""
    if world_size() == 1:
        return flag
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    least = torch.tensor(int(flag), device=device)
    distributed.all_reduce(least, distributed.ReduceOp.MIN)
    return bool(least)


def shard(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[N] -> this rank's rows, as many as any other's, and [that many] bool: which of them count."""
    own = rows[rank() :: world_size()]
    return fill_shard(own, -(-len(rows) // world_size()), rows)


def local_shard(part: Tensor) -> tuple[Tensor, Tensor]:
    """[N] rows of a batch that ranks hold -> the places of this rank's among its own, and which of them count."""
    owner = part % world_size()
    own, size = part[owner == rank()] // world_size(), int(owner.bincount(minlength=world_size()).max())
    return fill_shard(own, size, torch.zeros_like(part))


def fill_shard(own: Tensor, size: int, spare: Tensor) -> tuple[Tensor, Tensor]:
    """`own` rows made up to `size` with one that does not count, and [size] bool: which do."""
    counts = torch.arange(size, device=own.device) < len(own)
    filler = (own[-1:] if len(own) else spare[:1]).expand(size - len(own))
    return torch.cat([own, filler]), counts


def merge_shards(columns: Sequence[np.ndarray], rows: Tensor) -> list[np.ndarray]:
    """Columns of this rank's share of `rows` [N], as `shard` makes it -> the columns of all, in the rows' own order."""
    shares, places = all_gather([np.asarray(column) for column in columns]), rows.argsort().numpy()
    return [np.stack(column, axis=1).reshape(-1)[places] for column in zip(*shares)]
