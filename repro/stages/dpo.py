"""DPO: training on the comparisons without a reward model and without sampling (N+ detail 19).

loss = -log sigmoid(margin), margin = beta (log-ratio of the chosen summary - log-ratio of the rejected one), with the
log-ratio of policy to SFT policy as an implicit reward (Rafailov et al. 2023, equation 7). Data and batch size are the
reward model's, so that the two accuracies compare. Left out of published variants: label smoothing, and dividing by the
summary's length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repro import details as d
from repro.models import batching, logprobs, modes, padding, pretrained, ranks, wrapping
from repro.ops.masked import keep
from repro.ops.optim import cosine_to_zero
from repro.ops.preference import accuracy, bradley_terry
from repro.ops.text import last_token
from repro.stages import inference, optimise
from repro.stages.corpus import Corpus, column
from repro.stages.loop import TrainingLoop
from repro.stages.stage import StageContext
from repro.types import up_to

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

BETA = 0.05  # as in the paper's code (its dpo.py)


@dataclass(frozen=True)
class Pairs:
    """N comparisons: [N, Q] left-padded queries, and [N, S] right-padded summaries twice."""

    query: Tensor
    chosen: Tensor
    rejected: Tensor

    def __getitem__(self, rows: Tensor) -> Pairs:
        return Pairs(self.query[rows], self.chosen[rows], self.rejected[rows])

    def __len__(self) -> int:
        return len(self.query)


def read(pairs: Dataset) -> Pairs:
    return Pairs(*(column(pairs, f"{name}_token") for name in ("query", "chosen", "rejected")))


def train(context: StageContext) -> None:
    """One epoch over the training comparisons, in place of PPO."""
    scale, accelerator, corpus = context.scale, context.accelerator, Corpus(context.inputs["data"])
    policy, reference = (pretrained.load_policy(context.inputs["sft"] / "model") for _ in range(2))
    policy = modes.set_dropout(policy, 0.0)
    policy, optimizer = wrapping.prepare_for_training(
        accelerator, policy, optimise.adamw([policy], scale.dpo_learning_rate, context.pick)
    )
    networks = policy, inference.placed(context, reference, scale.frozen_weights)
    pairs = read(corpus.pairs("train"))
    steps = len(pairs) // scale.rm_batch
    batches = optimise.batches(len(pairs), scale.rm_batch, context.generator(context.pick(d.DRAWS) + "shuffle"))
    loop = TrainingLoop(context, optimizer, lambda step: scale.dpo_learning_rate * cosine_to_zero(step, steps), steps)
    for step, rows in loop.steps(batches):
        local_margins: list[Tensor] = []
        with modes.recompute_activations([accelerator.unwrap_model(policy)], scale.recompute):
            parts = losses(accelerator, networks, pairs, rows, corpus, scale.micro_batch, local_margins)
            loss = optimise.step(accelerator, optimizer, parts)
        margin = torch.cat(sum(ranks.all_gather(local_margins), []))
        metrics = {"dpo/loss": loss, "dpo/train_accuracy": accuracy(margin), "dpo/margin": margin.mean().item()}
        loop.log((step + 1) * scale.rm_batch, metrics)
        if not math.isfinite(loss):
            loop.stop("diverged")
    validation = read(corpus.pairs("validation"))
    margin = implicit_margins(networks, validation, corpus, scale.rollout_batch)
    weights = wrapping.gather_weights(accelerator, policy)
    pretrained.save_policy(accelerator.unwrap_model(policy), context.out / "model", weights)
    context.finish({"dpo/validation_accuracy": accuracy(margin)}, loop.outcome)


PolicyAndReference = tuple[nn.Module, nn.Module]


def losses(
    accelerator: Accelerator,
    networks: PolicyAndReference,
    pairs: Pairs,
    rows: Tensor,
    corpus: Corpus,
    micro_batch: int,
    local_margins: list[Tensor],
) -> Iterator[Tensor]:
    """This rank's micro-batch losses of one step, which add up over ranks to the mean of -log sigmoid(margin) over `rows`.

    Appends each micro-batch's margins to `local_margins`.
    """
    micro_batches = optimise.local_micro_batches(rows, micro_batch)
    for part, real in optimise.accumulation_steps(accelerator, networks[0], micro_batches):
        margin, real = margins(networks, pairs[part], corpus), real.to(accelerator.device)
        local_margins.append(margin.detach()[real].cpu())
        yield keep(bradley_terry(margin), real).sum() / len(rows)


def implicit_margins(networks: PolicyAndReference, pairs: Pairs, corpus: Corpus, batch: int) -> Tensor:
    """-> [N] on the CPU: the margins of all pairs, `batch` at a time; ranks shard the pairs and gather the margins."""
    order = batching.longest_first(pairs.query, corpus.pad)
    return batching.map_rows(order, batch, lambda rows: margins(networks, pairs[rows], corpus))


def margins(networks: PolicyAndReference, pairs: Pairs, corpus: Corpus) -> Tensor:
    """-> [B]: beta (log-ratio of the chosen summary - log-ratio of the rejected one), of policy to reference."""
    policy, reference = networks
    device = next(policy.parameters()).device
    query = padding.trim_left(torch.cat([pairs.query, pairs.query]), corpus.pad).to(device)
    response = torch.cat([pairs.chosen, pairs.rejected]).to(device)
    with torch.no_grad():
        ref_logprob = summary_logprobs(reference, query, response, corpus)
    chosen, rejected = (summary_logprobs(policy, query, response, corpus) - ref_logprob).chunk(2)
    return BETA * (chosen - rejected)


def summary_logprobs(policy: nn.Module, query: Tensor, response: Tensor, corpus: Corpus) -> Tensor:
    """[B, Q], [B, S] -> [B]: log-probability in nats of the whole summary, its end of text included."""
    last, _ = last_token(response, corpus.eos)
    # Trimmed after the end of text and not by padding, which may be the same token.
    response = response[:, : int(last.max()) + 1]
    logprob = logprobs.response_logprobs(policy, query, response, corpus.pad, corpus.eos, temperature=1.0)
    return keep(logprob, up_to(last, response.shape[1])).sum(1)
