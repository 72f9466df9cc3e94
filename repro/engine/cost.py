"""How long a stage will take: as its like did here before, else from arithmetic; and what a plan says of it.

What a stage computes is counted in `flops.py`. A scale that a CPU has time for: the operations of each part of a stage at
the speed that this computer reached in a measurement of seconds (`speed.py`), and what is beside them. A scale for GPUs: the
same operations at an assumed share of the device's peak; and a decoding step takes as long as reading the weights and the
cache does.
"""

import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median

from repro import details as d
from repro.detail import Pick, Recipe
from repro.engine import speed
from repro.engine.devices import GIB, LAUNCH, LINK, READ, USED, Device, at_hand
from repro.engine.flops import PASSES, Lengths, Network, Passes, Stages, learns, network_of, rollout, total, update
from repro.engine.footprint import checkpoint, disk, host, kv_cache, memory
from repro.engine.launch import Job
from repro.engine.speed import Speeds
from repro.stages import stage
from repro.study.scale import Scale

OVERHEAD = 1.5  # seconds for loading and saving


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


ONE_RANK = ("data", "base")  # stages that several GPUs do no faster
FROM_WEIGHTS = 5e7  # in matrices, from which on a study is one for GPUs


def for_gpu(scale: Scale) -> bool:
    return network_of(scale.model).body >= FROM_WEIGHTS


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
    read = 2 * (network.body + network.head) + kv_cache(scale, 2)
    launched = LAUNCH * network.layers if scale.sampler == "eager" else 0
    gathered = 2 * (network.body + network.head) / LINK if scale.sharding in ("fsdp", "zero3") else 0
    return scale.response_tokens * max(read / (device.bandwidth * READ), launched, gathered)


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
