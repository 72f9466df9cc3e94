"""Evaluation: what a policy writes for held-out posts, near-greedily and as PPO samples, and how good that is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from repro import details as d
from repro import record
from repro.data import embedded
from repro.models import (
    batching,
    generate,
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
from repro.ops import text
from repro.ops.masked import keep
from repro.ops.reward import k1
from repro.stages.corpus import Corpus, column
from repro.stages.stage import Stage, StageContext
from repro.types import Metrics, Rollout

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

GREEDY = 0.01  # the paper's "greedy" is a temperature of 0.01
# What the SFT policy's samples are shown with.
BEFORE = ("summary", "score", "gold", "length", "kl", "ended", "win", "sampled_win_rate", "sampled_gold")
SAMPLED = 0.7  # what the paper's PPO samples at (N+ table 7)


@dataclass(frozen=True)
class Written:
    """What one policy wrote for N posts."""

    texts: list[str]
    ended: np.ndarray  # [N] bool
    length: np.ndarray  # [N] tokens, end of text included
    score: np.ndarray  # [N] the reward model's
    kl: np.ndarray  # [N] nats to the reference policy on these tokens, at temperature 0.7 however they were sampled


# (query [B, Q], response [B, R], its log-probabilities [B, R]) -> [B, R]: nats of each token to some policy
Nats = Callable[[Tensor, Tensor, Tensor], Tensor]


def nats_to(reference: nn.Module, corpus: Corpus) -> Nats:
    """The KL's estimate at each token, to a reference policy."""

    def nats(query: Tensor, response: Tensor, logprob: Tensor) -> Tensor:
        return k1(logprob, logprobs.response_logprobs(reference, query, response, corpus.pad, corpus.eos, SAMPLED))

    return nats


def unmeasured(query: Tensor, response: Tensor, logprob: Tensor) -> Tensor:
    """NaN, where nobody asks for the KL: the reference policy need not run."""
    return torch.full_like(logprob, torch.nan)


@torch.no_grad()
def write(
    policy: nn.Module,
    nats: Nats,
    reward_model: nn.Module,
    queries: Tensor,
    temperature: float,
    corpus: Corpus,
    response_tokens: int,
    batch: int,
    generator: torch.Generator,
    sampler: generate.Sampler = generate.eager,
) -> Written:
    """Sample one response per query, `batch` at a time, and score it; ranks share the queries."""
    device, parts = next(policy.parameters()).device, []
    uniform = torch.rand(len(queries), response_tokens, generator=generator)
    order = batching.longest_first(queries, corpus.pad)
    own, _ = ranks.shard(order)
    for rows in own.split(batch):
        query, numbers = padding.trim_left(queries[rows], corpus.pad).to(device), uniform[rows].to(device)
        # Near 0 a token's nats would be those of its rank alone.
        sampling = generate.Sampling(temperature, measured_at=SAMPLED, sampler=sampler)
        response, logprob = generate.sample(policy, query, numbers, sampling, corpus.eos, corpus.pad)
        last, ended = text.last_token(response, corpus.eos)
        mask = torch.arange(response.shape[1], device=device) <= last[:, None]
        whole, length = torch.cat([query, response], 1), padding.count_tokens(response, corpus.pad)
        score = scoring.score(reward_model, whole, length, corpus.pad)
        kl = keep(nats(query, response, logprob), mask).sum(1)
        parts.append((corpus.decode(response), ended, last + 1, score, kl))
    texts, *numbers = zip(*parts)
    columns = [np.array(sum(texts, []), dtype=object), *(torch.cat(column).cpu().numpy() for column in numbers)]
    texts, *numbers = ranks.merge_shards(columns, order)
    return Written(texts.tolist(), *numbers)


def gold_of(posts: Dataset, texts: list[str], ended: np.ndarray) -> pd.DataFrame:
    """[N] rows of what the gold score counts; no columns where the facts are not known."""
    import pandas as pd

    if not all(posts["facts"]):
        return pd.DataFrame(index=range(len(posts)))
    graded = [
        embedded.grade(json.loads(facts), written, bool(end))
        for facts, written, end in zip(posts["facts"], texts, ended)
    ]
    return pd.DataFrame(
        {
            "gold": [g.gold for g in graded],
            "covered_facts": [g.covered for g in graded],
            "wrong_facts": [g.wrong for g in graded],
        }
    )


def rouge_l(references: list[str], texts: list[str]) -> list[float]:
    """ROUGE-L F-measure of each text against its reference."""
    from rouge_score.rouge_scorer import RougeScorer  # brings nltk, which every start would wait for

    scorer = RougeScorer(["rougeL"])
    return [
        scorer.score(reference.strip(), written)["rougeL"].fmeasure for reference, written in zip(references, texts)
    ]


def wins(ours: pd.Series, theirs: pd.Series) -> pd.Series:
    """[N] 1 for a win, 0.5 for a tie, 0 for a loss."""
    return (ours > theirs).astype(float) + 0.5 * (ours == theirs)


def judged(posts: Dataset, written: Written, reference_score: Tensor) -> pd.DataFrame:
    """[N] rows: the text, its score and, against the reference, whether it wins: by gold score, else by reward model."""
    import pandas as pd

    table = pd.DataFrame(
        {
            "summary": written.texts,
            "score": written.score,
            "length": written.length,
            "ended": written.ended,
            "kl": written.kl,
            "reference_score": reference_score.numpy(),
        }
    )
    table = pd.concat([table, gold_of(posts, written.texts, written.ended)], axis=1)
    if "gold" not in table:
        return table.assign(win=wins(table["score"], table["reference_score"]))
    everyone = np.ones(len(posts), dtype=bool)
    table["reference_gold"] = gold_of(posts, posts["reference"], everyone)["gold"]
    return table.assign(win=wins(table["gold"], table["reference_gold"]))


class Networks(Protocol):
    """The networks that an evaluation needs: those of a test, or those of a run of PPO."""

    @property
    def policy(self) -> nn.Module: ...

    @property
    def reference(self) -> nn.Module: ...

    @property
    def reward_model(self) -> nn.Module: ...


class Validation:
    """The validation posts of one run; what the reward model says of their references is asked once."""

    def __init__(self, networks: Networks, corpus: Corpus, context: StageContext) -> None:
        self.networks, self.corpus, self.context = networks, corpus, context
        self.posts = corpus.posts("validation")
        self.reference_scores = reference_scores(networks.reward_model, self.posts, corpus, context)

    def measure(self) -> Metrics:
        """Quality of what the policy samples as it is now, for the learning curve; from the same random numbers each time."""
        written = _write(self.networks, self.posts, SAMPLED, self.corpus, self.context, unmeasured)
        table = judged(self.posts, written, self.reference_scores)
        names = {name: f"eval/{name}" for name in ("gold", "score") if name in table} | {"win": "eval/win_rate"}
        return {metric: float(table[name].mean(skipna=False)) for name, metric in names.items()}


def _write(
    networks: Networks, posts: Dataset, temperature: float, corpus: Corpus, context: StageContext, nats: Nats
) -> Written:
    with mixed_precision.cached_autocast(context.accelerator):
        return write(
            networks.policy,
            nats,
            networks.reward_model,
            column(posts, "query_token"),
            temperature,
            corpus,
            context.scale.response_tokens,
            context.scale.rollout_batch,
            context.generator(f"evaluate at {temperature}"),
            samplers.sampler_named({"vllm": "static"}.get(context.scale.sampler, context.scale.sampler)),
        )


def reference_scores(reward_model: nn.Module, posts: Dataset, corpus: Corpus, context: StageContext) -> Tensor:
    """[N] what the reward model says of the people's own summaries."""
    whole, own = (column(posts, name) for name in ("query_reference_response_token", "reference_response_tokens"))
    return scoring.score_rows(reward_model, whole, own, corpus.pad, context.scale.rollout_batch)


def gold_of_rollout(posts: Dataset, rollout: Rollout, corpus: Corpus) -> pd.DataFrame:
    """`gold_of` a rollout's responses, each about one of the posts."""
    finished = text.truncate_after_eos(rollout.response, corpus.eos, corpus.pad)
    return gold_of(posts, corpus.decode(finished), rollout.has_eos.cpu().numpy())


def true_quality(posts: Dataset, rollout: Rollout, corpus: Corpus) -> Metrics:
    """The mean gold score of a rollout's responses, where the facts are known."""
    import pandas as pd

    table = pd.concat(ranks.all_gather(gold_of_rollout(posts, rollout, corpus)))
    return {"objective/gold": float(table["gold"].mean(skipna=False))} if "gold" in table else {}


# ---------------------------------------------------------------------------------------------- the two stages


@dataclass(frozen=True)
class FrozenNetworks:
    """The networks that an evaluation loads."""

    policy: nn.Module
    reference: nn.Module
    reward_model: nn.Module


def _assess(context: StageContext, policy: str) -> tuple[Metrics, pd.DataFrame]:
    """Final metrics and samples of the policy that the stage `policy` left, on the test posts."""
    import pandas as pd

    corpus = Corpus(context.inputs["data"])
    folders = {"policy": context.inputs[policy] / "model", "reference": context.inputs["sft"] / "model"}
    loaded = {name: pretrained.load_policy(folder) for name, folder in folders.items()}
    loaded["reward_model"] = pretrained.load_scalar(context.inputs["rm"] / "model")
    with_positions = context.pick(d.POSITION_IDS)
    weights = dict.fromkeys(loaded, context.scale.frozen_weights) | {"policy": "float32"}  # it is what is tested
    networks = FrozenNetworks(
        **{
            name: wrapping.place_on_device(
                mixed_precision.cast_weights(modes.freeze(with_positions(network)), weights[name]), context.accelerator
            )
            for name, network in loaded.items()
        }
    )
    posts = corpus.posts("test")
    references = reference_scores(networks.reward_model, posts, corpus, context)
    nats = nats_to(networks.reference, corpus)
    greedy = judged(posts, _write(networks, posts, GREEDY, corpus, context, nats), references)
    sampled = judged(posts, _write(networks, posts, SAMPLED, corpus, context, nats), references)
    greedy["sampled_win_rate"] = sampled["win"]
    if "gold" in sampled:
        greedy["sampled_gold"] = sampled["gold"]
    greedy["rouge_l"] = rouge_l(posts["reference"], greedy["summary"].tolist())
    measured = means_of(greedy, "") | means_of(sampled, "sampled_")
    measured["kl"] = measured.pop("sampled_kl")
    if "gold" in greedy:
        measured["reference_gold"] = float(greedy["reference_gold"].mean(skipna=False))
    told = {
        "post_id": posts["id"],
        "query": posts["query"],
        "reference": posts["reference"],
        "reference_length": token_counts(posts["reference"], corpus),
    }
    return measured, pd.concat([pd.DataFrame(told), greedy], axis=1)


def token_counts(summaries: list[str], corpus: Corpus) -> list[int]:
    """Tokens of each summary behind its space, however long it is, and one for the end of text."""
    texts = [f" {summary}" for summary in summaries]
    return [len(tokens) + 1 for tokens in corpus.tokenizer(texts, add_special_tokens=False)["input_ids"]]


def means_of(table: pd.DataFrame, prefix: str) -> Metrics:
    """The metrics of judged texts: means over all of them, not a number where one is none."""
    names = {"win": "win_rate", "ended": "eos_rate"} | {
        name: name
        for name in ("gold", "score", "length", "kl", "covered_facts", "wrong_facts", "rouge_l")
        if name in table
    }
    means = {new: float(table[old].mean(skipna=False)) for old, new in names.items()}
    return {f"{prefix}{name}": value for name, value in (means | judge_agreement(table)).items()}


def judge_agreement(table: pd.DataFrame) -> Metrics:
    """How often reward model and gold score order summary and reference alike, where neither ties (N+ detail 17)."""
    if "gold" not in table:
        return {}
    by_score = np.sign(table["score"] - table["reference_score"])
    by_gold = np.sign(table["gold"] - table["reference_gold"])
    alike = (by_score * by_gold)[by_score * by_gold != 0]  # 1, -1, or NaN where a score is not a number
    return {"judge_agreement": float((alike.mean(skipna=False) + 1) / 2)} if len(alike) else {}


def _save(table: pd.DataFrame, context: StageContext) -> None:
    if ranks.is_main():
        table.to_json(context.out / record.SAMPLES, orient="records", indent=1)


def _run_baseline(context: StageContext) -> None:
    measured, table = _assess(context, "sft")
    _save(table, context)
    context.finish({f"sft_test/{name}": value for name, value in measured.items()})


def _run_evaluate(context: StageContext) -> None:
    import pandas as pd

    measured, table = _assess(context, "ppo")
    before = pd.read_json(context.inputs["baseline"] / record.SAMPLES, orient="records")
    before = before[[name for name in BEFORE if name in before]].add_prefix("sft_")
    _save(pd.concat([table, before], axis=1), context)
    context.finish({f"test/{name}": value for name, value in measured.items()})


_FIELDS = ("test_posts", "response_tokens", "rollout_batch", "frozen_weights", "sampler")
BASELINE = Stage("baseline", version=6, fields=_FIELDS, upstream=("data", "sft", "rm"), seeded=True, run=_run_baseline)
STAGE = Stage(
    "evaluate",
    version=7,
    fields=_FIELDS,
    upstream=("data", "sft", "rm", "baseline", "ppo"),
    seeded=True,
    run=_run_evaluate,
)
