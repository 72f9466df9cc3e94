"""Rejection sampling and expert iteration, in the place of PPO: fine-tuning the policy on the best of its own responses.

A round samples several responses to each prompt from the policy as it then is, keeps the one of each prompt that the reward
model likes best, and fine-tunes the policy on these with SFT's loss. Rejection sampling is one round, from the SFT policy
(Touvron et al. 2023, Llama 2, section 3.2.3); expert iteration is several (RAFT, Dong et al. 2023, arXiv 2304.06767).

Responses are sampled as the arm's PPO samples them, and the best is the one that it would pay most. There is no critic, and
nothing holds the policy to the SFT policy; the KL is logged all the same. In all there are PPO's episodes and PPO's optimizer
steps, at PPO's learning rate and under its schedule: a step of Adam is as long as the rate says, whatever the loss, so the
policy may move as far. At the paper's scales that rate is SFT's too (N+ tables 5 and 7).

Departure: where the temperature is below 1, what is imitated is sharper than the policy that the loss is about, so that each
round lowers the entropy besides raising the score. A round is sampled at once, and a stage ended meanwhile samples it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from repro import details as d
from repro.models import critics, logprobs, modes
from repro.ops import loss, masked
from repro.ops.preference import ExpertIteration, best_of_each_prompt
from repro.stages import optimise, ppo_gold, ppo_metrics, ppo_rewards
from repro.stages.ppo_batches import Columns, local_episodes, micro_batches_by_length
from repro.stages.ppo_setup import Run, Training, prepare, save_weights, validate
from repro.stages.stage import StageContext
from repro.types import Metrics, Rollout

RollOut = Callable[[Run, Tensor, Tensor], Rollout]  # ([B, Q] prompts, [B, R] uniform random numbers) -> B episodes
TEMPERATURE = 1.0  # of the log-probabilities in SFT's loss


def train(context: StageContext, roll_out: RollOut) -> None:
    """The arm's rounds, in the updates in which PPO would learn; `roll_out` is PPO's."""
    pick, scale = context.pick, context.scale
    plan = pick(d.ALGORITHM)
    run, training = prepare(context, critics.not_needed, plan.responses)
    loop, batches = training.loop, list(chain.from_iterable(training.batches))
    order = context.generator(pick(d.DRAWS) + "favourites")
    for update, (to_sample, minibatches) in loop.steps(schedule(plan, batches, order)):
        # 1. Where a round begins, sample all of its responses and keep each prompt's best.
        metrics = sample_round(run, training, roll_out, to_sample) if to_sample else {}
        # 2. Every few updates, evaluate the policy on validation posts, before it learns.
        if update % scale.evaluate_every == 0:
            metrics |= validate(training)
        # 3. An optimizer step on each minibatch.
        kept, losses = training.queue.all(), []
        for minibatch in minibatches:
            losses.append(imitate(run, kept, minibatch))
            training.average.update_parameters(run.networks.policy.network)
        metrics["loss/total"] = sum(losses) / len(losses)
        context.log(update * scale.ppo_batch, metrics)
        if not math.isfinite(metrics["loss/total"]):
            loop.stop("diverged")
    save_weights(run, training.average, context.out)
    context.finish({"ppo/updates": float(loop.steps_done)}, loop.outcome)


def schedule(
    plan: ExpertIteration, batches: Sequence[Tensor], generator: torch.Generator
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """For each update, the batches of prompts to sample before it, and its minibatches, as indices into the round's favourites.

    `batches` are [B] row indices of prompts, one batch for each update, each prompt `plan.responses` times. A round samples
    those of all its updates before its first one. Every pass has each favourite of the round once.
    """
    size = len(batches[0]) // plan.responses
    for updates in torch.arange(len(batches)).tensor_split(min(plan.rounds, len(batches))):
        to_sample = [batches[update] for update in updates]
        count = size * len(updates)
        passes = (torch.randperm(count, generator=generator).split(size) for _ in range(plan.passes))
        minibatches = list(chain.from_iterable(passes))
        for first in range(0, len(minibatches), plan.passes):
            yield to_sample, minibatches[first : first + plan.passes]
            to_sample = []


def sample_round(run: Run, training: Training, roll_out: RollOut, to_sample: Sequence[Tensor]) -> Metrics:
    """Replace what the queue holds by the favourites of these batches of prompts; metrics are means over the batches."""
    training.queue.clear()
    measured, plan = [], run.pick(d.ALGORITHM)
    for rows in to_sample:
        batch = training.new_batch(rows, training.sampling_rng)
        rollout = training.reward(roll_out(run, batch.query, batch.uniform)[batch.real], batch.posts)
        score = ppo_rewards.paid_score(rollout, run.pick)
        best = best_of_each_prompt(score, plan.responses)
        training.queue.put(batch, rollout[best])
        metrics = ppo_metrics.sample_metrics(rollout, score, run.accelerator.reduce)
        metrics |= ppo_gold.gold_metrics(run, batch.posts, rollout)
        all_prompts = torch.ones_like(best, dtype=torch.bool)
        favourite_score = masked.mean(score[best], all_prompts, run.accelerator.reduce)
        measured.append(metrics | {"objective/favourite_score": favourite_score.item()})
    known = {name: [each[name] for each in measured if name in each] for name in chain.from_iterable(measured)}
    return {name: sum(values) / len(values) for name, values in known.items()}


def imitate(run: Run, kept: Rollout, minibatch: Tensor) -> float:
    """One optimizer step on [N] favourites of all ranks; the result is its loss, NaN where it was not finite.

    loss = mean over the responses' tokens of -log policy, in nats; the micro-batch size changes memory, not the result.
    """
    policy, eos, pad = run.networks.policy, run.corpus.eos, run.corpus.pad
    _, r = local_episodes(kept, minibatch)
    weights = loss.token_mean(r.token_mask, run.accelerator.reduce)

    def micro_batch_loss(rows: Tensor, columns: Columns) -> Tensor:
        part = r[rows].first_tokens(columns.response_tokens)
        query = part.query[:, columns.query_start :]
        logprob = logprobs.response_logprobs(policy, query, part.response, pad, eos, TEMPERATURE)
        return loss.weighted(-masked.keep(logprob, part.token_mask), weights[rows, : columns.response_tokens])

    micro_batches = micro_batches_by_length(r, run.micro_batch, pad)
    with modes.recompute_activations([policy], run.recompute):
        parts = optimise.accumulation_steps(run.accelerator, run.networks.learners, micro_batches)
        losses = (micro_batch_loss(*part) for part in parts)
        return optimise.step(run.accelerator, run.optimizer, losses, run.pick(d.GRADIENT_CLIP))
