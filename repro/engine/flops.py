"""The matrix products of each stage, from formulas.

Each product has its shape, so that its operations can be counted (`repro/engine/cost.py`) and its speed measured
(`benchmarks/bound.py`). Other operations are left out: at these sizes their time is memory traffic and overhead.
"""

import json
import math
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from repro.errors import UserError, reason
from repro.models import hub
from repro.models.pretrained import read_config
from repro.models.shape import parse_shape

# Hidden size, layers, heads and intermediate size, so that a study can be planned before its model is downloaded.
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
    """The sizes of a transformer that its operations depend on; NaN where the model is not known."""

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
        """All weights of a policy, whose embedding and output head are not tied."""
        return self.body + self.layers * (9 * self.hidden + self.intermediate) + 2 * self.head

    @property
    def scalar(self) -> float:
        """All weights of a reward model or critic."""
        return self.policy - self.head


@cache
def network_of(source: str) -> Network:
    """The sizes of `Scale.model`, from its configuration, its shape, or the name of a Pythia."""
    if hub.is_reference(source):
        named = re.search(r"pythia-([0-9.]+[mb])\b", source)
        if not hub.is_local(source, "model"):
            return network_of(f"gpt-neox:{PYTHIA[named[1]]}") if named and named[1] in PYTHIA else Network()
        source = str(hub.resolve(source, "model"))
    if os.path.exists(source):
        return _from_configuration(Path(source)) or _from_library(Path(source))
    hidden, layers, heads, intermediate = parse_shape(source)
    return Network(hidden, layers, intermediate, heads=heads)


def _from_configuration(source: Path) -> Network | None:
    """The sizes of a GPT-NeoX such as Pythia from its config.json, without importing transformers; None for another model."""
    names = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_attention_heads")
    with suppress(
        OSError, ValueError, KeyError, TypeError, RecursionError
    ):  # transformers raises its own error for a file that it cannot read either
        config = json.loads((source / "config.json").read_text())
        sizes = [config[name] for name in names]
        if config["model_type"] == "gpt_neox" and all(type(size) is int and size > 0 for size in sizes):
            return Network(*sizes)
    return None


def _from_library(source: Path) -> Network:
    """The sizes of any other model from transformers, which knows the name that each kind of model has for them."""
    config = read_config(source).get_text_config()
    try:
        wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        return Network(
            config.hidden_size, config.num_hidden_layers, wide, config.vocab_size, config.num_attention_heads
        )
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"{source}: it does not say how large its network is ({reason(error)}); give another model"
        ) from None


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
    """The work that a pass leaves out because its result is not used."""

    last_layer: bool  # of the last layer: all but queries, keys and values at positions whose output is not used
    last_queries: bool  # and the queries at these positions
    shared_query: bool  # the query of a comparison is computed once for both texts
    other_ending: bool  # attention of either text of a comparison to the other's response, which is masked
    last_token: bool  # the last token of a text in SFT, which predicts nothing
    logits_again: bool  # recomputing the logits in the backward pass, instead of storing them


# Everything left out: for the lower bound on the time.
LEAN = Economy(
    last_layer=True,
    last_queries=True,
    shared_query=True,
    other_ending=True,
    last_token=True,
    logits_again=True,
)
# What this project's passes leave out; tests compare it with the operations that torch counts.
CURRENT = replace(LEAN, last_queries=False, other_ending=False, logits_again=False)


def total(products: Iterable[Product]) -> float:
    return sum(product.flops for product in products)


def repeated(products: Iterable[Product], times: float) -> list[Product]:
    return [replace(product, times=product.times * times) for product in products]


def forward(
    n: Network,
    rows: float,
    tokens: float,
    read: float,
    logits: float = 0,
    before: float = 0,
    economy: Economy = CURRENT,
) -> list[Product]:
    """A forward pass of `rows` texts of `tokens` after `before` cached ones; the output is used at `read` positions of each.

    Attention is counted in full: with a padding mask no kernel leaves out the half that is causal.
    """
    read = read if economy.last_layer else tokens
    found = _layers(n, n.layers - 1, rows, tokens, tokens, before, economy) + _layers(
        n, 1, rows, tokens, read, before, economy
    )
    return found + [Product("logits", 1, rows * logits, n.hidden, n.vocabulary)] * bool(logits)


def _layers(
    n: Network, times: float, rows: float, tokens: float, read: float, before: float, economy: Economy
) -> list[Product]:
    """`times` layers, each with keys and values of all tokens, and everything else at `read` of them."""
    every, some, seen, width = rows * tokens, rows * read, before + tokens, n.hidden / n.heads
    inputs = [(every, 2), (some, 1)] if economy.last_queries and read != tokens else [(every, 3)]
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


def forward_backward(products: list[Product], again: float = 0, economy: Economy = CURRENT) -> list[Product]:
    """Forward and backward pass: the products, the gradients of both factors, and recomputed products.

    Logits are recomputed unless stored; so are the layers, `again` times, each without its last matrix.
    """
    of_left = [replace(p, inner=p.columns, columns=p.inner) for p in products]
    of_right = [replace(p, rows=p.inner, inner=p.rows) for p in products]
    repeats = {"linear": again, "attention": again, "logits": float(not economy.logits_again)}
    recomputed = [replace(p, times=p.times * repeats[p.kind]) for p in products if repeats.get(p.kind)]
    return products + of_left + of_right + recomputed


# ---------------------------------------------------------------------------------------------- parts of stages


def sampled(
    n: Network, rows: float, query: float, response: float, economy: Economy = CURRENT, responses: float = 1
) -> list[Product]:
    """Responses sampled with a key-value cache, at the cache's mean length; `responses` to a query share the pass over it."""
    steps, seen = response - 1, query + response / 2 - 1
    first = forward(n, rows / responses, query, 1, 1, economy=economy)
    return first + repeated(forward(n, rows, 1, 1, 1, seen, economy), steps)


def answer(
    n: Network, rows: float, query: float, response: float, economy: Economy = CURRENT, responses: float = 1
) -> list[Product]:
    """Responses sampled, and a forward pass over them of the reference policy and the reward model."""
    read = forward(n, rows, query + response - 1, response, response, economy=economy)
    drawn = sampled(n, rows, query, response, economy, responses)
    return drawn + read + forward(n, rows, query + response, 1, economy=economy)


def evaluated(
    n: Network,
    rows: float,
    query: float,
    response: float,
    economy: Economy = CURRENT,
    responses: float = 1,
    references: int = 1,
) -> list[Product]:
    """As `answer`, of an evaluation: `responses` to a query share each network's pass over it."""
    queries, after = rows / responses, response - 1
    drawn = sampled(n, rows, query, response, economy, responses)
    read = forward(n, queries, query, 1, 1, economy=economy) + forward(n, rows, after, after, after, query, economy)
    scored = forward(n, queries, query, 1, economy=economy) + forward(n, rows, response, 1, 0, query, economy)
    return drawn + references * read + scored


def rollout(
    n: Network,
    rows: float,
    query: float,
    response: float,
    economy: Economy = CURRENT,
    critics: int = 1,
    responses: float = 1,
) -> list[Product]:
    """Episodes: `answer`, and a forward pass of the critic, if there is one."""
    values = critics * forward(n, rows, query + response - 1, response, economy=economy)
    return answer(n, rows, query, response, economy, responses) + values


def update(
    n: Network,
    rows: float,
    query: float,
    response: float,
    economy: Economy = CURRENT,
    again: float = 0,
    critics: int = 1,
) -> list[Product]:
    """An optimizer step of PPO on so many episodes: policy and critic, if there is one, forward and backward."""
    text = query + response - 1
    values = critics * forward(n, rows, text, response, economy=economy)
    return forward_backward(forward(n, rows, text, response, response, economy=economy) + values, again, economy)


def fisher_vector_product(
    n: Network, rows: float, query: float, response: float, economy: Economy = CURRENT
) -> list[Product]:
    """A product of the policy's Fisher matrix with a vector, as TRPO has it, on so many episodes.

    A forward pass; its gradient, with a graph; and the gradient of that, which is twice the two.
    """
    return repeated(forward(n, rows, query + response - 1, response, response, economy=economy), 9)


def sft(n: Network, rows: float, text: float, economy: Economy = CURRENT, again: float = 0) -> list[Product]:
    """An optimizer step of SFT on so many texts."""
    places = text - economy.last_token
    return forward_backward(forward(n, rows, places, places, places, economy=economy), again, economy)


def compared(n: Network, rows: float, query: float, pair: float, economy: Economy = CURRENT) -> list[Product]:
    """Scores of comparisons, of two responses to one query each."""
    if not economy.shared_query:
        return forward(n, 2 * rows, pair, 1, economy=economy)
    if not economy.other_ending:  # query and both responses are one row
        return forward(n, rows, 2 * pair - query, 2, economy=economy)
    return forward(n, rows, query, 0, economy=economy) + forward(
        n, 2 * rows, pair - query, 1, before=query, economy=economy
    )


def comparison(
    n: Network, rows: float, query: float, pair: float, economy: Economy = CURRENT, again: float = 0
) -> list[Product]:
    """An optimizer step of the reward model on so many comparisons."""
    return forward_backward(compared(n, rows, query, pair, economy), again, economy)
