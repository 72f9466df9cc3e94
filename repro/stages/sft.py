"""Supervised fine-tuning: next-token loss over query and reference (N+ detail 9).

Every token of a batch counts alike; the paper's code takes a mean over each micro-batch, which at its size of 1 is a mean
over each text first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from repro import details as d
from repro.models import hub, logprobs, modes, padding, pretrained, wrapping
from repro.ops.masked import keep
from repro.stages import optimise
from repro.stages.corpus import Corpus, column
from repro.stages.data import require_vocabulary
from repro.stages.loop import TrainingLoop
from repro.stages.stage import Stage, StageContext
from repro.types import Metrics

if TYPE_CHECKING:
    from accelerate import Accelerator


def _run(context: StageContext) -> None:
    made = _train(context) if not context.scale.sft_from else _use_given_policy(context)
    context.finish(made)


def _use_given_policy(context: StageContext) -> Metrics:
    """A policy that was trained elsewhere, and what it says of the first texts of the SFT set."""
    corpus, scale, device = Corpus(context.inputs["data"]), context.scale, context.accelerator.device
    policy = modes.freeze(hub.load_policy(context.start("sft_from")))
    require_vocabulary(corpus.tokenizer, policy.config.get_text_config().vocab_size)
    pretrained.save_policy(policy, context.out / "model")
    tokens = column(corpus.posts("train").select(range(scale.sft_batch)), "query_reference_response_token")
    policy, total = wrapping.place_on_device(policy, context.accelerator), 0.0
    with torch.no_grad():
        for part in tokens.to(device).split(scale.micro_batch):
            total += token_loss(policy, part, part != corpus.pad, corpus.pad).item()
    return {"sft/final_loss": total / (tokens[:, 1:] != corpus.pad).sum().item()}


def _train(context: StageContext) -> Metrics:
    corpus, accelerator, scale, pick = Corpus(context.inputs["data"]), context.accelerator, context.scale, context.pick
    posts = corpus.posts("train")
    tokens = column(posts, "query_reference_response_token")
    counted = pick(d.SFT_LOSS_TOKENS)(tokens, column(posts, "reference_response_tokens"), corpus.pad)
    policy = modes.set_dropout(
        pretrained.load_policy(context.inputs["base"] / "model"), pick(d.DROPOUT).get("sft", 0.0)
    )
    policy, optimizer = wrapping.prepare_for_training(
        accelerator, policy, optimise.adamw([policy], scale.sft_learning_rate, pick)
    )
    torch.manual_seed(context.seed_of("dropout"))
    epochs, shuffle = pick(d.SFT_EPOCHS), context.generator("shuffle")
    passes = (optimise.batches(len(tokens), scale.sft_batch, shuffle) for _ in range(epochs))
    steps = epochs * (len(tokens) // scale.sft_batch)
    loop = TrainingLoop(
        context, optimizer, lambda step: scale.sft_learning_rate * pick(d.LR_SCHEDULE_SFT)(step, steps), steps
    )
    for step, rows in loop.steps(chain.from_iterable(passes)):
        with modes.recompute_activations([accelerator.unwrap_model(policy)], scale.recompute):
            parts = losses(accelerator, policy, tokens, counted, rows, scale.micro_batch, corpus.pad)
            loss = optimise.step(accelerator, optimizer, parts)
        loop.state["loss"] = loss
        loop.log((step + 1) * scale.sft_batch, {"sft/loss": loss})
    weights = wrapping.gather_weights(accelerator, policy)
    pretrained.save_policy(accelerator.unwrap_model(policy), context.out / "model", weights)
    return {"sft/final_loss": loop.state.get("loss", math.nan)}


def losses(
    accelerator: Accelerator,
    policy: torch.nn.Module,
    tokens: Tensor,
    counted: Tensor,
    rows: Tensor,
    micro_batch: int,
    pad: int,
) -> Iterator[Tensor]:
    """Each of this rank's micro-batches' share of the mean over all counted tokens of the step's rows."""
    valid, device = counted[rows, 1:].sum(), accelerator.device
    for part, real in optimise.shared(accelerator, policy, optimise.dealt(rows, micro_batch)):
        where = counted[part] & real[:, None]
        yield token_loss(policy, tokens[part].to(device), where.to(device), pad) / valid


def token_loss(policy: torch.nn.Module, ids: Tensor, counted: Tensor, pad: int) -> Tensor:
    """[B, T] right-padded, [B, T] bool -> sum of the cross-entropies in nats of predicting the counted tokens."""
    ids = ids[:, : max(2, padding.trim_right(ids, pad).shape[1])]  # nothing is predicted of the first token
    logprob = logprobs.selected_logprobs(policy, ids[:, :-1], ids[:, 1:], pad, temperature=1.0)
    return -keep(logprob, counted[:, 1 : ids.shape[1]]).sum()


STAGE = Stage(
    "sft",
    version=2,
    fields=("posts", "sft_batch", "sft_learning_rate", "micro_batch", "sft_from"),
    upstream=("data", "base"),
    seeded=True,
    run=_run,
)
