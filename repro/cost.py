"""How long a stage will take: as long as its like took here before, else from its arithmetic.

Arithmetic: a forward pass is 2 floating-point operations per weight and token, a backward pass twice that. What is left
out: attention's quadratic term and whatever is not matrix multiplication; so it is good to a factor of two.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import median

from transformers import AutoConfig

from repro import stage
from repro.launch import Job
from repro.model import parse_shape
from repro.scale import Scale

FLOPS = 2.5e10  # of one core in float32, measured on small matrices
OVERHEAD = 2.0  # seconds for loading and saving


def seconds(jobs: Iterable[Job], cache_folder: Path) -> float:
    """Core-seconds that the jobs will take, one after another."""
    before = history(cache_folder)
    return sum(before.get((job.stage, job.scale.name)) or estimate(job.stage, job.scale) for job in jobs)


def history(cache_folder: Path) -> dict[tuple[str, str], float]:
    """(stage, scale) -> median seconds of the finished artefacts in the cache."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in cache_folder.glob(f"*/{stage.DONE}"):
        with suppress(ValueError, KeyError, OSError):  # corrupt, or being replaced just now
            done = json.loads(path.read_text())
            found.setdefault((path.parent.name.rsplit("-", 1)[0], done["scale"]), []).append(done["seconds"])
    return {key: median(values) for key, values in found.items()}


def estimate(name: str, scale: Scale) -> float:
    """Seconds on one core, from the arithmetic."""
    body, head = _weights(scale.model)
    query, response = scale.query_tokens * 0.9, scale.response_tokens
    whole = 2 * body * (query + response)
    logits = 2 * head * response
    per_episode = 4 * whole + 2 * logits + 4 * 3 * (2 * whole + logits)
    per_answer = 3 * whole + 2 * logits
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
    tokenising = (scale.posts + 2 * scale.comparisons) / 5_000 if name == "data" else 0
    return OVERHEAD + tokenising + flops / FLOPS


@cache
def _weights(model: str) -> tuple[float, float]:
    """Weights of the transformer's body, and of its output head."""
    if Path(model).is_dir():
        config = AutoConfig.from_pretrained(model, local_files_only=True)
        hidden, layers, vocabulary = config.hidden_size, config.num_hidden_layers, config.vocab_size
        return layers * 12 * hidden**2, hidden * vocabulary
    hidden, layers, _, intermediate = parse_shape(model)
    return layers * (4 * hidden**2 + 2 * hidden * intermediate), hidden * 50_304
