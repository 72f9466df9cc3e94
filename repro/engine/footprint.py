"""The memory and disk that a stage needs, from arithmetic on the network's shape."""

from dataclasses import dataclass

from repro.engine.flops import Network, learns, network_of
from repro.ops import vocabulary
from repro.study.scale import Scale

# Bytes of a weight that is learnt, with its gradient and Adam's two moments: held by every rank, and dealt out among them.
# DeepSpeed keeps a copy to compute with; zero3's configuration sends all the rest to the CPU.
LEARNT = {"none": (16, 0), "fsdp": (0, 16), "zero2": (2, 16), "zero3": (0, 2)}
HELD = {"float32": 4, "bfloat16": 2}  # bytes of a frozen weight


@dataclass(frozen=True)
class Bytes:
    """As counted on this code. Of a GPT-NeoX's activations per token and unit of width: what a layer has `kept` for its
    backward pass, the `keys` of it that a last layer keeps where nothing is read, what is `there` once beside what all
    layers keep, and `passing` in a forward pass that keeps nothing. Of a `number` of a cache or a mask. Of a `logit` as it
    is measured, and on the way `back`, when there are some of each weight of their `head` too.
    """

    kept: float
    keys: float
    there: float
    passing: float
    number: float
    logit: float
    back: float
    head: float


# A logit is a product, its float32 copy and an exponential to sum; on the way back, the first two and a gradient. Their head
# has the gradient of the blocks so far, and that of another block or a float32 copy.
MIXED = Bytes(kept=32, keys=12, there=8, passing=36, number=2, logit=10, back=8, head=6)
FULL = Bytes(kept=60, keys=20, there=14, passing=48, number=4, logit=8, back=4, head=8)
INPUT = 4  # bytes per token and unit of width of a layer's input, which is kept where layers are recomputed
END = 8  # the same of the last layer's output, where it is read, and of its normalisation
ROTATION = 3 * 3 * 4  # bytes per column and unit of width: a cosine and two sines of query, key and value
DRAWN = 5 * 4  # bytes of a logit that is drawn from: two of its own dtype, scaled, probability, their sum so far


def memory(scale: Scale, mixed: bool = True) -> dict[str, float]:
    """Bytes on each device at the largest moment of the stages that train here and of evaluation, by what takes them."""
    size, trained = MIXED if mixed else FULL, {"ppo": _ppo_memory, "sft": _sft_memory, "rm": _rm_memory}
    counted = [each for name, each in trained.items() if learns(name, scale)]
    return max((each(scale, size) for each in (*counted, _drawing_memory)), key=lambda parts: sum(parts.values()))


def _ppo_memory(scale: Scale, size: Bytes) -> dict[str, float]:
    n, text = network_of(scale.model), scale.query_tokens + scale.response_tokens
    batch, copied = _Batch(scale.micro_batch, text, scale.response_tokens), _copied(n, scale, size)
    updating = _backward(n, scale, batch, size, networks=2, logits=_logits(n, batch, size)) | {
        "bfloat16 copies": copied if scale.recompute == "layers" else 2 * copied,
    }
    held = {
        "weights, gradients, moments": _learnt(n.policy + n.scalar, scale),
        "frozen networks": HELD[scale.frozen_weights] * (n.policy + n.scalar),
    }
    return held | max(updating, _rolling(n, scale, size), key=lambda parts: sum(parts.values()))


def _drawing_memory(scale: Scale, size: Bytes) -> dict[str, float]:
    """Of an evaluation: the policy in float32, reference and reward model as they are held."""
    n = network_of(scale.model)
    return {
        "frozen networks": 4 * n.policy + HELD[scale.frozen_weights] * (n.policy + n.scalar),
        **_rolling(n, scale, size),
    }


def _rolling(n: Network, scale: Scale, size: Bytes) -> dict[str, float]:
    """Of rows that are drawn, or read once they are: then their cache is gone, and logits are of all of their places."""
    text, rows = scale.query_tokens + scale.response_tokens, scale.rollout_batch
    drawing = {"key-value cache": kv_cache(scale, size.number), "logits": rows * n.vocabulary * DRAWN}
    reading = {"logits": size.logit * min(vocabulary.LARGE_BLOCK, rows * scale.response_tokens * n.vocabulary)}
    return max(drawing, reading, key=lambda parts: sum(parts.values())) | {
        "activations": (rows * size.passing + ROTATION) * text * n.hidden,
        "bfloat16 copies": _copied(n, scale, size),
    }


def _sft_memory(scale: Scale, size: Bytes) -> dict[str, float]:
    """Its loss is of every place of a text."""
    n, text = network_of(scale.model), scale.query_reference_tokens
    every = _Batch(scale.micro_batch, text, text)
    return {
        "weights, gradients, moments": _learnt(n.policy, scale),
        "bfloat16 copies": _copied(n, scale, size),
        **_backward(n, scale, every, size, networks=1, logits=_logits(n, every, size)),
    }


def _rm_memory(scale: Scale, size: Bytes) -> dict[str, float]:
    """A comparison is a row: the longest query of a micro-batch, and behind it the longest of either response."""
    n = network_of(scale.model)
    text = min(scale.query_tokens + 2 * scale.pair_response_tokens, 2 * scale.query_pair_tokens)
    return {
        "weights, gradients, moments": _learnt(n.scalar, scale),
        "bfloat16 copies": _copied(n, scale, size),
        **_backward(n, scale, _Batch(scale.micro_batch, text, 2), size, networks=1, logits=0),
    }


def _copied(n: Network, scale: Scale, size: Bytes) -> float:
    """What autocast keeps of one network while it runs; where ranks share it, what they gather: two layers and the ends."""
    parts = n.body + n.head if scale.sharding == "none" else 2 * n.body / n.layers + 2 * n.head
    return 2 * parts if size is MIXED else 0.0


def _learnt(weights: float, scale: Scale) -> float:
    whole, dealt = LEARNT[scale.sharding]
    return weights * (whole + dealt / scale.processes)


@dataclass(frozen=True)
class _Batch:
    """What goes through a network at once: rows, columns of each, and how many of those are read."""

    rows: float
    text: float
    read: float


def _backward(n: Network, scale: Scale, batch: _Batch, size: Bytes, networks: int, logits: float) -> dict[str, float]:
    """Of a micro-batch that has gone forward through so many networks: what waits, and what works, logits or a layer."""
    tokens, read, again = batch.rows * batch.text, batch.rows * batch.read, scale.recompute == "layers"
    layer = size.kept * n.hidden + size.number * batch.text
    last = tokens * size.keys * n.hidden + read * (layer - size.keys * n.hidden)
    kept = tokens * INPUT * n.hidden * n.layers if again else tokens * layer * (n.layers - 1) + last
    kept += read * END * n.hidden + batch.text * ROTATION * n.hidden
    working = tokens * (again * layer + size.there * n.hidden)
    return {"activations": networks * kept, "logits or a layer": max(logits, working)}


def _logits(n: Network, batch: _Batch, size: Bytes) -> float:
    """A block is there at once: as they are measured, and again on the way back."""
    block = min(vocabulary.LARGE_BLOCK, batch.rows * batch.read * n.vocabulary)
    return max(block * size.logit, block * size.back + n.head * size.head)


def kv_cache(scale: Scale, number: float) -> float:
    n = network_of(scale.model)
    return scale.rollout_batch * (scale.query_tokens + scale.response_tokens) * 2 * n.layers * n.hidden * number


def disk(name: str, scale: Scale) -> float:
    """Bytes that a finished stage leaves in the cache: weights in float32, and tokenised texts; logs are small."""
    n, both = network_of(scale.model), network_of(scale.model).policy + network_of(scale.model).scalar
    texts = 8 * (
        scale.posts * (scale.query_tokens + scale.query_reference_tokens)
        + 2 * scale.comparisons * scale.query_pair_tokens
    )
    often = scale.checkpoint_every * scale.keep_every
    kept = 1 + (scale.episodes // scale.ppo_batch // often if often else 0) if scale.checkpoint_every else 0
    learnt = {
        "data": texts,
        "base": 4 * n.policy,
        "sft": 4 * n.policy,
        "rm": 4 * n.scalar,
        "ppo": (1 + kept) * 4 * both if learns("ppo", scale) else 4 * n.policy,
    }
    return learnt.get(name, 0.0)


def checkpoint(scale: Scale) -> float:
    """Bytes of a running PPO's last checkpoint and the next, which is written beside it: weights and two moments."""
    n = network_of(scale.model)
    return 2 * 12 * (n.policy + n.scalar) if scale.checkpoint_every and learns("ppo", scale) else 0.0


def host(scale: Scale) -> float:
    """Bytes of host memory that a node's ranks take while PPO loads, all of its ranks on one node.

    Each reads policy and critic in float32 before they are dealt out, and one frozen network at a time.
    """
    n = network_of(scale.model)
    return scale.processes * 4 * (2 * n.policy + n.scalar) if learns("ppo", scale) else scale.processes * 4 * n.policy
