"""PPO, top to bottom. Names in CAPITALS are details; everything else is the same in every arm.

Left out of the published algorithms: early stopping on the KL and a separate learning rate for the critic; the paper's
code has neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from repro import details as d
from repro.detail import Pick
from repro.models import (
    critics,
    generate,
    hub,
    logprobs,
    mixed_precision,
    modes,
    padding,
    pretrained,
    ranks,
    samplers,
    scoring,
    wrapping,
)
from repro.models.wrapping import Learner, Learners
from repro.ops import loss, masked, text
from repro.ops.masked import Reduce, Whiten, one_rank
from repro.ops.reward import k1, whole_reward
from repro.stages import dpo, evaluate, optimise, sft
from repro.stages.checkpoint import Checkpoints, Random
from repro.stages.corpus import Corpus, column
from repro.stages.episodes import Diary
from repro.stages.stage import Stage, Work
from repro.types import Metrics, Rollout, Targets

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset


@dataclass(frozen=True)
class Models:
    policy: nn.Module
    critic: nn.Module
    reference: nn.Module
    reward_model: nn.Module

    @property
    def learners(self) -> nn.Module:
        """Policy and critic as ranks have wrapped them."""
        return getattr(self.policy, "wrapped", self.policy)


@dataclass(frozen=True)
class Prices:
    """What a nat costs: of the KL to the reference policy, and of the KL to the policy that sampled the batch."""

    reference: float
    sampler: float = 0.0


@dataclass(frozen=True)
class Setting:
    """What rollouts and updates share: networks, optimizer, special tokens, the arm, how it samples, what fits in memory."""

    models: Models
    optimizer: torch.optim.Optimizer
    corpus: Corpus
    pick: Pick
    accelerator: Accelerator
    how: generate.Sampling
    micro_batch: int
    rollout_batch: int
    recompute: str = "nothing"


def _run(work: Work) -> None:
    learners = {"ppo": learn, "dpo": dpo.learn}
    (learners[work.pick(d.ALGORITHM)] if not work.scale.policy_from else _take)(work)


def _take(work: Work) -> None:
    """A policy that was trained elsewhere, to be evaluated; of its training nothing is known here."""
    pretrained.save_policy(hub.load_policy(work.start("policy_from")), work.out / "model")
    work.finish({"ppo/updates": 0.0})


def learn(work: Work) -> None:
    """The loop: roll out, set targets, improve over epochs and minibatches, log."""
    pick, scale, accelerator, setting = work.pick, work.scale, work.accelerator, _load(work)
    models, corpus = setting.models, setting.corpus
    posts, rewarded = corpus.posts(pick(d.PROMPTS)), SOURCES[pick(d.REWARD_SOURCE)](corpus)
    queries = column(posts, "query_token")
    average = pick(d.WEIGHT_AVERAGE)(models.policy.network)
    updates, outcome = scale.episodes // scale.ppo_batch, "finished"
    shuffle, sampled, order = (work.generator(pick(d.DRAWS) + name) for name in ("shuffle", "sampling", "order"))
    texts = _texts(corpus, drawn := work.generator("texts"))
    diary = Diary(models, setting.how, corpus, updates, scale.ppo_batch)
    validation = evaluate.Validation(models, corpus, work)
    torch.manual_seed(work.seed_of("dropout"))
    keep = partial(_keep, setting, average)
    moving = {"sampled": Random(sampled), "order": Random(order), "texts": Random(drawn)}
    moving |= average.held() | pick(d.REFERENCE_POLICY).held(models.reference)
    checkpoints = Checkpoints(work, diary=diary, **moving)
    done = checkpoints.start
    prices = checkpoints.values.get("prices", Prices(pick(d.KL_COEF), pick(d.POLICY_OBJECTIVE).price))
    batches = optimise.endless_batches(len(queries), scale.ppo_batch, shuffle)
    for update, rows in islice(enumerate(batches), done, updates):
        optimise.set_learning_rate(setting.optimizer, scale.ppo_learning_rate * pick(d.LR_SCHEDULE)(update, updates))
        uniform = torch.rand(len(rows), scale.response_tokens, generator=sampled)
        own, counts = ranks.shard(torch.arange(len(rows)))
        here = posts.select(rows[own[counts]].tolist())
        rollout = rewarded(roll_out(setting, queries[rows[own]], uniform[own])[counts], here)
        target, measured = targets(rollout, prices.reference, scale.micro_batch, pick, accelerator.reduce)
        if update % scale.evaluate_every == 0:
            models.policy.eval()
            measured |= validation.measure()
            models.policy.train()
            checkpoints.best(measured["eval/win_rate"], keep)
        steps = []
        for _ in range(pick(d.PPO_EPOCHS)):
            shuffled = torch.randperm(len(rows), generator=order)
            for part in shuffled.tensor_split(pick(d.MINIBATCHES)):
                steps.append(improve(setting, *_mine(rollout, target, part), texts(len(part)), prices))
                average.update_parameters(models.policy.network)
        measured |= {name: sum(s[name] for s in steps) / len(steps) for name in steps[0]}
        measured["policy/first_ratio_error"] = steps[0]["policy/ratio_error"]
        measured["policy/sampler_gap"] = steps[0]["policy/sampler_gap"]
        measured |= evaluate.true_quality(here, rollout, corpus)
        diverged = not math.isfinite(measured["loss/total"])
        diary.note(update, here, rollout, target, uniform[own[counts]], diverged)
        work.log(update * scale.ppo_batch, measured)
        done = update + 1
        if diverged:
            outcome = "diverged"
            break
        pick(d.REFERENCE_POLICY).move(models.reference, models.policy)
        prices = Prices(
            pick(d.KL_CONTROLLER)(prices.reference, measured["objective/kl"], len(rows)),
            pick(d.POLICY_OBJECTIVE).adapt(prices.sampler, steps[-1]["policy/approx_kl"]),
        )
        checkpoints.after(done, keep, prices=prices)

    checkpoints.over(done, prices=prices)
    keep(work.out)
    diary.save(work.out / "episodes.json")
    work.finish({"ppo/updates": float(done)}, outcome)


def _keep(s: Setting, average: nn.Module, folder: Path) -> None:
    """Write the weights of policy and critic; every rank has to call it."""
    weights = wrapping.gather_weights(s.accelerator, s.models.learners)
    pretrained.save_policy(average.module, folder / "model", wrapping.submodule_weights(weights, "policy"))
    pretrained.save_scalar(s.models.critic.network, folder / "critic", wrapping.submodule_weights(weights, "critic"))


def _mine(r: Rollout, target: Targets, part: Tensor) -> tuple[Rollout, Targets]:
    """This rank's episodes of a minibatch; where another has more, one stands in for them that counts for nothing."""
    own, counts = ranks.local_shard(part)
    nothing = torch.full_like(r.counted[own], -2)
    return replace(r[own], counted=torch.where(counts.to(nothing.device), r.counted[own], nothing)), target[own]


def _texts(corpus: Corpus, generator: torch.Generator) -> Callable[[int], Tensor]:
    """count -> [count, T] SFT texts drawn at random, for the recipe that mixes them in."""
    tokens = column(corpus.posts("train"), "query_reference_response_token")
    return lambda count: tokens[torch.randint(len(tokens), (count,), generator=generator)]


def _load(work: Work) -> Setting:
    sft, rm = work.inputs["sft"] / "model", work.inputs["rm"] / "model"
    pick, dropout, weights = work.pick, work.pick(d.DROPOUT).get("ppo", 0.0), work.scale.frozen_weights
    positioned, start = pick(d.POSITION_IDS), pick(d.REFERENCE_POLICY)
    # One network after another, the frozen ones on their device before the next is read: host memory is not endless.
    reward_model = mixed_precision.cast_weights(modes.freeze(positioned(pretrained.load_scalar(rm))), weights)
    reward_model = wrapping.place_on_device(reward_model, work.accelerator)
    reference = positioned(pretrained.load_policy(work.inputs[start.start] / "model"))
    reference = mixed_precision.cast_weights(reference, start.weights(weights))
    policy = positioned(pretrained.load_policy(sft))
    critic = pick(d.CRITIC_TRUNK)(positioned(pick(d.CRITIC_INIT)(rm, sft, work.generator("critic"))), policy)
    policy, critic, reference = pick(d.ADAPTER)(policy, critic, reference, work.seed_of("adapter"))
    policy, critic = (modes.set_dropout(network, dropout) for network in (policy, critic))
    reference = wrapping.place_on_device(modes.freeze(reference), work.accelerator)
    learners, optimizer = wrapping.prepare_for_training(
        work.accelerator,
        Learners(policy=policy, critic=critic),
        optimise.adamw([policy, critic], work.scale.ppo_learning_rate, pick),
    )
    both = (Learner(learners, name) for name in ("policy", "critic"))
    models = Models(*both, reference, reward_model)
    corpus, scale = Corpus(work.inputs["data"]), work.scale
    return Setting(
        models,
        optimizer,
        corpus,
        pick,
        work.accelerator,
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


@torch.no_grad()
def roll_out(s: Setting, query: Tensor, uniform: Tensor) -> Rollout:
    """[B, Q] queries, [B, R] uniform numbers -> the episodes, sampled and scored some at a time."""
    parts = zip(*(numbers.to(s.accelerator.device).split(s.rollout_batch) for numbers in (query, uniform)))
    rollouts = [_episodes(s, *part) for part in parts]
    return Rollout(*(torch.cat(columns) for columns in zip(*rollouts)))


def _episodes(s: Setting, query: Tensor, uniform: Tensor) -> Rollout:
    """As `roll_out`, all at once. Everything but the score is of the response as it was sampled, past its end too."""
    models, pick, eos, pad = s.models, s.pick, s.corpus.eos, s.corpus.pad
    q = padding.trim_left(query, pad)
    with mixed_precision.cached_autocast(s.accelerator):
        response, sampled = generate.sample(models.policy, q, uniform, s.how, eos, pad)
    last, has_eos = text.last_token(response, eos)
    finished = text.truncate_after_eos(response, eos, pad)
    told = pick(d.PADDING_SIDE).in_ppo(torch.cat([query, finished], 1), pad)
    inputs = (q, response, pad, eos, s.how.measured_at)
    logprob = pick(d.OLD_LOGPROB)(sampled, partial(logprobs.response_logprobs, models.policy, *inputs))
    ref_logprob = logprobs.response_logprobs(models.reference, *inputs)
    whole_kl = partial(logprobs.response_kl, models.policy, models.reference, *inputs)
    return Rollout(
        query=query,
        response=response,
        logprob=logprob,
        sampled=sampled,
        ref_logprob=ref_logprob,
        kl=pick(d.KL_ESTIMATOR)(logprob, ref_logprob, whole_kl),
        value=critics.response_values(models.critic, q, response, pad),
        score=scoring.score(models.reward_model, told, padding.count_tokens(finished, pad), pad),
        last=last,
        counted=pick(d.AFTER_EOS)(last, response.shape[1]),
        has_eos=has_eos,
    )


Rewarded = Callable[[Rollout, "Dataset"], Rollout]  # episodes, and the posts that they are about


def as_scored(_: Corpus) -> Rewarded:
    """Episodes are paid what the reward model gave them."""
    return lambda rollout, posts: rollout


def by_gold(corpus: Corpus) -> Rewarded:
    """Episodes are paid their gold score less the mean of the SFT references', as a reward model's scores are centred."""
    posts = corpus.posts("train")
    centre = evaluate.gold_of(posts, posts["reference"], np.ones(len(posts)))["gold"].mean()

    def rewarded(r: Rollout, posts: Dataset) -> Rollout:
        gold = evaluate.gold_of_rollout(posts, r, corpus)["gold"]
        return replace(r, score=torch.tensor(gold.to_numpy() - centre).to(r.score))

    return rewarded


SOURCES = {"reward_model": as_scored, "gold": by_gold}


def targets(
    r: Rollout, coefficient: float, micro_batch: int, pick: Pick, reduce: Reduce = one_rank
) -> tuple[Targets, Metrics]:
    """What the episodes were paid, token by token, and how much better than expected that was."""

    def over(whiten: Whiten, values: Tensor, mask: Tensor) -> Tensor:
        how = partial(whiten, correction=pick(d.WHITEN_MOMENTS))
        return pick(d.WHITEN_SCOPE)(how, values, mask, micro_batch, reduce)

    score = pick(d.NO_EOS_SCORE)(pick(d.REWARD_CLIP)(r.score), r.has_eos)  # [B]
    kl = pick(d.KL_PLACEMENT).in_reward(r.kl)  # [B, R]
    reward = whole_reward(pick(d.SCORE_POSITION)(score, r.last, kl.shape), coefficient * kl, r.token_mask)
    reward = over(pick(d.WHITEN_REWARD), reward, r.value_mask)
    value = masked.keep(r.value, r.value_mask)
    advantage, returns = pick(d.ADVANTAGE)(reward, value, pick(d.GAMMA), pick(d.GAE_LAMBDA))  # [B, R] each
    target = Targets(advantage=over(pick(d.WHITEN_ADV), advantage, r.token_mask), returns=returns, reward=reward)
    return target, describe(r, score, target, coefficient, reduce)


def improve(s: Setting, r: Rollout, target: Targets, texts: Tensor, prices: Prices) -> Metrics:
    """One optimizer step over these episodes, in micro-batches that change nothing but memory."""
    models, pick, eos, pad = s.models, s.pick, s.corpus.eos, s.corpus.pad
    weights, measured = weigh(r, s.micro_batch, pick, s.accelerator.reduce), []

    def share(rows: Tensor, columns: Columns) -> Tensor:
        part, query = r[rows].first(columns.response), r.query[rows, columns.query :]
        inputs = (query, part.response, pad, eos, s.how.measured_at)
        logprob, *bonus = logprobs.response_measures(models.policy, *inputs, *pick(d.ENTROPY_BONUS))
        value = critics.response_values(models.critic, query, part.response, pad)
        of_part = target[rows].first(columns.response), weights[rows].first(columns.response)
        total, sums = ppo_loss(logprob, sum(bonus, torch.zeros_like(logprob)), value, part, *of_part, prices, pick)
        measured.append(sums)
        return total

    episodes = [partial(share, *part) for part in by_length(r, s.micro_batch, pad)]
    # The last part is one that all weights have a share in: in it ranks add up their gradients.
    parts = mixed_in(s, texts, pick(d.PTX_MIX)) + episodes
    with modes.recompute_activations((models.policy, models.critic), s.recompute):
        losses = (part() for part in optimise.shared(s.accelerator, models.learners, parts))
        total = optimise.step(s.accelerator, s.optimizer, losses, pick(d.GRADIENT_CLIP))
    sums = s.accelerator.reduce(torch.stack([torch.stack(list(m.values())) for m in measured]).sum(0))
    return dict(zip(measured[0], sums.tolist())) | {"loss/total": total}


@dataclass(frozen=True)
class Columns:
    """Of a micro-batch: the first column of its queries that is not all padding, and how many of its responses count."""

    query: int
    response: int


def by_length(r: Rollout, micro_batch: int, pad: int) -> list[tuple[Tensor, Columns]]:
    """Micro-batches of row numbers and the columns that they need.

    Episodes of about one length go together, since padding is computed too; the longest first, so that memory is tried at
    once. The state after the last token that counts has a value, which is one column more.
    """
    padded = (r.query == pad).long().cumprod(1).sum(1)
    order = (r.counted - padded).argsort(descending=True, stable=True)
    ends = torch.stack([padded, r.counted + 2])[:, order].cpu()  # a GPU is waited for once
    limit, parts = r.response.shape[1], zip(order.split(micro_batch), *(end.split(micro_batch) for end in ends))
    return [(rows, Columns(int(starts.min()), min(max(int(counts.max()), 1), limit))) for rows, starts, counts in parts]


def mixed_in(s: Setting, texts: Tensor, mix: loss.Mix) -> list[Callable[[], Tensor]]:
    """Each part's share of coefficient times the next-token loss of the SFT texts; nothing where none are mixed in."""
    some, pad = texts[: round(mix.per_episode * len(texts))], s.corpus.pad
    counted = (some[:, 1:] != pad).sum()

    def share(rows: Tensor, real: Tensor) -> Tensor:
        part, where = some[rows].to(s.accelerator.device), real[:, None].to(s.accelerator.device)
        return mix.coefficient * sft.token_loss(s.models.policy, part, (part != pad) & where, pad) / counted

    dealt = optimise.dealt(torch.arange(len(some)), s.micro_batch) if len(some) else []
    return [partial(share, *part) for part in dealt]


@dataclass(frozen=True)
class Weights:
    """[B, R] each: of a token in the policy's loss, of a state in the critic's, and 1/count of either for the metrics."""

    token: Tensor
    value: Tensor
    per_token: Tensor
    per_value: Tensor

    def __getitem__(self, rows: Tensor) -> Weights:
        return Weights(self.token[rows], self.value[rows], self.per_token[rows], self.per_value[rows])

    def first(self, columns: int) -> Weights:
        """The weights of the first response tokens."""
        return self[:, :columns]


def weigh(r: Rollout, micro_batch: int, pick: Pick, reduce: Reduce = one_rank) -> Weights:
    aggregate = pick(d.LOSS_AGGREGATION)
    return Weights(
        aggregate(r.token_mask, micro_batch, reduce),
        aggregate(r.value_mask, micro_batch, reduce),
        loss.token_mean(r.token_mask, micro_batch, reduce),
        loss.token_mean(r.value_mask, micro_batch, reduce),
    )


def ppo_loss(
    logprob: Tensor,
    bonus: Tensor,
    value: Tensor,
    r: Rollout,
    target: Targets,
    w: Weights,
    prices: Prices,
    pick: Pick,
) -> tuple[Tensor, dict[str, Tensor]]:
    """[B, R] each of the update's forward pass -> this micro-batch's share of the loss, and of each metric."""
    # Masked before the arithmetic: the gradient of what stands in a masked place is 0 times it, and 0 times NaN is NaN.
    logprob, old_logprob, ref_logprob = (masked.keep(x, r.token_mask) for x in (logprob, r.logprob, r.ref_logprob))
    value, old_value = (masked.keep(x, r.value_mask) for x in (value, r.value))
    log_ratio = logprob - old_logprob
    policy = pick(d.POLICY_OBJECTIVE).loss(logprob, log_ratio, target.advantage, pick(d.CLIP_RANGE), prices.sampler)
    clipped = pick(d.VALUE_CLIP)(value, old_value)
    critic = loss.value_loss(value, clipped, target.returns)
    kl = pick(d.KL_PLACEMENT).in_loss(logprob, ref_logprob)
    total = loss.weighted(policy + prices.reference * kl - masked.keep(bonus, r.token_mask), w.token)
    total = total + pick(d.VALUE_COEF) * loss.weighted(critic, w.value)
    with torch.no_grad():
        ratio = log_ratio.exp()
        terms = {
            "loss/policy": loss.weighted(policy, w.token),
            "loss/value": loss.weighted(critic, w.value),
            "policy/approx_kl": loss.weighted(0.5 * log_ratio**2, w.per_token),
            "policy/clip_fraction": loss.weighted(
                loss.policy_clipped(ratio, target.advantage, pick(d.CLIP_RANGE)), w.per_token
            ),
            "policy/ratio": loss.weighted(ratio, w.per_token),
            "policy/ratio_error": loss.weighted((ratio - 1).abs(), w.per_token),
            "policy/sampler_gap": loss.weighted((logprob - masked.keep(r.sampled, r.token_mask)).abs(), w.per_token),
            "value/clip_fraction": loss.weighted(loss.value_clipped(value, clipped, target.returns), w.per_value),
        }
    return total, terms


def describe(r: Rollout, score: Tensor, target: Targets, coefficient: float, reduce: Reduce) -> Metrics:
    """The batch's metrics, each a mean over its episodes or over the masked places that it names (`repro/study/metrics.py`)."""
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
