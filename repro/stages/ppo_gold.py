"""What a rollout is worth by gold score, and how well several reward models agree with it and with each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from repro import details as d
from repro.models import ranks
from repro.ops import ensemble
from repro.stages import evaluate
from repro.stages.ppo_setup import Run
from repro.types import Metrics, Rollout

if TYPE_CHECKING:
    from datasets import Dataset


def gold_metrics(run: Run, posts: Dataset, rollout: Rollout) -> Metrics:
    """Of a rollout's responses over all ranks the mean gold score, where the posts' facts are known; posts[i] is of episode i.

    Of an ensemble, also how far its members agree.
    """
    import pandas as pd

    table = pd.concat(ranks.all_gather(evaluate.rollout_gold_grades(posts, rollout, run.corpus)))
    found = {"objective/gold": float(table["gold"].mean(skipna=False))} if "gold" in table else {}
    if not rollout.member_scores.shape[1]:
        return found
    scores = torch.cat(ranks.all_gather(rollout.member_scores.cpu())).T
    gold = [torch.tensor(table["gold"].to_numpy(float)).float()] if "gold" in table else []
    return found | member_metrics(scores, run.pick(d.REWARD_ENSEMBLE).combine, *gold)


def member_metrics(scores: Tensor, combine: Callable[[Tensor], Tensor], *gold: Tensor) -> Metrics:
    """Of [members, B] scores how far apart they are and, where [B] gold scores are given, how well these are followed.

    A correlation that is not defined, since all scores of a batch are the same, is left out.
    """
    measured = {"spread": ensemble.spread(scores), "rank_correlation": ensemble.rank_correlation(scores)}
    for known in gold:
        each = torch.stack([ensemble.correlation(member, known) for member in scores])
        measured |= {f"gold_correlation_{number}": value for number, value in enumerate(each, 1)}
        measured |= {
            "gold_correlation": each.mean(),
            "combined_gold_correlation": ensemble.correlation(combine(scores), known),
        }
    return {f"objective/members_{name}": value.item() for name, value in measured.items() if value.isfinite()}
