"""Runs what training computes on a device that is not the CPU and has no numbers: only where each tensor lies is followed.

`python -m tests.on_fake_device` prints JSON: for each thing that is run, nothing where all of its tensors meet on one device,
else the error. Whatever asks for a number gets 0 or False. It changes torch for the whole process, so it has one of its own.
"""

import contextlib
import json
import os

os.environ["ACCELERATE_TORCH_DEVICE"] = "npy:0"

import numpy  # noqa: E402
import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend  # noqa: E402

from repro.models import generate, modes, wrapping  # noqa: E402
from repro.ops import loss, preference  # noqa: E402
from repro.stages import dpo, optimise, ppo, ppo_batches, ppo_setup, rm, sft  # noqa: E402
from tests import tiny  # noqa: E402

_setup_privateuseone_for_python_backend("npy")
torch.set_num_threads(1)
DEVICE, PRICES = torch.device("npy:0"), ppo_setup.AdaptiveState(0.05)
KINDS = {"b": torch.bool, "i": torch.long, "f": torch.float32}


class Answers(TorchDispatchMode):
    """Answers what a tensor without numbers cannot."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 0
        if function is torch.ops.aten.nonzero.default:
            return torch.zeros(1, args[0].dim(), dtype=torch.long, device=args[0].device)
        if function is torch.ops.aten.bincount.default:
            return torch.ones(len(args[0]), dtype=torch.long)
        return function(*args, **(kwargs or {}))


def from_data(data, device=None, dtype=None, **options):
    """`torch.tensor` without the data."""
    found = numpy.asarray(data)
    return torch.zeros(found.shape, dtype=dtype or KINDS[found.dtype.kind], device=device)


def moved(network):
    """The network with weights on the device, whose numbers nobody knows."""
    for module in network.modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if value is not None:
                    there = torch.empty(value.shape, dtype=value.dtype, device=DEVICE)
                    trained = isinstance(value, torch.nn.Parameter)
                    held[name] = torch.nn.Parameter(there, value.requires_grad) if trained else there
    return network


def update(setting, pick):
    """A rollout, its targets, and a step."""
    rollout = ppo.roll_out(setting, tiny.queries(8), tiny.uniform(8, 6))
    target, _ = ppo.targets(rollout, PRICES.kl_coefficient, 4, pick, setting.accelerator.reduce)
    ppo.ppo_step(setting, rollout, target, tiny.NO_TEXTS, PRICES)


def things(networks, chief):
    """name -> what is run."""
    policy, critic, reference, reward_model = networks
    learners, pick = wrapping.Learners(policy=policy, critic=critic), tiny.pick()
    optimizer = optimise.adamw([policy, critic], 1e-3, pick)
    models = ppo_setup.Networks(
        *(wrapping.Learner(learners, name) for name in ("policy", "critic")), reference, reward_model
    )

    def setting(sampler, arm=pick):
        return ppo_setup.Run(models, optimizer, tiny.CORPUS, arm, chief, ppo_setup.sampling(arm, sampler), 4, 4)

    def sampled(sampler):
        query = tiny.queries(4).to(DEVICE)
        with torch.no_grad():
            generate.sample(reference, query, tiny.uniform(4, 6), ppo_setup.sampling(pick, sampler), tiny.EOS, tiny.PAD)

    def mixed_in():
        for part in ppo_batches.sft_losses(setting("eager"), torch.full((8, 9), 5), loss.Mix(27.8, 1.0)):
            part()

    def compared():
        texts = rm.Texts(tiny.queries(8, width=12), torch.full((8,), 4))
        trained = rm.RewardModelTraining(reward_model, texts, texts, torch.ones(8), preference.bradley_terry, tiny.PAD)
        list(rm.losses(chief, trained, torch.arange(8), 4, []))

    def fine_tuned():
        ids = torch.full((8, 9), 5)
        list(sft.losses(chief, policy, ids, ids != 4, torch.arange(8), 4, tiny.PAD))

    def preferred():
        dpo.margins((policy, reference), dpo.Pairs(tiny.queries(4), *[torch.full((4, 6), 5)] * 2), tiny.CORPUS)

    found = {f"update, {name}": lambda name=name: update(setting(name), pick) for name in ("eager", "static")}
    found |= {f"numbers on the CPU, {name}": lambda name=name: sampled(name) for name in ("eager", "static")}
    found |= {"texts mixed in": mixed_in, "reward model": compared, "SFT": fine_tuned, "DPO": preferred}
    return found


def main():
    torch.tensor, torch.autocast = from_data, lambda *args, **kwargs: contextlib.nullcontext()
    networks = [tiny.policy(0), tiny.scalar(1), modes.freeze(tiny.policy(0)), modes.freeze(tiny.scalar(2))]
    told = {}
    with FakeTensorMode(allow_non_fake_inputs=True), Answers():
        for name, run in things([moved(network) for network in networks], Accelerator()).items():
            try:
                run()
                told[name] = ""
            except Exception as error:
                told[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
