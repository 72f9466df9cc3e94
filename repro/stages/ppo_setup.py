"""What PPO's phases share, and how it is constructed: networks, optimizer, posts, random number generators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repro import details as d
from repro.detail import Pick
from repro.models import critics, generate, mixed_precision, modes, pretrained, ranks, samplers, wrapping
from repro.models.ensemble import RewardEnsemble
from repro.stages import evaluate, inference, optimise, ppo_rewards
from repro.stages.checkpoint import RandomState, Stateful
from repro.stages.corpus import Corpus, column
from repro.stages.episodes import EpisodeTraces
from repro.stages.loop import TrainingLoop
from repro.stages.ppo_queue import Batch, RolloutQueue, sampled_ahead
from repro.stages.stage import StageContext
from repro.types import Metrics

if TYPE_CHECKING:
    from accelerate import Accelerator

    from repro.models.scalar_model import ScalarModel


@dataclass(frozen=True)
class Networks:
    """The four networks of PPO; policy and critic are trained, reference and reward model are frozen.

    Where no advantage reads it, the critic is `critics.NoCritic`.
    """

    policy: nn.Module
    critic: nn.Module
    reference: nn.Module
    reward_model: nn.Module

    @property
    def trained(self) -> tuple[nn.Module, nn.Module]:
        """Policy and critic as a module each, for what is done to their layers."""
        return getattr(self.policy, "network", self.policy), getattr(self.critic, "network", self.critic)

    @property
    def learners(self) -> nn.Module:
        """Policy and critic as the one module that accelerate wrapped, for what it shares out: gradients and weights."""
        return getattr(self.policy, "wrapped", self.policy)


@dataclass(frozen=True)
class AdaptiveState:
    """What adapts from update to update: coefficients of two KL penalties and a bonus, per nat, and an average of returns."""

    kl_coefficient: float  # of the KL to the reference policy
    sampler_kl_coefficient: float = 0.0  # of the KL to the policy that sampled the batch, in some objectives
    entropy_coefficient: float = 0.0  # of the entropy bonus that holds a level
    mean_return: float = math.nan  # moving average over the batches before; NaN before the first, or where unused


@dataclass(frozen=True)
class Run:
    """What rollouts and optimizer steps share: networks, optimizer, special tokens, the arm, and batch sizes in memory."""

    networks: Networks
    optimizer: torch.optim.Optimizer
    corpus: Corpus
    pick: Pick
    accelerator: Accelerator
    sampling: generate.Sampling
    micro_batch: int  # episodes in one forward and backward pass
    rollout_batch: int  # episodes sampled at once
    recompute: str = "nothing"  # in the backward pass: "layers" or "nothing"


@dataclass(frozen=True)
class Training:
    """What the loop needs beside a `Run`: data, random number generators, validation and traces."""

    loop: TrainingLoop
    new_batch: Callable[[Tensor, torch.Generator], Batch]  # (indices of prompts, what draws their random numbers)
    prompts: int
    batches: Iterator[list[Tensor]]  # for each update, row indices of the prompts of each batch that it samples first
    queue: RolloutQueue
    sampling_rng: torch.Generator
    minibatch_rng: torch.Generator
    sft_texts: Callable[[int], Tensor]
    reward: ppo_rewards.Reward
    average: nn.Module  # of the policy's weights, over optimizer steps
    validation: evaluate.Validation
    traces: EpisodeTraces


def prepare(context: StageContext, critic: critics.Choice, responses: int) -> tuple[Run, Training]:
    """Everything that PPO needs, as of the first update or as of the last checkpoint.

    `critic` says whether there is one, and `responses` is how many episodes of an update answer the same prompt.
    """
    pick, scale, run = context.pick, context.scale, load_run(context, critic, responses)
    corpus, updates = run.corpus, scale.episodes // scale.ppo_batch
    posts = corpus.posts(pick(d.PROMPTS))
    queries = column(posts, "query_token")

    def batch_of(rows: Tensor, uniform: Tensor) -> Batch:
        own, real = ranks.shard(torch.arange(len(rows)))
        return Batch(rows, queries[rows[own]], uniform, real, posts.select(rows[own[real]].tolist()))

    def new_batch(rows: Tensor, generator: torch.Generator) -> Batch:
        """This rank's shard of the prompts in `rows`. Every rank draws the random numbers of all rows."""
        uniform = torch.rand(len(rows), scale.response_tokens, generator=generator)
        return batch_of(rows, uniform[ranks.shard(torch.arange(len(rows)))[0]])

    queue = RolloutQueue(batch_of, run.accelerator.device)
    shuffle_rng, sampling_rng, minibatch_rng = (
        context.generator(pick(d.DRAWS) + purpose) for purpose in ("shuffle", "sampling", "order")
    )
    text_rng = context.generator("texts")
    average = pick(d.WEIGHT_AVERAGE)(run.networks.policy.network)
    reward = ppo_rewards.reward_of_episodes(pick, corpus, run.networks.reward_model, scale.rollout_batch)
    validation = evaluate.Validation(run.networks, corpus, context)
    traces = EpisodeTraces(run.networks, run.sampling, corpus, updates, scale.ppo_batch)
    stateful: dict[str, Stateful] = {
        "sampled": RandomState(sampling_rng),
        "order": RandomState(minibatch_rng),
        "texts": RandomState(text_rng),
        "queue": queue,
    }
    stateful |= average.stateful() | pick(d.REFERENCE_POLICY).stateful(run.networks.reference) | {"traces": traces}
    context.seed_dropout()  # before the loop, which restores the random state of a checkpoint
    loop = TrainingLoop(
        context,
        run.optimizer,
        lambda update: scale.ppo_learning_rate * pick(d.LR_SCHEDULE)(update, updates),
        updates,
        partial(save_weights, run, average),
        **stateful,
    )
    batches = prompt_batches(len(queries), scale.ppo_batch, responses, shuffle_rng)
    return run, Training(
        loop=loop,
        new_batch=new_batch,
        prompts=len(queries),
        batches=islice(sampled_ahead(islice(batches, updates), pick(d.STALENESS)), updates),
        queue=queue,
        sampling_rng=sampling_rng,
        minibatch_rng=minibatch_rng,
        sft_texts=sft_text_sampler(corpus, text_rng),
        reward=reward,
        average=average,
        validation=validation,
        traces=traces,
    )


def responses_per_query(pick: Pick) -> int:
    """How many of an update's episodes answer the same prompt."""
    return pick(d.BASELINE).responses(pick(d.RESPONSES_PER_QUERY))


def prompt_batches(prompts: int, episodes: int, responses: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices of each update's prompts, [episodes], all of its prompts `responses` times over.

    The prompts follow each other, and then once more: episodes i and i + episodes / responses answer the same one. So a rank,
    which owns every Nth episode, has all responses to a prompt or none.
    """
    batches = optimise.endless_batches(prompts, episodes // responses, generator)
    return (rows.repeat(responses) for rows in batches)


def load_run(context: StageContext, with_critic: critics.Choice, responses: int) -> Run:
    """The four networks on their devices, the optimizer of policy and critic, and how so many responses are sampled."""
    sft, rm = context.inputs["sft"] / "model", context.inputs["rm"] / "model"
    start_policy = context.inputs.get("start", context.inputs["sft"]) / "model"  # of an earlier round, in some arms
    pick, scale, frozen_dtype = context.pick, context.scale, context.scale.frozen_weights
    dropout, with_positions, start = pick(d.DROPOUT).get("ppo", 0.0), pick(d.POSITION_IDS), pick(d.REFERENCE_POLICY)
    # Each frozen network moves to its device before the next one is read, which bounds the host's memory.
    reward_model = load_reward_models(context)
    reference = with_positions(pretrained.load_policy(context.inputs[start.stage] / "model"))
    reference = mixed_precision.cast_weights(reference, start.dtype(frozen_dtype))
    policy = with_positions(pretrained.load_policy(start_policy))

    def construct_critic() -> ScalarModel:
        initial = with_positions(pick(d.CRITIC_INIT)(rm, sft, context.generator("critic")))
        return pick(d.CRITIC_TRUNK)(initial, policy)

    critic = with_critic(construct_critic)
    policy, critic, reference = pick(d.ADAPTER)(policy, critic, reference, context.seed_of("adapter"))
    policy, critic = (modes.set_dropout(network, dropout) for network in (policy, critic))
    reference = wrapping.place_on_device(modes.freeze(reference), context.accelerator)
    learners, optimizer = wrapping.prepare_for_training(
        context.accelerator,
        wrapping.Learners(policy=policy, critic=critic),
        optimise.adamw([policy, critic], scale.ppo_learning_rate, pick, (1.0, pick(d.CRITIC_LEARNING_RATE))),
    )
    policy, critic = (wrapping.Learner(learners, name) for name in ("policy", "critic"))
    return Run(
        networks=Networks(policy, critic, reference, reward_model),
        optimizer=optimizer,
        corpus=Corpus(context.inputs["data"]),
        pick=pick,
        accelerator=context.accelerator,
        sampling=sampling(pick, scale.sampler, responses),
        micro_batch=scale.micro_batch,
        rollout_batch=scale.rollout_batch,
        recompute=scale.recompute,
    )


def load_reward_models(context: StageContext) -> nn.Module:
    """The frozen reward model, or several as one."""
    ensemble = context.pick(d.REWARD_ENSEMBLE)
    members = [
        inference.frozen(context, pretrained.load_scalar(context.inputs[name] / "model"), context.scale.frozen_weights)
        for name in ("rm", *(f"rm_{number}" for number in range(2, ensemble.size + 1)))
    ]
    return members[0] if ensemble.size == 1 else RewardEnsemble(members, ensemble.combine)


def sampling(pick: Pick, sampler: str = "eager", responses: int = 1) -> generate.Sampling:
    """How the arm samples; new, old and reference log-probabilities are all taken at `logprob_temperature`.

    `responses` is how many episodes of a batch answer the same prompt.
    """
    temperature, truncation = pick(d.TEMPERATURE), pick(d.TRUNCATED_SAMPLING)
    return generate.Sampling(
        temperature=temperature,
        logprob_temperature=pick(d.LOGPROB_TEMPERATURE)(temperature),
        after_eos=pick(d.SAMPLING),
        truncate=truncation.truncate,
        support=truncation.support,
        sampler=samplers.sampler_named(sampler),
        responses=responses,
    )


def sft_text_sampler(corpus: Corpus, generator: torch.Generator) -> Callable[[int], Tensor]:
    """A function, count -> [count, T], that draws SFT texts with replacement; for recipes that mix them into PPO."""
    tokens = column(corpus.posts("train"), "query_reference_response_token")
    return lambda count: tokens[torch.randint(len(tokens), (count,), generator=generator)]


def validate(training: Training) -> Metrics:
    """Metrics of sampled summaries of the validation posts; saves the best weights so far where checkpoints are on."""
    policy, loop = training.validation.networks.policy, training.loop
    policy.eval()
    metrics = training.validation.measure()
    policy.train()
    loop.checkpoints.save_if_best(metrics["eval/win_rate"], loop.save_weights)
    return metrics


def initial_state(pick: Pick) -> dict[str, float]:
    """What the first update starts from, as the fields of `AdaptiveState`."""
    state = AdaptiveState(
        kl_coefficient=pick(d.KL_COEF),
        sampler_kl_coefficient=pick(d.POLICY_OBJECTIVE).beta,
        entropy_coefficient=pick(d.ENTROPY_TARGET).initial,
    )
    return asdict(state)


def next_state(
    pick: Pick,
    now: AdaptiveState,
    metrics: Metrics,
    sampler_kl: float,
    mean_return: Callable[[], float],
    episodes: int,
) -> dict[str, float]:
    """What the next update starts from, as the fields of `AdaptiveState`.

    `metrics` are this update's, `sampler_kl` is that of its last step in nats per token; `mean_return` computes that of its
    episodes, and `episodes` is their number.
    """
    following = AdaptiveState(
        kl_coefficient=pick(d.KL_CONTROLLER)(now.kl_coefficient, metrics["objective/kl"], episodes),
        sampler_kl_coefficient=pick(d.POLICY_OBJECTIVE).adapt(now.sampler_kl_coefficient, sampler_kl),
        entropy_coefficient=pick(d.ENTROPY_TARGET).adapt(now.entropy_coefficient, metrics["objective/entropy"]),
        mean_return=pick(d.BASELINE).follow(now.mean_return, mean_return),
    )
    return asdict(following)


def save_weights(run: Run, average: nn.Module, folder: Path) -> None:
    """Save the (averaged) policy under `model` and the critic under `critic`; every rank has to call it."""
    weights = wrapping.gather_weights(run.accelerator, run.networks.learners)
    pretrained.save_policy(average.module, folder / "model", wrapping.submodule_weights(weights, "policy"))
    critics.save(run.networks.critic.network, folder / "critic", wrapping.submodule_weights(weights, "critic"))
