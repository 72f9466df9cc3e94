"""The project's own objects at a tiny shape, on a device: networks as PPO prepares them, and an update of theirs."""

import os
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from repro.models import modes, wrapping
from repro.stages import optimise, ppo, ppo_setup
from repro.types import Rollout
from tests import tiny

CPU, DEVICE = torch.device("cpu"), torch.device(os.environ.get("REPRO_GPU_CHECK_DEVICE", "cuda"))
ROWS, TOKENS, RATE = 8, 6, 1e-3  # episodes of an update, response tokens, learning rate
PRICES = ppo_setup.AdaptiveState(0.05)


def forget() -> None:
    """accelerate keeps its first device and precision for the whole process, unless it is told to forget them."""
    AcceleratorState._reset_state(reset_partial_state=True)


def accelerator(device: torch.device, mixed: str = "no") -> Accelerator:
    """A new one; those that were made before are no longer of use."""
    forget()
    return Accelerator(cpu=device.type == "cpu", mixed_precision=mixed)


def setting(
    device: torch.device, mixed: str = "no", sampler: str = "static", seed: int = 0, rate: float = RATE, chief=None
) -> ppo_setup.Run:
    """As a stage of PPO sets its networks up: policy and reference start with the same weights where `seed` is 0."""
    chief, pick = chief or accelerator(device, mixed), tiny.pick()
    policy, critic = tiny.policy(seed, end_logit=2.0), tiny.scalar(seed + 1)
    optimizer = optimise.adamw([policy, critic], rate, pick)
    learners, optimizer = wrapping.prepare_for_training(
        chief, wrapping.Learners(policy=policy, critic=critic), optimizer
    )
    frozen = [
        wrapping.place_on_device(modes.freeze(each), chief) for each in (tiny.policy(0, end_logit=2.0), tiny.scalar(2))
    ]
    models = ppo_setup.Networks(*(wrapping.Learner(learners, name) for name in ("policy", "critic")), *frozen)
    how = ppo_setup.sampling(pick, sampler)
    return ppo_setup.Run(models, optimizer, tiny.CORPUS, pick, chief, how, micro_batch=4, rollout_batch=4)


def roll_out(s: ppo_setup.Run, seed: int = 0) -> Rollout:
    return ppo.roll_out(s, tiny.queries(ROWS, seed=seed), tiny.uniform(ROWS, TOKENS, seed))


@dataclass(frozen=True)
class Update:
    """What came out of an update of PPO, on the CPU: the rollout, metrics of all its steps, and weights by name."""

    rollout: Rollout
    metrics: list[dict[str, float]]
    weights: dict[str, Tensor]


def update(s: ppo_setup.Run, seed: int = 0, epochs: int = 4) -> Update:
    """Rollout, targets and epochs over one batch."""
    rollout = roll_out(s, seed)
    target, described = ppo.targets(rollout, PRICES.kl_coefficient, s.micro_batch, s.pick, s.accelerator.reduce)
    steps = [ppo.ppo_step(s, rollout, target, tiny.NO_TEXTS, PRICES) for _ in range(epochs)]
    return Update(Rollout(*(each.cpu() for each in rollout)), [described, *steps], weights(s))


def weights(s: ppo_setup.Run) -> dict[str, Tensor]:
    learners = s.accelerator.unwrap_model(s.networks.learners)
    return {name: weight.detach().float().cpu().clone() for name, weight in learners.named_parameters()}


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of any weight."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def texts(rows: int = ROWS, tokens: int = TOKENS) -> tuple[Tensor, Tensor]:
    """Queries of several lengths and responses: one ends early and is padded, one ends with its last token."""
    response = torch.randint(2, tiny.PAD, (rows, tokens), generator=torch.Generator().manual_seed(3))
    response[0, 2], response[0, 3:], response[1, -1] = tiny.EOS, tiny.PAD, tiny.EOS
    return tiny.queries(rows), response
