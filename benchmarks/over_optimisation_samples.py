"""N summaries of each test post by the SFT policy of a seed, with their scores, kept in the cache a block of draws at a time.

They are sampled and graded as the evaluation of the SFT policy samples and grades: its stage's key names the block.
"""

import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro import details as d
from repro.detail import Pick, Recipe
from repro.engine import artefacts, pipeline
from repro.errors import UserError
from repro.models import mixed_precision, pretrained
from repro.ops import best_of
from repro.ops.reward import best_of_n_kl
from repro.stages import evaluate, inference, stage
from repro.stages.corpus import Corpus, column
from repro.study.scale import Scale

VERSION = 1  # bumped by hand when the same inputs give other samples
BLOCK = 16  # draws of every post in one file
FOLDER = "over_optimisation"  # of the cache
UPSTREAM = ("data", "base", "sft", "rm")


@dataclass(frozen=True)
class Samples:
    """N samples of each of P posts."""

    score: np.ndarray  # [P, N] the reward model's
    gold: np.ndarray  # [P, N] gold score, in points
    ended: np.ndarray  # [P, N] bool: whether the summary has an end of text
    logprob: np.ndarray  # [P, N] of the whole summary at the temperature of sampling, in nats
    text: np.ndarray  # [P, N] a checksum of the text: equal where texts are equal

    def first(self, n: int) -> "Samples":
        """The first n draws of every post."""
        return Samples(**{each.name: getattr(self, each.name)[:, :n] for each in fields(self)})


def own_logprob(query: Tensor, response: Tensor, logprob: Tensor) -> Tensor:
    """[B, R] log-probability of each token under the policy that sampled, in the place of an estimate of the KL."""
    return logprob


def curve_of(samples: Samples, chosen_by: np.ndarray) -> list[dict[str, float]]:
    """A row for each power of two up to N: means over posts of what is expected of the best of n by [P, N] `chosen_by`.

    `kl` is log n - (n-1)/n, `kl_at_most` a closer bound where summaries repeat, both in nats; `ended` is a share.
    """
    choice, logprob = (torch.from_numpy(each.astype(np.float64)) for each in (chosen_by, samples.logprob))
    values = {name: torch.from_numpy(getattr(samples, name).astype(np.float64)) for name in ("gold", "score", "ended")}
    rows = []
    for n in powers_of_two(choice.shape[1]):
        at_most = best_of.best_of_n_kl_where_samples_repeat(logprob, choice, n)
        expected = {name: float(best_of.best_of_n(value, choice, n).mean()) for name, value in values.items()}
        rows.append({"n": n, "kl": best_of_n_kl(n), "kl_at_most": float(at_most.mean()), **expected})
    return rows


def rewarded(recipe: Recipe, samples: Samples) -> np.ndarray:
    """[P, N] the score by the rule with which PPO rewards a response that does not end (N+ detail 23.3)."""
    rule = d.NO_EOS_SCORE.variants[recipe.label(d.NO_EOS_SCORE)].value
    flat = rule(torch.from_numpy(samples.score).flatten(), torch.from_numpy(samples.ended).flatten())
    return flat.reshape(samples.score.shape).numpy()


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [2**power for power in range(most.bit_length())]


def distinct(samples: Samples) -> float:
    """The mean number of different summaries among a post's N."""
    return float(np.mean([len(set(row)) for row in samples.text.tolist()]))


def sampled(recipe: Recipe, scale: Scale, seed: int, posts: int, n: int, cache: Path) -> Samples:
    """n samples of each of the first `posts` test posts; draws that are in the cache are read, and a longer run uses them."""
    keys = pipeline.keys(recipe, scale, seed)
    folders = {
        name: artefacts.run_or_reuse(pipeline.BY_NAME[name], recipe, scale, seed, keys, cache, print)
        for name in UPSTREAM
    }
    key = stage.digest(["samples of the SFT policy", VERSION, keys["baseline"], posts])[:16]
    folder = cache / FOLDER / key
    folder.mkdir(parents=True, exist_ok=True)
    firsts = range(0, n, BLOCK)
    blocks = {first: _read(folder / f"{first:05d}.npz") for first in firsts}
    if any(block is None for block in blocks.values()):
        sampler = Sampler(recipe, scale, seed, folders, folder, posts)
        for first in (first for first, block in blocks.items() if block is None):
            blocks[first] = sampler.draw(range(first, first + BLOCK))
            _write(blocks[first], folder / f"{first:05d}.npz")
    columns = {
        each.name: np.concatenate([getattr(blocks[first], each.name) for first in firsts], 1)
        for each in fields(Samples)
    }
    return Samples(**columns).first(n)


class Sampler:
    """The SFT policy and the reward model of a seed, on this device, and the posts that are summarised."""

    def __init__(
        self, recipe: Recipe, scale: Scale, seed: int, folders: Mapping[str, Path], out: Path, posts: int
    ) -> None:
        baseline = evaluate.BASELINE
        inputs = {name: folders[name] for name in baseline.upstream}
        pick, budget = Pick(recipe, baseline.name), stage.Budget(scale, baseline.fields)
        self.context = stage.StageContext(baseline.name, pick, budget, scale.precision, seed, inputs, out)
        self.corpus = Corpus(inputs["data"])
        self.posts = self.corpus.posts("test")
        if posts > len(self.posts):
            raise UserError(f"there are {len(self.posts)} test posts, and not {posts}; give --set test_posts={posts}")
        self.posts = self.posts.select(range(posts))
        if not all(self.posts["facts"]):
            raise UserError("the gold score of this corpus is not known; take the embedded one, as scale mini does")
        policy, reward_model = (
            pretrained.load_policy(inputs["sft"] / "model"),
            pretrained.load_scalar(inputs["rm"] / "model"),
        )
        self.policy = inference.frozen(self.context, policy, "float32")
        self.reward_model = inference.frozen(self.context, reward_model, scale.frozen_weights)

    def draw(self, numbers: range) -> Samples:
        """One sample of each post for each number, which names its random numbers as it does in an evaluation's best-of-n."""
        at, scale = inference.SAMPLED, self.context.scale
        names = [f"evaluate at {at}" + (f" again {number}" if number else "") for number in numbers]
        draws = [inference.Draw(at, self.context.generator(name)) for name in names]
        with mixed_precision.cached_autocast(self.context.accelerator):
            told = evaluate.sample_summaries(
                self.policy,
                own_logprob,
                self.reward_model,
                column(self.posts, "query_token"),
                draws,
                self.corpus,
                scale.response_tokens,
                scale.rollout_batch,
                inference.sampler_for(self.context),
            )
        blocks = [self._graded(each) for each in told]
        return Samples(**{each.name: np.stack([block[each.name] for block in blocks], 1) for each in fields(Samples)})

    def _graded(self, told: evaluate.Summaries) -> dict[str, np.ndarray]:
        gold = evaluate.gold_grades(self.posts, told.texts, told.has_eos)["gold"].to_numpy(float)
        checksum = np.array([zlib.crc32(f"{text}{end}".encode()) for text, end in zip(told.texts, told.has_eos)])
        return {
            "score": told.score,
            "gold": gold,
            "ended": told.has_eos,
            "logprob": told.kl,
            "text": checksum.astype(np.int64),
        }


def _write(samples: Samples, file: Path) -> None:
    """By rename, so that a block is whole or not there."""
    partial = file.with_name(f"{file.stem}.{os.getpid()}.partial")
    with partial.open("wb") as stream:
        np.savez_compressed(stream, **{each.name: getattr(samples, each.name) for each in fields(samples)})
    os.replace(partial, file)


def _read(file: Path) -> Samples | None:
    """A block that was kept; None where there is none that can be read."""
    try:
        with np.load(file) as kept:
            return Samples(**{each.name: kept[each.name] for each in fields(Samples)})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def ppo_run(recipe: Recipe, scale: Scale, seed: int, cache: Path) -> dict:
    """One arm of PPO through the pipeline: where it ended on the test posts, what the SFT policy has there, and its way.

    `gold`, `score` and `kl` [nats] are of summaries sampled at temperature 0.7; `way` has the journal's points, of the
    batches that PPO trained on.
    """
    folders, metrics = pipeline.run(recipe, scale, seed, cache), {}
    for folder in folders.values():
        metrics |= artefacts.read_result(folder)["metrics"]
    names = ("kl", "gold", "score")
    way = [
        {"step": line["step"]} | {name: line["metrics"][f"objective/{name}"] for name in names}
        for line in stage.read_journal(folders["ppo"])
        if all(f"objective/{name}" in line["metrics"] for name in names)
    ]
    return {
        "kl": metrics["test/kl"],
        "gold": metrics["test/sampled_gold"],
        "score": metrics["test/sampled_score"],
        "sft_gold": metrics["sft_test/sampled_gold"],
        "sft_score": metrics["sft_test/sampled_score"],
        "way": way,
    }
