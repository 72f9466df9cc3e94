"""How long a stage will take, and the memory and disk that it needs: as its like did here before, else from arithmetic.

What a stage computes is counted in `flops.py`. A scale that a CPU has time for: the operations of each part of a stage at
the speed that this computer reached in a measurement of seconds (`speed.py`), and what is beside them. A scale for GPUs: the
same operations at an assumed share of the device's peak; and a decoding step takes as long as reading the weights and the
cache does.
"""

import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

import torch

from repro import details as d
from repro.detail import Pick, Recipe
from repro.engine import speed
from repro.engine.flops import PASSES, PYTHIA, Lengths, Network, Passes, Stages, network_of, rollout, total, update
from repro.engine.launch import Job
from repro.engine.speed import Speeds
from repro.models import hub
from repro.ops import vocabulary
from repro.stages import stage
from repro.study.scale import Scale

__all__ = [
    "PYTHIA",
    "Network",
    "Passes",
    "network_of",
]  # of `repro/engine/flops.py`; who asks for costs finds them here
OVERHEAD = 1.5  # seconds for loading and saving
GIB = 2**30


def seconds(jobs: Iterable[Job], cache_folder: Path) -> float:
    """Seconds that the jobs will take one after another: each on a core, or on as many GPUs as its scale has ranks."""
    return sum(each_seconds(jobs, cache_folder))


def each_seconds(jobs: Iterable[Job], cache_folder: Path) -> list[float]:
    """The same of each job."""
    before, known = history(cache_folder), cache(lambda scale: speed.remembered(cache_folder, scale))
    return [before.get((job.stage, job.scale.name)) or _expected(job, known) for job in jobs]


def history(cache_folder: Path) -> dict[tuple[str, str], float]:
    """(stage, scale) -> median seconds of the finished artefacts in the cache."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in cache_folder.glob(f"*/{stage.DONE}"):
        with suppress(ValueError, KeyError, OSError):  # corrupt, or being replaced just now
            done = json.loads(path.read_text())
            found.setdefault((path.parent.name.rsplit("-", 1)[0], done["scale"]), []).append(done["seconds"])
    return {key: median(values) for key, values in found.items()}


def learns(name: str, scale: Scale) -> bool:
    """Whether the stage trains: not where its weights are taken from elsewhere."""
    return not any(getattr(scale, field) for field, stage_of in hub.STARTS.items() if stage_of == name)


def _expected(job: Job, known: Callable[[Scale], Speeds]) -> float:
    passes = passes_of(job.recipe)
    if for_gpu(job.scale):
        return gpu_seconds(job.stage, job.scale, at_hand(), passes)
    return estimate(job.stage, job.scale, known(job.scale), passes)


# ---------------------------------------------------------------------------------------------- on cores

FILLED = 0.9  # of a text's room is taken by the longest of a micro-batch, which its others are padded to
TEXTS = 4_500  # posts and compared texts that a second makes and tokenises
JUDGED = 400  # answers that a second grades and compares, by ROUGE too


def estimate(name: str, scale: Scale, speeds: Speeds = speed.UNMEASURED, passes: Passes = PASSES) -> float:
    """Seconds on one worker's cores, from the arithmetic and the speeds that were measured on them."""
    parts = Stages(scale, network_of(scale.model), filled(scale), passes).of(name, learns(name, scale))
    computed = sum(total(products) / speeds.of(part) for part, products in parts.items())
    judged = scale.test_posts / JUDGED if name in ("baseline", "evaluate") else 0.0
    return OVERHEAD + _tokenising(name, scale) + computed + judged


def filled(scale: Scale) -> Lengths:
    """The lengths that are computed, padding to a micro-batch's longest text included."""
    most = Lengths.most(scale)
    return replace(most, query=FILLED * most.query, text=FILLED * most.text, pair=FILLED * most.pair)


def _tokenising(name: str, scale: Scale) -> float:
    return (scale.posts + 2 * scale.comparisons) / TEXTS if name == "data" else 0.0


# ---------------------------------------------------------------------------------------------- devices


@dataclass(frozen=True)
class Device:
    """Peak of dense bfloat16 multiplication [1/s], memory [GiB], its bandwidth [B/s]; whether one is here."""

    name: str
    flops: float
    gib: float
    bandwidth: float
    here: bool = False


# The vendor's figures, the more particular name first; memory is what its driver shows.
DEVICES = (
    Device("H100 PCIe", 756e12, 79.6, 2.0e12),
    Device("H100 80GB", 989e12, 79.6, 3.35e12),
    Device("H200", 989e12, 140.4, 4.8e12),
    Device("A100-SXM4-80GB", 312e12, 79.3, 2.04e12),
    Device("A100", 312e12, 39.5, 1.56e12),
)
ASSUMED = DEVICES[1]
USED = 0.4  # of the peak, while something is learnt or read; trainers that are published reach 0.1 to 0.4
READ = 0.6  # of the bandwidth, while responses are drawn
LINK = 3e11  # bytes a second between the GPUs of a machine
LAUNCH = 30 * 5e-6  # seconds of a layer of one decoding step where Python launches its kernels
ONE_RANK = ("data", "base")  # stages that several GPUs do no faster
FROM_WEIGHTS = 5e7  # in matrices, from which on a study is one for GPUs


def for_gpu(scale: Scale) -> bool:
    return network_of(scale.model).body >= FROM_WEIGHTS


@cache
def at_hand() -> Device:
    """This machine's GPU, measured where its like is not known; the one that is assumed where there is none."""
    if not torch.cuda.is_available():
        return ASSUMED
    shown = torch.cuda.get_device_properties(0)
    known = next((each for each in DEVICES if each.name in shown.name), Device(shown.name, *_measured()))
    return replace(known, gib=shown.total_memory / GIB, here=True)


def _measured() -> tuple[float, float, float]:
    """Multiplications a second, GiB and bytes a second of the GPU, from a second of work."""
    one = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    multiply = _seconds_of(lambda: one @ one)
    copy = _seconds_of(one.clone)
    return 2 * 8192**3 / multiply, 0.0, 2 * one.numel() * one.element_size() / copy


def _seconds_of(work, times: int = 20) -> float:
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    work()
    began.record()
    for _ in range(times):
        work()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000 / times


# ---------------------------------------------------------------------------------------------- time on GPUs


def passes_of(recipe: Recipe) -> Passes:
    return Passes(Pick(recipe, "sft")(d.SFT_EPOCHS), Pick(recipe, "rm")(d.RM_EPOCHS), Pick(recipe, "ppo")(d.PPO_EPOCHS))


def rollout_flops(network: Network, query: float, response: float) -> float:
    """Operations of an episode: drawn, and read by the reference policy, the critic and the reward model."""
    return total(rollout(network, 1, query, response))


def update_flops(network: Network, query: float, response: float, again: float = 0) -> float:
    """Operations of an episode's pass through an optimizer step: policy and critic, forward, backward, layers `again`."""
    return total(update(network, 1, query, response, again=again))


def gpu_seconds(name: str, scale: Scale, device: Device, passes: Passes = PASSES) -> float:
    """Seconds of a stage on its ranks' GPUs, whose talk about gradients is taken to hide behind their work."""
    learning = learns(name, scale)
    parts = Stages(scale, network_of(scale.model), Lengths.most(scale), passes).of(name, learning)
    flops, answers = sum(map(total, parts.values())), 2 * scale.test_posts if name in ("baseline", "evaluate") else 0
    if name == "ppo" and learning:
        looks = scale.episodes / scale.ppo_batch / scale.evaluate_every
        answers = scale.episodes + looks * scale.validation_posts
    alone = 1 if name in ONE_RANK else scale.processes
    drawing = answers / alone / scale.rollout_batch * decode_seconds(scale, device)
    return OVERHEAD + _tokenising(name, scale) + flops / alone / (device.flops * USED) + drawing


def decode_seconds(scale: Scale, device: Device) -> float:
    """Seconds in which a rank draws a rollout batch: of reading weights and cache, or what takes longer for each token.

    That is launching kernels from Python, or gathering weights that ranks share.
    """
    network = network_of(scale.model)
    read = 2 * (network.body + network.head) + _kv_cache(scale, 2)
    launched = LAUNCH * network.layers if scale.sampler == "eager" else 0
    gathered = 2 * (network.body + network.head) / LINK if scale.sharding in ("fsdp", "zero3") else 0
    return scale.response_tokens * max(read / (device.bandwidth * READ), launched, gathered)


# ---------------------------------------------------------------------------------------------- memory and disk

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
    drawing = {"key-value cache": _kv_cache(scale, size.number), "logits": rows * n.vocabulary * DRAWN}
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


def _kv_cache(scale: Scale, number: float) -> float:
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


# ---------------------------------------------------------------------------------------------- in words


def told(jobs: Iterable[Job], scale: Scale, cache_folder: Path, workers: int) -> list[str]:
    """What the jobs need of GPUs and disk, a line each; on a machine without a GPU, of one that is assumed."""
    jobs, device, ranks = list(jobs), at_hand(), scale.processes
    spent = [seconds([job], cache_folder) for job in jobs]
    hours = sum(time * _ranks_of(job) for time, job in zip(spent, jobs)) / 3600
    parts = memory(scale)
    needed, has = sum(parts.values()) / GIB, f"{device.gib:.0f} GiB"
    if not math.isfinite(needed):
        return [f"{scale.model} is not here, so nobody knows its size: fetch it first (python -m repro fetch)"]
    shares = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size > GIB / 20)
    left = sum(disk(job.stage, scale) for job in jobs)
    room = "" if needed < device.gib else "; it does not fit: lower micro_batch or rollout_batch, or raise processes"
    return [
        f"assuming {ranks}x {device.name}{'' if device.here else ' (none here)'} a worker, at {USED:.0%} of its peak of "
        f"{device.flops / 1e12:.0f} TFLOP/s where it learns or reads, and {READ:.0%} of its bandwidth where it draws",
        f"memory: about {needed:.0f} GiB of the {has} of each GPU ({shares}){room}",
        f"host memory: about {host(scale) / 1e9:,.0f} GB on the node while it loads{', for each worker' * (workers > 1)}",
        f"{workers} worker{'s' * (workers > 1)} of {ranks} GPU{'s' * (ranks > 1)}; {hours:,.0f} GPU-hours in all",
        f"disk: {left / 1e9:,.0f} GB of artefacts; {checkpoint(scale) / 1e9:,.0f} GB of checkpoints while PPO runs",
    ]


def _ranks_of(job: Job) -> int:
    return 1 if job.stage in ONE_RANK else job.scale.processes
