"""The memory and disk that a stage needs, computed from the network's shape."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from repro.engine.flops import Network, network_of
from repro.engine.stage_flops import trains
from repro.ops import vocabulary
from repro.study.scale import Scale

# Bytes of a trained weight with its gradient and Adam's two moments: (on every rank, sharded over the ranks).
# DeepSpeed has another copy for the computation; zero3's configuration offloads the rest to the CPU.
TRAINED_BYTES = {"none": (16, 0), "fsdp": (0, 16), "zero2": (2, 16), "zero3": (0, 2)}
FROZEN_BYTES = {"float32": 4, "bfloat16": 2}  # bytes of a frozen weight


@dataclass(frozen=True)
class Bytes:
    """Bytes as counted on this code; of activations per token and unit of width of a GPT-NeoX."""

    stored: float  # activations that a layer stores for its backward pass
    keys: float  # those that the last layer stores at positions whose output is not used
    working: float  # activations that exist once, besides those stored by all layers
    inference: float  # activations of a forward pass without gradient
    number: float  # a number of the key-value cache or of a mask
    logit: float  # a logit in the forward pass
    logit_backward: float  # a logit in the backward pass
    head_backward: float  # a weight of the output head in the backward pass


# A logit is a product, its float32 copy and an exponential; in the backward pass the first two and a gradient. The output head
# has the gradient of the blocks so far, and that of another block or a float32 copy.
MIXED = Bytes(stored=32, keys=12, working=8, inference=36, number=2, logit=10, logit_backward=8, head_backward=6)
FULL = Bytes(stored=60, keys=20, working=14, inference=48, number=4, logit=8, logit_backward=4, head_backward=8)
INPUT = 4  # bytes per token and unit of width of a layer's input, which is stored where layers are recomputed
END = 8  # the same of the last layer's output, where it is used, and of its normalisation
ROTATION = 3 * 3 * 4  # bytes per column and unit of width: a cosine and two sines of query, key and value
SAMPLED_LOGIT = 5 * 4  # bytes of a logit to sample from: two copies, scaled logit, probability, cumulative sum


def memory(scale: Scale, mixed: bool = True, reward_models: int = 1) -> dict[str, float]:
    """Peak bytes on each device over the stages that train and the evaluation: what is stored -> bytes."""
    size: Bytes = MIXED if mixed else FULL
    trained: dict[str, Callable[[Scale, Bytes], dict[str, float]]] = {
        "ppo": partial(_ppo_memory, reward_models=reward_models),
        "sft": _sft_memory,
        "rm": _rm_memory,
    }
    counted = [each for name, each in trained.items() if trains(name, scale)]
    return max((each(scale, size) for each in (*counted, _evaluation_memory)), key=lambda parts: sum(parts.values()))


def _ppo_memory(scale: Scale, size: Bytes, reward_models: int = 1) -> dict[str, float]:
    n, text = network_of(scale.model), scale.query_tokens + scale.response_tokens
    batch, copied = _Batch(scale.micro_batch, text, scale.response_tokens), _copied(n, scale, size)
    updating = _backward(n, scale, batch, size, networks=2, logits=_logits(n, batch, size)) | {
        "bfloat16 copies": copied if scale.recompute == "layers" else 2 * copied,
    }
    fixed = {
        "weights, gradients, moments": _trained(n.policy + n.scalar, scale),
        "frozen networks": FROZEN_BYTES[scale.frozen_weights] * (n.policy + reward_models * n.scalar),
    }
    return fixed | max(updating, _rolling(n, scale, size), key=lambda parts: sum(parts.values()))


def _evaluation_memory(scale: Scale, size: Bytes) -> dict[str, float]:
    """Of an evaluation: the policy in float32, reference policy and reward model in `frozen_weights`."""
    n = network_of(scale.model)
    return {
        "frozen networks": 4 * n.policy + FROZEN_BYTES[scale.frozen_weights] * (n.policy + n.scalar),
        **_rolling(n, scale, size),
    }


def _rolling(n: Network, scale: Scale, size: Bytes) -> dict[str, float]:
    """Of a rollout: of sampling with a cache, or of the scoring after it, without a cache but with logits at all positions."""
    text, rows = scale.query_tokens + scale.response_tokens, scale.rollout_batch
    drawing = {"key-value cache": kv_cache(scale, size.number), "logits": rows * n.vocabulary * SAMPLED_LOGIT}
    reading = {"logits": size.logit * min(vocabulary.LARGE_BLOCK, rows * scale.response_tokens * n.vocabulary)}
    return max(drawing, reading, key=lambda parts: sum(parts.values())) | {
        "activations": (rows * size.inference + ROTATION) * text * n.hidden,
        "bfloat16 copies": _copied(n, scale, size),
    }


def _sft_memory(scale: Scale, size: Bytes) -> dict[str, float]:
    """Of SFT, whose loss is at every position of a text."""
    n, text = network_of(scale.model), scale.query_reference_tokens
    every = _Batch(scale.micro_batch, text, text)
    return {
        "weights, gradients, moments": _trained(n.policy, scale),
        "bfloat16 copies": _copied(n, scale, size),
        **_backward(n, scale, every, size, networks=1, logits=_logits(n, every, size)),
    }


def _rm_memory(scale: Scale, size: Bytes) -> dict[str, float]:
    """Of the reward model: a row has the micro-batch's longest query, and the longest of its first and second responses."""
    n = network_of(scale.model)
    text = min(scale.query_tokens + 2 * scale.pair_response_tokens, 2 * scale.query_pair_tokens)
    return {
        "weights, gradients, moments": _trained(n.scalar, scale),
        "bfloat16 copies": _copied(n, scale, size),
        **_backward(n, scale, _Batch(scale.micro_batch, text, 2), size, networks=1, logits=0),
    }


def _copied(n: Network, scale: Scale, size: Bytes) -> float:
    """The copy of one network that autocast stores; of a sharded one the gathered parts: two layers, embedding and head."""
    parts = n.body + n.head if scale.sharding == "none" else 2 * n.body / n.layers + 2 * n.head
    return 2 * parts if size is MIXED else 0.0


def _trained(weights: float, scale: Scale) -> float:
    replicated, sharded = TRAINED_BYTES[scale.sharding]
    return weights * (replicated + sharded / scale.processes)


@dataclass(frozen=True)
class _Batch:
    """A micro-batch: rows, columns of a row, and positions of a row whose output is used."""

    rows: float
    text: float
    read: float


def _backward(n: Network, scale: Scale, batch: _Batch, size: Bytes, networks: int, logits: float) -> dict[str, float]:
    """Of a backward pass through so many networks: stored activations, and the larger of logits and one layer's work."""
    tokens, read, again = batch.rows * batch.text, batch.rows * batch.read, scale.recompute == "layers"
    layer = size.stored * n.hidden + size.number * batch.text
    last = tokens * size.keys * n.hidden + read * (layer - size.keys * n.hidden)
    stored = tokens * INPUT * n.hidden * n.layers if again else tokens * layer * (n.layers - 1) + last
    stored += read * END * n.hidden + batch.text * ROTATION * n.hidden
    working = tokens * (again * layer + size.working * n.hidden)
    return {"activations": networks * stored, "logits or a layer": max(logits, working)}


def _logits(n: Network, batch: _Batch, size: Bytes) -> float:
    """Logits are computed block by block, in the forward pass and again in the backward pass."""
    block = min(vocabulary.LARGE_BLOCK, batch.rows * batch.read * n.vocabulary)
    return max(block * size.logit, block * size.logit_backward + n.head * size.head_backward)


def kv_cache(scale: Scale, number: float) -> float:
    n = network_of(scale.model)
    return scale.rollout_batch * (scale.query_tokens + scale.response_tokens) * 2 * n.layers * n.hidden * number


def disk(name: str, scale: Scale) -> float:
    """Bytes that a finished stage has in the cache: weights in float32 and tokenised texts; logs are small."""
    n, both = network_of(scale.model), network_of(scale.model).policy + network_of(scale.model).scalar
    texts = 8 * (
        scale.posts * (scale.query_tokens + scale.query_reference_tokens)
        + 2 * scale.comparisons * scale.query_pair_tokens
    )
    often = scale.checkpoint_every * scale.keep_every
    checkpoints = 1 + (scale.episodes // scale.ppo_batch // often if often else 0) if scale.checkpoint_every else 0
    size = {
        "data": texts,
        "base": 4 * n.policy,
        "sft": 4 * n.policy,
        "rm": 4 * n.scalar,
        "ppo": (1 + checkpoints) * 4 * both if trains("ppo", scale) else 4 * n.policy,
    }
    return size.get(name, 0.0)


def checkpoint(scale: Scale) -> float:
    """Bytes of PPO's last checkpoint and the next one, which is written beside it: weights and Adam's two moments."""
    n = network_of(scale.model)
    return 2 * 12 * (n.policy + n.scalar) if scale.checkpoint_every and trains("ppo", scale) else 0.0


def host(scale: Scale) -> float:
    """Bytes of host memory that a node's ranks take while PPO loads, all of its ranks on one node.

    Each rank reads policy and critic in float32 before they are sharded, and one frozen network at a time.
    """
    n = network_of(scale.model)
    return scale.processes * 4 * (2 * n.policy + n.scalar) if trains("ppo", scale) else scale.processes * 4 * n.policy
