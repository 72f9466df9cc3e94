"""Scale: the budget of a run. A choice that changes what is computed is a Detail instead."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from repro.errors import UserError, cut, nearest, quoted
from repro.models import folders, hub, starts
from repro.models.shape import parse_shape
from repro.study import annotator

EMBEDDED = Path(__file__).parents[1] / "data" / "embedded_assets"


@dataclass(frozen=True)
class Scale:
    """Model, data, episodes, batch sizes, lengths, precision. Lengths are in tokens, learning rates per AdamW step."""

    name: str
    corpus: str  # "embedded", "local" (files, split by us) or "tldr" (files with a split for each row)
    # A source is a path, or hub:OWNER/NAME@REVISION (data: hub:datasets/OWNER/NAME@REVISION), as repro/models/hub.py says.
    tokenizer: str  # source of a tokenizer.json, or of a folder with a tokenizer
    model: str  # source of a causal language model, or gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE to initialise
    posts_file: str = ""  # source of posts; unused by the embedded corpus
    comparisons_file: str = ""  # source of comparisons; unused by the embedded corpus
    # Source of the SFT policy ({seed}: the seed); "released": the authors' checkpoint; "": trained by the study.
    sft_from: str = ""
    rm_from: str = ""  # the same for the reward model
    policy_from: str = ""  # the same for the policy after PPO
    # Who compares in rounds of feedback: "": the embedded corpus's own annotators; the source of a reward model, as rm_from
    # has it; or judge:MODEL, a language model at `judge_url` ("": OPENAI_BASE_URL, or OpenAI).
    annotator: str = ""
    judge_url: str = ""
    judge_key_env: str = ""  # environment variable with the judge's key; "": OPENAI_API_KEY where there is no judge_url
    judge_max_tokens: int = 512  # limit of an answer
    judge_prices: str = ""  # of a million prompt and completion tokens, as 0.15,0.6; "": unknown

    corpus_seed: int = 20261120
    posts: int = 10_000
    validation_posts: int = 256
    test_posts: int = 512
    comparisons: int = 20_000
    validation_comparisons: int = 2_000

    query_tokens: int = 512
    reference_tokens: int = 53
    query_reference_tokens: int = 562
    pair_response_tokens: int = 169
    query_pair_tokens: int = 638
    response_tokens: int = 53

    sft_batch: int = 128
    sft_learning_rate: float = 3e-6
    rm_batch: int = 64
    rm_learning_rate: float = 3e-6
    dpo_learning_rate: float = 3e-6  # of DPO where it replaces PPO; its batch size is rm_batch
    normalisation_posts: int = 1_000_000  # number of SFT references on which the reward model is normalised
    episodes: int = 1_000_000
    ppo_batch: int = 512
    ppo_learning_rate: float = 3e-6
    micro_batch: int = 64  # rows of one forward and backward pass
    rollout_batch: int = 64  # rows of one sampling or scoring pass
    evaluate_every: int = 1  # PPO updates between evaluations on validation posts

    precision: str = "auto"  # "auto": bfloat16 autocast where the device supports it; or "bfloat16", or "float32"
    frozen_weights: str = "float32"  # dtype of reference policy and reward model; "bfloat16" halves their memory
    recompute: str = "nothing"  # "layers": recompute the activations of each layer in the backward pass, to save memory
    sampler: str = "eager"  # sampler of responses: "eager", "static" (fixed cache, CUDA graphs) or "vllm"
    threads: int = 1  # of one worker
    processes: int = 1  # ranks of one training stage, one device each
    sharding: str = "none"  # how ranks shard policy and critic: "none" (DDP), "fsdp", "zero2" or "zero3"
    checkpoint_every: int = 0  # optimizer steps, or PPO updates, between checkpoints; 0 for none
    keep_every: int = 0  # every how many checkpoints the weights are archived; 0 for never
    seeds: tuple[int, ...] = (1, 2, 3)
    kl_cap: float = 35.0  # KL to the SFT policy [nats] above which a run is listed as run away; it is not stopped


KINDS = {int: "an integer", float: "a number"}
DIGITS = 18  # of a number that a person types, at most
LARGEST = 2**31 - 1  # of a whole number: what the data's and the store's columns hold
LARGEST_SEED = 2**32 - 1  # of numpy's generators
# What a machine can hold at all: tokens of a row, ranks as processes, and rows of the corpus that is made in memory.
TOKENS, PROCESSES, ROWS = 131_072, 1_024, 1_000_000
LENGTHS = ("query", "reference", "query_reference", "pair_response", "query_pair", "response")
MADE = ("posts", "validation_posts", "test_posts", "comparisons", "validation_comparisons")
MOST = {f"{name}_tokens": TOKENS for name in LENGTHS} | {"threads": PROCESSES, "processes": PROCESSES}
MAY_BE_NONE = ("corpus_seed", "checkpoint_every", "keep_every")
WORDS = {
    "corpus": ("embedded", "local", "tldr"),
    "precision": ("auto", "bfloat16", "float32"),
    "frozen_weights": ("float32", "bfloat16"),
    "recompute": ("nothing", "layers"),
    "sampler": ("eager", "static", "vllm"),
    "sharding": ("none", "fsdp", "zero2", "zero3"),
}
PATHS = ("tokenizer", "posts_file", "comparisons_file")
SOURCES = ("model", *PATHS, *starts.CHECKPOINTS)
NO_PATHS = (hub.PREFIX, "gpt-neox:", annotator.JUDGE, "http:", "https:")  # how other values with a slash begin
# Fields of this machine, or of its bill, which are no part of a study's name.
UNNAMED = (*PATHS, "judge_url", "judge_key_env", "judge_prices")
_EMBEDDED = Scale(
    name="mini",
    corpus="embedded",
    tokenizer=str(EMBEDDED / "tokenizer.json"),
    model=str(EMBEDDED / "base"),
    query_tokens=68,
    reference_tokens=26,
    query_reference_tokens=94,
    pair_response_tokens=44,
    query_pair_tokens=112,
    response_tokens=26,
    posts=2_048,
    validation_posts=256,
    test_posts=2_048,
    comparisons=6_000,
    validation_comparisons=1_000,
    normalisation_posts=1_024,
    sft_batch=32,
    sft_learning_rate=1e-3,
    rm_batch=8,
    rm_learning_rate=5e-4,
    dpo_learning_rate=2e-5,
    episodes=1_280,
    ppo_batch=64,
    ppo_learning_rate=1.5e-4,
    micro_batch=32,
    rollout_batch=256,
    evaluate_every=4,
    seeds=(1, 2, 3, 4),  # three leave half of the arms that do not matter undecided
    kl_cap=8.0,
)

# The commit of a repository's main branch, which the authors loaded, where it is known; else a branch that does not
# change. `fetch` records the commit of each.
PYTHIA = {
    "160m": "582159a2dfe3e712a8d47ae83dec95ae3bde8e7e",
    "410m": "c4fc8d586d62df497f1f9b69d66d3ca419992d3e",
    "1b": "7199d8fc61a6d565cd1f3c62bf11525b563e13b2",
    "1.4b": "step143000",  # the model's card: the same checkpoint as main
    "2.8b": "7d977fed8c4ce9649816af8cd5fe36a639cbe5b2",
    "6.9b": "372b1c08d9b5b0fc18ce86bbf294930e26e66ed5",
}


def _pythia(size: str, **fits: Any) -> Scale:
    """The paper's settings for a Pythia, and batch sizes and sharding (`fits`) for GPUs of 80 GB."""
    return Scale(
        name=f"pythia-{size}",
        corpus="tldr",
        # The authors tokenised the data once, with this tokenizer, for all model sizes; so the data stage is shared too.
        tokenizer=f"hub:EleutherAI/pythia-1b-deduped@{PYTHIA['1b']}",
        model=f"hub:EleutherAI/pythia-{size}-deduped@{PYTHIA[size]}",
        posts_file="hub:datasets/vwxyzjn/summarize_from_feedback_tldr_3_filtered@main",
        # The repository has a script instead of rows; the hub's conversion of it has the rows.
        comparisons_file="hub:datasets/openai/summarize_from_feedback@refs/convert/parquet/comparisons",
        posts=116_722,  # all, of which 911 batches are trained on (N+ details 1 and 9)
        validation_posts=512,  # of 6,447: as many as a PPO batch, as in the paper
        test_posts=6_553,  # all
        comparisons=92_858,  # all, of which 1,450 batches are trained on (N+ detail 10)
        validation_comparisons=86_086,  # all; about 2,280 are of news articles, in a split of their own (N+ detail 6)
        evaluate_every=20,
        frozen_weights="bfloat16",
        sampler="static",
        threads=8,
        checkpoint_every=100,
        keep_every=5,
        seeds=(44413, 55513, 66613, 77713),
        **fits,
    )


SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        replace(
            _EMBEDDED,
            name="smoke",
            posts=512,
            validation_posts=32,
            test_posts=32,
            comparisons=256,
            validation_comparisons=64,
            episodes=128,
            ppo_batch=32,
            micro_batch=16,
            evaluate_every=2,
            seeds=(1, 2),
        ),
        _EMBEDDED,
        Scale(
            name="local",
            corpus="local",
            tokenizer="",
            model="gpt-neox:128/6/4/512",
            posts=256,
            validation_posts=16,
            test_posts=32,
            comparisons=256,
            validation_comparisons=96,
            sft_batch=16,
            sft_learning_rate=1e-3,
            rm_batch=16,
            rm_learning_rate=3e-4,
            dpo_learning_rate=1e-4,
            normalisation_posts=64,
            episodes=64,
            ppo_batch=16,
            ppo_learning_rate=1e-4,
            micro_batch=4,
            rollout_batch=8,
            evaluate_every=2,
        ),
        # Memory of PPO's updates, in GB a GPU: 32 bytes a parameter for policy and critic with gradients and Adam's moments
        # in float32, 4 for reference and reward model in bfloat16, 4 for the copies that autocast keeps; about
        # 32 * 565 tokens * width * layers bytes of activations a row and network, 4 * width where layers are recomputed;
        # of logits no more than 1.4, whatever the micro-batch, and as much for their layer's gradient.
        # Largest at 1.4b: 44 + 5 + 5, 0.9 * 2 a row, and 0.7. Where policy and critic are sharded, rollouts take more than
        # updates: at 2.8b 43 + 11, and 6 of cache.
        _pythia("160m", micro_batch=64, rollout_batch=256),
        _pythia("410m", micro_batch=32, rollout_batch=256),
        _pythia("1b", micro_batch=16, rollout_batch=128),
        _pythia("1.4b", micro_batch=4, rollout_batch=64),
        _pythia("2.8b", micro_batch=8, rollout_batch=32, recompute="layers", processes=2, sharding="fsdp"),
        _pythia("6.9b", micro_batch=4, rollout_batch=16, recompute="layers", processes=8, sharding="fsdp"),
    )
}


def find(name: str, changes: Mapping[str, str] = {}) -> Scale:
    """The scale of that name, with fields changed (values as text); UserError for an unknown field or a wrong value."""
    if name not in SCALES:
        raise UserError(f"there is no scale {quoted(name)}; {nearest(name, SCALES, 'docs/api/study.md lists all')}")
    scale = SCALES[name]
    kinds = {field.name: field.type for field in fields(Scale) if field.name != "name"}
    for field, value in changes.items():
        if field not in kinds:
            raise UserError(
                f"a scale has no field {quoted(field)}; {nearest(field, kinds, 'docs/api/study.md lists all')}"
            )
        scale = replace(scale, **{field: _parse(field, value, kinds[field])})
    return checked(replace(scale, name=full_name(name, changes)))


def full_name(name: str, changes: Mapping[str, str]) -> str:
    """The name of a scale with changes: a changed budget is part of it, a path to data is not."""
    budget = [
        f"{field}={without_folders(value).replace('/', '_')}"
        for field, value in changes.items()
        if field not in UNNAMED
    ]
    return short("-".join([name, *budget]))


def short(name: str) -> str:
    """A name that is short enough for a folder: a long one is cut, and ends with its hash."""
    digest = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()
    return name if len(name) <= 80 else f"{name[:40]}-{digest[:12]}"


def without_folders(value: str) -> str:
    """A field's value for a record: of a path only the last part, since the rest is of this machine."""
    return value if value.startswith(NO_PATHS) or "/" not in value else Path(value).name


def _parse(field: str, text: str, kind: Any) -> Any:
    """The value that a text spells, of the type of its field."""
    try:
        if kind == tuple[int, ...]:
            return tuple(whole_number(part) for part in text.split(","))
        return whole_number(text) if kind is int else kind(text)
    except ValueError:
        raise UserError(f"{field}={quoted(text)} is not {KINDS.get(kind, 'a list of integers')}") from None


def whole_number(text: str) -> int:
    """The integer that a text spells in plain digits; ValueError for any other text, and for one of hundreds of digits."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= DIGITS):
        raise ValueError(text)
    return int(text)


def checked(scale: Scale) -> Scale:
    """The scale; UserError for a field whose value makes no sense."""
    check_seeds(scale.seeds)
    _check_sources(scale)
    annotator.prices(scale.judge_prices)
    for field, words in WORDS.items():
        if (word := getattr(scale, field)) not in words:
            raise UserError(f"{field}={quoted(word)} is unknown; {nearest(word, words)}")
    for each in fields(scale):
        made = scale.corpus == "embedded" and each.name in MADE
        most = ROWS if made else MOST.get(each.name, LARGEST)
        _check_number(each.name, each.type, getattr(scale, each.name), most)
    for field, batch in (
        ("episodes", "ppo_batch"),
        ("posts", "ppo_batch"),
        ("posts", "sft_batch"),
        ("comparisons", "rm_batch"),
    ):
        if getattr(scale, field) < getattr(scale, batch):
            raise UserError(
                f"{field}={getattr(scale, field)} is less than one batch; "
                f"it must be at least {batch}={getattr(scale, batch)}"
            )
    return scale


def check_seeds(seeds: Sequence[int]) -> None:
    """UserError for seeds that are out of range, or there twice."""
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"seed {seed} is out of range; give whole numbers from 0 to {LARGEST_SEED}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {cut(' '.join(map(str, seeds)))} repeat; give each once")


def _check_number(field: str, kind: object, value: Any, most: int) -> None:
    if kind is int:
        least = -LARGEST if field == "corpus_seed" else int(field not in MAY_BE_NONE)
        if value < least:
            raise UserError(f"{field}={value} must be at least {least}")
        if value > most:
            raise UserError(f"{field}={value} must be at most {most}")
    if kind is float and not 0 < value < math.inf:
        raise UserError(f"{field}={value} must be above 0, and finite")


def _check_sources(scale: Scale) -> None:
    """UserError for a source that is missing, malformed or cannot be what its field names; the hub is not queried."""
    needed = PATHS if scale.corpus in ("local", "tldr") else ()
    for field in dict.fromkeys(["model", "tokenizer", *needed]):
        if not str(getattr(scale, field)).strip():
            raise UserError(
                f'scale {scale.corpus} needs {field}; give --set {field}=PATH (with make: SET="{field}=PATH ...")'
            )
    for field in SOURCES:
        source = str(getattr(scale, field))
        if hub.is_reference(source):
            _check_reference(field, source)
        elif field == "model" and not os.path.exists(source):
            parse_shape(source)
        elif source == "released" and field in starts.CHECKPOINTS:
            starts.start_source(source, scale.model, scale.seeds[0], starts.CHECKPOINTS[field])
        elif field == "annotator" and annotator.is_judge(source):
            annotator.check_judge(source)
        elif source and "{seed}" not in source:
            folders.check(field, Path(source))


def _check_reference(field: str, source: str) -> None:
    kind, needed = hub.parse(source.replace("{seed}", "0")).kind, "dataset" if field.endswith("_file") else "model"
    if kind != needed:
        raise UserError(
            f"{field}={quoted(source)} names a {kind} on the hub, but a {needed} is needed; write {hub.FORM}"
        )
