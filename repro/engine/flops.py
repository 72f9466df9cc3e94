"""The matrix products that each stage is made of, counted from formulas: the one place that says what work there is.

A product is kept with its shape, so that its operations can be added up (`repro/engine/cost.py`) and its speed measured
(`benchmarks/bound.py`). What is not a matrix product is left out: at these sizes it is memory traffic and overhead.
"""

import json
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from repro.models import hub
from repro.models.pretrained import source_kwargs
from repro.models.shape import parse_shape
from repro.study.scale import Scale

# Hidden size, layers, heads and intermediate size, so that a study can be planned before its model is here.
PYTHIA = {
    "14m": "128/6/4/512",
    "31m": "256/6/8/1024",
    "70m": "512/6/8/2048",
    "160m": "768/12/12/3072",
    "410m": "1024/24/16/4096",
    "1b": "2048/16/8/8192",
    "1.4b": "2048/24/16/8192",
    "2.8b": "2560/32/32/10240",
    "6.9b": "4096/32/32/16384",
    "12b": "5120/36/40/20480",
}


@dataclass(frozen=True)
class Network:
    """A transformer as far as arithmetic looks at it; nothing of one that is not known is a number."""

    hidden: float = math.nan
    layers: float = math.nan
    intermediate: float = math.nan
    vocabulary: float = 50_304
    heads: float = 1

    @property
    def body(self) -> float:
        """Weights in matrices between embedding and output head."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)

    @property
    def head(self) -> float:
        return self.hidden * self.vocabulary

    @property
    def policy(self) -> float:
        """All weights, embedding and output head apart."""
        return self.body + self.layers * (9 * self.hidden + self.intermediate) + 2 * self.head

    @property
    def scalar(self) -> float:
        """All weights of a reward model or critic."""
        return self.policy - self.head


@cache
def network_of(source: str) -> Network:
    """The network of `Scale.model`: by its configuration, a shape, or a Pythia's name."""
    if hub.is_reference(source):
        named = re.search(r"pythia-([0-9.]+[mb])\b", source)
        if not hub.is_local(source, "model"):
            return network_of(f"gpt-neox:{PYTHIA[named[1]]}") if named and named[1] in PYTHIA else Network()
        source = str(hub.resolve(source, "model"))
    if Path(source).exists():
        return _spelt_out(Path(source)) or _configured(Path(source))
    hidden, layers, heads, intermediate = parse_shape(source)
    return Network(hidden, layers, intermediate, heads=heads)


def _spelt_out(source: Path) -> Network | None:
    """Of a folder whose configuration gives the sizes of a GPT-NeoX, as Pythia's does: no library has to be waited for."""
    names = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_attention_heads")
    with suppress(OSError, ValueError, KeyError, TypeError):  # whatever it is, the library has words for it
        told = json.loads((source / "config.json").read_text())
        sizes = [told[name] for name in names]
        if told["model_type"] == "gpt_neox" and all(type(size) is int and size > 0 for size in sizes):
            return Network(*sizes)
    return None


def _configured(source: Path) -> Network:
    """Of any other the sizes that `transformers` finds: each kind has its own names for them."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(**source_kwargs(source, "config.json")).get_text_config()
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return Network(config.hidden_size, config.num_hidden_layers, wide, config.vocab_size, config.num_attention_heads)


# ---------------------------------------------------------------------------------------------- products


@dataclass(frozen=True)
class Product:
    """`times` products of `batch` matrices each, [rows, inner] x [inner, columns]."""

    kind: str  # "linear", "down" (the last matrix of a layer), "attention" or "logits"
    times: float
    rows: float
    inner: float
    columns: float
    batch: float = 1

    @property
    def flops(self) -> float:
        return 2 * self.times * self.batch * self.rows * self.inner * self.columns


@dataclass(frozen=True)
class Economy:
    """The work that a pass leaves out because nobody reads its result."""

    last_layer: bool  # of the last layer all but queries, keys and values where nothing is read
    last_queries: bool  # and the queries
    shared_query: bool  # the query of a comparison's second text
    other_ending: bool  # attention of either text of a comparison to the other's ending, which a mask hides
    last_token: bool  # of a text in SFT the last token, which predicts nothing
    logits_again: bool  # logits a second time in the backward pass, which kept ones would spare


# What a bound counts.
LEAN = Economy(
    last_layer=True,
    last_queries=True,
    shared_query=True,
    other_ending=True,
    last_token=True,
    logits_again=True,
)
# What the passes of this project do; tests hold it.
NOW = replace(LEAN, last_queries=False, other_ending=False, logits_again=False)


def total(products: Iterable[Product]) -> float:
    return sum(product.flops for product in products)


def repeated(products: Iterable[Product], times: float) -> list[Product]:
    return [replace(product, times=product.times * times) for product in products]


def forward(
    n: Network, rows: float, tokens: float, read: float, logits: float = 0, before: float = 0, how: Economy = NOW
) -> list[Product]:
    """`rows` texts of `tokens` behind `before` that are cached; the last layer is read at `read` places of each.

    A mask lets no kernel leave out half of attention.
    """
    read = read if how.last_layer else tokens
    found = _layers(n, n.layers - 1, rows, tokens, tokens, before, how) + _layers(n, 1, rows, tokens, read, before, how)
    return found + [Product("logits", 1, rows * logits, n.hidden, n.vocabulary)] * bool(logits)


def _layers(
    n: Network, times: float, rows: float, tokens: float, read: float, before: float, how: Economy
) -> list[Product]:
    """So many layers, each with keys and values of all tokens and all else at `read` of them."""
    every, some, seen, width = rows * tokens, rows * read, before + tokens, n.hidden / n.heads
    inputs = [(every, 2), (some, 1)] if how.last_queries and read != tokens else [(every, 3)]
    found = [Product("linear", times, count, n.hidden, parts * n.hidden) for count, parts in inputs if count]
    if times == 0 or not some:
        return found * bool(times)
    return found + [
        Product("attention", times, read, width, seen, rows * n.heads),
        Product("attention", times, read, seen, width, rows * n.heads),
        Product("linear", times, some, n.hidden, n.hidden),
        Product("linear", times, some, n.hidden, n.intermediate),
        Product("down", times, some, n.intermediate, n.hidden),
    ]


def learnt(products: list[Product], again: float = 0, how: Economy = NOW) -> list[Product]:
    """Forward and backward: gradients of both factors, and what is computed a second time for them: logits, and layers
    `again`, all but each one's last matrix.
    """
    of_left = [replace(p, inner=p.columns, columns=p.inner) for p in products]
    of_right = [replace(p, rows=p.inner, inner=p.rows) for p in products]
    repeats = {"linear": again, "attention": again, "logits": float(not how.logits_again)}
    recomputed = [replace(p, times=p.times * repeats[p.kind]) for p in products if repeats.get(p.kind)]
    return products + of_left + of_right + recomputed


# ---------------------------------------------------------------------------------------------- parts of stages


def sampled(n: Network, rows: float, query: float, response: float, how: Economy = NOW) -> list[Product]:
    """Responses drawn over a cache, the mean of whose lengths stands for all of them."""
    steps, seen = response - 1, query + response / 2 - 1
    first = forward(n, rows, query, 1, 1, how=how)
    return first + repeated(forward(n, rows, 1, 1, 1, seen, how), steps)


def answer(n: Network, rows: float, query: float, response: float, how: Economy = NOW) -> list[Product]:
    """Responses drawn, and read by the reference policy and the reward model."""
    read = forward(n, rows, query + response - 1, response, response, how=how)
    return sampled(n, rows, query, response, how) + read + forward(n, rows, query + response, 1, how=how)


def rollout(n: Network, rows: float, query: float, response: float, how: Economy = NOW) -> list[Product]:
    """Episodes: answers, and what the critic says of them."""
    return answer(n, rows, query, response, how) + forward(n, rows, query + response - 1, response, how=how)


def update(
    n: Network, rows: float, query: float, response: float, how: Economy = NOW, again: float = 0
) -> list[Product]:
    """Episodes' pass through an optimizer step of PPO: policy and critic, forward and backward."""
    text = query + response - 1
    read = forward(n, rows, text, response, response, how=how) + forward(n, rows, text, response, how=how)
    return learnt(read, again, how)


def sft(n: Network, rows: float, text: float, how: Economy = NOW, again: float = 0) -> list[Product]:
    """Texts' pass through an optimizer step of SFT."""
    places = text - how.last_token
    return learnt(forward(n, rows, places, places, places, how=how), again, how)


def compared(n: Network, rows: float, query: float, pair: float, how: Economy = NOW) -> list[Product]:
    """Scores of comparisons: two texts each, behind one query."""
    if not how.shared_query:
        return forward(n, 2 * rows, pair, 1, how=how)
    if not how.other_ending:  # query and both endings are one row
        return forward(n, rows, 2 * pair - query, 2, how=how)
    return forward(n, rows, query, 0, how=how) + forward(n, 2 * rows, pair - query, 1, before=query, how=how)


def comparison(
    n: Network, rows: float, query: float, pair: float, how: Economy = NOW, again: float = 0
) -> list[Product]:
    """Comparisons' pass through an optimizer step of the reward model."""
    return learnt(compared(n, rows, query, pair, how), again, how)


# ---------------------------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class Lengths:
    """Tokens of a query, a drawn response, a query with its reference, and a query with one of two compared texts."""

    query: float
    response: float
    text: float
    pair: float

    @classmethod
    def most(cls, scale: Scale) -> "Lengths":
        return cls(scale.query_tokens, scale.response_tokens, scale.query_reference_tokens, scale.query_pair_tokens)


@dataclass(frozen=True)
class Passes:
    """How often an arm sees the data of each stage."""

    sft: int = 1
    rm: int = 1
    ppo: int = 4


PASSES = Passes()  # the paper's


@dataclass(frozen=True)
class Stages:
    """What each stage of a scale computes, in parts that differ in speed: part -> products."""

    scale: Scale
    network: Network
    lengths: Lengths
    passes: Passes = PASSES
    how: Economy = NOW

    @property
    def _again(self) -> float:
        return float(self.scale.recompute == "layers")

    def of(self, name: str, learning: bool = True) -> dict[str, list[Product]]:
        """Of a stage; not `learning` where its weights are taken from elsewhere."""
        parts = {"sft": self.sft, "rm": self.rm, "ppo": self.ppo, "baseline": self.evaluate, "evaluate": self.evaluate}
        return parts[name](learning) if name in parts else {}

    def sft(self, learning: bool) -> dict[str, list[Product]]:
        s, n, text = self.scale, self.network, self.lengths.text
        if not learning:
            return {"read": self._read(s.sft_batch, text, logits=text)}
        rows = min(s.micro_batch, s.sft_batch)
        return {"sft": repeated(sft(n, rows, text, self.how, self._again), s.posts * self.passes.sft / rows)}

    def rm(self, learning: bool) -> dict[str, list[Product]]:
        """Training, then scores of the references that it is centred on, and of comparisons and references for checks."""
        s, n, lengths = self.scale, self.network, self.lengths
        rows, posts = min(s.micro_batch, s.rm_batch), min(s.posts, s.normalisation_posts) + 3 * s.validation_posts
        some = compared(n, s.rollout_batch, lengths.query, lengths.pair, self.how)
        read = repeated(some, s.validation_comparisons / s.rollout_batch) + self._read(posts, lengths.text)
        if not learning:
            return {"read": read}
        step = comparison(n, rows, lengths.query, lengths.pair, self.how, self._again)
        return {"rm": repeated(step, s.comparisons * self.passes.rm / rows), "read": read}

    def ppo(self, learning: bool) -> dict[str, list[Product]]:
        """Rollouts, updates, and the curve's validations, each with scores of the references."""
        s, n, lengths = self.scale, self.network, self.lengths
        if not learning:
            return {}
        rows, some = min(s.micro_batch, s.ppo_batch), min(s.rollout_batch, s.ppo_batch)
        looks = math.ceil(s.episodes // s.ppo_batch / s.evaluate_every)
        step = update(n, rows, lengths.query, lengths.response, self.how, self._again)
        rolled = rollout(n, some, lengths.query, lengths.response, self.how)
        return {
            "roll out": repeated(rolled, s.episodes / some),
            "update": repeated(step, s.episodes * self.passes.ppo / rows),
            "answer": self._answered(looks * s.validation_posts),
            "read": self._read(looks * s.validation_posts, lengths.text),
        }

    def evaluate(self, learning: bool = True) -> dict[str, list[Product]]:
        """The test posts answered twice, and scores of their references."""
        posts = self.scale.test_posts
        return {"answer": self._answered(2 * posts), "read": self._read(posts, self.lengths.text)}

    def _answered(self, posts: float) -> list[Product]:
        rows = self.scale.rollout_batch
        return repeated(answer(self.network, rows, self.lengths.query, self.lengths.response, self.how), posts / rows)

    def _read(self, texts: float, tokens: float, logits: float = 0) -> list[Product]:
        rows = self.scale.rollout_batch
        return repeated(forward(self.network, rows, tokens, max(1, logits), logits, how=self.how), texts / rows)


def learns(name: str, scale: Scale) -> bool:
    """Whether the stage trains: not where its weights are taken from elsewhere."""
    return not any(getattr(scale, field) for field, stage_of in hub.STARTS.items() if stage_of == name)
