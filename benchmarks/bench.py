"""Speed: episodes per second of PPO at fixed shapes, and seconds per stage of a scale; printed as tables.

`make bench`, or `python -m benchmarks.bench --shapes S M 14m --threads 2`. Weights are random and no response ends, so
that every episode has its full length: the worst case.
"""

import argparse
import resource
import statistics
import warnings

import torch
from datasets import disable_progress_bars
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from benchmarks.load import Shape, Tokens, ppo_seconds, stage_seconds

__all__ = ["SHAPES", "Shape", "Tokens", "ppo_seconds", "stage_seconds"]
SHAPES = {
    "S": Shape("gpt-neox:64/2/2/256", 1_024, 64, 24),
    "M": Shape("gpt-neox:256/6/4/1024", 4_096, 64, 24),
    "14m": Shape("gpt-neox:128/6/4/512", 50_304, 128, 53),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=["S"], choices=SHAPES)
    parser.add_argument("--scale", default="mini", help="whose stages to time; empty for none")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    disable_progress_bars()
    logging.disable_progress_bar()
    console = Console()
    torch.set_num_threads(arguments.threads)
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
