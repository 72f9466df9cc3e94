"""PPO, top to bottom. Names in CAPITALS are details; everything else is the same in every arm.

What the phases share is made in `ppo_setup.py`; `ppo_batches.py` splits an optimizer step, `ppo_metrics.py` measures.
Left out of the published algorithms: early stopping on the KL and a separate learning rate for the critic; the paper's
code has neither.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from repro import details as d
from repro import record
from repro.detail import Pick
from repro.models import critics, generate, hub, logprobs, mixed_precision, modes, padding, pretrained, scoring
from repro.ops import loss, masked, text
from repro.ops.masked import Reduce, Whiten, one_rank
from repro.ops.reward import kl_penalised_reward
from repro.stages import dpo, evaluate, optimise, ppo_metrics
from repro.stages.ppo_batches import Columns, by_length, loss_weights, sft_losses
from repro.stages.ppo_setup import (
    KLCoefficients,
    Run,
    Training,
    initial_coefficients,
    minibatches,
    next_coefficients,
    prepare,
    save_weights,
)
from repro.stages.stage import Stage, StageContext
from repro.types import LossWeights, Metrics, Rollout, Targets


def train(context: StageContext) -> None:
    """PPO (Schulman et al. 2017) against a reward model (N+ section 5)."""
    run, training = prepare(context)
    pick, scale, networks, loop = run.pick, context.scale, run.networks, training.loop
    loop.state = initial_coefficients(pick) | loop.state
    for update, rows in loop.steps(training.batches):
        coefficients = KLCoefficients(**loop.state)
        # 1. Sample a response to each query and score it; take log-probabilities and values.
        batch = training.batch(rows, scale.response_tokens)
        rollout = training.reward(roll_out(run, batch.query, batch.uniform)[batch.counts], batch.posts)
        # 2. Reward and advantage of every token.
        target, metrics = targets(rollout, coefficients.reference, run.micro_batch, pick, run.accelerator.reduce)
        # 3. Now and then: how good what the policy writes for validation posts is, before it learns from this batch.
        if update % scale.evaluate_every == 0:
            metrics |= validate(training)
        # 4. Several epochs over minibatches.
        steps = []
        for minibatch in minibatches(run, training, rollout, target, len(rows)):
            steps.append(improve(run, *minibatch, coefficients))
            training.average.update_parameters(networks.policy.network)
        # 5. Metrics, and a few episodes token by token.
        metrics |= ppo_metrics.of_steps(steps) | evaluate.true_quality(batch.posts, rollout, run.corpus)
        diverged = not math.isfinite(metrics["loss/total"])
        training.traces.note(update, batch.posts, rollout, target, batch.uniform[batch.counts], diverged)
        context.log(update * scale.ppo_batch, metrics)
        if diverged:
            loop.stop("diverged")
            continue
        # 6. What moves between updates: the reference policy, and the KL coefficients.
        pick(d.REFERENCE_POLICY).move(networks.reference, networks.policy)
        kl = metrics["objective/kl"], steps[-1]["policy/approx_kl"]
        loop.state = next_coefficients(pick, coefficients, *kl, len(rows))
    save_weights(run, training.average, context.out)
    training.traces.save(context.out / record.EPISODES)
    context.finish({"ppo/updates": float(loop.done)}, loop.outcome)


def validate(training: Training) -> Metrics:
    """Quality of what the policy samples for validation posts; the best weights so far are kept where checkpoints are."""
    policy, loop = training.validation.networks.policy, training.loop
    policy.eval()
    measured = training.validation.measure()
    policy.train()
    loop.checkpoints.best(measured["eval/win_rate"], loop.save)
    return measured


# ---------------------------------------------------------------------------------------------- 1. rollout


@torch.no_grad()
def roll_out(run: Run, query: Tensor, uniform: Tensor) -> Rollout:
    """[B, Q] queries, [B, R] uniform numbers -> the episodes, sampled and scored some at a time."""
    parts = zip(*(numbers.to(run.accelerator.device).split(run.rollout_batch) for numbers in (query, uniform)))
    rollouts = [sample_episodes(run, *part) for part in parts]
    return Rollout(*(torch.cat(columns) for columns in zip(*rollouts)))


def sample_episodes(run: Run, query: Tensor, uniform: Tensor) -> Rollout:
    """As `roll_out`, all at once. Everything but the score is of the response as it was sampled, past its end too."""
    networks, pick, eos, pad = run.networks, run.pick, run.corpus.eos, run.corpus.pad
    trimmed = padding.trim_left(query, pad)
    with mixed_precision.cached_autocast(run.accelerator):
        response, sampled = generate.sample(networks.policy, trimmed, uniform, run.sampling, eos, pad)
    last, has_eos = text.last_token(response, eos)
    finished = text.truncate_after_eos(response, eos, pad)
    scored = pick(d.PADDING_SIDE).in_ppo(torch.cat([query, finished], 1), pad)
    inputs = (trimmed, response, pad, eos, run.sampling.measured_at)
    again = partial(logprobs.response_logprobs, networks.policy, *inputs)
    logprob = pick(d.OLD_LOGPROB)(sampled=sampled, again=again)
    ref_logprob = logprobs.response_logprobs(networks.reference, *inputs)
    full_kl = partial(logprobs.response_kl, networks.policy, networks.reference, *inputs)
    return Rollout(
        query=query,
        response=response,
        logprob=logprob,
        sampled=sampled,
        ref_logprob=ref_logprob,
        kl=pick(d.KL_ESTIMATOR)(logprob=logprob, ref_logprob=ref_logprob, whole=full_kl),
        value=critics.response_values(networks.critic, trimmed, response, pad),
        score=scoring.score(networks.reward_model, scored, padding.count_tokens(finished, pad), pad),
        last=last,
        counted=pick(d.AFTER_EOS)(last, response.shape[1]),
        has_eos=has_eos,
    )


# ---------------------------------------------------------------------------------------------- 2. reward and advantage


def targets(
    r: Rollout, coefficient: float, micro_batch: int, pick: Pick, reduce: Reduce = one_rank
) -> tuple[Targets, Metrics]:
    """The reward of every token, its advantage and its return; and what the batch measured."""

    def whitened(whiten: Whiten, values: Tensor, mask: Tensor) -> Tensor:
        corrected = partial(whiten, correction=pick(d.WHITEN_MOMENTS))
        return pick(d.WHITEN_SCOPE)(whiten=corrected, values=values, mask=mask, micro_batch=micro_batch, reduce=reduce)

    score = pick(d.NO_EOS_SCORE)(pick(d.REWARD_CLIP)(r.score), r.has_eos)  # [B]
    kl = pick(d.KL_PLACEMENT).in_reward(r.kl)  # [B, R]
    reward = kl_penalised_reward(pick(d.SCORE_POSITION)(score, r.last, kl.shape), coefficient * kl, r.token_mask)
    reward = whitened(pick(d.WHITEN_REWARD), reward, r.value_mask)
    value = masked.keep(r.value, r.value_mask)
    advantage, returns = pick(d.ADVANTAGE)(
        reward=reward, value=value, gamma=pick(d.GAMMA), lam=pick(d.GAE_LAMBDA)
    )  # [B, R] each
    target = Targets(advantage=whitened(pick(d.WHITEN_ADV), advantage, r.token_mask), returns=returns, reward=reward)
    return target, ppo_metrics.of_rollout(r, score, target, coefficient, reduce)


# ---------------------------------------------------------------------------------------------- 4. one optimizer step


def improve(run: Run, r: Rollout, target: Targets, texts: Tensor, coefficients: KLCoefficients) -> Metrics:
    """One optimizer step over these episodes, in micro-batches that change nothing but memory."""
    networks, pick, eos, pad = run.networks, run.pick, run.corpus.eos, run.corpus.pad
    weights, measured = loss_weights(r, run.micro_batch, pick, run.accelerator.reduce), []

    def micro_batch_loss(rows: Tensor, columns: Columns) -> Tensor:
        part, query = r[rows].first(columns.response), r.query[rows, columns.query :]
        inputs = (query, part.response, pad, eos, run.sampling.measured_at)
        logprob, *bonus = logprobs.response_measures(networks.policy, *inputs, *pick(d.ENTROPY_BONUS))
        value = critics.response_values(networks.critic, query, part.response, pad)
        of_part = target[rows].first(columns.response), weights[rows].first(columns.response)
        bonus = sum(bonus, torch.zeros_like(logprob))
        total, sums = ppo_loss(logprob, bonus, value, part, *of_part, coefficients, pick)
        measured.append(sums)
        return total

    # The last micro-batch is one whose loss all weights have a gradient of: in it ranks add up their gradients.
    parts = sft_losses(run, texts, pick(d.PTX_MIX))
    parts += [partial(micro_batch_loss, *part) for part in by_length(r, run.micro_batch, pad)]
    with modes.recompute_activations((networks.policy, networks.critic), run.recompute):
        losses = (part() for part in optimise.shared(run.accelerator, networks.learners, parts))
        total = optimise.step(run.accelerator, run.optimizer, losses, pick(d.GRADIENT_CLIP))
    sums = run.accelerator.reduce(torch.stack([torch.stack(list(m.values())) for m in measured]).sum(0))
    return dict(zip(measured[0], sums.tolist())) | {"loss/total": total}


def ppo_loss(
    logprob: Tensor,
    bonus: Tensor,
    value: Tensor,
    r: Rollout,
    target: Targets,
    w: LossWeights,
    coefficients: KLCoefficients,
    pick: Pick,
) -> tuple[Tensor, dict[str, Tensor]]:
    """[B, R] each of the forward pass -> this micro-batch's part of the step's loss, and of each metric."""
    # Masked before the arithmetic: the gradient of what stands in a masked place is 0 times it, and 0 times NaN is NaN.
    logprob, old_logprob, ref_logprob = (masked.keep(x, r.token_mask) for x in (logprob, r.logprob, r.ref_logprob))
    value, old_value = (masked.keep(x, r.value_mask) for x in (value, r.value))
    log_ratio, clip_range = logprob - old_logprob, pick(d.CLIP_RANGE)
    policy = pick(d.POLICY_OBJECTIVE).loss(
        logprob=logprob, log_ratio=log_ratio, advantage=target.advantage, clip=clip_range, beta=coefficients.sampler
    )
    clipped = pick(d.VALUE_CLIP)(value, old_value)
    critic = loss.value_loss(value, clipped, target.returns)
    kl = pick(d.KL_PLACEMENT).in_loss(logprob, ref_logprob)
    total = loss.weighted(policy + coefficients.reference * kl - masked.keep(bonus, r.token_mask), w.token)
    total = total + pick(d.VALUE_COEF) * loss.weighted(critic, w.value)
    with torch.no_grad():
        policy_clipped = loss.policy_clipped(log_ratio.exp(), target.advantage, clip_range)
        value_clipped = loss.value_clipped(value, clipped, target.returns)
        gap = logprob - masked.keep(r.sampled, r.token_mask)
    clipping = policy_clipped, value_clipped
    return total, ppo_metrics.of_micro_batch((policy, critic), log_ratio, gap, clipping, w)


# ---------------------------------------------------------------------------------------------- the stage


def use_given_policy(context: StageContext) -> None:
    """A policy that was trained elsewhere, to be evaluated; of its training nothing is known here."""
    pretrained.save_policy(hub.load_policy(context.start("policy_from")), context.out / "model")
    context.finish({"ppo/updates": 0.0})


def _run(context: StageContext) -> None:
    learners = {"ppo": train, "dpo": dpo.train}
    (learners[context.pick(d.ALGORITHM)] if not context.scale.policy_from else use_given_policy)(context)


STAGE = Stage(
    "ppo",
    version=6,
    upstream=("data", "base", "sft", "rm"),
    seeded=True,
    run=_run,
    fields=(
        "response_tokens",
        "episodes",
        "ppo_batch",
        "ppo_learning_rate",
        "rm_batch",
        "dpo_learning_rate",
        "micro_batch",
        "rollout_batch",
        "evaluate_every",
        "frozen_weights",
        "sampler",
        "policy_from",
    ),
)
