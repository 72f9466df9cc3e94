"""The reward model: Bradley-Terry on comparisons, read at the end of text, then normalised (N+ details 10 to 18)."""

import json
import random
from collections.abc import Iterable, Iterator

import torch
from datasets import Dataset
from torch import Tensor, nn

from repro import model, optimise
from repro.data import Corpus, column, embedded
from repro.details import DROPOUT, REWARD_NORMALISATION, RM_HEAD_INIT
from repro.ops.optim import cosine_to_zero
from repro.stage import Stage, Work
from repro.types import Metrics


def _run(work: Work) -> None:
    corpus, accelerator, scale = Corpus(work.inputs["data"]), work.accelerator, work.scale
    reward_model = model.ScalarModel(model.load_policy(work.inputs["sft"] / "model").base_model)
    work.pick(RM_HEAD_INIT)(reward_model.head, work.generator("head"))
    model.set_dropout(reward_model, work.pick(DROPOUT).get("rm", 0.0))
    reward_model, optimizer = accelerator.prepare(reward_model, optimise.adamw([reward_model], scale.rm_learning_rate))
    _train(work, reward_model, optimizer, corpus)
    plain = model.frozen(accelerator.unwrap_model(reward_model))
    measured = _normalise(work, plain, corpus)
    pairs = corpus.pairs("validation")
    measured["rm/validation_accuracy"] = accuracy(*score_pairs(plain, pairs, corpus.pad, scale.rollout_batch))
    measured |= right_over_wrong(plain, corpus, scale.rollout_batch)
    model.save_scalar(plain, work.out / "model")
    work.finish(measured)


def _train(work: Work, reward_model: nn.Module, optimizer: torch.optim.Optimizer, corpus: Corpus) -> None:
    scale, accelerator = work.scale, work.accelerator
    pairs = corpus.pairs("train")
    chosen, rejected = column(pairs, "query_chosen_token"), column(pairs, "query_rejected_token")
    torch.manual_seed(work.seed_of("dropout"))
    steps = len(pairs) // scale.rm_batch
    for step, rows in enumerate(optimise.batches(len(pairs), scale.rm_batch, work.generator("shuffle"))):
        optimise.set_learning_rate(optimizer, scale.rm_learning_rate * cosine_to_zero(step, steps))
        parts = (
            margins(reward_model, chosen[part], rejected[part], corpus.pad, accelerator.device)
            for part in rows.split(scale.micro_batch)
        )
        right: list[Tensor] = []
        loss = optimise.step(accelerator, optimizer, _bradley_terry(parts, len(rows), right))
        accuracy_now = torch.cat(right).float().mean().item()
        work.log((step + 1) * scale.rm_batch, {"rm/loss": loss, "rm/train_accuracy": accuracy_now})


def _bradley_terry(parts: Iterable[Tensor], count: int, right: list[Tensor]) -> Iterator[Tensor]:
    """Each part's share of the mean of -log sigmoid(margin) (N+ detail 10); notes which comparisons came out right."""
    for margin in parts:
        right.append(margin.detach() > 0)
        yield -nn.functional.logsigmoid(margin).sum() / count


def margins(reward_model: nn.Module, chosen: Tensor, rejected: Tensor, pad: int, device: torch.device) -> Tensor:
    """[B, T], [B, T] right-padded -> [B]: how much higher the chosen text scores; both go through one forward pass."""
    ids = model.trim_right(torch.cat([chosen, rejected]), pad).to(device)
    better, worse = model.score_at_last(reward_model, ids, pad).chunk(2)
    return better - worse


def _normalise(work: Work, reward_model: model.ScalarModel, corpus: Corpus) -> Metrics:
    """Set the model's bias and gain from its scores of the SFT references (N+ detail 15)."""
    posts = corpus.posts("train")
    posts = posts.select(range(min(work.scale.normalisation_posts, len(posts))))
    scores = model.score_rows(
        reward_model, column(posts, "query_reference_response_token"), corpus.pad, work.scale.rollout_batch
    )
    normalisation = work.pick(REWARD_NORMALISATION)(scores)
    reward_model.bias.fill_(normalisation.bias)
    reward_model.gain.fill_(normalisation.gain)
    return {
        "rm/bias": normalisation.bias,
        "rm/gain": normalisation.gain,
        "rm/reference_score_mean": scores.mean().item(),
        "rm/reference_score_std": scores.std().item(),
    }


def score_pairs(reward_model: nn.Module, pairs: Dataset, pad: int, batch: int) -> tuple[Tensor, Tensor]:
    """Scores of the chosen and of the rejected summaries, [N] each."""
    return (
        model.score_rows(reward_model, column(pairs, "query_chosen_token"), pad, batch),
        model.score_rows(reward_model, column(pairs, "query_rejected_token"), pad, batch),
    )


def accuracy(chosen: Tensor, rejected: Tensor) -> float:
    """Share of comparisons in which the chosen summary scores higher; ties count half."""
    return ((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean().item()


def right_over_wrong(reward_model: nn.Module, corpus: Corpus, batch: int) -> Metrics:
    """Where the facts are known: how often a right summary scores above the same with one fact replaced, by fact."""
    posts = [row for row in corpus.posts("test") if row["facts"]]
    if not posts:
        return {}
    rng = random.Random("right over wrong")
    right, wrong, slots = [], [], []
    for row in posts:
        facts = json.loads(row["facts"])
        slot = rng.choice(list(facts))
        lie = facts | {slot: rng.choice([value for value in embedded.VALUES[slot] if value != facts[slot]])}
        right.append(row["query"] + " " + embedded.summarise(facts, embedded.PERFECT, rng))
        wrong.append(row["query"] + " " + embedded.summarise(lie, embedded.PERFECT, rng))
        slots.append(slot)
    ids = corpus.tokenizer(
        [text + corpus.tokenizer.eos_token for text in right + wrong],
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )["input_ids"]
    better, worse = model.score_rows(reward_model, ids, corpus.pad, batch).chunk(2)
    by_slot = {
        f"rm/right_over_wrong/{slot}": accuracy(*(scores[[s == slot for s in slots]] for scores in (better, worse)))
        for slot in sorted(set(slots))
    }
    return {"rm/right_over_wrong": accuracy(better, worse)} | by_slot


STAGE = Stage(
    "rm",
    version=1,
    upstream=("data", "sft"),
    seeded=True,
    run=_run,
    fields=("posts", "normalisation_posts", "rm_batch", "rm_learning_rate", "micro_batch", "rollout_batch"),
)
