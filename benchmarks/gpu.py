"""Speed on a GPU: episodes per second of PPO at a Pythia's shape, where the seconds go, and the bound of arithmetic beside.

`make bench-gpu`, or `python -m benchmarks.gpu --shape 1b --batch 512 --updates 3`. Rollout and update are those of training,
under bfloat16 autocast where the device likes it, with the preset's micro-batch, rollout batch and sampler. Weights are random,
queries full and no response ends: the worst case. Without a GPU it runs too, and its figures say nothing about one.
"""

import argparse
import json
import math
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import wraps
from unittest import mock

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_check import SHAPES
from benchmarks.load import Tokens
from repro.detail import Pick, Recipe
from repro.details import PPO_EPOCHS
from repro.engine import cost, devices, flops, footprint
from repro.models import (
    critics,
    generate,
    logprobs,
    mixed_precision,
    modes,
    pretrained,
    samplers,
    scalar_model,
    scoring,
    wrapping,
)
from repro.stages import optimise, ppo, ppo_setup
from repro.study.scale import SCALES, Scale

TINY = replace(
    SCALES["smoke"],
    name="tiny",
    model="gpt-neox:32/2/2/64",
    query_tokens=12,
    response_tokens=4,
    ppo_batch=8,
    micro_batch=4,
    rollout_batch=8,
    precision="auto",
    sampler="static",
)
CHANGEABLE = {"micro_batch": int, "rollout_batch": int, "sampler": str, "recompute": str}  # fields of Scale
VOCABULARY, PAD = 50_304, 50_277  # Pythia's output layer, and the place in it that the recipe pads with
# What a rollout calls, by the phase that its seconds count to; the rest of it is too little to see.
PHASES = {
    "sample": (generate, "sample_with_support"),
    "reference": (logprobs, "response_logprobs"),
    "critic": (critics, "response_values"),
    "reward model": (scoring, "score"),
}


@dataclass(frozen=True)
class Measured:
    """Medians over updates: seconds of each phase; then rates, shares of the peak, and the two forecasts of `engine/cost.py`.

    A share is FLOPs / seconds / peak: of the update `update_flops` a `batch` over the seconds of "update", of the whole
    `rollout_flops` and `update_flops` over those of "whole". FLOPs are an episode's, as `flops.rollout` and
    `flops.update` (times PPO's epochs) count matrix multiplications; the peak is the device's, of dense bfloat16. A
    share is NaN where the peak is not known: on a CPU.
    """

    shape: str
    device: str
    gpu: bool
    batch: int
    micro_batch: int
    rollout_batch: int
    sampler: str
    precision: str
    updates: int
    seconds: dict[str, float]
    rollout_flops: float
    update_flops: float
    peak_flops: float
    episodes_per_second: float
    bound_episodes_per_second: float
    utilisation: float
    update_utilisation: float
    tokens_per_second: float
    decode_bound_seconds: float
    peak_gib: float
    expected_gib: float


def scale_of(shape: str, batch: int) -> Scale:
    """The preset of that size, with a shape in place of weights to download, at so many episodes an update."""
    preset = TINY if shape == "tiny" else SCALES[f"pythia-{shape}"]
    network = preset.model if shape == "tiny" else f"gpt-neox:{flops.PYTHIA[shape]}"
    return replace(preset, model=network, ppo_batch=batch, rollout_batch=min(batch, preset.rollout_batch))


def setting_of(scale: Scale, accelerator: Accelerator) -> ppo_setup.Run:
    """Four networks with random weights, prepared as training prepares them."""
    pick, positions = Pick(Recipe(), "ppo"), scale.query_tokens + scale.response_tokens
    with torch.device(accelerator.device):  # a CPU would draw a billion weights for longer than they are measured
        networks = [pretrained.initialise_policy(scale.model, VOCABULARY, positions, seed) for seed in range(4)]
    policy, critic = networks[0], scalar_model.ScalarModel(networks[1].base_model)
    policy, critic = (modes.set_dropout(network, 0.0) for network in (policy, critic))
    learners, optimizer = accelerator.prepare(
        wrapping.Learners(policy=policy, critic=critic), optimise.adamw([policy, critic], 3e-6, pick)
    )
    frozen = [
        wrapping.place_on_device(mixed_precision.cast_weights(modes.freeze(network), scale.frozen_weights), accelerator)
        for network in (networks[2], scalar_model.ScalarModel(networks[3].base_model))
    ]
    models = ppo_setup.Networks(*(wrapping.Learner(learners, name) for name in ("policy", "critic")), *frozen)
    how = replace(ppo_setup.sampling(pick), sampler=samplers.sampler_named(scale.sampler))
    return ppo_setup.Run(
        models,
        optimizer,
        Tokens(pad=PAD),
        pick,
        accelerator,
        how,
        scale.micro_batch,
        scale.rollout_batch,
        scale.recompute,
    )


def clock() -> float:
    """Seconds, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Within, seconds of each phase of a rollout add up."""
    seconds = dict.fromkeys(PHASES, 0.0)

    def timing(phase: str, function: Callable) -> Callable:
        @wraps(function)
        def run(*args, **kwargs):
            began = clock()
            made = function(*args, **kwargs)
            seconds[phase] += clock() - began
            return made

        return run

    with ExitStack() as stack:
        for phase, (module, name) in PHASES.items():
            stack.enter_context(mock.patch.object(module, name, timing(phase, getattr(module, name))))
        yield seconds


def update(setting: ppo_setup.Run, scale: Scale, generator: torch.Generator) -> dict[str, float]:
    """Seconds of each phase of one update of PPO, and of the whole."""
    prices, no_texts = ppo_setup.AdaptiveState(0.05), torch.zeros(0, 1, dtype=torch.long)
    query = torch.randint(1, PAD, (scale.ppo_batch, scale.query_tokens), generator=generator)
    began = clock()
    with timed() as seconds:
        rollout = ppo.roll_out(setting, query, torch.rand(scale.ppo_batch, scale.response_tokens, generator=generator))
    target, _ = ppo.targets(rollout, prices.kl_coefficient, scale.micro_batch, setting.pick)
    rolled = clock()
    for _ in range(setting.pick(PPO_EPOCHS)):
        ppo.ppo_step(setting, rollout, target, no_texts, prices)
    ended = clock()
    return seconds | {"update": ended - rolled, "whole": ended - began}


def measure(shape: str, scale: Scale, updates: int, until: float = math.inf) -> Measured:
    """So many updates after one that warms up; where they would not end before `until` [s of `clock`], fewer.

    Then the first is of one rollout batch, and so are the others where a whole batch would not end in time either.
    """
    accelerator = Accelerator(mixed_precision=mixed_precision.by_scale(scale.precision))
    setting, generator = setting_of(scale, accelerator), torch.Generator().manual_seed(0)
    small = scale if until == math.inf else replace(scale, ppo_batch=min(scale.ppo_batch, scale.rollout_batch))
    expected = update(setting, small, generator)["whole"] * scale.ppo_batch / small.ppo_batch
    scale = scale if clock() + expected < until else small
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    taken = [update(setting, scale, generator)]
    while len(taken) < updates and clock() + taken[-1]["whole"] < until:
        taken.append(update(setting, scale, generator))
    return _described(shape, scale, accelerator, taken)


def _described(shape: str, scale: Scale, accelerator: Accelerator, taken: list[dict[str, float]]) -> Measured:
    seconds = {name: statistics.median(each[name] for each in taken) for name in taken[0]}
    device, network, batch = devices.at_hand(), flops.network_of(scale.model), scale.ppo_batch
    lengths, passes = (scale.query_tokens, scale.response_tokens), cost.passes_of(Recipe()).ppo
    again = float(scale.recompute == "layers")
    rolled = flops.total(flops.rollout(network, 1, *lengths))
    learnt = passes * flops.total(flops.update(network, 1, *lengths))
    peak = device.flops if device.present else math.nan
    drawing = cost.decode_seconds(scale, device) * batch / scale.rollout_batch
    slowest = passes * flops.total(flops.update(network, 1, *lengths, again=again)) + rolled
    return Measured(
        shape=shape,
        device=device.name if device.present else "CPU",
        gpu=device.present,
        batch=batch,
        micro_batch=scale.micro_batch,
        rollout_batch=scale.rollout_batch,
        sampler=scale.sampler,
        precision=accelerator.mixed_precision,
        updates=len(taken),
        seconds=seconds,
        rollout_flops=rolled,
        update_flops=learnt,
        peak_flops=peak,
        episodes_per_second=batch / seconds["whole"],
        bound_episodes_per_second=batch / (batch * slowest / (device.flops * devices.PEAK_SHARE) + drawing),
        utilisation=batch * (rolled + learnt) / seconds["whole"] / peak,
        update_utilisation=batch * learnt / seconds["update"] / peak,
        tokens_per_second=batch * scale.response_tokens / seconds["sample"],
        decode_bound_seconds=drawing,
        peak_gib=_peak_gib(),
        expected_gib=sum(footprint.memory(scale, accelerator.mixed_precision == "bf16").values()) / devices.GIB,
    )


def _peak_gib() -> float:
    """Of the GPU since the last reset; without one of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / devices.GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def table_of(found: Measured) -> Table:
    bound = devices.at_hand().name if found.gpu else f"{devices.ASSUMED.name}, were there one"
    table = Table("what", "measured", f"expected of {bound}", title=f"PPO at shape {found.shape} on {found.device}")
    for phase, taken in found.seconds.items():
        floor = f"{found.decode_bound_seconds:.2f} to draw" if phase == "sample" else ""
        table.add_row(f"{phase} [s]", f"{taken:.2f}", floor)
    share = "as assumed: " + f"{devices.PEAK_SHARE:.0%}"
    table.add_row("episodes/s", f"{found.episodes_per_second:.2f}", f"{found.bound_episodes_per_second:.2f}")
    table.add_row("drawn tokens/s", f"{found.tokens_per_second:.0f}", "")
    table.add_row("share of the peak, whole", _share(found.utilisation), share)
    table.add_row("share of the peak, update", _share(found.update_utilisation), share)
    table.add_row("peak memory [GiB]", f"{found.peak_gib:.1f}", f"{found.expected_gib:.1f}")
    table.caption = (
        f"{found.batch} episodes an update, micro-batch {found.micro_batch}, rollout batch {found.rollout_batch}, sampler "
        f"{found.sampler}, mixed precision {found.precision}, median of {found.updates} updates"
    )
    return table


def _share(value: float) -> str:
    return f"{value:.1%}" if value == value else "unknown"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="410m", choices=SHAPES)
    parser.add_argument("--batch", type=int, default=512, help="episodes an update")
    parser.add_argument("--updates", type=int, default=3, help="after one that warms up")
    for name, kind in CHANGEABLE.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=argparse.SUPPRESS, help="in place of the preset's")
    parser.add_argument("--json", action="store_true", help="as JSON")
    arguments = parser.parse_args(words)
    warnings.filterwarnings("ignore")
    changes = {name: getattr(arguments, name) for name in CHANGEABLE if name in arguments}
    scale = replace(scale_of(arguments.shape, arguments.batch), **changes)
    found = measure(arguments.shape, scale, arguments.updates)
    if arguments.json:
        print(json.dumps(asdict(found), indent=1))
        return
    console = Console()
    console.print(table_of(found))
    if not found.gpu:
        console.print("no GPU: figures say nothing about one")


if __name__ == "__main__":
    main()
