"""Losses of a comparison, how comparisons share a batch, and what margins say of themselves.

A margin is the score of the chosen summary less that of the rejected one, in nats of log-odds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

BIN_WIDTH = 0.5  # of a margin, in the paper's figure of calibration (N+ detail 18)


def bradley_terry(margin: Tensor) -> Tensor:
    """[N] -> [N]: -log sigmoid(m), in nats (N+ detail 10)."""
    return -logsigmoid(margin)


def smoothed(margin: Tensor, smoothing: float) -> Tensor:
    """[N] -> [N]: -(1 - s) log sigmoid(m) - s log sigmoid(-m), as if the share s of labels were the wrong way round."""
    return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


def with_margin(margin: Tensor, lead: float) -> Tensor:
    """[N] -> [N]: -log sigmoid(m - lead): winning is not enough (Touvron et al. 2023, equation 2, one lead for all)."""
    return -logsigmoid(margin - lead)


def each_alone(posts: Sequence[str]) -> Tensor:
    """N post ids -> [N] group of each comparison: every one is a group of its own."""
    return torch.arange(len(posts))


def by_post(posts: Sequence[str]) -> Tensor:
    """N post ids -> [N] group of each comparison: those of one post are one, in the order in which posts appear."""
    index = {post: place for place, post in enumerate(dict.fromkeys(posts))}
    return torch.tensor([index[post] for post in posts])


@dataclass(frozen=True)
class Objective:
    """What a reward model is trained on: the loss of a margin, and which comparisons stay together in a batch."""

    loss: Callable[[Tensor], Tensor]
    group: Callable[[Sequence[str]], Tensor] = each_alone


def shares(group: Tensor) -> Tensor:
    """[N] group of each comparison -> [N] float32 weights: one over the number of comparisons in its group."""
    return 1.0 / group.bincount()[group]


def batches(group: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """[N] groups 0 to G - 1 -> row indices of one pass in shuffled order: whole groups until there are `size` rows.

    What is left when the groups run out is too little for a batch, and dropped. Groups of one give batches of `size`.
    """
    members = group.argsort(stable=True).split(group.bincount().tolist())
    batch, rows = [], 0
    for place in torch.randperm(len(members), generator=generator).tolist():
        batch.append(members[place])
        rows += len(members[place])
        if rows >= size:
            yield torch.cat(batch)
            batch, rows = [], 0


def accuracy(margin: Tensor) -> float:
    """[N] -> share of comparisons in which the chosen summary scores higher; ties count half; NaN where a margin is."""
    right = (margin > 0).float() + 0.5 * (margin == 0).float()
    return torch.where(margin.isnan(), margin, right).mean().item()


@dataclass(frozen=True)
class Bin:
    """Comparisons whose scores are about as far apart: around which |margin|, how many, and how often rightly so."""

    centre: float
    count: int
    accuracy: float
    promised: float  # mean sigmoid(|margin|): how often a calibrated model would be right


def calibration(margin: Tensor) -> list[Bin]:
    """[N] -> the bins of |margin|, `BIN_WIDTH` wide from 0 up, that are not empty (N+ detail 18)."""
    size = margin.abs()
    place = (size / BIN_WIDTH).floor()
    return [
        Bin(
            centre=(each + 0.5) * BIN_WIDTH,
            count=int((place == each).sum()),
            accuracy=accuracy(margin[place == each]),
            promised=size[place == each].sigmoid().mean().item(),
        )
        for each in place.unique().tolist()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: |accuracy - promised|, averaged over comparisons."""
    # A margin that is not a number lies in a bin of nobody: then the error is not a number either.
    return sum(b.count * abs(b.accuracy - b.promised) for b in bins) / max(sum(b.count for b in bins), 1)
