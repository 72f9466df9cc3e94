"""GPUs that a study may run on: their vendors' figures, and the GPU of this machine."""

from dataclasses import dataclass, replace
from functools import cache

import torch

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """Peak of dense bfloat16 operations [1/s], memory [GiB], its bandwidth [B/s]; whether this machine has one."""

    name: str
    flops: float
    gib: float
    bandwidth: float
    present: bool = False


# The vendors' figures, a more specific name before a general one; memory is what the driver shows.
DEVICES = (
    Device("H100 PCIe", 756e12, 79.6, 2.0e12),
    Device("H100 80GB", 989e12, 79.6, 3.35e12),
    Device("H200", 989e12, 140.4, 4.8e12),
    Device("A100-SXM4-80GB", 312e12, 79.3, 2.04e12),
    Device("A100", 312e12, 39.5, 1.56e12),
)
ASSUMED = DEVICES[1]
PEAK_SHARE = 0.4  # of the peak in forward and backward passes; published trainers reach 0.1 to 0.4
BANDWIDTH_SHARE = 0.6  # of the memory bandwidth while responses are sampled
LINK_BANDWIDTH = 3e11  # bytes a second between the GPUs of a machine
LAYER_LAUNCH = 30 * 5e-6  # seconds of a layer of one decoding step where Python launches its kernels


@cache
def at_hand() -> Device:
    """This machine's GPU, measured where it is not in the table; ASSUMED where there is none."""
    if not torch.cuda.is_available():
        return ASSUMED
    shown = torch.cuda.get_device_properties(0)
    known = next((each for each in DEVICES if each.name in shown.name), Device(shown.name, *_measured()))
    return replace(known, gib=shown.total_memory / GIB, present=True)


def _measured() -> tuple[float, float, float]:
    """Operations a second, 0 GiB (the driver says it) and bytes a second of the GPU, measured in a second."""
    one = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    multiply = _seconds_of(lambda: one @ one)
    copy = _seconds_of(one.clone)
    return 2 * 8192**3 / multiply, 0.0, 2 * one.numel() * one.element_size() / copy


def _seconds_of(work, times: int = 20) -> float:
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    work()
    began.record()
    for _ in range(times):
        work()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000 / times
