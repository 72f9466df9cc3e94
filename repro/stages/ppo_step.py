"""The fourth phase of PPO: one optimizer step on a minibatch, and the loss that it descends."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from repro import details as d
from repro.detail import Pick
from repro.models import critics, logprobs, modes
from repro.ops import loss, masked
from repro.stages import optimise, ppo_metrics
from repro.stages.ppo_batches import Columns, loss_weights, micro_batches_by_length, sft_losses
from repro.stages.ppo_setup import AdaptiveState, Run
from repro.stages.ppo_trust_region import Parts, trpo_step
from repro.types import LossWeights, Metrics, Rollout, Targets


def adamw_step(run: Run, losses: Iterable[Tensor], parts: Parts, r: Rollout, first_on_batch: bool) -> float:
    """AdamW on policy and critic; stands where `trpo_step` may, and only the run and the losses are read."""
    return optimise.step(run.accelerator, run.optimizer, losses, run.pick(d.GRADIENT_CLIP))


STEPS = {"adamw": adamw_step, "trpo": trpo_step}


def ppo_step(
    run: Run, r: Rollout, target: Targets, texts: Tensor, state: AdaptiveState, first_on_batch: bool = True
) -> Metrics:
    """One optimizer step on a minibatch, [N, T] SFT texts mixed in.

    The micro-batch size changes memory and not the result, but where the recipe says otherwise (`loss_aggregation`,
    `whiten_scope`). `first_on_batch`: the batch has had no step yet.
    """
    networks, pick, eos, pad = run.networks, run.pick, run.corpus.eos, run.corpus.pad
    weights, metric_terms = loss_weights(r, run.micro_batch, pick, run.accelerator.reduce), []
    bonus_functions = (*pick(d.ENTROPY_BONUS), *pick(d.ENTROPY_TARGET).bonuses(state.entropy_coefficient))

    def micro_batch_loss(rows: Tensor, columns: Columns) -> Tensor:
        query, tokens = r.query[rows, columns.query_start :], columns.response_tokens
        part, part_target = r[rows].first_tokens(tokens), target[rows].first_tokens(tokens)
        part_weights = weights[rows].first_tokens(tokens)
        inputs = (query, part.response, pad, eos, run.sampling.logprob_temperature)
        logprob, *bonuses = logprobs.response_measures(networks.policy, *inputs, *bonus_functions, support=part.support)
        bonus = sum(bonuses, torch.zeros_like(logprob))
        value = critics.response_values(networks.critic, query, part.response, pad)
        total, terms = ppo_loss(logprob, bonus, value, part, part_target, part_weights, state, pick)
        metric_terms.append(terms)
        return total

    # SFT texts come first: ranks reduce gradients in the last micro-batch, whose loss has to reach every weight.
    parts = sft_losses(run, texts, pick(d.PTX_MIX))
    micro_batches = micro_batches_by_length(r, run.micro_batch, pad)
    parts += [partial(micro_batch_loss, *part) for part in micro_batches]
    step = STEPS[pick(d.CONSTRAINED_STEP).kind]
    with modes.recompute_activations((networks.policy, networks.critic), run.recompute):
        losses = (part() for part in optimise.accumulation_steps(run.accelerator, networks.learners, parts))
        total = step(run, losses, parts, r, first_on_batch)
    measured = metric_terms[: len(micro_batches)]  # before the step; a line search measures again
    local = torch.stack([torch.stack(list(terms.values())) for terms in measured]).sum(0)
    adapted = pick(d.ENTROPY_TARGET).metrics(state.entropy_coefficient)
    return dict(zip(metric_terms[0], run.accelerator.reduce(local).tolist())) | adapted | {"loss/total": total}


def ppo_loss(
    logprob: Tensor,
    bonus: Tensor,
    value: Tensor,
    r: Rollout,
    target: Targets,
    weights: LossWeights,
    state: AdaptiveState,
    pick: Pick,
) -> tuple[Tensor, dict[str, Tensor]]:
    """[B, R] log-probabilities, entropy bonuses and values of the forward pass -> a micro-batch's terms of loss and metrics.

    In the paper's recipe, with r = exp(log p - log p_old), value V and return G:

        policy loss  max(-A r, -A clip(r, 0.8, 1.2))                          `loss.clipped`
        value loss   max((V - G)^2, (V_old + clip(V - V_old, ±0.2) - G)^2) / 2  `loss.value_loss`
        loss         mean over tokens of the first + 0.1 mean over states of the second

    Other recipes add the KL to the reference policy and an imitation loss to each token's loss, and subtract an entropy bonus.
    Means are weighted sums, so that micro-batches and ranks add up to the loss of the step.
    """
    # Masked before the arithmetic, since the gradient in a masked place would be 0 times NaN, which is NaN.
    logprob, old_logprob, ref_logprob = (masked.keep(x, r.token_mask) for x in (logprob, r.logprob, r.ref_logprob))
    value, old_value = (masked.keep(x, r.value_mask) for x in (value, r.value))
    token_log_ratio, level, clip_range = logprob - old_logprob, pick(d.RATIO_LEVEL), pick(d.CLIP_RANGE)
    log_ratio, widths = level.log_ratio(token_log_ratio, r.token_mask), (clip_range, pick(d.CLIP_ABOVE)(clip_range))
    clip_low, clip_high = level.clip or widths
    objective = pick(d.POLICY_OBJECTIVE)
    objective = pick(d.CONSTRAINED_STEP).objective or objective
    policy_loss = objective.loss(
        logprob=logprob,
        log_ratio=log_ratio,
        advantage=target.advantage,
        clip_low=clip_low,
        clip_high=clip_high,
        beta=state.sampler_kl_coefficient,
    )
    policy_loss = pick(d.DUAL_CLIP)(policy_loss, target.advantage)
    policy_loss = policy_loss * pick(d.SAMPLER_CORRECTION)(old_logprob - masked.keep(r.sampler_logprob, r.token_mask))
    clipped_value = pick(d.VALUE_CLIP)(value, old_value)
    value_loss = loss.value_loss(value, clipped_value, target.returns, pick(d.VALUE_LOSS))
    kl = pick(d.KL_PLACEMENT).in_loss(logprob=logprob, ref_logprob=ref_logprob, log_ratio=token_log_ratio)
    imitation = pick(d.GOOD_RESPONSES)(logprob, target.advantage, r.token_mask)
    per_token = policy_loss + state.kl_coefficient * kl + imitation - masked.keep(bonus, r.token_mask)
    total = loss.weighted(per_token, weights.policy) + pick(d.VALUE_COEF) * loss.weighted(value_loss, weights.critic)
    with torch.no_grad():
        policy_clipped = loss.policy_clipped(log_ratio, target.advantage, clip_low, clip_high)
        value_clipped = loss.value_clipped(value, clipped_value, target.returns)
        sampler_gap = logprob - masked.keep(r.sampler_logprob, r.token_mask)
    losses, is_clipped = (policy_loss, value_loss), (policy_clipped, value_clipped)
    return total, ppo_metrics.micro_batch_metrics(losses, token_log_ratio, sampler_gap, is_clipped, weights)
