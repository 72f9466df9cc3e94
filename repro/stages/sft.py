"""Supervised fine-tuning: next-token loss over query and reference (N+ detail 9).

The loss is a mean over all tokens of a batch. Departure: the paper's code takes a mean per micro-batch, which at its
micro-batch of 1 is a mean per text first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from repro import details as d
from repro.models import logprobs, modes, padding, pretrained, starts, wrapping
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
    context.finish(_train(context) if not context.scale.sft_from else _import_policy(context))


def _import_policy(context: StageContext) -> Metrics:
    """In place of training, copy the policy that Scale.sft_from names; its loss is that of the first batch of SFT texts.

    Where there are fewer texts than a batch, it is that of all: nothing is trained that would need more.
    """
    corpus, scale, device = Corpus(context.inputs["data"]), context.scale, context.accelerator.device
    policy = modes.freeze(starts.load_policy(context.start("sft_from")))
    require_vocabulary(corpus.tokenizer, policy.config.get_text_config().vocab_size)
    pretrained.save_policy(policy, context.out / "model")
    tokens = column(corpus.posts("train"), "query_reference_response_token")[: scale.sft_batch]
    policy, total = wrapping.place_on_device(policy, context.accelerator), 0.0
    with torch.no_grad():
        for part in tokens.to(device).split(scale.micro_batch):
            total += token_loss(policy, part, part != corpus.pad, corpus.pad).item()
    return {"sft/final_loss": total / (tokens[:, 1:] != corpus.pad).sum().item()}


def _train(context: StageContext) -> Metrics:
    corpus, accelerator, scale, pick = Corpus(context.inputs["data"]), context.accelerator, context.scale, context.pick
    posts = corpus.posts("train")
    tokens = column(posts, "query_reference_response_token")
    mask = pick(d.SFT_LOSS_TOKENS)(tokens, column(posts, "reference_response_tokens"), corpus.pad)
    policy = modes.set_dropout(
        pretrained.load_policy(context.inputs["base"] / "model"), pick(d.DROPOUT).get("sft", 0.0)
    )
    policy, optimizer = wrapping.prepare_for_training(
        accelerator, policy, optimise.adamw([policy], scale.sft_learning_rate, pick)
    )
    context.seed_dropout()
    epochs, shuffle = pick(d.SFT_EPOCHS), context.generator("shuffle")
    batches = (optimise.batches(len(tokens), scale.sft_batch, shuffle) for _ in range(epochs))
    steps = epochs * (len(tokens) // scale.sft_batch)
    loop = TrainingLoop(
        context, optimizer, lambda step: scale.sft_learning_rate * pick(d.LR_SCHEDULE_SFT)(step, steps), steps
    )
    for step, rows in loop.steps(chain.from_iterable(batches)):
        with modes.recompute_activations([accelerator.unwrap_model(policy)], scale.recompute):
            parts = losses(accelerator, policy, tokens, mask, rows, scale.micro_batch, corpus.pad)
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
    mask: Tensor,
    rows: Tensor,
    micro_batch: int,
    pad: int,
) -> Iterator[Tensor]:
    """This rank's micro-batch losses of one step, which add up over ranks to the mean over the masked tokens of `rows`.

    [N, T] token ids and mask of the whole training set, [B] row indices of the step.
    """
    count, device = mask[rows, 1:].sum(), accelerator.device
    for part, real in optimise.accumulation_steps(accelerator, policy, optimise.local_micro_batches(rows, micro_batch)):
        real_mask = mask[part] & real[:, None]
        yield token_loss(policy, tokens[part].to(device), real_mask.to(device), pad) / count


def token_loss(policy: torch.nn.Module, ids: Tensor, mask: Tensor, pad: int) -> Tensor:
    """[B, T] right-padded, [B, T] bool -> the summed cross-entropy in nats of predicting the tokens where `mask` is true."""
    ids = ids[:, : max(2, padding.trim_right(ids, pad).shape[1])]  # two at least, since the first is not predicted
    logprob = logprobs.selected_logprobs(policy, ids[:, :-1], ids[:, 1:], pad, temperature=1.0)
    return -keep(logprob, mask[:, 1 : ids.shape[1]]).sum()


STAGE = Stage(
    "sft",
    version=3,
    fields=("posts", "sft_batch", "sft_learning_rate", "micro_batch", "sft_from"),
    upstream=("data", "base"),
    seeded=True,
    run=_run,
)
