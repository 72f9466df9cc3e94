"""The score of an episode: who gives it, in which shape it enters PPO, and the reward that it makes of each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from repro import details as d
from repro.detail import Pick
from repro.models import scoring
from repro.ops.reward import kl_penalised_reward
from repro.stages import evaluate
from repro.stages.corpus import Corpus
from repro.types import Rollout

if TYPE_CHECKING:
    from datasets import Dataset

# (episodes, their posts) -> the episodes with the arm's score, from which `paid_score` makes what is paid
Reward = Callable[[Rollout, "Dataset"], Rollout]


def reward_of_episodes(pick: Pick, corpus: Corpus, reward_model: nn.Module, batch: int) -> Reward:
    """The arm's reward: the score of its source, in its shape; `batch` texts are scored at once."""
    source, shape = REWARD_SOURCES[pick(d.REWARD_SOURCE)](corpus), pick(d.REWARD_SHAPE)

    def reward(rollout: Rollout, posts: Dataset) -> Rollout:
        rollout = source(rollout, posts)
        of_references = partial(reference_scores, reward_model, posts, corpus.pad, batch)
        return replace(rollout, score=shape(rollout.score, of_references))

    return reward


def score_by_reward_model(_: Corpus) -> Reward:
    """The score of an episode is the reward model's, which the rollout already has."""
    return lambda rollout, posts: rollout


def score_by_gold(corpus: Corpus) -> Reward:
    """The score of an episode is its gold score less the mean gold score of the SFT references.

    Subtracting that mean is what `reward_normalisation` does to the reward model's scores (N+ detail 15).
    """
    posts = corpus.posts("train")
    reference_mean = evaluate.gold_grades(posts, posts["reference"], np.ones(len(posts)))["gold"].mean()

    def reward(rollout: Rollout, posts: Dataset) -> Rollout:
        gold = evaluate.rollout_gold_grades(posts, rollout, corpus)["gold"]
        return replace(rollout, score=torch.tensor(gold.to_numpy() - reference_mean).to(rollout.score))

    return reward


REWARD_SOURCES = {"reward_model": score_by_reward_model, "gold": score_by_gold}


@torch.no_grad()
def reference_scores(reward_model: nn.Module, posts: Dataset, pad: int, batch: int) -> Tensor:
    """[B] the reward model's scores of the reference summaries of this rank's posts, `batch` at a time."""
    device = next(reward_model.parameters()).device
    parts = zip(*(part.to(device).split(batch) for part in evaluate.reference_texts(posts)))
    return torch.cat([scoring.score(reward_model, texts, tokens, pad) for texts, tokens in parts])


def paid_score(r: Rollout, pick: Pick) -> Tensor:
    """[B] what an episode is paid: its clipped score, after the rule for responses without an end, less the price of length."""
    score = pick(d.NO_EOS_SCORE)(pick(d.REWARD_CLIP)(r.score), r.has_eos)
    return pick(d.LENGTH_PRICE)(score, r.last_token + 1.0, r.response.shape[1])


def token_rewards(r: Rollout, score: Tensor, kl_coefficient: float, pick: Pick) -> Tensor:
    """[B] scores that are paid -> [B, R] reward of every token, before whitening.

    r_t = score at its position - kl_coefficient * KL_t
    """
    kl_cost = kl_coefficient * pick(d.KL_PLACEMENT).in_reward(r.kl)
    paid, kl_cost = pick(d.KL_POSITION)(score, kl_cost, r.token_mask)
    return kl_penalised_reward(pick(d.SCORE_POSITION)(paid, r.last_token, kl_cost.shape), kl_cost, r.token_mask)
