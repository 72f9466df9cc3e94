"""What PPO's phases share, and how it is made: networks, optimizer, posts, generators of random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from repro import details as d
from repro.detail import Pick
from repro.models import generate, mixed_precision, modes, pretrained, ranks, samplers, wrapping
from repro.stages import evaluate, optimise
from repro.stages.checkpoint import RandomState
from repro.stages.corpus import Corpus, column
from repro.stages.episodes import EpisodeTraces
from repro.stages.loop import TrainingLoop
from repro.stages.stage import StageContext
from repro.types import Rollout, Targets

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset


@dataclass(frozen=True)
class Networks:
    policy: nn.Module
    critic: nn.Module
    reference: nn.Module
    reward_model: nn.Module

    @property
    def learners(self) -> nn.Module:
        """Policy and critic as ranks have wrapped them."""
        return getattr(self.policy, "wrapped", self.policy)


@dataclass(frozen=True)
class KLCoefficients:
    """By how much a nat of KL lowers the objective: to the reference policy, and to the policy that sampled the batch."""

    reference: float
    sampler: float = 0.0


@dataclass(frozen=True)
class Run:
    """What rollouts and optimizer steps share: networks, optimizer, special tokens, the arm, and what fits in memory."""

    networks: Networks
    optimizer: torch.optim.Optimizer
    corpus: Corpus
    pick: Pick
    accelerator: Accelerator
    sampling: generate.Sampling
    micro_batch: int
    rollout_batch: int
    recompute: str = "nothing"


@dataclass(frozen=True)
class Batch:
    """The queries of one update that are this rank's; [b] `counts` says which of its rows are no filler."""

    query: Tensor  # [b, Q]
    uniform: Tensor  # [b, R] the numbers that draw its responses
    counts: Tensor  # [b] bool
    posts: Dataset  # of the rows that count


RewardSource = Callable[[Rollout, "Dataset"], Rollout]  # episodes, and the posts that they are about


@dataclass(frozen=True)
class Training:
    """What the loop needs beside a `Run`: its data, its random numbers, and what watches it."""

    loop: TrainingLoop
    posts: Dataset
    queries: Tensor  # [N, Q]
    batches: Iterator[Tensor]
    responses: torch.Generator  # draws responses
    order: torch.Generator  # orders the episodes of an epoch
    sft_texts: Callable[[int], Tensor]
    reward: RewardSource
    average: nn.Module
    validation: evaluate.Validation
    traces: EpisodeTraces

    def batch(self, rows: Tensor, response_tokens: int) -> Batch:
        """This rank's part of the posts in these rows; all ranks draw the numbers of all of them."""
        uniform = torch.rand(len(rows), response_tokens, generator=self.responses)
        own, counts = ranks.shard(torch.arange(len(rows)))
        return Batch(self.queries[rows[own]], uniform[own], counts, self.posts.select(rows[own[counts]].tolist()))


def prepare(context: StageContext) -> tuple[Run, Training]:
    """All that PPO starts with, or goes on with where a checkpoint was kept."""
    pick, scale, run = context.pick, context.scale, load_run(context)
    corpus, posts, updates = run.corpus, run.corpus.posts(pick(d.PROMPTS)), scale.episodes // scale.ppo_batch
    average = pick(d.WEIGHT_AVERAGE)(run.networks.policy.network)
    shuffle, responses, order = (context.generator(pick(d.DRAWS) + each) for each in ("shuffle", "sampling", "order"))
    texts = context.generator("texts")
    traces = EpisodeTraces(run.networks, run.sampling, corpus, updates, scale.ppo_batch)
    reward = REWARD_SOURCES[pick(d.REWARD_SOURCE)](corpus)
    validation = evaluate.Validation(run.networks, corpus, context)
    torch.manual_seed(context.seed_of("dropout"))
    stateful = {"sampled": RandomState(responses), "order": RandomState(order), "texts": RandomState(texts)}
    stateful |= average.held() | pick(d.REFERENCE_POLICY).held(run.networks.reference) | {"traces": traces}
    loop = TrainingLoop(
        context,
        run.optimizer,
        lambda update: scale.ppo_learning_rate * pick(d.LR_SCHEDULE)(update, updates),
        updates,
        partial(save_weights, run, average),
        **stateful,
    )
    queries = column(posts, "query_token")
    batches = islice(optimise.endless_batches(len(queries), scale.ppo_batch, shuffle), updates)
    sft_texts = draw_sft_texts(corpus, texts)
    return run, Training(
        loop, posts, queries, batches, responses, order, sft_texts, reward, average, validation, traces
    )


def load_run(context: StageContext) -> Run:
    """The networks on their devices, policy and critic with their optimizer."""
    sft, rm = context.inputs["sft"] / "model", context.inputs["rm"] / "model"
    pick, dropout, weights = context.pick, context.pick(d.DROPOUT).get("ppo", 0.0), context.scale.frozen_weights
    with_positions, start = pick(d.POSITION_IDS), pick(d.REFERENCE_POLICY)
    # One network after another, the frozen ones on their device before the next is read: host memory is not endless.
    reward_model = mixed_precision.cast_weights(modes.freeze(with_positions(pretrained.load_scalar(rm))), weights)
    reward_model = wrapping.place_on_device(reward_model, context.accelerator)
    reference = with_positions(pretrained.load_policy(context.inputs[start.start] / "model"))
    reference = mixed_precision.cast_weights(reference, start.weights(weights))
    policy = with_positions(pretrained.load_policy(sft))
    critic = pick(d.CRITIC_TRUNK)(with_positions(pick(d.CRITIC_INIT)(rm, sft, context.generator("critic"))), policy)
    policy, critic, reference = pick(d.ADAPTER)(policy, critic, reference, context.seed_of("adapter"))
    policy, critic = (modes.set_dropout(network, dropout) for network in (policy, critic))
    reference = wrapping.place_on_device(modes.freeze(reference), context.accelerator)
    learners, optimizer = wrapping.prepare_for_training(
        context.accelerator,
        wrapping.Learners(policy=policy, critic=critic),
        optimise.adamw([policy, critic], context.scale.ppo_learning_rate, pick),
    )
    policy, critic = (wrapping.Learner(learners, name) for name in ("policy", "critic"))
    scale = context.scale
    return Run(
        Networks(policy, critic, reference, reward_model),
        optimizer,
        Corpus(context.inputs["data"]),
        pick,
        context.accelerator,
        sampling(pick, scale.sampler),
        scale.micro_batch,
        scale.rollout_batch,
        scale.recompute,
    )


def sampling(pick: Pick, sampler: str = "eager") -> generate.Sampling:
    """How the arm samples, and at which temperature it measures log-probabilities: old, new and reference alike."""
    temperature = pick(d.TEMPERATURE)
    measured_at = pick(d.LOGPROB_TEMPERATURE)(temperature)
    return generate.Sampling(temperature, measured_at, pick(d.SAMPLING), samplers.sampler_named(sampler))


def draw_sft_texts(corpus: Corpus, generator: torch.Generator) -> Callable[[int], Tensor]:
    """count -> [count, T] SFT texts drawn at random, for the recipe that mixes them in."""
    tokens = column(corpus.posts("train"), "query_reference_response_token")
    return lambda count: tokens[torch.randint(len(tokens), (count,), generator=generator)]


def by_reward_model(_: Corpus) -> RewardSource:
    """The score of an episode is the reward model's."""
    return lambda rollout, posts: rollout


def by_gold(corpus: Corpus) -> RewardSource:
    """The score of an episode is its gold score less the SFT references' mean, as a reward model's scores are centred."""
    posts = corpus.posts("train")
    centre = evaluate.gold_of(posts, posts["reference"], np.ones(len(posts)))["gold"].mean()

    def reward(rollout: Rollout, posts: Dataset) -> Rollout:
        gold = evaluate.gold_of_rollout(posts, rollout, corpus)["gold"]
        return replace(rollout, score=torch.tensor(gold.to_numpy() - centre).to(rollout.score))

    return reward


REWARD_SOURCES = {"reward_model": by_reward_model, "gold": by_gold}


def minibatches(
    run: Run, training: Training, rollout: Rollout, target: Targets, episodes: int
) -> Iterator[tuple[Rollout, Targets, Tensor]]:
    """Of every epoch over `episodes`, each minibatch's that are this rank's, their targets, and SFT texts to mix in.

    Where another rank has an episode more, one stands in for it that counts for nothing.
    """
    for _ in range(run.pick(d.PPO_EPOCHS)):
        for part in torch.randperm(episodes, generator=training.order).tensor_split(run.pick(d.MINIBATCHES)):
            own, counts = ranks.local_shard(part)
            nothing = torch.full_like(rollout.counted[own], -2)
            counted = torch.where(counts.to(nothing.device), rollout.counted[own], nothing)
            yield replace(rollout[own], counted=counted), target[own], training.sft_texts(len(part))


def initial_coefficients(pick: Pick) -> dict[str, float]:
    """The KL coefficients of the first update, as a checkpoint keeps them."""
    return asdict(KLCoefficients(pick(d.KL_COEF), pick(d.POLICY_OBJECTIVE).beta))


def next_coefficients(
    pick: Pick, now: KLCoefficients, to_reference: float, to_sampler: float, episodes: int
) -> dict[str, float]:
    """The KL coefficients of the next update, after one over so many episodes; KLs in nats an episode and nats a token."""
    reference = pick(d.KL_CONTROLLER)(now.reference, to_reference, episodes)
    sampler = pick(d.POLICY_OBJECTIVE).adapt(now.sampler, to_sampler)
    return asdict(KLCoefficients(reference, sampler))


def save_weights(run: Run, average: nn.Module, folder: Path) -> None:
    """Write the weights of policy and critic; every rank has to call it."""
    weights = wrapping.gather_weights(run.accelerator, run.networks.learners)
    pretrained.save_policy(average.module, folder / "model", wrapping.submodule_weights(weights, "policy"))
    pretrained.save_scalar(
        run.networks.critic.network, folder / "critic", wrapping.submodule_weights(weights, "critic")
    )
