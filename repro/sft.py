"""Supervised fine-tuning: next-token loss over query and reference (N+ detail 9).

Every token of a batch counts alike; the paper's code takes a mean over each micro-batch, which at its size of 1 is a mean
over each text first.
"""

import torch
from torch import Tensor

from repro import model, optimise
from repro.data import Corpus, column
from repro.details import DROPOUT, LR_SCHEDULE_SFT, SFT_EPOCHS, SFT_LOSS_TOKENS
from repro.stage import Stage, Work


def _run(work: Work) -> None:
    corpus, accelerator, scale, pick = Corpus(work.inputs["data"]), work.accelerator, work.scale, work.pick
    posts = corpus.posts("train")
    tokens = column(posts, "query_reference_response_token")
    counted = pick(SFT_LOSS_TOKENS)(tokens, column(posts, "reference_response_tokens"), corpus.pad)
    policy = model.set_dropout(model.load_policy(work.inputs["base"] / "model"), pick(DROPOUT).get("sft", 0.0))
    policy, optimizer = accelerator.prepare(policy, optimise.adamw([policy], scale.sft_learning_rate, pick))
    torch.manual_seed(work.seed_of("dropout"))
    shuffle = work.generator("shuffle")
    passes = (optimise.batches(len(tokens), scale.sft_batch, shuffle) for _ in range(pick(SFT_EPOCHS)))
    steps = pick(SFT_EPOCHS) * (len(tokens) // scale.sft_batch)
    for step, rows in enumerate(row for one in passes for row in one):
        optimise.set_learning_rate(optimizer, scale.sft_learning_rate * pick(LR_SCHEDULE_SFT)(step, steps))
        batch, mask = tokens[rows].to(accelerator.device), counted[rows].to(accelerator.device)
        valid = mask[:, 1:].sum()
        parts = zip(batch.split(scale.micro_batch), mask.split(scale.micro_batch))
        loss = optimise.step(
            accelerator, optimizer, (token_loss(policy, part, where, corpus.pad) / valid for part, where in parts)
        )
        work.log_mean((step + 1) * scale.sft_batch, {"sft/loss": loss}, steps)
    model.save_policy(accelerator.unwrap_model(policy), work.out / "model")
    work.finish({"sft/final_loss": loss})


def token_loss(policy: torch.nn.Module, ids: Tensor, counted: Tensor, pad: int) -> Tensor:
    """[B, T] right-padded, [B, T] bool -> sum of the cross-entropies in nats of predicting the counted tokens."""
    ids = model.trim_right(ids, pad)
    logits = policy(**model.attend(ids, pad), use_cache=False).logits[:, :-1]
    target = ids[:, 1:].masked_fill(~counted[:, 1 : ids.shape[1]], -100)
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
