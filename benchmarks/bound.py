"""The bound: the seconds that a load's matrix products alone take on these cores, each run as a plain `torch.matmul`.

Products of one shape are timed once and counted as often as they occur, in float32, into memory that is there already: all
else that a load does, from softmax to Python, is what it takes beyond the bound. Which products there are says
`repro/engine/flops.py`, without work whose result nobody reads.
"""

import statistics
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from repro.engine.flops import LEAN, Network, Product, repeated, rollout, total, update
from repro.engine.stage_flops import Lengths, Passes, Stages
from repro.study.scale import Scale

SECONDS = 0.03  # of repetitions of one shape, or two where those take longer


@dataclass(frozen=True)
class Bound:
    """Operations of matrix products, and the seconds that they took as such."""

    flops: float
    seconds: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.flops / self.seconds if self.seconds else 0.0


def ppo_products(network: Network, batch: int, query: int, response: int, epochs: int) -> list[Product]:
    """Of one update of PPO whose responses all have full length."""
    learning = repeated(update(network, batch, query, response, LEAN), epochs)
    return rollout(network, batch, query, response, LEAN) + learning


def stage_products(name: str, scale: Scale, network: Network, lengths: Lengths, passes: Passes) -> list[Product]:
    """Of a stage, whose texts have these lengths on average and no padding."""
    parts = Stages(scale, network, lengths, passes, LEAN).of(name)
    return [product for products in parts.values() for product in products]


def measured(products: Iterable[Product]) -> Bound:
    """The bound of these products, on as many threads as torch has."""
    products, often = list(products), Counter()
    for product in products:
        often[_shape(product)] += product.times
    return Bound(total(products), sum(times * seconds_of(*shape) for shape, times in often.items()))


def _shape(product: Product) -> tuple[int, int, int, int]:
    """In whole numbers: a mean length need not be one."""
    return tuple(max(1, round(size)) for size in (product.batch, product.rows, product.inner, product.columns))


def seconds_of(batch: int, rows: int, inner: int, columns: int) -> float:
    """Median seconds of one product of that shape."""
    left, right = torch.ones(batch, rows, inner), torch.ones(batch, inner, columns)
    out = torch.zeros(batch, rows, columns)
    if batch == 1:  # as a layer does it
        left, right, out = left[0], right[0], out[0]
    torch.matmul(left, right, out=out)
    taken, began = [], time.perf_counter()
    while len(taken) < 2 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        torch.matmul(left, right, out=out)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
