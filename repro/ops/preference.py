"""Losses of a comparison, how comparisons share a batch, what margins say of themselves, and the best of several responses.

A margin is the score of the chosen summary less that of the rejected one, in nats of log-odds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from repro.types import PerEpisode

Margins = Float[Tensor, " comparisons"]
Groups = Int[Tensor, " comparisons"]  # which comparisons stay together: 0 to G - 1
BIN_WIDTH = 0.5  # of a margin, in the paper's figure of calibration (N+ detail 18)


# ---------------------------------------------------------------------------------------------- losses


def bradley_terry(margin: Margins) -> Margins:
    """Negative log-likelihood of the labels under the Bradley-Terry model, in nats.

    -log sigmoid(m)

    Args:
        margin: [comparisons] m.

    Source: N+ detail 10; Ouyang et al. 2022, equation 1. Of DPO's margin it is DPO's loss (Rafailov et al. 2023, equation 7).
    """
    return -logsigmoid(margin)


def smoothed(margin: Margins, smoothing: float) -> Margins:
    """Bradley-Terry where some labels are expected to be the wrong way round, in nats.

    -(1 - s) log sigmoid(m) - s log sigmoid(-m)

    Args:
        margin: [comparisons] m.
        smoothing: s, the share of wrong labels; 0 is `bradley_terry`.

    Source: label smoothing (Szegedy et al. 2016, section 7); of DPO, Mitchell's note on noisy preferences (2023).
    """
    return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


def with_margin(margin: Margins, lead: float) -> Margins:
    """Bradley-Terry where the chosen summary has to win by a lead, in nats.

    -log sigmoid(m - lead)

    Args:
        margin: [comparisons] m.
        lead: in the unit of the scores; 0 is `bradley_terry`.

    Source: Touvron et al. 2023 (Llama 2), equation 2. Departure: one lead for all, where theirs depends on the rating.
    """
    return -logsigmoid(margin - lead)


# ---------------------------------------------------------------------------------------------- batches


def each_alone(posts: Sequence[str]) -> Groups:
    """Every comparison is a group of its own.

    Args:
        posts: the id of each comparison's post, of which only the number is read.

    Source: N+ detail 10, which shuffles comparisons.
    """
    return torch.arange(len(posts))


def by_post(posts: Sequence[str]) -> Groups:
    """The comparisons of one post are a group; groups are numbered in the order in which their posts appear.

    Args:
        posts: the id of each comparison's post.

    Source: Ouyang et al. 2022, section 3.5 (all comparisons of a prompt as a single batch element).
    """
    index = {post: place for place, post in enumerate(dict.fromkeys(posts))}
    return torch.tensor([index[post] for post in posts])


@dataclass(frozen=True)
class PreferenceObjective:
    """What a reward model is trained on: the loss of a margin, and which comparisons stay together in a batch."""

    loss: Callable[[Tensor], Tensor]
    group: Callable[[Sequence[str]], Tensor] = each_alone


def shares(group: Groups) -> Margins:
    """What each comparison weighs, so that groups weigh alike.

    w_i = 1 / |group of i|

    Args:
        group: [comparisons] the group of each.

    Source: Ouyang et al. 2022, equation 1 (the division by K choose 2).
    """
    return 1.0 / group.bincount()[group]


def batches(group: Groups, size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " rows"]]:
    """Row indices of one pass over the groups in random order: whole groups until there are `size` rows.

    What is left when the groups run out is too little for a batch, and dropped. Groups of one give batches of `size`.

    Args:
        group: [comparisons] the group of each, 0 to G - 1, none of them empty.
        size: the fewest comparisons of a batch.
        generator: draws the order, with one permutation of G.
    """
    members = group.argsort(stable=True).split(group.bincount().tolist())
    batch, rows = [], 0
    for place in torch.randperm(len(members), generator=generator).tolist():
        batch.append(members[place])
        rows += len(members[place])
        if rows >= size:
            yield torch.cat(batch)
            batch, rows = [], 0


# ---------------------------------------------------------------------------------------------- accuracy and calibration


def correct(margin: Margins) -> Margins:
    """1 where the chosen summary scores higher, 1/2 where they tie, 0 where it scores lower, NaN where that is not known.

    1[m > 0] + 1[m = 0] / 2

    Args:
        margin: [comparisons] m.
    """
    right = (margin > 0).float() + 0.5 * (margin == 0).float()
    return torch.where(margin.isnan(), margin, right)


def accuracy(margin: Margins) -> float:
    """Share of comparisons in which the chosen summary scores higher; a tie counts half.

    mean(1[m > 0] + 1[m = 0] / 2)

    Args:
        margin: [comparisons] m, at least one; where any is NaN, so is the result.
    """
    return correct(margin).mean().item()


@dataclass(frozen=True)
class Bin:
    """Comparisons whose scores are about as far apart: around which |margin|, how many, and how often rightly so."""

    centre: float
    count: int
    accuracy: float
    promised: float  # mean sigmoid(|margin|): how often a calibrated model would be right


def calibration(margin: Margins) -> list[Bin]:
    """The bins of |margin|, `BIN_WIDTH` wide from 0 up, that are not empty.

    Args:
        margin: [comparisons]; a NaN is in a bin of its own, which counts no comparison.

    Source: N+ detail 18 and its figure.
    """
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
    """Expected calibration error: how far accuracy is from what the margins promise, averaged over comparisons.

    sum_b n_b |accuracy_b - promised_b| / sum_b n_b;  NaN where a margin is

    Args:
        bins: of `calibration`; 0 of none.

    Source: Guo et al. 2017, equation 3. Departure: bins are of the margin and not of the probability, as in N+ detail 18.
    """
    # A margin that is not a number lies in a bin of nobody: then the error is not a number either.
    return sum(b.count * abs(b.accuracy - b.promised) for b in bins) / max(sum(b.count for b in bins), 1)


# ---------------------------------------------------------------------------------------------- the best of several responses

RESPONSES = 4  # to a prompt, of which one is kept: as RAFT has them in RLOO's table 1 (Ahmadian et al. 2024)
# A quarter of the responses is kept, so that four passes over these take as many optimizer steps, each on as many prompts,
# as PPO's four epochs over all of them take (N+ table 7).
PASSES = 4


@dataclass(frozen=True)
class ExpertIteration:
    """In how many rounds a policy samples and imitates its best responses, to a prompt how many, and for how many passes."""

    rounds: int
    responses: int = RESPONSES
    passes: int = PASSES


def best_of_each_prompt(score: PerEpisode, responses: int) -> Int[Tensor, " prompts"]:
    """The index of each prompt's best episode; of equal ones the first.

    i + n argmax_j s_{i + j n},  n = episodes / responses

    Args:
        score: [episodes] s. Episodes i, i + n, i + 2 n, ... answer prompt i.
        responses: how many episodes answer each prompt.

    Source: RAFT (Dong et al. 2023, arXiv 2304.06767, algorithm 1), whose K is `responses`.
    """
    by_response = score.view(responses, -1)
    prompts = torch.arange(by_response.shape[1], device=score.device)
    return prompts + by_response.shape[1] * by_response.argmax(0)
