"""Some episodes of PPO token by token, kept so that a person can read what was sampled, charged, expected and paid.

Beside each stands what the policy that the recipe measures the KL to (the SFT policy) writes under the same post with the
same random numbers, and how likely either of the two finds both texts (N+ section 7.2).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from repro.models import generate, logprobs, padding, ranks, scoring
from repro.ops import text
from repro.ops.masked import keep
from repro.ops.reward import k1
from repro.stages.corpus import Corpus
from repro.stages.evaluate import gold_of
from repro.types import Rollout, Targets

if TYPE_CHECKING:
    from datasets import Dataset

    from repro.stages.evaluate import Networks

EPISODES = 8  # of a batch: its first, so that nobody chose them and all arms of a seed show the same posts
# They have one entry more than there are tokens, where there is room: the state after the end, in which a score is paid.
OF_STATES = ("value", "reward", "returns")
DIGITS = 5


class EpisodeTraces:
    """Keeps the first episodes of the first update, of one in the middle and of the last, or of the one that diverged."""

    def __init__(
        self, networks: Networks, sampling: generate.Sampling, corpus: Corpus, updates: int, batch: int
    ) -> None:
        self.networks, self.sampling, self.corpus, self.updates, self.batch = networks, sampling, corpus, updates, batch
        self.watched = {0, updates // 2, updates - 1}
        self.episodes: list[dict[str, Any]] = []

    def note(
        self, update: int, posts: Dataset, rollout: Rollout, target: Targets, uniform: Tensor, diverged: bool
    ) -> None:
        """What there is to say of an update's B episodes, once it has learnt from them; [B, R] `uniform` drew them."""
        if update not in self.watched and not diverged:
            return
        rows = range(min(EPISODES, len(rollout)))
        shown = record(
            self.networks, self.sampling, self.corpus, posts.select(rows), rollout[rows], target[rows], uniform[rows]
        )
        place = {"update": update, "updates": self.updates}
        self.episodes += [
            {"episode": update * self.batch + row * ranks.world_size()} | place | record
            for row, record in enumerate(shown)
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"episodes": self.episodes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.episodes = state["episodes"]

    def save(self, path: Path) -> None:
        """Writes {"eos": its text, "episodes": the records in order} as JSON."""
        if ranks.is_main():
            path.write_text(json.dumps({"eos": self.corpus.tokenizer.eos_token, "episodes": self.episodes}))


@dataclass(frozen=True)
class Response:
    """What one policy wrote under B posts, and what is known of each of its tokens."""

    tokens: Tensor  # [B, R]
    last: Tensor  # [B] index of the last token
    ended: Tensor  # [B] bool
    score: Tensor  # [B] the reward model's, as the recipe reads it
    score_so_far: Tensor  # [B, R] the reward model's output at each token; it is trained at the last one only
    kl: Tensor  # [B] nats from the reference policy to the policy that wrote it, on these tokens
    known: dict[str, Tensor]  # name -> [B, R]


@torch.no_grad()
def record(
    networks: Networks,
    sampling: generate.Sampling,
    corpus: Corpus,
    posts: Dataset,
    rollout: Rollout,
    target: Targets,
    uniform: Tensor,
) -> list[dict[str, Any]]:
    """One JSON record for each of B posts, after the update that learnt from them; `uniform` [B, R] drew the rollout.

    All log-probabilities are in nats, at the temperature at which the recipe measures them.
    """
    eos, pad, query = corpus.eos, corpus.pad, padding.trim_left(rollout.query, corpus.pad)
    # The next update draws the same numbers, watched or not.
    with torch.random.fork_rng([query.device] if query.is_cuda else []):
        updated = logprobs.response_logprobs(networks.policy, query, rollout.response, pad, eos, sampling.measured_at)
        theirs, ref_logprob = generate.sample(networks.reference, query, uniform, sampling, eos, pad)
        policy_logprob = logprobs.response_logprobs(networks.policy, query, theirs, pad, eos, sampling.measured_at)
    ours = {
        "logprob": rollout.logprob,
        "ref_logprob": rollout.ref_logprob,
        "updated_logprob": updated,
        "value": rollout.value,
        "reward": target.reward,
        "advantage": target.advantage,
        "returns": target.returns,
    }
    beside = {"logprob": ref_logprob, "policy_logprob": policy_logprob}
    finished = text.truncate_after_eos(theirs, eos, pad)
    their_score = scoring.score(
        networks.reward_model, torch.cat([query, finished], 1), padding.count_tokens(finished, pad), pad
    )
    kl = k1(rollout.logprob, rollout.ref_logprob)
    wrote = {
        "policy": _response(networks, query, rollout.response, corpus, ours, rollout.score, kl),
        # Whichever policy the recipe compares with; the run's choices say which.
        "sft": _response(networks, query, theirs, corpus, beside, their_score, torch.zeros_like(ref_logprob)),
    }
    records = {who: _records_of(response, posts, corpus) for who, response in wrote.items()}
    return [
        {"post_id": post["id"], "query": post["query"], "reference": post["reference"]}
        | {who: own[row] for who, own in records.items()}
        for row, post in enumerate(posts)
    ]


def _response(
    networks: Networks,
    query: Tensor,
    tokens: Tensor,
    corpus: Corpus,
    known: dict[str, Tensor],
    score: Tensor,
    kl: Tensor,
) -> Response:
    """[B, Q], [B, R] tokens, [B, R] each known number and the KL in nats, [B] score -> all there is to say of them."""
    last, ended = text.last_token(tokens, corpus.eos)
    finished = text.truncate_after_eos(tokens, corpus.eos, corpus.pad)
    score_so_far = scoring.response_scores(networks.reward_model, query, finished, corpus.pad)
    is_token = torch.arange(tokens.shape[1], device=tokens.device) <= last[:, None]
    return Response(tokens, last, ended, score, score_so_far, keep(kl, is_token).sum(1), known)


def _records_of(response: Response, posts: Dataset, corpus: Corpus) -> list[dict[str, Any]]:
    """[B] records of one policy's responses, each up to its last token, or to the state after it if there is room."""
    texts = corpus.decode(text.truncate_after_eos(response.tokens, corpus.eos, corpus.pad))
    gold = gold_of(posts, texts, response.ended.cpu().numpy())
    return [
        {
            "text": written,
            "ended": bool(response.ended[row]),
            "score": rounded(response.score[row]),
            "kl": rounded(response.kl[row]),
            "tokens": [corpus.tokenizer.decode([token]) for token in response.tokens[row, : end + 1].tolist()],
            "score_so_far": rounded(response.score_so_far[row, : end + 1]),
        }
        | {name: rounded(values[row, : end + 1 + (name in OF_STATES)]) for name, values in response.known.items()}
        | {name: float(gold[name][row]) for name in gold}
        for row, (written, end) in enumerate(zip(texts, response.last.tolist(), strict=True))
    ]


def rounded(values: Tensor) -> Any:
    """A number, or a list of them, as JSON can hold them: what is not finite is null."""
    finite = [round(value, DIGITS) if abs(value) < float("inf") else None for value in values.flatten().tolist()]
    return finite if values.dim() else finite[0]
