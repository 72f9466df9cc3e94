"""The reward model: trained on comparisons, read at the end of text, normalised and checked (N+ details 10 to 18)."""

from __future__ import annotations

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
    hub,
    mixed_precision,
    modes,
    padding,
    pretrained,
    ranks,
    scalar_model,
    scoring,
    wrapping,
)
from repro.ops import preference
from repro.ops.masked import keep
from repro.ops.optim import cosine_to_zero
from repro.ops.preference import accuracy
from repro.stages import optimise
from repro.stages.corpus import Corpus, column
from repro.stages.data import ARTICLES, require_vocabulary
from repro.stages.loop import TrainingLoop
from repro.stages.stage import Stage, StageContext
from repro.types import Metrics

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

SMALLEST_GROUP = 20  # comparisons whose accuracy is worth a number


def _run(context: StageContext) -> None:
    corpus, pack = Corpus(context.inputs["data"]), context.pick(d.PADDING_SIDE).in_rm
    made = _train if not context.scale.rm_from else _use_given_reward_model
    made(context, corpus, pack)
    ranks.barrier()
    context.finish(measure(context, corpus, pack))


def _use_given_reward_model(context: StageContext, corpus: Corpus, pack: Pack) -> None:
    """A reward model that was trained elsewhere, by the paper's authors or here; it is centred anew."""
    folder = context.start("rm_from")
    load = hub.load_released_reward_model if hub.is_released_reward_model(folder) else pretrained.load_scalar
    reward_model = load(folder)
    require_vocabulary(corpus.tokenizer, reward_model.trunk.config.get_text_config().vocab_size)
    reward_model.bias.zero_()
    reward_model.gain.fill_(1.0)
    pretrained.save_scalar(reward_model, context.out / "model")


def measure(context: StageContext, corpus: Corpus, pack: Pack) -> Metrics:
    """Normalise the reward model that lies in the stage's folder, and check it."""
    held = mixed_precision.cast_weights(
        modes.freeze(pretrained.load_scalar(context.out / "model")), context.scale.frozen_weights
    )
    scorer = Scorer(wrapping.place_on_device(held, context.accelerator), pack, corpus.pad, context.scale.rollout_batch)
    measured = _normalise(context, scorer, corpus) | _check(scorer, corpus) | right_over_wrong(scorer, corpus)
    if corpus.has_pairs(ARTICLES):
        measured["rm/cnndm_accuracy"] = accuracy(scorer.margin(corpus.pairs(ARTICLES)))
    whole = pretrained.load_scalar(context.out / "model")  # what scored may have been rounded
    whole.bias.fill_(held.bias)
    whole.gain.fill_(held.gain)
    pretrained.save_scalar(whole, context.out / "model")
    return measured


# ---------------------------------------------------------------------------------------------- texts and scores

Pack = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Texts:
    """N queries, each with its response behind it."""

    ids: Tensor  # [N, T], padded on one side
    response_tokens: Tensor  # [N] how many of the last tokens are the response

    def __getitem__(self, rows: Tensor) -> Texts:
        return Texts(self.ids[rows], self.response_tokens[rows])


def read(rows: Dataset, name: str, pack: Pack, pad: int) -> Texts:
    """The texts that end in "chosen", "rejected" or "reference_response"."""
    return Texts(pack(column(rows, f"query_{name}_token"), pad), column(rows, f"{name}_tokens"))


@dataclass(frozen=True)
class Scorer:
    """A frozen reward model, and how it is shown its texts."""

    network: nn.Module
    pack: Pack
    pad: int
    batch: int

    def __call__(self, rows: Dataset, name: str) -> Tensor:
        """[N] scores of the rows' texts of this name."""
        texts = read(rows, name, self.pack, self.pad)
        return scoring.score_rows(self.network, texts.ids, texts.response_tokens, self.pad, self.batch)

    def margin(self, pairs: Dataset) -> Tensor:
        """[N] how much higher the chosen summaries score."""
        chosen, rejected = (read(pairs, name, self.pack, self.pad) for name in ("chosen", "rejected"))
        order = batching.longest_first(chosen.ids, self.pad)
        return batching.map_rows(
            order, self.batch, lambda rows: margins(self.network, chosen[rows], rejected[rows], self.pad)
        )


# ---------------------------------------------------------------------------------------------- training


def _train(context: StageContext, corpus: Corpus, pack: Pack) -> None:
    scale, accelerator, objective = context.scale, context.accelerator, context.pick(d.RM_LOSS)
    trunk = pretrained.load_policy(context.inputs[context.pick(d.RM_INIT)] / "model").base_model
    reward_model = scalar_model.ScalarModel(trunk, context.pick(d.REWARD_TOKEN))
    context.pick(d.RM_HEAD_INIT)(reward_model.head, context.generator("head"))
    modes.set_dropout(reward_model, context.pick(d.DROPOUT).get("rm", 0.0))
    optimizer = optimise.adamw([reward_model], scale.rm_learning_rate, context.pick)
    reward_model, optimizer = wrapping.prepare_for_training(accelerator, reward_model, optimizer)
    pairs = corpus.pairs("train")
    chosen, rejected = (read(pairs, name, pack, corpus.pad) for name in ("chosen", "rejected"))
    group = objective.group(pairs["id"])
    share = preference.shares(group)
    torch.manual_seed(context.seed_of("dropout"))
    batches = shuffled_batches(group, scale.rm_batch, context.pick(d.RM_EPOCHS), context.generator("shuffle"))
    trained = Trained(reward_model, chosen, rejected, share, objective.loss, corpus.pad)
    loop = TrainingLoop(
        context, optimizer, lambda step: scale.rm_learning_rate * cosine_to_zero(step, len(batches)), len(batches)
    )
    for step, rows in loop.steps(batches):
        right: list[Tensor] = []
        with modes.recompute_activations([accelerator.unwrap_model(reward_model)], scale.recompute):
            parts = losses(accelerator, trained, rows, scale.micro_batch, right)
            loss = optimise.step(accelerator, optimizer, parts)
        accuracy = accelerator.reduce(torch.stack(right).sum()).item() / len(rows)
        loop.log(sum(map(len, batches[: step + 1])), {"rm/loss": loss, "rm/train_accuracy": accuracy})
    weights = wrapping.gather_weights(accelerator, reward_model)
    pretrained.save_scalar(accelerator.unwrap_model(reward_model), context.out / "model", weights)


@dataclass(frozen=True)
class Trained:
    """A reward model in training: its comparisons, what each counts [N], and the loss of a margin."""

    network: nn.Module
    chosen: Texts
    rejected: Texts
    share: Tensor
    loss: Callable[[Tensor], Tensor]
    pad: int


def shuffled_batches(group: Tensor, size: int, epochs: int, generator: torch.Generator) -> list[Tensor]:
    """Row indices of every step, each epoch shuffled anew; a UserError where there is not one whole batch."""
    batches = [rows for _ in range(epochs) for rows in preference.batches(group, size, generator)]
    if not batches:
        raise UserError(f"{len(group)} comparisons are fewer than a batch of {size}; give more or a smaller batch")
    return batches


def losses(
    accelerator: Accelerator, trained: Trained, rows: Tensor, micro_batch: int, right: list[Tensor]
) -> Iterator[Tensor]:
    """Each of this rank's micro-batches' share of the step's weighted mean loss; notes how many came out right."""
    t, device, total = trained, accelerator.device, trained.share[rows].sum()
    for part, real in optimise.shared(accelerator, t.network, optimise.dealt(rows, micro_batch)):
        margin, real = margins(t.network, t.chosen[part], t.rejected[part], t.pad), real.to(device)
        right.append(((margin.detach() > 0) & real).sum())
        yield (keep(t.loss(margin), real) * t.share[part].to(device)).sum() / total


def margins(reward_model: nn.Module, chosen: Texts, rejected: Texts, pad: int) -> Tensor:
    """-> [B]: how much higher the chosen text scores; both go through one forward pass."""
    tokens = chosen.response_tokens, rejected.response_tokens
    better, worse = scoring.score_pairs(reward_model, chosen.ids, rejected.ids, tokens, pad).unbind(1)
    return better - worse


def _normalise(context: StageContext, scorer: Scorer, corpus: Corpus) -> Metrics:
    """Set the model's bias and gain from its scores of the SFT references (N+ detail 15)."""
    posts = corpus.posts("train")
    scores = scorer(posts.select(range(min(context.scale.normalisation_posts, len(posts)))), "reference_response")
    normalisation = context.pick(d.REWARD_NORMALISATION)(scores)
    scorer.network.bias.fill_(normalisation.bias)
    scorer.network.gain.fill_(normalisation.gain)
    return {
        "rm/bias": normalisation.bias,
        "rm/gain": normalisation.gain,
        "rm/reference_score_mean": scores.mean().item(),
        "rm/reference_score_std": scores.std().item(),
    }


# ---------------------------------------------------------------------------------------------- what the paper measured


def _check(scorer: Scorer, corpus: Corpus) -> Metrics:
    """Everything that is measured on validation comparisons and validation references."""
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
    """The reward model's output on the references' tokens before their end of text, and at it (N+ detail 13)."""
    device = next(scorer.network.parameters()).device
    texts = read(posts, "reference_response", padding.unchanged, scorer.pad)
    before, at_eos = [], []
    for rows in torch.arange(len(posts)).split(scorer.batch):
        ids = padding.trim_right(texts.ids[rows], scorer.pad)
        output = scorer.network(**forward_pass.model_inputs(ids.to(device), scorer.pad)).cpu()
        response = padding.last_tokens(ids != scorer.pad, texts.response_tokens[rows])
        before.append(output[response & (ids != eos)])
        at_eos.append(output[response & (ids == eos)])
    off, on = torch.cat(before), torch.cat(at_eos)
    found = {"rm/off_eos_mean": off, "rm/off_eos_negative": (off < 0).float(), "rm/eos_mean": on}
    # Where texts do not end, or padding hides it, there is nothing to say.
    return {name: values.mean().item() for name, values in found.items() if len(values)}


def padding_agreement(scorer: Scorer, posts: Dataset) -> Metrics:
    """How far apart the rewards of the same references are, padded left and padded right (N+ detail 14)."""
    left, right = (
        replace(scorer, pack=pack)(posts, "reference_response") for pack in (padding.pad_left, padding.pad_right)
    )
    return {
        "rm/padding_difference_mean": (left - right).mean().item(),
        "rm/padding_difference_largest": (left - right).abs().max().item(),
    }


def accuracy_by_group(margin: Tensor, pairs: Dataset) -> Metrics:
    """Accuracy by batch, confidence and pair of policies, of groups of 20 comparisons or more (N+ detail 16)."""
    import pandas as pd

    right = pd.Series(((margin > 0).float() + 0.5 * (margin == 0).float()).numpy())
    groups = {
        "batch": pairs["batch"],
        "confidence": [str(given) if given >= 0 else None for given in pairs["confidence"]],
        "policies": [" vs ".join(sorted(two)) for two in zip(pairs["chosen_policy"], pairs["rejected_policy"])],
    }
    found = {}
    for kind, labels in groups.items():
        shares = right.groupby(pd.Series(list(labels))).agg(["mean", "count"])
        for label, share in shares[shares["count"] >= SMALLEST_GROUP]["mean"].items():
            found[f"rm/accuracy/{kind}/{_in_a_metric(label)}"] = share
    return found


def _in_a_metric(label: str) -> str:
    """MLflow takes ASCII letters, digits and _ - . space : / in a metric's name."""
    return re.sub(r"[^\w\-. :/]", "_", label, flags=re.ASCII)


def right_over_wrong(scorer: Scorer, corpus: Corpus) -> Metrics:
    """Where the facts are known: how often a right summary scores above the same with one fact replaced, by fact."""
    if not corpus.has_pairs("probe"):
        return {}
    probe = corpus.pairs("probe")
    margin, slots = scorer.margin(probe), list(probe["batch"])
    by_slot = {
        f"rm/right_over_wrong/{slot}": accuracy(margin[torch.tensor([s == slot for s in slots])])
        for slot in sorted(set(slots))
    }
    return {"rm/right_over_wrong": accuracy(margin)} | by_slot


def calibration(margin: Tensor) -> Metrics:
    """Accuracy by how far apart the scores are, and how far that is from what the margins promise (N+ detail 18)."""
    bins = preference.calibration(margin)
    shown = {f"rm/calibration/{b.centre:g}": b.accuracy for b in bins if b.count >= SMALLEST_GROUP}
    return shown | {"rm/calibration_error": preference.calibration_error(bins)}


STAGE = Stage(
    "rm",
    version=4,
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
)
