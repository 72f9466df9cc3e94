"""Supervised fine-tuning: next-token loss over query and reference (N+ detail 9)."""

import torch
from torch import Tensor

from repro import model, optimise
from repro.data import Corpus, column
from repro.details import DROPOUT
from repro.ops.optim import cosine_to_zero
from repro.stage import Stage, Work


def _run(work: Work) -> None:
    corpus, accelerator, scale = Corpus(work.inputs["data"]), work.accelerator, work.scale
    tokens = column(corpus.posts("train"), "query_reference_response_token")
    policy = model.set_dropout(model.load_policy(work.inputs["base"] / "model"), work.pick(DROPOUT).get("sft", 0.0))
    policy, optimizer = accelerator.prepare(policy, optimise.adamw([policy], scale.sft_learning_rate))
    torch.manual_seed(work.seed_of("dropout"))
    steps = len(tokens) // scale.sft_batch
    for step, rows in enumerate(optimise.batches(len(tokens), scale.sft_batch, work.generator("shuffle"))):
        optimise.set_learning_rate(optimizer, scale.sft_learning_rate * cosine_to_zero(step, steps))
        batch = tokens[rows].to(accelerator.device)
        valid = (batch[:, 1:] != corpus.pad).sum()
        loss = optimise.step(
            accelerator,
            optimizer,
            (token_loss(policy, part, corpus.pad) / valid for part in batch.split(scale.micro_batch)),
        )
        work.log((step + 1) * scale.sft_batch, {"sft/loss": loss})
    model.save_policy(accelerator.unwrap_model(policy), work.out / "model")
    work.finish({"sft/final_loss": loss})


def token_loss(policy: torch.nn.Module, ids: Tensor, pad: int) -> Tensor:
    """[B, T] right-padded -> sum of next-token cross-entropies in nats, query included and padding not."""
    ids = model.trim_right(ids, pad)
    logits = policy(**model.attend(ids, pad), use_cache=False).logits[:, :-1]
    target = ids[:, 1:].masked_fill(ids[:, 1:] == pad, -100)
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum"
    )


STAGE = Stage(
    "sft",
    version=1,
    fields=("posts", "sft_batch", "sft_learning_rate", "micro_batch"),
    upstream=("data", "base"),
    seeded=True,
    run=_run,
)
