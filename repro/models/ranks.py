"""The ranks of a stage that several processes run together: their shards of rows, and their collectives.

Rank i of N owns the rows i, i + N, i + 2N, ... of a batch. All ranks run the same number of forward passes, since ranks with
sharded weights wait for each other in each. A rank with a row less than another runs a filler row, which no loss and no
metric counts.
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
    """Initialise the process group, if the launcher started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        threads = torch.get_num_threads()
        # Other ranks wait while rank 0 writes, and a large checkpoint takes a while.
        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=6))
        torch.set_num_threads(threads)  # on a CPU accelerate sets its own number, and ranks would compete for cores


def configure_sharding(accelerator: Accelerator) -> Accelerator:
    """The accelerator with FSDP also on CPUs where the launcher asked for it, which accelerate itself does on GPUs only."""
    from accelerate import FullyShardedDataParallelPlugin, PartialState
    from accelerate.utils import DistributedType, parse_flag_from_env
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # DeepSpeed wants the micro-batch size of a data loader; there is none, and nothing here uses the number.
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and world_size() > 1 and accelerator.device.type == "cpu":
        # Every later state of accelerate is initialised from this one.
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if accelerator.is_fsdp2:  # all-gather weights and reduce gradients in float32
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
    return accelerator


def world_size() -> int:
    """The number of processes that run the stage."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This process's rank, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this is rank 0, the one that writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait until all ranks have called it."""
    if world_size() > 1:
        distributed.barrier()


def broadcast(value: Any) -> Any:
    """Rank 0's value, on all ranks; any object that pickles."""
    if world_size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def all_gather(value: Any) -> list[Any]:
    """Every rank's value, in the order of ranks; any object that pickles."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def any_rank(flag: bool) -> bool:
    """Whether the flag is true on any rank."""
    return not all_ranks(not flag)


def all_ranks(flag: bool) -> bool:
    """Whether the flag is true on all ranks."""
    if world_size() == 1:
        return flag
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    minimum = torch.tensor(int(flag), device=device)
    distributed.all_reduce(minimum, distributed.ReduceOp.MIN)
    return bool(minimum)


def shard(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[N] -> [ceil(N / world size)] this rank's rows, and of the same shape bool: false on a filler row."""
    own = rows[rank() :: world_size()]
    return pad_shard(own, -(-len(rows) // world_size()), rows)


def local_shard(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[N] rows of a batch that is sharded already -> indices into this rank's shard, and bool: false on filler rows.

    Both are as long as the largest rank's.
    """
    owner = rows % world_size()
    own, size = rows[owner == rank()] // world_size(), int(owner.bincount(minlength=world_size()).max())
    return pad_shard(own, size, torch.zeros_like(rows))


def pad_shard(own: Tensor, size: int, spare: Tensor) -> tuple[Tensor, Tensor]:
    """`own` rows, filled up to `size` with its last row or else the first of `spare`; and [size] bool: false on fillers."""
    real = torch.arange(size, device=own.device) < len(own)
    filler = (own[-1:] if len(own) else spare[:1]).expand(size - len(own))
    return torch.cat([own, filler]), real


def gather_shards(columns: Sequence[np.ndarray], rows: Tensor) -> list[np.ndarray]:
    """Columns of results for this rank's `shard` of `rows`, a permutation of 0 to N - 1 -> [N] columns of all ranks.

    Entry i of a gathered column is the result for row i.
    """
    shards, order = all_gather([np.asarray(column) for column in columns]), rows.argsort().numpy()
    return [np.stack(column, axis=1).reshape(-1)[order] for column in zip(*shards)]
