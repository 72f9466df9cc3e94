"""PPO, top to bottom. Names in CAPITALS are details; everything else is the same in every arm. A variant gets those of the
named arguments that it takes (`ByName` in `repro/detail.py`).

The fourth phase goes on in `ppo_step.py`, which takes an optimizer step on a minibatch of `ppo_batches.py`. `ppo_setup.py`
constructs what the phases share, `ppo_rewards.py` scores episodes, `ppo_queue.py` holds those that wait for their update, and
`ppo_metrics.py` and `ppo_gold.py` measure. `ppo_trust_region.py` has TRPO's step and `ppo_warm_up.py` what a critic does that
learns alone first, each for one arm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from repro import details as d
from repro import record
from repro.detail import Pick
from repro.models import batching, critics, generate, logprobs, padding, scoring
from repro.ops import masked, text
from repro.ops.advantage import monte_carlo_returns, whole_return
from repro.ops.masked import Reduce, Whiten, one_rank
from repro.stages import dpo, expert_iteration, ppo_gold, ppo_metrics, ppo_rewards, ppo_warm_up, untrained
from repro.stages.ppo_batches import minibatches
from repro.stages.ppo_queue import Batch
from repro.stages.ppo_setup import (
    AdaptiveState,
    Run,
    Training,
    initial_state,
    next_state,
    prepare,
    responses_per_query,
    save_weights,
    validate,
)
from repro.stages.ppo_step import ppo_step
from repro.stages.stage import Stage, StageContext
from repro.types import Metrics, Rollout, Targets


def train(context: StageContext) -> None:
    """PPO (Schulman et al. 2017) against a reward model (N+ section 5)."""
    pick, scale = context.pick, context.scale
    run, training = prepare(context, pick(d.BASELINE).critic, responses_per_query(pick))
    networks, loop, reduce = run.networks, training.loop, run.accelerator.reduce
    loop.state = initial_state(pick) | loop.state
    warm_up_critic(context, run, training)
    for update, to_sample in loop.steps(training.batches):
        state = AdaptiveState(**loop.state)
        # 1. Sample a response to each prompt; take its score, log-probabilities and values.
        batch, rollout = next_batch(run, training, to_sample)
        # 2. Reward, advantage and return of every token; `greedy` is one more rollout, where a baseline asks for it.
        greedy = partial(greedy_returns, run, training, batch, state.kl_coefficient)
        target, metrics = targets(
            rollout, state.kl_coefficient, run.micro_batch, pick, reduce, state.mean_return, greedy
        )
        # 3. Every few updates, evaluate the policy on validation posts, before it learns from this batch.
        if update % scale.evaluate_every == 0:
            metrics |= validate(training)
        # 4. Several epochs over minibatches, an optimizer step each.
        steps: list[Metrics] = []
        has_moved_enough = pick(d.EARLY_STOP)
        for minibatch in minibatches(run, training, rollout, target, len(batch.rows)):
            with pick(d.UPDATE_DROPOUT)(networks.trained):  # policy and critic, a module each
                steps.append(ppo_step(run, *minibatch, state, first_on_batch=not steps))
            training.average.update_parameters(networks.policy.network)
            if has_moved_enough(steps[-1]["policy/approx_kl"]):
                break
        # 5. Log metrics, and trace a few episodes token by token; not of filler rows, which give all ranks as many (`real`).
        metrics |= ppo_metrics.update_metrics(steps) | ppo_gold.gold_metrics(run, batch.posts, rollout)
        diverged = not math.isfinite(metrics["loss/total"])
        training.traces.add(update, batch.posts, rollout, target, batch.uniform[batch.real], diverged)
        context.log(update * scale.ppo_batch, metrics)
        if diverged:
            loop.stop("diverged")
            continue
        # 6. Update the reference policy and what else adapts, where the recipe does.
        pick(d.REFERENCE_POLICY).update(networks.reference, networks.policy)
        mean_return = partial(ppo_metrics.mean_return, target, reduce)
        loop.state = next_state(pick, state, metrics, steps[-1]["policy/approx_kl"], mean_return, len(batch.rows))
    save_weights(run, training.average, context.out)
    training.traces.save(context.out / record.EPISODES)
    context.finish({"ppo/updates": float(loop.steps_done)}, loop.outcome)


# ---------------------------------------------------------------------------------------------- 1. rollout


def next_batch(run: Run, training: Training, to_sample: Sequence[Tensor]) -> tuple[Batch, Rollout]:
    """Sample episodes for the prompts in each of these rows, and take the batch that is next to learn from.

    In the paper that is the one that was just sampled.
    """
    for rows in to_sample:
        batch = training.new_batch(rows, training.sampling_rng)
        rollout = roll_out(run, batch.query, batch.uniform)[batch.real]
        training.queue.put(batch, training.reward(rollout, batch.posts))
    return training.queue.take()


@torch.no_grad()
def roll_out(run: Run, query: Tensor, uniform: Tensor) -> Rollout:
    """[B, Q] prompts, [B, R] uniform random numbers -> B episodes, `run.rollout_batch` at a time.

    Responses to a prompt are sampled in one batch as far as they fit, since there they share a pass over it.
    """
    order, back = batching.groups_together(len(query), run.sampling.responses, run.rollout_batch)
    inputs = (tensor[order].to(run.accelerator.device) for tensor in (query, uniform))
    parts = zip(*(tensor.split(run.rollout_batch) for tensor in inputs))
    rollouts = [sample_episodes(run, *part) for part in parts]
    return Rollout(*(torch.cat(columns) for columns in zip(*rollouts)))[back]


def sample_episodes(run: Run, query: Tensor, uniform: Tensor) -> Rollout:
    """[B, Q], [B, R] -> B episodes at once.

    The reward model scores the response up to its end of text. Log-probabilities, KL and values are of all R tokens as
    sampled; the rollout's masks say which of them count.
    """
    networks, pick, eos, pad = run.networks, run.pick, run.corpus.eos, run.corpus.pad
    trimmed = padding.trim_left(query, pad)
    with pick(d.SAMPLER_PRECISION)(run.accelerator, networks.policy):
        sampled = generate.sample_with_support(networks.policy, trimmed, uniform, run.sampling, eos, pad)
    response, sampler_logprob, support = sampled
    last_token, has_eos = text.last_token(response, eos)
    truncated = text.truncate_after_eos(response, eos, pad)
    scored = pick(d.PADDING_SIDE).in_ppo(torch.cat([query, truncated], 1), pad)
    inputs = (trimmed, response, pad, eos, run.sampling.logprob_temperature, support)
    again = partial(logprobs.response_logprobs, networks.policy, *inputs)
    logprob = pick(d.OLD_LOGPROB)(sampled=sampler_logprob, again=again)
    ref_logprob = logprobs.response_logprobs(networks.reference, *inputs)
    full_kl = partial(logprobs.response_kl, networks.policy, networks.reference, *inputs)
    score, member_scores = scoring.score_with_members(
        networks.reward_model, scored, padding.count_tokens(truncated, pad), pad
    )
    return Rollout(
        query=query,
        response=response,
        logprob=logprob,
        sampler_logprob=sampler_logprob,
        ref_logprob=ref_logprob,
        kl=pick(d.KL_ESTIMATOR)(logprob=logprob, ref_logprob=ref_logprob, whole=full_kl),
        value=critics.response_values(networks.critic, trimmed, response, pad),
        score=score,
        last_token=last_token,
        last_counted=pick(d.AFTER_EOS)(last_token, response.shape[1]),
        has_eos=has_eos,
        member_scores=member_scores,
        support=support,
    )


# ---------------------------------------------------------------------------------------------- 2. reward and advantage


def targets(
    r: Rollout,
    kl_coefficient: float,
    micro_batch: int,
    pick: Pick,
    reduce: Reduce = one_rank,
    mean_return: float = math.nan,
    greedy_return: Callable[[], Tensor] | None = None,
) -> tuple[Targets, Metrics]:
    """Reward, advantage and return of every token, [B, R] each, and the rollout's metrics.

    In the paper's recipe, with the KL coefficient beta = 0.05 and the reference policy q:

        r_t = -beta (log p_t - log q_t), and the score one place after the last token   `reward.kl_penalised_reward`
        A = GAE(gamma = 1, lambda = 0.95) of r and the values V,  G = A + V            `advantage.from_gae`
        A is then whitened over the batch                                              `masked.whiten`

    A baseline may also read the mean return of earlier batches, and the [B] returns of greedy responses.
    """

    def whitened(whiten: Whiten, values: Tensor, mask: Tensor) -> Tensor:
        corrected = partial(whiten, correction=pick(d.WHITEN_MOMENTS))
        return pick(d.WHITEN_SCOPE)(whiten=corrected, values=values, mask=mask, micro_batch=micro_batch, reduce=reduce)

    score = ppo_rewards.paid_score(r, pick)  # [B]
    reward = ppo_rewards.token_rewards(r, score, kl_coefficient, pick)  # [B, R]
    # Over states: the score is paid in the terminal state, which comes after the last token.
    reward = whitened(pick(d.WHITEN_REWARD), reward, r.value_mask)
    value, gamma = masked.keep(r.value, r.value_mask), pick(d.GAMMA)
    lam = pick(d.LAMBDA_BY_LENGTH)(pick(d.GAE_LAMBDA), r.last_token + 1.0)
    advantage, returns = pick(d.ADVANTAGE)(reward=reward, value=value, gamma=gamma, lam=lam)  # [B, R] each
    returns = pick(d.CRITIC_LAMBDA)(reward, returns, gamma)
    advantage, returns = pick(d.BASELINE).estimate(
        advantage=advantage,
        returns=returns,
        reward=reward,
        gamma=gamma,
        responses=responses_per_query(pick),
        reduce=reduce,
        mean_return=mean_return,
        greedy_return=greedy_return,
    )
    # Over tokens: in the terminal state there is nothing to choose, so its advantage is in no loss.
    target = Targets(advantage=whitened(pick(d.WHITEN_ADV), advantage, r.token_mask), returns=returns, reward=reward)
    metrics = ppo_metrics.rollout_metrics(r, score, target, kl_coefficient, reduce)
    return target, metrics | ppo_metrics.group_metrics(reward, gamma, responses_per_query(pick), reduce)


# ---------------------------------------------------------------------------------------------- what some arms add


def warm_up_critic(context: StageContext, run: Run, training: Training) -> None:
    """Updates of the critic alone, on the SFT policy's episodes and their Monte Carlo returns, before the first of PPO."""
    state = AdaptiveState(**training.loop.state)
    for alone, own, rows in ppo_warm_up.batches(context, run, training):
        batch = own.new_batch(rows, own.sampling_rng)
        rollout = own.reward(roll_out(run, batch.query, batch.uniform)[batch.real], batch.posts)
        target, _ = targets(rollout, state.kl_coefficient, run.micro_batch, run.pick, run.accelerator.reduce)
        returns = monte_carlo_returns(target.reward, target.returns, run.pick(d.GAMMA))
        for minibatch in minibatches(alone, own, rollout, replace(target, returns=returns), len(rows)):
            ppo_step(alone, *minibatch, state, first_on_batch=False)  # a batch's first one may move the policy


def greedy_returns(run: Run, training: Training, batch: Batch, kl_coefficient: float) -> Tensor:
    """[B] the return of the greedy response to each prompt of a batch, by the policy as it is: one more rollout."""
    greedy = replace(run, sampling=generate.greedy(run.sampling))
    r = training.reward(roll_out(greedy, batch.query, batch.uniform)[batch.real], batch.posts)
    reward = ppo_rewards.token_rewards(r, ppo_rewards.paid_score(r, run.pick), kl_coefficient, run.pick)
    return whole_return(reward, run.pick(d.GAMMA))[0][:, 0]


# ---------------------------------------------------------------------------------------------- the stage


def _run(context: StageContext) -> None:
    algorithms = {"ppo": train, "dpo": dpo.train, "sft": untrained.keep_sft_policy}
    iterate = partial(expert_iteration.train, roll_out=roll_out)
    algorithm = algorithms.get(context.pick(d.ALGORITHM), iterate)
    (algorithm if not context.scale.policy_from else untrained.import_policy)(context)


STAGE = Stage(
    "ppo",
    version=7,
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
    optional=("start", "rm_2", "rm_3"),
)
