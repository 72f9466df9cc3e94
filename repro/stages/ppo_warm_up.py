"""The batches on which the critic alone learns, before PPO starts; they count as none of the stage's updates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from repro import details as d
from repro.stages import optimise
from repro.stages.ppo_setup import Run, Training, prompt_batches, responses_per_query
from repro.stages.stage import StageContext


def batches(context: StageContext, run: Run, training: Training) -> Iterator[tuple[Run, Training, Tensor]]:
    """Row indices of the prompts of each update of the critic alone, and what it takes: a `Run` and a `Training` of its own.

    They have an optimizer of the critic's weights at the learning rate of the first update, no SFT texts, and their own random
    numbers, so that PPO draws what it draws without them. A checkpoint holds a critic that has had them, so there are none
    where the loop goes on from one.
    """
    pick, scale = run.pick, context.scale
    updates = pick(d.CRITIC_WARM_UP) * (training.loop.steps_done == 0)
    if not updates:
        return
    optimizer = optimise.adamw([run.networks.critic], scale.ppo_learning_rate, pick, (pick(d.CRITIC_LEARNING_RATE),))
    optimise.set_learning_rate(optimizer, scale.ppo_learning_rate)
    shuffle, sampling, order = (
        context.generator(f"{pick(d.DRAWS)}warm-up {purpose}") for purpose in ("shuffle", "sampling", "order")
    )
    own = replace(training, sampling_rng=sampling, minibatch_rng=order, sft_texts=lambda _: torch.empty(0, 1).long())
    rows = prompt_batches(training.prompts, scale.ppo_batch, responses_per_query(pick), shuffle)
    for each in islice(rows, updates):
        yield replace(run, optimizer=optimizer), own, each
    context.seed_dropout()  # as `prepare` left it
