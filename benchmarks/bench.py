"""Speed: episodes per second of PPO at fixed shapes, and seconds per stage of a scale; printed as tables.

`make bench`, or `python -m benchmarks.bench --shapes S M 14m --threads 2`. Weights are random and no response ends, so
that every episode has its full length: the worst case.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from repro import model, optimise, ppo, stage
from repro.detail import Pick, Recipe
from repro.job import prepare_process
from repro.pipeline import STAGES, keys
from repro.scale import SCALES


@dataclass(frozen=True)
class Shape:
    network: str
    vocabulary: int
    query: int
    response: int


SHAPES = {
    "S": Shape("gpt-neox:64/2/2/256", 1_024, 64, 24),
    "M": Shape("gpt-neox:256/6/4/1024", 4_096, 64, 24),
    "14m": Shape("gpt-neox:128/6/4/512", 50_304, 128, 53),
}


@dataclass(frozen=True)
class Tokens:
    """A corpus as far as a rollout looks at it: padding past the vocabulary, and an end of text that no token is."""

    pad: int
    eos: int = -1


def ppo_seconds(shape: Shape, batch: int, updates: int) -> list[float]:
    """Seconds of each PPO update after a first one that warms up: rollout, targets and 4 epochs on one mini-batch."""
    tokens, accelerator, pick = Tokens(pad=shape.vocabulary), Accelerator(cpu=True), Pick(Recipe(), "ppo")
    networks = [model.initialise(shape.network, shape.vocabulary, 512, seed) for seed in range(4)]
    policy, reference = model.set_dropout(networks[0], 0.0), model.frozen(networks[1])
    critic, reward_model = (
        model.set_dropout(model.ScalarModel(networks[2].base_model), 0.0),
        model.ScalarModel(networks[3].base_model),
    )
    models = ppo.Models(policy, critic, reference, model.frozen(reward_model))
    optimizer, generator, seconds = optimise.adamw([policy, critic], 3e-6, pick), torch.Generator().manual_seed(0), []
    setting = ppo.Setting(models, optimizer, tokens, pick, accelerator, ppo.sampling(pick), batch, batch)
    prices, no_texts = ppo.Prices(0.05), torch.zeros(0, 1, dtype=torch.long)
    for _ in range(updates + 1):
        began = time.perf_counter()
        query = torch.randint(1, shape.vocabulary, (batch, shape.query), generator=generator)
        rollout = ppo.roll_out(setting, query, torch.rand(batch, shape.response, generator=generator))
        target, _ = ppo.targets(rollout, prices.reference, batch, pick)
        for _ in range(4):
            ppo.improve(setting, rollout, target, no_texts, prices)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def stage_seconds(name: str, seed: int = 1) -> dict[str, float]:
    """Seconds of every stage of one arm and seed, with nothing cached."""
    scale = SCALES[name]
    with tempfile.TemporaryDirectory() as folder:
        known = keys(Recipe(), scale, seed)
        made = {
            each.name: stage.run_or_reuse(each, Recipe(), scale, seed, known, Path(folder), print) for each in STAGES
        }
        return {step: json.loads((path / stage.DONE).read_text())["seconds"] for step, path in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=["S"], choices=SHAPES)
    parser.add_argument("--scale", default="mini", help="whose stages to time; empty for none")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    console = Console()
    prepare_process(arguments.threads)  # libraries too, so that no stage's seconds are theirs
    table = Table(
        "shape",
        "network",
        "query + response",
        "episodes/s",
        "s/update: median",
        "min",
        "max",
        title=f"PPO, {arguments.batch} episodes an update, {arguments.threads} threads, float32",
    )
    for name in arguments.shapes:
        shape = SHAPES[name]
        seconds = ppo_seconds(shape, arguments.batch, arguments.updates)
        table.add_row(
            name,
            f"{shape.network.split(':')[1]}, vocabulary {shape.vocabulary}",
            f"{shape.query} + {shape.response}",
            f"{arguments.batch / statistics.median(seconds):.1f}",
            f"{statistics.median(seconds):.2f}",
            f"{min(seconds):.2f}",
            f"{max(seconds):.2f}",
        )
    console.print(table)
    if arguments.scale:
        torch.set_num_threads(1)
        table = Table("stage", "seconds", title=f"scale {arguments.scale}, one arm and seed, 1 thread, nothing cached")
        for step, taken in stage_seconds(arguments.scale).items():
            table.add_row(step, f"{taken:.1f}")
        console.print(table)
    console.print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
