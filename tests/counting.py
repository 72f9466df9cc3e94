"""Counts of work that no other program on the computer can change: operations of matrix products, and calls of operators."""

from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

ATEN = torch.ops.aten


def attention(query, key, value, *args, out_shape=None, **kwargs):
    return sdpa_flop_count(query, key, value)


def attention_backward(grad, query, key, value, *args, out_shape=None, **kwargs):
    """Four products for the forward pass's two; the kernel's repetition of one of them is its own affair."""
    return 2 * sdpa_flop_count(query, key, value)


# torch has formulas for the fused attention of GPUs, and would count a CPU's as nothing.
ON_CPU = {
    ATEN._scaled_dot_product_flash_attention_for_cpu: attention,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}


@dataclass(frozen=True)
class Counted:
    flops: int
    operators: int


class _Calls(TorchDispatchMode):
    """Counts operators that reach a kernel; within, views and all."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def flops_of(work):
    """Operations of all matrix products in `work()`, attention's too."""
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        work()
    return counter.get_total_flops()


def counted(work):
    """Both counts, each of a call of its own."""
    flops = flops_of(work)
    with _Calls() as calls:
        work()
    return Counted(flops, calls.count)
