"""The stages of a scale on one thread, each beside its bound, which is counted from the lengths that its texts have."""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import bound
from benchmarks.isolated import Isolated
from repro.detail import Recipe
from repro.engine import artefacts
from repro.engine.cost import passes_of
from repro.engine.flops import network_of
from repro.engine.pipeline import BY_NAME, keys
from repro.engine.stage_flops import Lengths
from repro.stages import stage
from repro.stages.corpus import Corpus, column
from repro.study.scale import SCALES, Scale

SEED = 1


@dataclass(frozen=True)
class Timed:
    """A stage: its seconds, its products' operations and seconds (none of a stage that computes nothing), and memory."""

    seconds: float
    flops: float
    bound_seconds: float
    peak_gib: float

    @property
    def rate(self) -> float:
        return self.flops / self.bound_seconds if self.bound_seconds else 0.0

    @property
    def share(self) -> float:
        """Of the bound that was reached."""
        return self.bound_seconds / self.seconds


def reduced(scale: Scale, budget: float) -> Scale:
    """The scale with a share of its texts and episodes, in whole batches; checks and evaluations stay as they are."""
    if budget == 1:
        return scale
    batches = {"posts": scale.ppo_batch, "comparisons": scale.rm_batch, "episodes": scale.ppo_batch}
    changes = {field: max(1, int(getattr(scale, field) * budget / batch)) * batch for field, batch in batches.items()}
    return replace(scale, name=f"{scale.name}-{budget:g}", **changes)


def run_stages(name: str, budget: float) -> dict:
    """Every stage of the reference arm in the order of the pipeline, in one process as a worker has it; then the bounds."""
    scale = reduced(SCALES[name], budget)
    with (
        tempfile.TemporaryDirectory() as folder,
        Isolated(scale.threads) as worker,
        Isolated(scale.threads) as plain,
    ):
        found, lengths = {}, Lengths.most(scale)
        for each in (BY_NAME[name] for name in keys(Recipe(), scale, SEED)):
            seconds = worker(_made, each.name, scale, folder)
            lengths = worker(lengths_of, scale, folder) if each.name == "data" else lengths
            if each.name == "ppo":  # what was drawn is known now
                lengths = replace(lengths, response=worker(drawn_length, scale, folder))
            products = bound.stage_products(each.name, scale, network_of(scale.model), lengths, passes_of(Recipe()))
            least = plain(bound.measured, products)
            found[each.name] = asdict(Timed(seconds, least.flops, least.seconds, worker.peak_gib()))
    return {"scale": name, "budget": budget, "lengths": asdict(lengths), "threads": scale.threads, "stages": found}


def _made(name: str, scale: Scale, folder: str) -> float:
    """Seconds of a stage, made in this process."""
    known = keys(Recipe(), scale, SEED)
    made = artefacts.run_or_reuse(BY_NAME[name], Recipe(), scale, SEED, known, Path(folder), lambda _: None)
    return artefacts.read_done(made)["seconds"]


def lengths_of(scale: Scale, folder: str) -> Lengths:
    """Mean tokens without padding; of responses, which are not drawn yet, what fits."""
    corpus = Corpus(Path(folder) / keys(Recipe(), scale, SEED)["data"])
    posts, pairs = corpus.posts("train"), corpus.pairs("train")

    def mean(rows, name: str) -> float:
        return (column(rows, name) != corpus.pad).sum(1).float().mean().item()

    compared = [mean(pairs, f"query_{which}_token") for which in ("chosen", "rejected")]
    text = mean(posts, "query_reference_response_token")
    return Lengths(mean(posts, "query_token"), scale.response_tokens, text, sum(compared) / 2)


def drawn_length(scale: Scale, folder: str) -> float:
    """Mean tokens of the responses that PPO drew."""
    lines = stage.read_journal(Path(folder) / keys(Recipe(), scale, SEED)["ppo"])
    return sum(line["metrics"]["objective/length"] for line in lines) / len(lines)
