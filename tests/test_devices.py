"""On a device that is not the CPU all tensors meet on one, in every stage that learns; no GPU is needed to see it."""

import json
import subprocess
import sys

import pytest
import torch.utils.backend_registration

from tests.paths import ROOT

pytestmark = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot make up a device",
)


@pytest.fixture(scope="module")
def told():
    command = [sys.executable, "-m", "tests.on_fake_device"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2_000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_every_stage_that_learns_was_run(told):
    assert {"update, eager", "update, static", "reward model", "SFT", "DPO"} <= told.keys()


def test_tensors_meet_on_one_device(told):
    assert {name: error for name, error in told.items() if error} == {}
