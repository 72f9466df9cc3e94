"""The reward model: trained on comparisons, normalised on SFT references, and evaluated (N+ details 10 to 18)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repro import details as d
from repro.errors import UserError
from repro.models import (
    batching,
    forward_pass,
    mixed_precision,
    modes,
    padding,
    pretrained,
    ranks,
    scalar_model,
    scoring,
    starts,
    wrapping,
)
from repro.ops import preference
from repro.ops.masked import keep
from repro.ops.optim import cosine_to_zero
from repro.ops.preference import accuracy
from repro.stages import optimise
from repro.stages.corpus import Corpus, column, concatenate
from repro.stages.data import ARTICLES, require_vocabulary
from repro.stages.loop import TrainingLoop
from repro.stages.stage import Stage, StageContext
from repro.types import Metrics

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

SMALLEST_GROUP = 20  # comparisons; the accuracy of a smaller group is not logged


MovePadding = Callable[[Tensor, int], Tensor]  # (ids [B, T], pad) -> the same rows with their padding on one side


def _run(context: StageContext) -> None:
    corpus, move_padding = Corpus(context.inputs["data"]), context.pick(d.PADDING_SIDE).in_rm
    train_or_import = _train if not context.scale.rm_from else _import_reward_model
    train_or_import(context, corpus, move_padding)
    ranks.barrier()
    context.finish(normalise_and_evaluate(context, corpus, move_padding))


def _import_reward_model(context: StageContext, corpus: Corpus, move_padding: MovePadding) -> None:
    """In place of training, copy the reward model that Scale.rm_from names, without its normalisation."""
    folder = context.start("rm_from")
    reward_model = starts.load_reward_model(folder)
    require_vocabulary(corpus.tokenizer, reward_model.trunk.config.get_text_config().vocab_size)
    reward_model.bias.zero_()
    reward_model.gain.fill_(1.0)
    pretrained.save_scalar(reward_model, context.out / "model")


def normalise_and_evaluate(context: StageContext, corpus: Corpus, move_padding: MovePadding) -> Metrics:
    """Set the normalisation of the reward model in the stage's folder, and measure it on validation data."""
    frozen = mixed_precision.cast_weights(
        modes.freeze(pretrained.load_scalar(context.out / "model")), context.scale.frozen_weights
    )
    scorer = Scorer(
        wrapping.place_on_device(frozen, context.accelerator), move_padding, corpus.pad, context.scale.rollout_batch
    )
    metrics = _normalise(context, scorer, corpus) | _evaluate(scorer, corpus) | right_over_wrong(scorer, corpus)
    if "feedback" in context.inputs:
        newest = Corpus(context.inputs["feedback"]).pairs("validation")
        metrics["rm/feedback_accuracy"] = accuracy(scorer.margin(newest)) if len(newest) else math.nan
    if corpus.has_pairs(ARTICLES):
        metrics["rm/cnndm_accuracy"] = accuracy(scorer.margin(corpus.pairs(ARTICLES)))
    trained = pretrained.load_scalar(context.out / "model")  # anew, since the frozen copy may be in bfloat16
    trained.bias.fill_(frozen.bias)
    trained.gain.fill_(frozen.gain)
    pretrained.save_scalar(trained, context.out / "model")
    return metrics


# ---------------------------------------------------------------------------------------------- texts and scores


@dataclass(frozen=True)
class Texts:
    """N texts, each a query followed by its response."""

    ids: Tensor  # [N, T], padded on one side
    response_tokens: Tensor  # [N] length of the response in tokens

    def __getitem__(self, rows: Tensor) -> Texts:
        return Texts(self.ids[rows], self.response_tokens[rows])


def read(rows: Dataset, name: str, move_padding: MovePadding, pad: int) -> Texts:
    """The texts whose response is the column "chosen", "rejected" or "reference_response"."""
    return Texts(move_padding(column(rows, f"query_{name}_token"), pad), column(rows, f"{name}_tokens"))


@dataclass(frozen=True)
class Scorer:
    """A frozen reward model that scores datasets, with the padding side and the batch size of its inputs."""

    network: nn.Module
    move_padding: MovePadding
    pad: int
    batch: int

    def __call__(self, rows: Dataset, name: str) -> Tensor:
        """[N] scores of the texts that `read` gives."""
        texts = read(rows, name, self.move_padding, self.pad)
        return scoring.score_rows(self.network, texts.ids, texts.response_tokens, self.pad, self.batch)

    def margin(self, pairs: Dataset) -> Tensor:
        """[N] score of the chosen summary less that of the rejected one."""
        chosen, rejected = (read(pairs, name, self.move_padding, self.pad) for name in ("chosen", "rejected"))
        order, batch = batching.longest_first(chosen.ids, self.pad), max(1, self.batch // 2)  # a row has two texts
        return batching.map_rows(
            order, batch, lambda rows: margins(self.network, chosen[rows], rejected[rows], self.pad)
        )


# ---------------------------------------------------------------------------------------------- training


def _train(context: StageContext, corpus: Corpus, move_padding: MovePadding) -> None:
    scale, accelerator, objective = context.scale, context.accelerator, context.pick(d.RM_LOSS)
    trunk = pretrained.load_policy(context.inputs[context.pick(d.RM_INIT)] / "model").base_model
    reward_model = scalar_model.ScalarModel(trunk, context.pick(d.REWARD_TOKEN))
    context.pick(d.RM_HEAD_INIT)(reward_model.head, context.generator("head"))
    modes.set_dropout(reward_model, context.pick(d.DROPOUT).get("rm", 0.0))
    optimizer = optimise.adamw([reward_model], scale.rm_learning_rate, context.pick)
    reward_model, optimizer = wrapping.prepare_for_training(accelerator, reward_model, optimizer)
    pairs = corpus.pairs("train")
    if "feedback" in context.inputs:
        pairs = concatenate(pairs, Corpus(context.inputs["feedback"]).pairs("train"))
    chosen, rejected = (read(pairs, name, move_padding, corpus.pad) for name in ("chosen", "rejected"))
    group = objective.group(pairs["id"])
    context.seed_dropout()
    batches = shuffled_batches(group, scale.rm_batch, context.pick(d.RM_EPOCHS), context.generator("shuffle"))
    training = RewardModelTraining(reward_model, chosen, rejected, preference.shares(group), objective.loss, corpus.pad)
    loop = TrainingLoop(
        context, optimizer, lambda step: scale.rm_learning_rate * cosine_to_zero(step, len(batches)), len(batches)
    )
    for step, rows in loop.steps(batches):
        correct: list[Tensor] = []
        with modes.recompute_activations([accelerator.unwrap_model(reward_model)], scale.recompute):
            parts = losses(accelerator, training, rows, scale.micro_batch, correct)
            loss = optimise.step(accelerator, optimizer, parts)
        accuracy = accelerator.reduce(torch.stack(correct).sum()).item() / len(rows)
        loop.log(sum(map(len, batches[: step + 1])), {"rm/loss": loss, "rm/train_accuracy": accuracy})
    weights = wrapping.gather_weights(accelerator, reward_model)
    pretrained.save_scalar(accelerator.unwrap_model(reward_model), context.out / "model", weights)


@dataclass(frozen=True)
class RewardModelTraining:
    """A reward model with its N training comparisons, their weights in the loss, and the loss as a function of margins."""

    network: nn.Module
    chosen: Texts
    rejected: Texts
    weight: Tensor  # [N]
    loss: Callable[[Tensor], Tensor]
    pad: int


def shuffled_batches(group: Tensor, size: int, epochs: int, generator: torch.Generator) -> list[Tensor]:
    """Row indices of every step of all epochs, each shuffled anew; UserError where no batch is complete."""
    batches = [rows for _ in range(epochs) for rows in preference.batches(group, size, generator)]
    if not batches:
        raise UserError(f"{len(group)} comparisons are fewer than a batch of {size}; give more or a smaller batch")
    return batches


def losses(
    accelerator: Accelerator, training: RewardModelTraining, rows: Tensor, micro_batch: int, correct: list[Tensor]
) -> Iterator[Tensor]:
    """This rank's micro-batch losses of one step, which add up over ranks to the weighted mean loss over `rows`.

    Appends to `correct` how many comparisons of each micro-batch the model orders as labelled, ties counting half.
    """
    t, device, total = training, accelerator.device, training.weight[rows].sum()
    for part, real in optimise.accumulation_steps(
        accelerator, t.network, optimise.local_micro_batches(rows, micro_batch)
    ):
        margin, real = margins(t.network, t.chosen[part], t.rejected[part], t.pad), real.to(device)
        correct.append(keep(preference.correct(margin.detach()), real).sum())
        yield (keep(t.loss(margin), real) * t.weight[part].to(device)).sum() / total


def margins(reward_model: nn.Module, chosen: Texts, rejected: Texts, pad: int) -> Tensor:
    """-> [B]: score of the chosen text less that of the rejected one, from one forward pass over both."""
    tokens = chosen.response_tokens, rejected.response_tokens
    better, worse = scoring.score_pairs(reward_model, chosen.ids, rejected.ids, tokens, pad).unbind(1)
    return better - worse


def _normalise(context: StageContext, scorer: Scorer, corpus: Corpus) -> Metrics:
    """Set bias and gain, score = (output - bias) / gain, from the outputs on SFT references (N+ detail 15)."""
    posts = corpus.posts("train")
    scores = scorer(posts.select(range(min(context.scale.normalisation_posts, len(posts)))), "reference_response")
    normalisation = context.pick(d.REWARD_NORMALISATION)(scores)
    scorer.network.bias.fill_(normalisation.bias)
    scorer.network.gain.fill_(normalisation.scale)
    return {
        "rm/bias": normalisation.bias,
        "rm/gain": normalisation.scale,
        "rm/reference_score_mean": scores.mean().item(),
        "rm/reference_score_std": scores.std().item(),
    }


# ---------------------------------------------------------------------------------------------- evaluation


def _evaluate(scorer: Scorer, corpus: Corpus) -> Metrics:
    """The paper's measurements on validation comparisons and validation references."""
    posts, pairs = corpus.posts("validation"), corpus.pairs("validation")
    margin = scorer.margin(pairs)
    return (
        {"rm/validation_accuracy": accuracy(margin)}
        | reward_off_eos(scorer, posts, corpus.eos)
        | padding_agreement(scorer, posts)
        | accuracy_by_group(margin, pairs)
        | calibration(margin)
    )


@torch.no_grad()
def reward_off_eos(scorer: Scorer, posts: Dataset, eos: int) -> Metrics:
    """The reward model's output at the references' end of text, and at the tokens before it (N+ detail 13)."""
    device = next(scorer.network.parameters()).device
    texts = read(posts, "reference_response", padding.unchanged, scorer.pad)
    off_eos, at_eos = [], []
    for rows in torch.arange(len(posts)).split(scorer.batch):
        ids = padding.trim_right(texts.ids[rows], scorer.pad)
        output = scorer.network(**forward_pass.model_inputs(ids.to(device), scorer.pad)).cpu()
        response = padding.last_tokens(ids != scorer.pad, texts.response_tokens[rows])
        off_eos.append(output[response & (ids != eos)])
        at_eos.append(output[response & (ids == eos)])
    off, on = torch.cat(off_eos), torch.cat(at_eos)
    outputs = {"rm/off_eos_mean": off, "rm/off_eos_negative": (off < 0).float(), "rm/eos_mean": on}
    # No text has a visible end where the recipe appends none, or pads with it.
    return {name: values.mean().item() for name, values in outputs.items() if len(values)}


def padding_agreement(scorer: Scorer, posts: Dataset) -> Metrics:
    """Differences between the scores of the same references padded on the left and on the right (N+ detail 14)."""
    left, right = (
        replace(scorer, move_padding=side)(posts, "reference_response")
        for side in (padding.pad_left, padding.pad_right)
    )
    return {
        "rm/padding_difference_mean": (left - right).mean().item(),
        "rm/padding_difference_largest": (left - right).abs().max().item(),
    }


def accuracy_by_group(margin: Tensor, pairs: Dataset) -> Metrics:
    """Accuracy by batch, confidence and pair of policies, in groups of `SMALLEST_GROUP` or more (N+ detail 16)."""
    import pandas as pd

    correct = pd.Series(preference.correct(margin).numpy())
    groups = {
        "batch": pairs["batch"],
        "confidence": [str(confidence) if confidence >= 0 else None for confidence in pairs["confidence"]],
        "policies": [" vs ".join(sorted(pair)) for pair in zip(pairs["chosen_policy"], pairs["rejected_policy"])],
    }
    metrics = {}
    for kind, labels in groups.items():
        for label, group in correct.groupby(pd.Series(list(labels))):
            if len(group) >= SMALLEST_GROUP:
                metrics[f"rm/accuracy/{kind}/{_metric_name(label)}"] = float(group.mean(skipna=False))
    return metrics


def _metric_name(label: str) -> str:
    """The label with `_` for characters that MLflow refuses in a metric's name: all but ASCII letters, digits, _-. :/"""
    return re.sub(r"[^\w\-. :/]", "_", label, flags=re.ASCII)


def right_over_wrong(scorer: Scorer, corpus: Corpus) -> Metrics:
    """Accuracy on pairs of a right summary and the same with one fact replaced, by fact; where the corpus has such pairs."""
    if not corpus.has_pairs("probe"):
        return {}
    probe = corpus.pairs("probe")
    margin, slots = scorer.margin(probe), list(probe["batch"])
    by_slot = {
        f"rm/right_over_wrong/{slot}": accuracy(margin[torch.tensor([each == slot for each in slots])])
        for slot in sorted(set(slots))
    }
    return {"rm/right_over_wrong": accuracy(margin)} | by_slot


def calibration(margin: Tensor) -> Metrics:
    """Accuracy in bins of |margin|, and the expected calibration error of sigmoid(|margin|) (N+ detail 18)."""
    bins = preference.calibration(margin)
    accuracies = {f"rm/calibration/{each.centre:g}": each.accuracy for each in bins if each.count >= SMALLEST_GROUP}
    return accuracies | {"rm/calibration_error": preference.calibration_error(bins)}


STAGE = Stage(
    "rm",
    version=5,
    upstream=("data", "base", "sft"),
    seeded=True,
    run=_run,
    fields=(
        "posts",
        "normalisation_posts",
        "rm_batch",
        "rm_learning_rate",
        "micro_batch",
        "rollout_batch",
        "frozen_weights",
        "rm_from",
    ),
    optional=("feedback",),
)
