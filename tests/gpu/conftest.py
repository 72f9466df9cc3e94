"""Where the GPU tests run: on the device that REPRO_GPU_CHECK_DEVICE names, cuda by default.

They stand alone, so that `--confcutdir tests/gpu` runs them where only torch, transformers, accelerate and pytest are there.
"""

import signal

import pytest
import torch

from tests.gpu import on_device

torch.set_num_threads(1)  # networks this small are no faster on several


@pytest.fixture(autouse=True)
def as_they_were():
    """accelerate's device and precision, and what SIGTERM does, are as they were once a test is over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    on_device.forget()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def device():
    if on_device.DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here; REPRO_GPU_CHECK_DEVICE=cpu rehearses this test")
    return on_device.DEVICE


@pytest.fixture
def cuda(device):
    """The device, of a test that says nothing on a CPU."""
    if device.type != "cuda":
        pytest.skip("says something on CUDA only")
    return device
