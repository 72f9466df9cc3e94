"""How long a stage will take, and the memory and disk that it needs: as its like did here before, else from arithmetic.

A scale that a CPU has time for: a forward pass is 2 floating-point operations per weight and token, a backward pass twice
that; what is left out is attention's quadratic term and whatever is not matrix multiplication, so it is good to a factor of
two. A scale for GPUs: every matrix multiplication is counted, attention's too, at an assumed share of the device's peak; and
a decoding step takes as long as reading the weights and the cache does.
"""

import json
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

import torch

from repro import hub, model, stage
from repro.detail import Pick, Recipe
from repro.details import PPO_EPOCHS, RM_EPOCHS, SFT_EPOCHS
from repro.launch import Job
from repro.model import pretrained_in
from repro.scale import Scale
from repro.shape import parse_shape

FLOPS = 2.5e10  # of one core in float32, measured on small matrices
OVERHEAD = 2.0  # seconds for loading and saving
GIB = 2**30


def seconds(jobs: Iterable[Job], cache_folder: Path) -> float:
    """Seconds that the jobs will take one after another: each on a core, or on as many GPUs as its scale has ranks."""
    before = history(cache_folder)
    return sum(before.get((job.stage, job.scale.name)) or _expected(job) for job in jobs)


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


def _expected(job: Job) -> float:
    if for_gpu(job.scale):
        return gpu_seconds(job.stage, job.scale, at_hand(), passes_of(job.recipe))
    return estimate(job.stage, job.scale)


# ---------------------------------------------------------------------------------------------- on a core


def estimate(name: str, scale: Scale) -> float:
    """Seconds on one core, from the arithmetic."""
    body, head = _weights(scale.model)
    query, response = scale.query_tokens * 0.9, scale.response_tokens
    whole = 2 * body * (query + response)
    logits = 2 * head * response
    per_episode = 4 * whole + 2 * logits + 4 * 3 * (2 * whole + logits)
    per_answer = 3 * whole + 2 * logits
    if not learns(name, scale):
        return OVERHEAD + (2 * scale.validation_comparisons * whole / FLOPS if name == "rm" else 0.0)
    flops = {
        "data": 0,
        "base": 0,
        "sft": scale.posts * 3 * (2 * (body + head) * (query + response)),
        "rm": 2 * (3 * scale.comparisons + scale.validation_comparisons) * whole,
        "baseline": 2 * scale.test_posts * per_answer,
        "evaluate": 2 * scale.test_posts * per_answer,
        "ppo": scale.episodes * per_episode
        + scale.episodes / scale.ppo_batch / scale.evaluate_every * scale.validation_posts * per_answer,
    }[name]
    return OVERHEAD + _tokenising(name, scale) + flops / FLOPS


def _tokenising(name: str, scale: Scale) -> float:
    return (scale.posts + 2 * scale.comparisons) / 5_000 if name == "data" else 0.0


def _weights(source: str) -> tuple[float, float]:
    """Weights of the transformer's body, and of its output head; of a model that is still on the hub nobody knows."""
    network = network_of(source)
    return network.body, network.head


# ---------------------------------------------------------------------------------------------- networks

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

    def forward(self, tokens: float, places: float = 0, attention: float = 4) -> float:
        """Operations of a row of `tokens`, logits at `places` of them; a mask lets no kernel leave out half of attention."""
        return 2 * self.body * tokens + attention * self.layers * self.hidden * tokens**2 + 2 * self.head * places

    def again(self, tokens: float) -> float:
        """Operations that a backward pass repeats where layers are recomputed: all but each one's last matrix."""
        return self.forward(tokens) - 2 * self.layers * self.hidden * self.intermediate * tokens

    def decode(self, query: float, response: float) -> float:
        """Operations that draw all tokens of a response but the first, over a cache."""
        steps = response - 1
        return steps * 2 * (self.body + self.head) + 4 * self.layers * self.hidden * steps * (query + response / 2)


@cache
def network_of(source: str) -> Network:
    """The network of `Scale.model`: by its configuration, a shape, or a Pythia's name."""
    if hub.is_reference(source):
        named = re.search(r"pythia-([0-9.]+[mb])\b", source)
        if not hub.is_here(source, "model"):
            return network_of(f"gpt-neox:{PYTHIA[named[1]]}") if named and named[1] in PYTHIA else Network()
        source = str(hub.resolve(source, "model"))
    if Path(source).exists():
        return _spelt_out(Path(source)) or _configured(Path(source))
    hidden, layers, _, intermediate = parse_shape(source)
    return Network(hidden, layers, intermediate)


def _spelt_out(source: Path) -> Network | None:
    """Of a folder whose configuration gives the sizes of a GPT-NeoX, as Pythia's does: no library has to be waited for."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # whatever it is, the library has words for it
        told = json.loads((source / "config.json").read_text())
        sizes = [told[name] for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")]
        if told["model_type"] == "gpt_neox" and all(type(size) is int and size > 0 for size in sizes):
            return Network(*sizes)
    return None


def _configured(source: Path) -> Network:
    """Of any other the sizes that `transformers` finds: each kind has its own names for them."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(**pretrained_in(source, "config.json")).get_text_config()
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return Network(config.hidden_size, config.num_hidden_layers, wide, config.vocab_size)


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


@dataclass(frozen=True)
class Passes:
    """How often an arm sees the data of each stage."""

    sft: int = 1
    rm: int = 1
    ppo: int = 4


def passes_of(recipe: Recipe) -> Passes:
    return Passes(Pick(recipe, "sft")(SFT_EPOCHS), Pick(recipe, "rm")(RM_EPOCHS), Pick(recipe, "ppo")(PPO_EPOCHS))


def rollout_flops(network: Network, query: float, response: float) -> float:
    """Operations of an episode: drawn, and read by the reference policy, the critic and the reward model."""
    text = query + response
    drawn = network.forward(query, 1) + network.decode(query, response)
    return drawn + network.forward(text - 1, response) + network.forward(text - 1) + network.forward(text)


def update_flops(network: Network, query: float, response: float, again: float = 0) -> float:
    """Operations of an episode's pass through an optimizer step: policy and critic, forward, backward, layers `again`."""
    text = query + response - 1
    return 2 * (3 * network.forward(text) + again * network.again(text)) + 3 * 2 * network.head * response


def gpu_seconds(name: str, scale: Scale, device: Device, passes: Passes = Passes()) -> float:
    """Seconds of a stage on its ranks' GPUs, whose talk about gradients is taken to hide behind their work."""
    network, again = network_of(scale.model), float(scale.recompute == "layers")
    query, response = scale.query_tokens, scale.response_tokens
    text, pair = scale.query_reference_tokens, scale.query_pair_tokens
    answers, learning = 2 * scale.test_posts if name in ("baseline", "evaluate") else 0, learns(name, scale)
    if name == "ppo" and learning:
        answers = scale.episodes / scale.ppo_batch / scale.evaluate_every * scale.validation_posts
    flops = answers * (rollout_flops(network, query, response))
    if name == "sft" and learning:
        flops += scale.posts * passes.sft * (3 * network.forward(text, text) + again * network.again(text))
    if name == "sft" and not learning:
        flops += scale.sft_batch * network.forward(text, text)
    if name == "rm" and learning:
        flops += passes.rm * scale.comparisons * 2 * (3 * network.forward(pair) + again * network.again(pair))
    if name == "rm":
        flops += scale.validation_comparisons * 2 * network.forward(pair)
        flops += min(scale.posts, scale.normalisation_posts) * network.forward(text)
    if name == "ppo" and learning:
        learnt = passes.ppo * update_flops(network, query, response, again)
        flops += scale.episodes * (rollout_flops(network, query, response) + learnt)
        answers += scale.episodes
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
    """Of one number of a GPT-NeoX: of activations per token and unit of width, and of a cached key or value.

    Activations were counted on this code: `kept` by a layer for its backward pass, `there` once beside what all layers keep,
    `passing` in a forward pass that keeps nothing; and of an attention mask per layer and column.
    """

    kept: float
    there: float
    passing: float
    mask: float
    number: float


MIXED, FULL = Bytes(44, 16, 36, 2, 2), Bytes(72, 24, 48, 4, 4)
INPUT = 4  # bytes per token and unit of width of a layer's input, which is kept where layers are recomputed
LOGITS = 5 * 4  # bytes of a place and token of the vocabulary: logits, scaled ones, their exponentials, two gradients
# The same of SFT's loss, as counted under either precision: float32 logits, their slice and its log-softmax as it goes
# forward, and the log-softmax and two gradients as it goes back.
SFT_LOGITS = 3 * 4


def memory(scale: Scale, mixed: bool = True) -> dict[str, float]:
    """Bytes on each device at the largest moment of the stages that train here and of evaluation, by what takes them."""
    size, trained = MIXED if mixed else FULL, {"ppo": _ppo_memory, "sft": _sft_memory, "rm": _rm_memory}
    counted = [each for name, each in trained.items() if learns(name, scale)]
    return max((each(scale, size) for each in (*counted, _drawing_memory)), key=lambda parts: sum(parts.values()))


def _ppo_memory(scale: Scale, size: Bytes) -> dict[str, float]:
    n, text = network_of(scale.model), scale.query_tokens + scale.response_tokens
    places, copied = scale.micro_batch * scale.response_tokens, _copied(n, scale, size)
    logits = min(model.POSITIONS, places) * n.vocabulary * LOGITS
    updating = _backward(n, scale, text, size, networks=2, logits=logits) | {
        "bfloat16 copies": copied if scale.recompute == "layers" else 2 * copied,
    }
    stepping = {"optimizer's own": 4 * (n.policy + n.scalar) / (1 if scale.sharding == "none" else scale.processes)}
    held = {
        "weights, gradients, moments": _learnt(n.policy + n.scalar, scale),
        "frozen networks": HELD[scale.frozen_weights] * (n.policy + n.scalar),
    }
    return held | max(updating, _rolling(n, scale, size), stepping, key=lambda parts: sum(parts.values()))


def _drawing_memory(scale: Scale, size: Bytes) -> dict[str, float]:
    """Of an evaluation: the policy in float32, reference and reward model as they are held."""
    n = network_of(scale.model)
    return {
        "frozen networks": 4 * n.policy + HELD[scale.frozen_weights] * (n.policy + n.scalar),
        **_rolling(n, scale, size),
    }


def _rolling(n: Network, scale: Scale, size: Bytes) -> dict[str, float]:
    text = scale.query_tokens + scale.response_tokens
    return {
        "key-value cache": _kv_cache(scale, size.number),
        "activations": scale.rollout_batch * text * n.hidden * size.passing,
        "logits": scale.rollout_batch * n.vocabulary * LOGITS,
        "bfloat16 copies": _copied(n, scale, size),
    }


def _sft_memory(scale: Scale, size: Bytes) -> dict[str, float]:
    """Its loss is of every place of a text, and all of their logits are there at once."""
    n, text = network_of(scale.model), scale.query_reference_tokens
    logits = scale.micro_batch * text * n.vocabulary * SFT_LOGITS
    return {
        "weights, gradients, moments": _learnt(n.policy, scale),
        "bfloat16 copies": _copied(n, scale, size),
        **_backward(n, scale, text, size, networks=1, logits=logits),
    }


def _rm_memory(scale: Scale, size: Bytes) -> dict[str, float]:
    """Both texts of a comparison go through it at once."""
    n, rows = network_of(scale.model), replace(scale, micro_batch=2 * scale.micro_batch)
    return {
        "weights, gradients, moments": _learnt(n.scalar, scale),
        "bfloat16 copies": _copied(n, scale, size),
        **_backward(n, rows, scale.query_pair_tokens, size, networks=1, logits=0),
    }


def _copied(n: Network, scale: Scale, size: Bytes) -> float:
    """What autocast keeps of one network while it runs; where ranks share it, what they gather: two layers and the ends."""
    parts = n.body + n.head if scale.sharding == "none" else 2 * n.body / n.layers + 2 * n.head
    return 2 * parts if size is MIXED else 0.0


def _learnt(weights: float, scale: Scale) -> float:
    whole, dealt = LEARNT[scale.sharding]
    return weights * (whole + dealt / scale.processes)


def _backward(n: Network, scale: Scale, text: float, size: Bytes, networks: int, logits: float) -> dict[str, float]:
    """Of a micro-batch that has gone forward through so many networks: what waits, and what works, logits or a layer."""
    layer, again = size.kept * n.hidden + size.mask * text, scale.recompute == "layers"
    tokens, kept = scale.micro_batch * text, INPUT * n.hidden if again else layer
    working = tokens * (again * layer + size.there * n.hidden)
    return {"activations": tokens * networks * n.layers * kept, "logits or a layer": max(logits, working)}


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
