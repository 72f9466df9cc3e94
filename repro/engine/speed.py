"""How fast this computer runs the parts of a scale's stages: measured in a few seconds, and stored in the cache's folder.

Each part of a stage (`repro/engine/flops.py`) has its own speed, in operations of its matrix products a second: in small
networks most of the time is overhead, whose share differs from part to part. So real steps are timed, with random weights in
the scale's shape and as many rows as the time allows.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date
from math import isfinite
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from repro.detail import Pick, Recipe
from repro.engine import flops, stage_flops
from repro.engine.machine import processor
from repro.models import modes, pretrained, scalar_model, scoring
from repro.stages import optimise, ppo, ppo_setup, rm, sft
from repro.study.scale import Scale

FILE = "speed.json"
FLOPS = 2.5e10  # operations a second of one core in float32, assumed before a measurement
SECONDS = 4.0  # after this time no further part is measured
SIMILAR = {"answer": "roll out", "sft": "update", "read": "rm"}
STEP_OPERATIONS = 3e9  # of a timed step: a third of a second on a slow core
LONG_STEP = 0.8  # seconds; a step that takes longer is not repeated
ROLLOUT_OPERATIONS = 8e9  # of a timed rollout: more, since a decoding step takes as long for one row as for many


@dataclass(frozen=True)
class Speeds:
    """Operations a second of each measured part; the seconds and the date of the measurement, if there was one."""

    parts: dict[str, float]
    seconds: float = 0.0
    date: str = ""

    def of(self, part: str) -> float:
        """The speed of a part; of one that was not measured that of the most similar one."""
        return self.parts.get(part) or self.parts.get(SIMILAR.get(part, "")) or min(self.parts.values(), default=FLOPS)

    def __str__(self) -> str:
        if not self.seconds:
            return "estimated at an assumed speed; nothing was measured on this computer"
        return f"estimated from a {max(1, round(self.seconds))}-second measurement of {self.date} on {processor()}"


UNMEASURED = Speeds({})


def remembered(cache_folder: Path, scale: Scale) -> Speeds:
    """The stored measurement for a scale of this shape on this computer; UNMEASURED where there is none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Speeds(**json.loads((cache_folder / FILE).read_text())[_key(scale)])
    return UNMEASURED


def known(cache_folder: Path, scale: Scale) -> Speeds:
    """The stored measurement, which is made now where there is none."""
    found = remembered(cache_folder, scale)
    if found == UNMEASURED and isfinite(flops.network_of(scale.model).body):
        found = measure(scale)
        remember(cache_folder, scale, found)
    return found


def remember(cache_folder: Path, scale: Scale, found: Speeds) -> None:
    """Store a measurement beside those of other scales; a cache that cannot be written stores nothing."""
    file, stored = cache_folder / FILE, {}
    with suppress(OSError, ValueError):
        stored = json.loads(file.read_text())
    with suppress(OSError):
        written = file.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps(stored | {_key(scale): asdict(found)}, indent=1))
        os.replace(written, file)


def _key(scale: Scale) -> str:
    """Everything that the speeds depend on: the computer, the libraries, and the shapes of a step."""
    n = flops.network_of(scale.model)
    shape = [
        n.hidden,
        n.layers,
        n.heads,
        n.intermediate,
        n.vocabulary,
        *asdict(stage_flops.Lengths.most(scale)).values(),
    ]
    rows = [scale.sft_batch, scale.rm_batch, scale.ppo_batch, scale.micro_batch, scale.rollout_batch]
    computer = [platform.node(), processor(), f"{scale.threads} threads", f"torch {torch.__version__}"]
    return ", ".join([*computer, "/".join(f"{number:g}" for number in shape + rows)])


# ---------------------------------------------------------------------------------------------- measuring


def measure(scale: Scale) -> Speeds:
    """Time a few seconds of real steps on a worker's number of threads, beginning with what takes longest in a study."""
    began, found = time.perf_counter(), {}
    with on_threads(scale.threads):
        steps = _Steps(scale)
        parts = {
            "rm": steps.rm,
            "update": steps.update,
            "roll out": steps.roll_out,
            "sft": steps.sft,
            "read": steps.read,
        }
        for name, part in parts.items():
            if time.perf_counter() - began < SECONDS:
                found[name] = part()
    return Speeds(found, time.perf_counter() - began, date.today().isoformat())


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """This process on so many threads, and afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rate(operations: float, step: Callable[[], object]) -> float:
    """Operations a second of the second run of a step, since the first sets libraries up; of the first if it took long.

    For one thread the processor's time is used, so that other busy processes do not change the result.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(2):
        began = clock()
        step()
        taken = clock() - began
        if taken > LONG_STEP:
            break
    return operations / taken


class _Steps:
    """One step of each part, of networks with random weights; each method gives operations a second."""

    def __init__(self, scale: Scale) -> None:
        self.scale, self.n, self.lengths = scale, flops.network_of(scale.model), stage_flops.Lengths.most(scale)
        n, self.pad = self.n, int(self.n.vocabulary)
        shape = f"gpt-neox:{n.hidden}/{n.layers}/{n.heads}/{n.intermediate}"
        policy, reference, critic, reward_model = (
            pretrained.initialise_policy(shape, self.pad, 2_048, seed) for seed in range(4)
        )
        critic = scalar_model.ScalarModel(critic.base_model)
        reward_model = scalar_model.ScalarModel(reward_model.base_model)
        self.policy, self.critic = (modes.set_dropout(network, 0.0) for network in (policy, critic))
        self.models = ppo_setup.Networks(policy, critic, modes.freeze(reference), modes.freeze(reward_model))
        from accelerate import Accelerator  # a plan with a stored measurement does not need it

        self.accelerator, self.pick = Accelerator(cpu=True), Pick(Recipe(), "ppo")
        self.optimizer = optimise.adamw([policy, critic], 1e-6, self.pick)

    def rows(self, most: int, operations: float, in_all: float = STEP_OPERATIONS) -> int:
        """The stage's number of rows, or as many as have `in_all` operations."""
        return max(1, min(most, int(in_all / operations)))

    def ids(self, rows: int, tokens: float) -> torch.Tensor:
        return torch.randint(2, self.pad, (rows, int(tokens)))  # a forecast has fractions of tokens, a step has none

    def run(self, rows: int) -> ppo_setup.Run:
        tokens: Any = SimpleNamespace(pad=self.pad, eos=-1)  # all that a step reads of a corpus
        sampling = ppo_setup.sampling(self.pick)
        return ppo_setup.Run(self.models, self.optimizer, tokens, self.pick, self.accelerator, sampling, rows, rows)

    def sft(self) -> float:
        text = self.lengths.text
        rows = self.rows(min(self.scale.micro_batch, self.scale.sft_batch), flops.total(flops.sft(self.n, 1, text)))
        ids = self.ids(rows, text)
        every = torch.ones_like(ids, dtype=torch.bool)
        return _rate(
            flops.total(flops.sft(self.n, rows, text)),
            lambda: self._learn(sft.token_loss(self.policy, ids, every, self.pad) / ids.numel()),
        )

    def rm(self) -> float:
        query, pair = self.lengths.query, self.lengths.pair
        of_one = flops.total(flops.comparison(self.n, 1, query, pair))
        rows = self.rows(min(self.scale.micro_batch, self.scale.rm_batch), of_one)
        ids, count = self.ids(rows, pair), torch.full((rows,), pair - query)
        texts = rm.Texts(ids, count), rm.Texts(torch.cat([ids[:, :query], self.ids(rows, pair - query)], 1), count)
        return _rate(
            rows * of_one,
            lambda: self._learn(-logsigmoid(rm.margins(self.critic, *texts, self.pad)).mean()),
        )

    def _learn(self, loss: torch.Tensor) -> None:
        optimise.step(self.accelerator, self.optimizer, [loss])

    def roll_out(self) -> float:
        """A rollout."""
        query, response = self.lengths.query, self.lengths.response
        of_one = flops.total(flops.rollout(self.n, 1, query, response))
        rows = self.rows(min(self.scale.rollout_batch, self.scale.ppo_batch), of_one, ROLLOUT_OPERATIONS)
        return _rate(rows * of_one, lambda: self._episodes(rows))

    def _episodes(self, rows: int) -> ppo.Rollout:
        uniform = torch.rand(rows, self.lengths.response)
        return ppo.roll_out(self.run(rows), self.ids(rows, self.lengths.query), uniform)

    def update(self) -> float:
        query, response = self.lengths.query, self.lengths.response
        of_one = flops.total(flops.update(self.n, 1, query, response))
        rows = self.rows(min(self.scale.micro_batch, self.scale.ppo_batch), of_one)
        run, coefficients = self.run(rows), ppo_setup.AdaptiveState(0.05)
        no_texts = torch.zeros(0, 1, dtype=torch.long)
        rollout = self._episodes(rows)
        target, _ = ppo.targets(rollout, coefficients.kl_coefficient, rows, self.pick)
        return _rate(rows * of_one, lambda: ppo.ppo_step(run, rollout, target, no_texts, coefficients))

    def read(self) -> float:
        pair = self.lengths.pair
        of_one = flops.total(flops.forward(self.n, 1, pair, 1))
        rows = self.rows(self.scale.rollout_batch, of_one)
        ids, count = self.ids(rows, pair), torch.full((rows,), pair - self.lengths.query)
        return _rate(rows * of_one, lambda: scoring.score_rows(self.models.reward_model, ids, count, self.pad, rows))
