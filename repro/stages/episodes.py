"""Traces of a few PPO episodes, token by token: what was sampled, scored, penalised and expected.

Beside each episode stands what the reference policy of the recipe (the SFT policy in the paper) writes for the same post
with the same random numbers, and the log-probabilities of both texts under both policies (N+ section 7.2).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from repro.models import generate, logprobs, padding, ranks, scoring
from repro.ops import text
from repro.ops.masked import keep
from repro.ops.reward import k1
from repro.stages.corpus import Corpus
from repro.stages.evaluate import EvaluationNetworks, gold_grades
from repro.types import Rollout, Targets, up_to

if TYPE_CHECKING:
    from datasets import Dataset

EPISODES = 8  # per update: the first of its batch, so that nobody chose them and all arms of a seed show the same posts
# Columns with one entry more than tokens, unless the response fills its limit: that of the terminal state.
PER_STATE = ("value", "reward", "returns")
DIGITS = 5


class TracedNetworks(EvaluationNetworks, Protocol):
    """The networks that an episode is traced with: PPO's."""

    @property
    def reference(self) -> nn.Module: ...


class EpisodeTraces:
    """Collects the first episodes of the first, the middle and the last update, and of an update that diverged."""

    def __init__(
        self, networks: TracedNetworks, sampling: generate.Sampling, corpus: Corpus, updates: int, batch: int
    ) -> None:
        self.networks, self.sampling, self.corpus, self.updates, self.batch = networks, sampling, corpus, updates, batch
        self.traced_updates = {0, updates // 2, updates - 1}
        self.episodes: list[dict[str, Any]] = []

    def add(
        self, update: int, posts: Dataset, rollout: Rollout, target: Targets, uniform: Tensor, diverged: bool
    ) -> None:
        """Trace this update, if it is one to trace, after its optimizer steps.

        B posts and episodes, which [B, R] `uniform` sampled.
        """
        if update not in self.traced_updates and not diverged:
            return
        rows = range(min(EPISODES, len(rollout)))
        records = trace_records(
            self.networks, self.sampling, self.corpus, posts.select(rows), rollout[rows], target[rows], uniform[rows]
        )
        self.episodes += [
            {
                "episode": update * self.batch + row * ranks.world_size(),
                "update": update,
                "updates": self.updates,
                **record,
            }
            for row, record in enumerate(records)
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"episodes": self.episodes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.episodes = state["episodes"]

    def save(self, path: Path) -> None:
        """Write {"eos": text of the end-of-text token, "episodes": the records in order} as JSON; only rank 0 writes."""
        if ranks.is_main():
            path.write_text(json.dumps({"eos": self.corpus.tokenizer.eos_token, "episodes": self.episodes}))


@dataclass(frozen=True)
class Response:
    """The responses of one policy to B posts, with what is known of each token."""

    tokens: Tensor  # [B, R]
    last_token: Tensor  # [B] index
    has_eos: Tensor  # [B] bool
    score: Tensor  # [B] the reward model's score, pooled as the recipe does
    score_so_far: Tensor  # [B, R] the reward model's output at each token, of which only the last was trained
    kl: Tensor  # [B] nats on these tokens, from the reference policy to the policy that sampled them
    columns: dict[str, Tensor]  # name -> [B, R]


@torch.no_grad()
def trace_records(
    networks: TracedNetworks,
    sampling: generate.Sampling,
    corpus: Corpus,
    posts: Dataset,
    rollout: Rollout,
    target: Targets,
    uniform: Tensor,
) -> list[dict[str, Any]]:
    """One JSON record for each of B posts. The networks are those after the update; [B, R] `uniform` sampled the rollout.

    Log-probabilities are in nats, at the recipe's `logprob_temperature`.
    """
    eos, pad, query = corpus.eos, corpus.pad, padding.trim_left(rollout.query, corpus.pad)
    settings = (pad, eos, sampling.logprob_temperature)
    # A trace leaves the global random state as it was, so that traced and untraced runs have the same bits.
    with torch.random.fork_rng([query.device] if query.is_cuda else []):
        updated_logprob = logprobs.response_logprobs(
            networks.policy, query, rollout.response, *settings, rollout.support
        )
        sampled = generate.sample_with_support(networks.reference, query, uniform, sampling, eos, pad)
        ref_response, ref_logprob, support = sampled
        policy_logprob = logprobs.response_logprobs(networks.policy, query, ref_response, *settings, support)
    policy_columns = {
        "logprob": rollout.logprob,
        "ref_logprob": rollout.ref_logprob,
        "updated_logprob": updated_logprob,
        "value": rollout.value,
        "reward": target.reward,
        "advantage": target.advantage,
        "returns": target.returns,
    }
    ref_columns = {"logprob": ref_logprob, "policy_logprob": policy_logprob}
    truncated = text.truncate_after_eos(ref_response, eos, pad)
    ref_score = scoring.score(
        networks.reward_model, torch.cat([query, truncated], 1), padding.count_tokens(truncated, pad), pad
    )
    kl = k1(rollout.logprob, rollout.ref_logprob)
    responses = {
        "policy": _response(networks, query, rollout.response, corpus, policy_columns, rollout.score, kl),
        # Its name in the file whichever policy the reference is; the run's recipe says which.
        "sft": _response(networks, query, ref_response, corpus, ref_columns, ref_score, torch.zeros_like(ref_logprob)),
    }
    records = {writer: _response_records(response, posts, corpus) for writer, response in responses.items()}
    return [
        {"post_id": post["id"], "query": post["query"], "reference": post["reference"]}
        | {writer: own[row] for writer, own in records.items()}
        for row, post in enumerate(posts)
    ]


def _response(
    networks: TracedNetworks,
    query: Tensor,
    tokens: Tensor,
    corpus: Corpus,
    columns: dict[str, Tensor],
    score: Tensor,
    kl: Tensor,
) -> Response:
    """[B, Q] prompts, [B, R] tokens, columns and KL in nats, [B] score -> the responses with what follows from these."""
    last_token, has_eos = text.last_token(tokens, corpus.eos)
    truncated = text.truncate_after_eos(tokens, corpus.eos, corpus.pad)
    score_so_far = scoring.response_scores(networks.reward_model, query, truncated, corpus.pad)
    mask = up_to(last_token, tokens.shape[1])
    return Response(tokens, last_token, has_eos, score, score_so_far, keep(kl, mask).sum(1), columns)


def _response_records(response: Response, posts: Dataset, corpus: Corpus) -> list[dict[str, Any]]:
    """[B] records, each column up to the last token; those of `PER_STATE` up to the terminal state, if there is room."""
    texts = corpus.decode(text.truncate_after_eos(response.tokens, corpus.eos, corpus.pad))
    gold = gold_grades(posts, texts, response.has_eos.cpu().numpy())
    return [
        {
            "text": summary,
            "ended": bool(response.has_eos[row]),
            "score": rounded(response.score[row]),
            "kl": rounded(response.kl[row]),
            "tokens": [corpus.tokenizer.decode([token]) for token in response.tokens[row, : last + 1].tolist()],
            "score_so_far": rounded(response.score_so_far[row, : last + 1]),
        }
        | {name: rounded(values[row, : last + 1 + (name in PER_STATE)]) for name, values in response.columns.items()}
        | {name: float(gold[name][row]) for name in gold}
        for row, (summary, last) in enumerate(zip(texts, response.last_token.tolist(), strict=True))
    ]


def rounded(values: Tensor) -> Any:
    """A tensor as a JSON number or list; null where a value is not finite."""
    finite = [round(value, DIGITS) if abs(value) < float("inf") else None for value in values.flatten().tolist()]
    return finite if values.dim() else finite[0]
