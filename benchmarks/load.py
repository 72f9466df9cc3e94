"""What is timed of this project: updates of PPO at a shape with random weights, a stage of a scale, or a whole chain.

As a script it runs one load of its own checkout, which is on PYTHONPATH, and writes what it measured as JSON:
`python -P benchmarks/load.py LOAD.json RESULT.json`. Of two commits that are compared each runs its own, so LOAD and RESULT
keep their form; it imports nothing of this folder, since whoever compares may be of another commit.
"""

import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

import repro
from repro.detail import Pick, Recipe
from repro.engine import artefacts
from repro.engine.job import prepare_process
from repro.engine.pipeline import BY_NAME, STAGES, keys
from repro.models import modes, pretrained, scalar_model
from repro.stages import optimise, ppo, ppo_setup, stage
from repro.study.scale import find


@dataclass(frozen=True)
class Shape:
    network: str
    vocabulary: int
    query: int
    response: int


@dataclass(frozen=True)
class Tokens:
    """A corpus as far as a rollout looks at it: padding past the vocabulary, and an end of text that no token is."""

    pad: int
    eos: int = -1


@dataclass(frozen=True)
class Clock:
    """Since it was made: seconds on the wall, and of the processor in this process."""

    wall: float
    busy: float

    @classmethod
    def start(cls) -> "Clock":
        return cls(time.perf_counter(), time.process_time())

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.busy


def setting_of(shape: Shape, batch: int, micro_batch: int = 0) -> ppo_setup.Run:
    """Four networks with random weights and the optimizer, one mini-batch and one rollout of the whole batch.

    A forward and backward pass is over `micro_batch` episodes; 0 for all.
    """
    networks = [pretrained.initialise_policy(shape.network, shape.vocabulary, 512, seed) for seed in range(4)]
    policy, reference = modes.set_dropout(networks[0], 0.0), modes.freeze(networks[1])
    critic = modes.set_dropout(scalar_model.ScalarModel(networks[2].base_model), 0.0)
    reward_model = modes.freeze(scalar_model.ScalarModel(networks[3].base_model))
    models, pick = ppo_setup.Networks(policy, critic, reference, reward_model), Pick(Recipe(), "ppo")
    optimizer, tokens = optimise.adamw([policy, critic], 3e-6, pick), Tokens(pad=shape.vocabulary)
    return ppo_setup.Run(
        models, optimizer, tokens, pick, Accelerator(cpu=True), ppo_setup.sampling(pick), micro_batch or batch, batch
    )


def update(setting: ppo_setup.Run, shape: Shape, batch: int, generator: torch.Generator, epochs: int) -> None:
    """A whole update of PPO: rollout, targets, and `epochs` over one mini-batch."""
    prices, no_texts = ppo_setup.AdaptiveState(0.05), torch.zeros(0, 1, dtype=torch.long)
    query = torch.randint(1, shape.vocabulary, (batch, shape.query), generator=generator)
    rollout = ppo.roll_out(setting, query, torch.rand(batch, shape.response, generator=generator))
    target, _ = ppo.targets(rollout, prices.kl_coefficient, setting.micro_batch, setting.pick)
    for _ in range(epochs):
        ppo.ppo_step(setting, rollout, target, no_texts, prices)


def timed_updates(
    shape: Shape, batch: int, updates: int, epochs: int, micro_batch: int = 0
) -> list[tuple[float, float]]:
    """Seconds of each PPO update after a first one that warms up: on the wall, and of the processor."""
    setting, generator, taken = setting_of(shape, batch, micro_batch), torch.Generator().manual_seed(0), []
    for _ in range(updates + 1):
        clock = Clock.start()
        update(setting, shape, batch, generator, epochs)
        taken.append(clock.read())
    return taken[1:]


def _made(scale, seed: int, folder: Path, names: list[str]) -> dict[str, float]:
    """Makes the stages that the folder does not hold: seconds of each, as they were written beside it."""
    known = keys(Recipe(), scale, seed)
    for name in names:
        artefacts.run_or_reuse(BY_NAME[name], Recipe(), scale, seed, known, folder, lambda _: None)
    return {name: artefacts.read_done(folder / known[name])["seconds"] for name in names}


# ---------------------------------------------------------------------------------------------- as a script


def run_updates(load: dict) -> dict:
    sizes = load["batch"], load["updates"], load["epochs"], load.get("micro_batch", 0)
    taken = timed_updates(Shape(**load["shape"]), *sizes)
    return {"seconds": [wall for wall, _ in taken], "busy": [busy for _, busy in taken]}


def prepare(load: dict) -> dict:
    """Makes what the stage is made from, in the cache that all checkouts share: equal keys are equal artefacts."""
    scale = find(load["scale"], load["changes"])
    return {"stages": _made(scale, load["seed"], Path(load["cache"]), list(BY_NAME[load["stage"]].upstream))}


def run_stage(load: dict) -> dict:
    """One stage, made anew from what `prepare` left."""
    scale = find(load["scale"], load["changes"])
    known, name = keys(Recipe(), scale, load["seed"]), load["stage"]
    with tempfile.TemporaryDirectory() as folder:
        for each in BY_NAME[name].upstream:
            (Path(folder) / known[each]).symlink_to(Path(load["cache"]) / known[each])
        clock = Clock.start()
        _made(scale, load["seed"], Path(folder), [name])
        wall, busy = clock.read()
        lines = stage.read_journal(Path(folder) / known[name])
    training = lines[-1]["time"] - lines[0]["time"] if lines else 0.0
    return {"seconds": [wall], "busy": [busy], "between_first_and_last_line": training}


def run_chain(load: dict) -> dict:
    """All stages of one arm and seed, with nothing cached."""
    scale = find(load["scale"], load["changes"])
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock.start()
        stages = _made(scale, load["seed"], Path(folder), [each.name for each in STAGES])
        wall, busy = clock.read()
    return {"seconds": [wall], "busy": [busy], "stages": stages}


LOADS = {"updates": run_updates, "prepare": prepare, "stage": run_stage, "chain": run_chain}


def main(load_file: str, result_file: str) -> None:
    load = json.loads(Path(load_file).read_text())
    # An installed copy would be timed in the place of the checkout, and nobody would see it.
    source = Path(repro.__file__).resolve().parents[1]
    if source != Path.cwd().resolve():
        sys.exit(f"error: the code that runs is {source}, not the checkout {Path.cwd()}; put that first on PYTHONPATH")
    prepare_process(load["threads"])
    found = LOADS[load["kind"]](load)
    found |= {
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "threads": torch.get_num_threads(),
    }
    found |= {"torch": torch.__version__, "process": os.getpid()}
    Path(result_file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
