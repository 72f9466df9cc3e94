"""PPO, top to bottom. Names in CAPITALS are details; everything else is the same in every arm.

Left out of the published algorithms: an entropy bonus, early stopping on the KL, gradient clipping, and sharing a trunk
between policy and critic; the paper's code has none of them.
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from repro import evaluate, model, optimise
from repro.data import Corpus, column
from repro.detail import Pick
from repro.details import (
    CLIP_RANGE,
    CRITIC_INIT,
    DROPOUT,
    GAE_LAMBDA,
    GAMMA,
    KL_COEF,
    KL_CONTROLLER,
    KL_ESTIMATOR,
    KL_PLACEMENT,
    LOSS_AGGREGATION,
    NO_EOS_SCORE,
    PPO_EPOCHS,
    SCORE_POSITION,
    VALUE_CLIP,
    WHITEN_ADV,
    WHITEN_REWARD,
)
from repro.ops import loss, masked, text
from repro.ops.advantage import gae
from repro.ops.masked import Reduce, one_rank
from repro.ops.optim import linear_to_zero
from repro.ops.reward import k1, whole_reward
from repro.stage import Stage, Work
from repro.types import Metrics, Rollout, Targets

TEMPERATURE = evaluate.SAMPLED
VALUE_COEF = 0.1


@dataclass(frozen=True)
class Models:
    policy: nn.Module
    critic: nn.Module
    reference: nn.Module
    reward_model: nn.Module


def _run(work: Work) -> None:
    pick, scale, accelerator = work.pick, work.scale, work.accelerator
    corpus = Corpus(work.inputs["data"])
    posts = corpus.posts("train")
    queries = column(posts, "query_token")
    models, optimizer = _load(work)
    coefficient, updates, outcome = pick(KL_COEF), scale.episodes // scale.ppo_batch, "finished"
    shuffle, sampling, order = (work.generator(name) for name in ("shuffle", "sampling", "order"))
    torch.manual_seed(work.seed_of("dropout"))

    for update, rows in enumerate(islice(optimise.endless_batches(len(queries), scale.ppo_batch, shuffle), updates)):
        optimise.set_learning_rate(optimizer, scale.ppo_learning_rate * linear_to_zero(update, updates))
        uniform = torch.rand(len(rows), scale.response_tokens, generator=sampling)
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        rollout = roll_out(models, queries[rows[mine]], uniform[mine], corpus, scale.rollout_batch, accelerator)
        target, measured = targets(rollout, coefficient, pick, accelerator.reduce)
        if update % scale.evaluate_every == 0:
            models.policy.eval()
            measured |= evaluate.validate(models, corpus, work)
            models.policy.train()
        passes = []
        for _ in range(pick(PPO_EPOCHS)):
            shuffled = torch.randperm(len(rollout), generator=order).to(accelerator.device)
            passes.append(
                improve(
                    models,
                    optimizer,
                    rollout[shuffled],
                    target[shuffled],
                    coefficient,
                    corpus,
                    scale.micro_batch,
                    pick,
                    accelerator,
                )
            )
        measured |= {name: sum(p[name] for p in passes) / len(passes) for name in passes[0]}
        measured["policy/first_ratio_error"] = passes[0]["policy/ratio_error"]
        measured |= evaluate.true_quality(posts.select(rows[mine].tolist()), rollout, corpus)
        work.log(update * scale.ppo_batch, measured)
        if not math.isfinite(measured["loss/total"]):
            outcome = "diverged"
            break
        coefficient = pick(KL_CONTROLLER)(coefficient, measured["objective/kl"], len(rows))

    model.save_policy(accelerator.unwrap_model(models.policy), work.out / "model")
    model.save_scalar(accelerator.unwrap_model(models.critic), work.out / "critic")
    work.finish({"ppo/updates": float(update + 1)}, outcome)


def _load(work: Work) -> tuple[Models, torch.optim.Optimizer]:
    sft, rm = work.inputs["sft"] / "model", work.inputs["rm"] / "model"
    dropout = work.pick(DROPOUT).get("ppo", 0.0)
    policy = model.set_dropout(model.load_policy(sft), dropout)
    critic = model.set_dropout(work.pick(CRITIC_INIT)(rm, sft, work.generator("critic")), dropout)
    policy, critic, optimizer = work.accelerator.prepare(
        policy, critic, optimise.adamw([policy, critic], work.scale.ppo_learning_rate)
    )
    frozen = [
        work.accelerator.prepare_model(model.frozen(network), evaluation_mode=True)
        for network in (model.load_policy(sft), model.load_scalar(rm))
    ]
    return Models(policy, critic, *frozen), optimizer


@torch.no_grad()
def roll_out(
    models: Models, query: Tensor, uniform: Tensor, corpus: Corpus, batch: int, accelerator: Accelerator
) -> Rollout:
    """[B, Q] queries, [B, R] uniform numbers -> the episodes, sampled and scored `batch` at a time."""
    parts = []
    for query_part, uniform_part in zip(
        query.to(accelerator.device).split(batch), uniform.to(accelerator.device).split(batch)
    ):
        q = model.trim_left(query_part, corpus.pad)
        response, logprob = model.sample(
            accelerator.unwrap_model(models.policy), q, uniform_part, TEMPERATURE, corpus.eos, corpus.pad
        )
        last, has_eos = text.last_token(response, corpus.eos)
        parts.append(
            Rollout(
                query=query_part,
                response=response,
                logprob=logprob,
                ref_logprob=model.response_logprobs(models.reference, q, response, corpus.pad, corpus.eos, TEMPERATURE),
                value=model.response_values(models.critic, q, response, corpus.pad),
                score=model.score_at_last(models.reward_model, torch.cat([q, response], 1), corpus.pad),
                last=last,
                has_eos=has_eos,
            )
        )
    return Rollout(*(torch.cat(columns) for columns in zip(*parts)))


def targets(r: Rollout, coefficient: float, pick: Pick, reduce: Reduce = one_rank) -> tuple[Targets, Metrics]:
    """What the episodes were paid, token by token, and how much better than expected that was."""
    score = pick(NO_EOS_SCORE)(r.score, r.has_eos)  # [B]
    kl = pick(KL_PLACEMENT)(pick(KL_ESTIMATOR)).in_reward(r.logprob, r.ref_logprob)  # [B, R]
    reward = whole_reward(pick(SCORE_POSITION)(score, r.last, kl.shape), coefficient * kl, r.token_mask)
    reward = pick(WHITEN_REWARD)(reward, r.value_mask, reduce)
    value = masked.keep(r.value, r.value_mask)
    advantage = gae(reward, value, pick(GAMMA), pick(GAE_LAMBDA))  # [B, R]
    target = Targets(advantage=pick(WHITEN_ADV)(advantage, r.token_mask, reduce), returns=advantage + value)
    return target, describe(r, score, target, coefficient, reduce)


def improve(
    models: Models,
    optimizer: torch.optim.Optimizer,
    r: Rollout,
    target: Targets,
    coefficient: float,
    corpus: Corpus,
    micro_batch: int,
    pick: Pick,
    accelerator: Accelerator,
) -> Metrics:
    """One optimizer step over the whole batch, in micro-batches that change nothing but memory."""
    weights, measured = weigh(r, micro_batch, pick, accelerator.reduce), []

    def losses():
        for rows in torch.arange(len(r)).split(micro_batch):
            part = r[rows]
            query = model.trim_left(part.query, corpus.pad)
            logprob = model.response_logprobs(models.policy, query, part.response, corpus.pad, corpus.eos, TEMPERATURE)
            value = model.response_values(models.critic, query, part.response, corpus.pad)
            total, sums = ppo_loss(logprob, value, part, target[rows], weights[rows], coefficient, pick)
            measured.append(sums)
            yield total

    total = optimise.step(accelerator, optimizer, losses())
    sums = accelerator.reduce(torch.stack([torch.stack(list(m.values())) for m in measured]).sum(0))
    return dict(zip(measured[0], sums.tolist())) | {"loss/total": total}


@dataclass(frozen=True)
class Weights:
    """[B, R] each: of a token in the policy's loss, of a state in the critic's, and 1/count of either for the metrics."""

    token: Tensor
    value: Tensor
    per_token: Tensor
    per_value: Tensor

    def __getitem__(self, rows: Tensor) -> "Weights":
        return Weights(self.token[rows], self.value[rows], self.per_token[rows], self.per_value[rows])


def weigh(r: Rollout, micro_batch: int, pick: Pick, reduce: Reduce = one_rank) -> Weights:
    aggregate = pick(LOSS_AGGREGATION)
    return Weights(
        aggregate(r.token_mask, micro_batch, reduce),
        aggregate(r.value_mask, micro_batch, reduce),
        loss.token_mean(r.token_mask, micro_batch, reduce),
        loss.token_mean(r.value_mask, micro_batch, reduce),
    )


def ppo_loss(
    logprob: Tensor, value: Tensor, r: Rollout, target: Targets, w: Weights, coefficient: float, pick: Pick
) -> tuple[Tensor, dict[str, Tensor]]:
    """[B, R], [B, R] of the update's forward pass -> this micro-batch's share of the loss, and of each metric."""
    # Masked before the arithmetic: the gradient of what stands in a masked place is 0 times it, and 0 times NaN is NaN.
    logprob, old_logprob, ref_logprob = (masked.keep(x, r.token_mask) for x in (logprob, r.logprob, r.ref_logprob))
    value, old_value = (masked.keep(x, r.value_mask) for x in (value, r.value))
    log_ratio = logprob - old_logprob
    ratio = log_ratio.exp()
    policy = loss.policy_loss(ratio, target.advantage, pick(CLIP_RANGE))
    clipped = pick(VALUE_CLIP)(value, old_value)
    critic = loss.value_loss(value, clipped, target.returns)
    kl = pick(KL_PLACEMENT)(pick(KL_ESTIMATOR)).in_loss(logprob, ref_logprob)
    total = loss.weighted(policy + coefficient * kl, w.token) + VALUE_COEF * loss.weighted(critic, w.value)
    with torch.no_grad():
        terms = {
            "loss/policy": loss.weighted(policy, w.token),
            "loss/value": loss.weighted(critic, w.value),
            "policy/approx_kl": loss.weighted(0.5 * log_ratio**2, w.per_token),
            "policy/clip_fraction": loss.weighted(
                loss.policy_clipped(ratio, target.advantage, pick(CLIP_RANGE)), w.per_token
            ),
            "policy/ratio": loss.weighted(ratio, w.per_token),
            "policy/ratio_error": loss.weighted((ratio - 1).abs(), w.per_token),
            "value/clip_fraction": loss.weighted(loss.value_clipped(value, clipped, target.returns), w.per_value),
        }
    return total, terms


def describe(r: Rollout, score: Tensor, target: Targets, coefficient: float, reduce: Reduce) -> Metrics:
    """The batch's metrics, each a mean over its episodes or over the masked places that it names (`repro/metrics.py`)."""
    everyone = torch.ones_like(r.has_eos)
    mean = partial(masked.mean, reduce=reduce)
    kl = masked.keep(k1(r.logprob, r.ref_logprob), r.token_mask).sum(1)
    _, spread = masked.moments(target.returns, r.value_mask, reduce)
    error = mean((target.returns - r.value) ** 2, r.value_mask)
    measured = {
        "objective/score": mean(score, everyone),
        "objective/kl": mean(kl, everyone),
        "objective/rlhf_reward": mean(score - coefficient * kl, everyone),
        "objective/entropy": mean(-masked.keep(r.logprob, r.token_mask).sum(1), everyone),
        "objective/length": mean(r.last + 1.0, everyone),
        "objective/eos_rate": mean(r.has_eos.float(), everyone),
        "value/mean": mean(r.value, r.value_mask),
        "value/explained_variance": 1 - error / spread.clamp(min=masked.EPSILON),
    }
    return {name: value.item() for name, value in measured.items()} | {"objective/kl_coefficient": coefficient}


STAGE = Stage(
    "ppo",
    version=2,
    upstream=("data", "sft", "rm"),
    seeded=True,
    run=_run,
    fields=(
        "posts",
        "validation_posts",
        "response_tokens",
        "episodes",
        "ppo_batch",
        "ppo_learning_rate",
        "micro_batch",
        "rollout_batch",
        "evaluate_every",
    ),
)
