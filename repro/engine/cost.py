"""How long a stage will take: the median of finished ones in the cache, else an estimate; and what a plan prints.

`flops.py` counts the operations of a stage. A small scale, for CPUs: the operations of each part of a stage at the speed
measured on this computer (`speed.py`), and a constant for the rest. A scale for GPUs: the same operations at an assumed share
of the device's peak, and for each decoding step the time to read the weights and the cache.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median

from repro import details as d
from repro.detail import Pick, Recipe
from repro.details.requirements import responses_in_group
from repro.engine import artefacts, speed
from repro.engine.devices import BANDWIDTH_SHARE, GIB, LAYER_LAUNCH, LINK_BANDWIDTH, PEAK_SHARE, Device, at_hand
from repro.engine.flops import network_of, total
from repro.engine.footprint import checkpoint, disk, host, kv_cache, memory
from repro.engine.job import Job, ranks_of
from repro.engine.speed import Speeds
from repro.engine.stage_flops import PASSES, Lengths, Passes, Stages, trains
from repro.models import critics
from repro.ops import baseline, trust_region
from repro.ops.preference import ExpertIteration
from repro.stages import stage
from repro.study.scale import Scale

OVERHEAD = 1.5  # seconds for loading and saving


def seconds(jobs: Iterable[Job], cache_folder: Path) -> float:
    """Seconds that the jobs will take one after another: each on a core, or on as many GPUs as its scale has ranks."""
    return sum(each_seconds(jobs, cache_folder))


def each_seconds(jobs: Iterable[Job], cache_folder: Path) -> list[float]:
    """Seconds of each job."""
    before, known = history(cache_folder), cache(lambda scale: speed.remembered(cache_folder, scale))
    expected = cache(partial(_expected, known))  # seeds, and most arms, differ in nothing that it depends on
    return [
        before.get((job.stage, job.scale.name)) or expected(job.stage, job.scale, passes_of(job.recipe)) for job in jobs
    ]


def history(cache_folder: Path) -> dict[tuple[str, str], float]:
    """(stage, scale) -> median seconds of the finished artefacts in the cache."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in cache_folder.glob(f"*/{stage.DONE}"):
        with suppress(ValueError, KeyError, OSError):  # corrupt, or being replaced just now
            done = artefacts.read_done(path.parent)
            found.setdefault((path.parent.name.rsplit("-", 1)[0], done["scale"]), []).append(done["seconds"])
    return {key: median(values) for key, values in found.items()}


def _expected(known: Callable[[Scale], Speeds], name: str, scale: Scale, passes: Passes) -> float:
    if for_gpu(scale):
        return gpu_seconds(name, scale, at_hand(), passes)
    return estimate(name, scale, known(scale), passes)


# ---------------------------------------------------------------------------------------------- time on CPU cores
FILLED = 0.9  # the longest text of a micro-batch, to which the others are padded, as a share of the length limit
TEXTS_PER_SECOND = 4_500  # posts and summaries of comparisons, generated and tokenised
GRADED_PER_SECOND = 400  # responses given a gold score and ROUGE


def estimate(name: str, scale: Scale, speeds: Speeds = speed.UNMEASURED, passes: Passes = PASSES) -> float:
    """Seconds on one worker's cores, from its operations and the speeds measured on this computer."""
    parts = Stages(scale, network_of(scale.model), filled(scale), passes).of(name, trains(name, scale))
    computed = sum(total(products) / speeds.of(part) for part, products in parts.items())
    judged = scale.test_posts / GRADED_PER_SECOND if name in ("baseline", "evaluate") else 0.0
    return OVERHEAD + _tokenising(name, scale) + computed + judged


def filled(scale: Scale) -> Lengths:
    """Lengths with the padding to a micro-batch's longest text."""
    most = Lengths.most(scale)
    return replace(most, query=FILLED * most.query, text=FILLED * most.text, pair=FILLED * most.pair)


def _tokenising(name: str, scale: Scale) -> float:
    return (scale.posts + 2 * scale.comparisons) / TEXTS_PER_SECOND if name == "data" else 0.0


GPU_WEIGHTS = 5e7  # weights in matrices; a scale with more is for GPUs


def for_gpu(scale: Scale) -> bool:
    """Whether a scale is too large for CPUs."""
    return network_of(scale.model).body >= GPU_WEIGHTS


# ---------------------------------------------------------------------------------------------- time on GPUs
def passes_of(recipe: Recipe) -> Passes:
    """What the time of an arm depends on."""
    ppo = Pick(recipe, "ppo")
    passes, critic = _learning(ppo)
    return Passes(
        sft=Pick(recipe, "sft")(d.SFT_EPOCHS),
        rm=Pick(recipe, "rm")(d.RM_EPOCHS),
        ppo=passes,
        critics=int(critic),
        reward_models=ppo(d.REWARD_ENSEMBLE).size,
        warm_up=ppo(d.CRITIC_WARM_UP),
        responses=responses_in_group(recipe),
        rollouts=1 + int(ppo(d.BASELINE).estimate.function is baseline.greedy_response),
        samples=Pick(recipe, "evaluate")(d.SELECTION).samples,
        fisher=_fisher_vector_products(ppo(d.CONSTRAINED_STEP)),
    )


def _fisher_vector_products(step: trust_region.Step) -> int:
    """One for each iteration of the conjugate gradient, and one for the length of the step that it gives."""
    return step.region.cg_iterations + 1 if step.region is not trust_region.ANYWHERE else 0


def _learning(ppo: Pick) -> tuple[float, bool]:
    """How many passes an arm makes over its episodes, and whether it has a critic."""
    algorithm = ppo(d.ALGORITHM)
    if isinstance(algorithm, ExpertIteration):  # passes over one response of several
        return algorithm.passes / algorithm.responses, False
    return 0 if algorithm == "sft" else ppo(d.PPO_EPOCHS), ppo(d.BASELINE).critic is critics.needed


def gpu_seconds(name: str, scale: Scale, device: Device, passes: Passes = PASSES) -> float:
    """Seconds of a stage on its ranks' GPUs; gradient communication is taken to overlap with computation."""
    training = trains(name, scale)
    parts = Stages(scale, network_of(scale.model), Lengths.most(scale), passes).of(name, training)
    flops = sum(map(total, parts.values()))
    answers: float = {"baseline": 2, "evaluate": 1 + passes.samples}.get(name, 0) * scale.test_posts
    if name == "ppo" and training and passes.ppo:
        evaluations = scale.episodes / scale.ppo_batch / scale.evaluate_every
        sampled = passes.rollouts * (scale.episodes + passes.warm_up * scale.ppo_batch)
        answers = sampled + evaluations * scale.validation_posts
    ranks = ranks_of(name, scale)
    sampling = answers / ranks / scale.rollout_batch * decode_seconds(scale, device)
    return OVERHEAD + _tokenising(name, scale) + flops / ranks / (device.flops * PEAK_SHARE) + sampling


def decode_seconds(scale: Scale, device: Device) -> float:
    """Seconds in which a rank samples a rollout batch; the slowest counts of what each token needs.

    That is reading weights and cache, launching kernels from Python, or gathering sharded weights.
    """
    network = network_of(scale.model)
    read = 2 * (network.body + network.head) + kv_cache(scale, 2)
    launched = LAYER_LAUNCH * network.layers if scale.sampler == "eager" else 0
    gathered = 2 * (network.body + network.head) / LINK_BANDWIDTH if scale.sharding in ("fsdp", "zero3") else 0
    return scale.response_tokens * max(read / (device.bandwidth * BANDWIDTH_SHARE), launched, gathered)


# ---------------------------------------------------------------------------------------------- in words
def requirements(jobs: Iterable[Job], scale: Scale, cache_folder: Path, workers: int) -> list[str]:
    """Lines on the GPUs, memory and disk that the jobs need; a machine without a GPU assumes one."""
    jobs, device, ranks = list(jobs), at_hand(), scale.processes
    spent = [seconds([job], cache_folder) for job in jobs]
    hours = sum(time * job.ranks for time, job in zip(spent, jobs)) / 3600
    parts = memory(scale, reward_models=max(passes_of(job.recipe).reward_models for job in jobs))
    needed, has = sum(parts.values()) / GIB, f"{device.gib:.0f} GiB"
    if not math.isfinite(needed):
        return [f"the size of {scale.model} is unknown until it is downloaded: python -m repro fetch"]
    shares = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size > GIB / 20)
    left = sum(disk(job.stage, scale) for job in jobs)
    absent = "" if device.present else " (none here)"
    room = "" if needed < device.gib else "; this does not fit: lower micro_batch or rollout_batch, or raise processes"
    return [
        f"assuming {ranks}x {device.name}{absent} a worker, at {PEAK_SHARE:.0%} of its peak of "
        f"{device.flops / 1e12:.0f} TFLOP/s in forward and backward passes, {BANDWIDTH_SHARE:.0%} of its bandwidth to sample",
        f"memory: about {needed:.0f} GiB of the {has} of each GPU ({shares}){room}",
        f"host memory: about {host(scale) / 1e9:,.0f} GB on the node while networks load{', for each worker' * (workers > 1)}",
        f"{workers} worker{'s' * (workers > 1)} of {ranks} GPU{'s' * (ranks > 1)}; {hours:,.0f} GPU-hours in all",
        f"disk: {left / 1e9:,.0f} GB of artefacts; {checkpoint(scale) / 1e9:,.0f} GB of checkpoints while PPO runs",
    ]
