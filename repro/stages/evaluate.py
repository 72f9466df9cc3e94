"""Evaluation of a policy's summaries of held-out posts, sampled near-greedily and at 0.7, at which the paper's PPO samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
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
    pretrained,
    ranks,
    scoring,
)
from repro.ops import reward, text
from repro.ops.best_of import ONE_SAMPLE, Selection
from repro.ops.masked import keep
from repro.ops.reward import k1
from repro.stages import inference
from repro.stages.corpus import Corpus, column
from repro.stages.inference import GREEDY, SAMPLED, Draw
from repro.stages.stage import Stage, StageContext
from repro.types import Metrics, Rollout, up_to

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

# Columns of the SFT policy's samples that stand beside those of the trained policy, as `sft_NAME`.
BEFORE = ("summary", "score", "gold", "length", "kl", "ended", "win", "sampled_win_rate", "sampled_gold")


@dataclass(frozen=True)
class Summaries:
    """One policy's summaries of N posts."""

    texts: list[str]
    has_eos: np.ndarray  # [N] bool
    length: np.ndarray  # [N] tokens, end of text included
    score: np.ndarray  # [N] the reward model's
    kl: np.ndarray  # [N] nats to the reference policy on these tokens, at temperature 0.7 however they were sampled


# (query [B, Q], response [B, R], its log-probabilities [B, R]) -> [B, R] estimate of the KL in nats
KLEstimator = Callable[[Tensor, Tensor, Tensor], Tensor]


def kl_to(reference: nn.Module, corpus: Corpus) -> KLEstimator:
    """The per-token k1 estimate of the KL from a reference policy, whose forward pass it runs."""

    def estimate(query: Tensor, response: Tensor, logprob: Tensor) -> Tensor:
        return k1(logprob, logprobs.logprobs_after_queries(reference, query, response, corpus.pad, corpus.eos, SAMPLED))

    return estimate


def no_kl(query: Tensor, response: Tensor, logprob: Tensor) -> Tensor:
    """0, of a policy from itself."""
    return torch.zeros_like(logprob)


def skip_kl(query: Tensor, response: Tensor, logprob: Tensor) -> Tensor:
    """NaN, without running a reference policy; for evaluations that do not report the KL."""
    return torch.full_like(logprob, torch.nan)


@torch.no_grad()
def sample_summaries(
    policy: nn.Module,
    kl_estimator: KLEstimator,
    reward_model: nn.Module,
    queries: Tensor,
    draws: Sequence[Draw],
    corpus: Corpus,
    response_tokens: int,
    batch: int,
    sampler: generate.Sampler = generate.eager,
) -> list[Summaries]:
    """[N, Q] queries -> of each draw one scored summary each, sampled `batch` at a time.

    In a batch the summaries of a query share each network's pass over it. Ranks shard the queries and gather the results.
    """
    parts, count = [], len(draws)
    order = batching.longest_first(queries, corpus.pad)
    for query, response, logprob in inference.sample_batches(
        policy, queries, order, draws, corpus, response_tokens, batch, sampler
    ):
        last_token, has_eos = text.last_token(response, corpus.eos)
        mask = up_to(last_token, response.shape[1])
        score = scoring.score_responses(reward_model, query, response, corpus.pad, shared=count > 1)
        kl = keep(kl_estimator(query, response, logprob), mask).sum(1)
        parts.append((corpus.decode(response), has_eos, last_token + 1, score, kl))
    texts, *numbers = zip(*parts)
    columns = [np.array(sum(texts, []), dtype=object), *(torch.cat(column).cpu().numpy() for column in numbers)]
    gathered = ranks.gather_shards([each for column in columns for each in column.reshape(-1, count).T], order)
    # Of each column one for each draw.
    return [Summaries(texts.tolist(), *numbers) for texts, *numbers in (gathered[draw::count] for draw in range(count))]


def gold_grades(posts: Dataset, texts: list[str], has_eos: np.ndarray) -> pd.DataFrame:
    """[N] rows with the gold score and its counts of facts; no columns where the posts' facts are not known."""
    import pandas as pd

    if not all(posts["facts"]):
        return pd.DataFrame(index=range(len(posts)))
    grades = [
        embedded.grade(json.loads(facts), summary, bool(end))
        for facts, summary, end in zip(posts["facts"], texts, has_eos)
    ]
    return pd.DataFrame(
        {
            "gold": [grade.gold for grade in grades],
            "covered_facts": [grade.covered for grade in grades],
            "wrong_facts": [grade.wrong for grade in grades],
        }
    )


def rouge_l(references: list[str], texts: list[str]) -> list[float]:
    """ROUGE-L F-measure of each text against its reference."""
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes seconds

    scorer = RougeScorer(["rougeL"])
    return [
        scorer.score(reference.strip(), summary)["rougeL"].fmeasure for reference, summary in zip(references, texts)
    ]


def wins(ours: pd.Series, theirs: pd.Series) -> pd.Series:
    """[N] 1 for a win, 0.5 for a tie, 0 for a loss."""
    return (ours > theirs).astype(float) + 0.5 * (ours == theirs)


def compare_with_references(posts: Dataset, summaries: Summaries, reference_score: Tensor) -> pd.DataFrame:
    """[N] rows: summary, score, and `win` against the reference by gold score, or by [N] reward model's where there is none."""
    import pandas as pd

    table = pd.DataFrame(
        {
            "summary": summaries.texts,
            "score": summaries.score,
            "length": summaries.length,
            "ended": summaries.has_eos,
            "kl": summaries.kl,
            "reference_score": reference_score.numpy(),
        }
    )
    table = pd.concat([table, gold_grades(posts, summaries.texts, summaries.has_eos)], axis=1)
    if "gold" not in table:
        return table.assign(win=wins(table["score"], table["reference_score"]))
    complete = np.ones(len(posts), dtype=bool)
    table["reference_gold"] = gold_grades(posts, posts["reference"], complete)["gold"]
    return table.assign(win=wins(table["gold"], table["reference_gold"]))


class EvaluationNetworks(Protocol):
    """The networks that an evaluation reads: `FrozenNetworks` of a test, or PPO's own."""

    @property
    def policy(self) -> nn.Module: ...

    @property
    def reward_model(self) -> nn.Module: ...


class Validation:
    """Evaluation on the validation posts during training; the references are scored once."""

    def __init__(self, networks: EvaluationNetworks, corpus: Corpus, context: StageContext) -> None:
        self.networks, self.corpus, self.context = networks, corpus, context
        self.posts = corpus.posts("validation")
        self.reference_scores = reference_scores(networks.reward_model, self.posts, corpus, context)

    def measure(self) -> Metrics:
        """Metrics of the policy's current weights, from the same random numbers at every call."""
        (summaries,) = _summarise(self.networks, self.posts, [(SAMPLED, "")], self.corpus, self.context, skip_kl)
        table = compare_with_references(self.posts, summaries, self.reference_scores)
        names = {name: f"eval/{name}" for name in ("gold", "score") if name in table} | {"win": "eval/win_rate"}
        return {metric: float(table[name].mean(skipna=False)) for name, metric in names.items()}


def best_of(candidates: Sequence[Summaries], no_eos_score: float = reward.NO_EOS_SCORE) -> Summaries:
    """Of several summaries of each post the one that the reward model scores highest; of equal ones the first.

    One without an end counts as `no_eos_score`, as PPO's reward has it: the reward model was never taught to score it, and
    among many samples some are always scored too high.
    """
    best = np.stack([np.where(each.has_eos, each.score, no_eos_score) for each in candidates]).argmax(0)
    columns = {field.name: [getattr(each, field.name) for each in candidates] for field in fields(Summaries)}
    texts = [columns["texts"][which][post] for post, which in enumerate(best)]
    numbers = {name: np.stack(each)[best, np.arange(len(best))] for name, each in columns.items() if name != "texts"}
    return Summaries(texts, **numbers)


def _summarise(
    networks: EvaluationNetworks,
    posts: Dataset,
    draws: Sequence[tuple[float, str]],
    corpus: Corpus,
    context: StageContext,
    kl_estimator: KLEstimator,
) -> list[Summaries]:
    """Each post's summary for each of `draws`, which are a temperature and a name of its random numbers."""
    with mixed_precision.cached_autocast(context.accelerator):
        return sample_summaries(
            networks.policy,
            kl_estimator,
            networks.reward_model,
            column(posts, "query_token"),
            [Draw(temperature, context.generator(f"evaluate at {temperature}{name}")) for temperature, name in draws],
            corpus,
            context.scale.response_tokens,
            context.scale.rollout_batch,
            inference.sampler_for(context),
        )


def reference_scores(reward_model: nn.Module, posts: Dataset, corpus: Corpus, context: StageContext) -> Tensor:
    """[N] the reward model's scores of the reference summaries."""
    return scoring.score_rows(reward_model, *reference_texts(posts), corpus.pad, context.scale.rollout_batch)


def reference_texts(posts: Dataset) -> tuple[Tensor, Tensor]:
    """[N, T] each post's query with its reference summary, and [N] the tokens of that summary."""
    ids, lengths = (column(posts, name) for name in ("query_reference_response_token", "reference_response_tokens"))
    return ids, lengths


def rollout_gold_grades(posts: Dataset, rollout: Rollout, corpus: Corpus) -> pd.DataFrame:
    """`gold_grades` of a rollout's B responses; posts[i] is the post of episode i."""
    truncated = text.truncate_after_eos(rollout.response, corpus.eos, corpus.pad)
    return gold_grades(posts, corpus.decode(truncated), rollout.has_eos.cpu().numpy())


# ---------------------------------------------------------------------------------------------- the two stages


@dataclass(frozen=True)
class FrozenNetworks:
    """The networks of a test, loaded from their stages' artefacts."""

    policy: nn.Module
    reward_model: nn.Module


def _evaluate(
    context: StageContext,
    corpus: Corpus,
    networks: EvaluationNetworks,
    kl: KLEstimator,
    references: Tensor,
    selection: Selection = ONE_SAMPLE,
) -> tuple[Metrics, pd.DataFrame]:
    """Metrics and samples on the test posts, of which `references` are the reward model's scores of the references.

    A sampled summary is the best of several samples by the reward model; a near-greedy one is the only one.
    """
    import pandas as pd

    posts = corpus.posts("test")
    names = ["", *(f" again {number}" for number in range(1, selection.samples))]
    draws = [(GREEDY, ""), *((SAMPLED, name) for name in names)]
    near_greedy, *samples = _summarise(networks, posts, draws, corpus, context, kl)
    greedy, sampled = (
        compare_with_references(posts, summaries, references)
        for summaries in (near_greedy, best_of(samples, selection.no_eos_score))
    )
    greedy["sampled_win_rate"] = sampled["win"]
    if "gold" in sampled:
        greedy["sampled_gold"] = sampled["gold"]
    greedy["rouge_l"] = rouge_l(posts["reference"], greedy["summary"].tolist())
    metrics = mean_metrics(greedy, "") | mean_metrics(sampled, "sampled_")
    metrics["kl"] = metrics.pop("sampled_kl") + reward.best_of_n_kl(selection.samples)
    if "gold" in greedy:
        metrics["reference_gold"] = float(greedy["reference_gold"].mean(skipna=False))
    post_columns = {
        "post_id": posts["id"],
        "query": posts["query"],
        "reference": posts["reference"],
        "reference_length": token_counts(posts["reference"], corpus),
    }
    return metrics, pd.concat([pd.DataFrame(post_columns), greedy], axis=1)


def token_counts(summaries: list[str], corpus: Corpus) -> list[int]:
    """Tokens of each summary with a leading space and an end of text, before any limit."""
    texts = [f" {summary}" for summary in summaries]
    return [len(tokens) + 1 for tokens in corpus.tokenizer(texts, add_special_tokens=False)["input_ids"]]


def mean_metrics(table: pd.DataFrame, prefix: str) -> Metrics:
    """The mean of each column as a metric `prefix` + name; NaN where a row is NaN."""
    names = {"win": "win_rate", "ended": "eos_rate"} | {
        name: name
        for name in ("gold", "score", "length", "kl", "covered_facts", "wrong_facts", "rouge_l")
        if name in table
    }
    means = {metric: float(table[name].mean(skipna=False)) for name, metric in names.items()}
    return {f"{prefix}{name}": value for name, value in (means | judge_agreement(table)).items()}


def judge_agreement(table: pd.DataFrame) -> Metrics:
    """How often reward model and gold score prefer the same of summary and reference, where neither ties (N+ detail 17)."""
    if "gold" not in table:
        return {}
    by_score = np.sign(table["score"] - table["reference_score"])
    by_gold = np.sign(table["gold"] - table["reference_gold"])
    agreement = (by_score * by_gold)[by_score * by_gold != 0]  # 1, -1, or NaN where a score is NaN
    return {"judge_agreement": float((agreement.mean(skipna=False) + 1) / 2)} if len(agreement) else {}


def _save(table: pd.DataFrame, context: StageContext) -> None:
    if ranks.is_main():
        table.to_json(context.out / record.SAMPLES, orient="records", indent=1)


def read_samples(folder: Path) -> pd.DataFrame:
    """The samples of an evaluation; a summary stays text where all of them read like numbers, which pandas would convert."""
    import pandas as pd

    return pd.read_json(folder / record.SAMPLES, orient="records", dtype={"summary": str})


def _policy(context: StageContext, stage: str, dtype: str) -> nn.Module:
    return inference.frozen(context, pretrained.load_policy(context.inputs[stage] / "model"), dtype)


def _reward_model(context: StageContext) -> nn.Module:
    loaded = pretrained.load_scalar(context.inputs["rm"] / "model")
    return inference.frozen(context, loaded, context.scale.frozen_weights)


def _run_baseline(context: StageContext) -> None:
    corpus, reward_model = Corpus(context.inputs["data"]), _reward_model(context)
    policy = _policy(context, "sft", "float32")
    references = reference_scores(reward_model, corpus.posts("test"), corpus, context)
    metrics, table = _evaluate(context, corpus, FrozenNetworks(policy, reward_model), no_kl, references)
    _save(table, context)
    context.finish({f"sft_test/{name}": value for name, value in metrics.items()})


def _run_evaluate(context: StageContext) -> None:
    import pandas as pd

    corpus = Corpus(context.inputs["data"])
    # The evaluated policy stays in float32, as it was trained.
    networks = FrozenNetworks(_policy(context, "ppo", "float32"), _reward_model(context))
    kl = kl_to(_policy(context, "sft", context.scale.frozen_weights), corpus)
    before = read_samples(context.inputs["baseline"])
    # The baseline scored the references with the same reward model.
    references = torch.from_numpy(before["reference_score"].to_numpy(np.float32))
    metrics, table = _evaluate(context, corpus, networks, kl, references, context.pick(d.SELECTION))
    before = before[[name for name in BEFORE if name in before]].add_prefix("sft_")
    _save(pd.concat([table, before], axis=1), context)
    context.finish({f"test/{name}": value for name, value in metrics.items()})


_FIELDS = ("test_posts", "response_tokens", "rollout_batch", "frozen_weights", "sampler")
BASELINE = Stage("baseline", version=8, fields=_FIELDS, upstream=("data", "sft", "rm"), seeded=True, run=_run_baseline)
STAGE = Stage(
    "evaluate",
    version=9,
    fields=_FIELDS,
    upstream=("data", "sft", "rm", "baseline", "ppo"),
    seeded=True,
    run=_run_evaluate,
)
