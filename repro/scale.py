"""Scale: the budget of a run, and nothing else. A choice that changes what is computed is a Detail."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from repro.detail import nearest
from repro.errors import UserError
from repro.model import parse_shape

EMBEDDED = Path(__file__).parent / "data" / "embedded_assets"


@dataclass(frozen=True)
class Scale:
    """Model, data, episodes, batch sizes, lengths, precision. Lengths are in tokens, learning rates per AdamW step."""

    name: str
    corpus: str  # "embedded" or "local"
    tokenizer: Path
    model: str  # a folder with a causal language model, or gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE to initialise
    posts_file: Path = Path()  # local corpus only
    comparisons_file: Path = Path()  # local corpus only

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
    dpo_learning_rate: float = 3e-6  # of DPO, where it takes the place of PPO; its batch is the reward model's
    normalisation_posts: int = 1_000_000  # SFT references that the reward model is centred on
    episodes: int = 1_000_000
    ppo_batch: int = 512
    ppo_learning_rate: float = 3e-6
    micro_batch: int = 64  # rows of one forward and backward pass
    rollout_batch: int = 64  # rows of one sampling or scoring pass
    evaluate_every: int = 1  # PPO updates between evaluations on validation posts

    precision: str = "auto"  # "auto": bfloat16 autocast where the device likes it; else "float32"
    frozen_weights: str = "float32"  # what reference and reward model are held in; "bfloat16" halves their memory
    recompute: str = "nothing"  # "layers": activations of each layer again in the backward pass, for memory
    sampler: str = "eager"  # how responses are drawn: "eager", "static" (fixed cache, CUDA graphs) or "vllm"
    threads: int = 1  # of one worker
    processes: int = 1  # ranks of one training stage, one device each
    sharding: str = "none"  # how ranks share the learners: "none" (DDP), "fsdp", "zero2" or "zero3"
    checkpoint_every: int = 0  # optimizer steps, or updates of PPO, between checkpoints; 0 for none
    keep_every: int = 0  # every how many checkpoints the weights are kept for good; 0 for none
    seeds: tuple[int, ...] = (1, 2, 3)
    kl_cap: float = 35.0  # nats from the SFT policy past which a run is listed as run away; no run is stopped by it


MAY_BE_NONE = ("corpus_seed", "checkpoint_every", "keep_every")
WORDS = {
    "corpus": ("embedded", "local"),
    "precision": ("auto", "float32"),
    "frozen_weights": ("float32", "bfloat16"),
    "recompute": ("nothing", "layers"),
    "sampler": ("eager", "static", "vllm"),
    "sharding": ("none", "fsdp", "zero2", "zero3"),
}
PATHS = ("tokenizer", "posts_file", "comparisons_file")
_EMBEDDED = Scale(
    name="mini",
    corpus="embedded",
    tokenizer=EMBEDDED / "tokenizer.json",
    model=str(EMBEDDED / "base"),
    query_tokens=64,
    reference_tokens=20,
    query_reference_tokens=84,
    pair_response_tokens=40,
    query_pair_tokens=104,
    response_tokens=20,
    posts=6_000,
    validation_posts=128,
    comparisons=14_000,
    normalisation_posts=2_048,
    sft_batch=64,
    sft_learning_rate=1e-3,
    rm_batch=8,
    rm_learning_rate=5e-4,
    dpo_learning_rate=2e-5,
    episodes=2_048,
    ppo_batch=64,
    ppo_learning_rate=3e-4,
    micro_batch=32,
    evaluate_every=2,
    kl_cap=8.0,
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
            tokenizer=Path(),
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
    )
}


def find(name: str, changes: Mapping[str, str] = {}) -> Scale:
    """The preset of that name, with fields changed from text; a UserError says which field or value is wrong."""
    if name not in SCALES:
        raise UserError(f"there is no scale {name!r}; {nearest(name, SCALES)}")
    scale = SCALES[name]
    kinds = {field.name: field.type for field in fields(Scale) if field.name != "name"}
    for field, value in changes.items():
        if field not in kinds:
            raise UserError(f"a scale has no field {field!r}; {nearest(field, kinds)}")
        scale = replace(scale, **{field: _parse(field, value, kinds[field])})
    return _checked(replace(scale, name=full_name(name, changes)))


def full_name(name: str, changes: Mapping[str, str]) -> str:
    """What a preset with changes is called: a changed budget is another scale, a path to data is not."""
    budget = [f"{field}={_in_a_name(value)}" for field, value in changes.items() if field not in PATHS]
    return short("-".join([name, *budget]))


def short(name: str) -> str:
    """A name that can name a folder: a long one is cut, and told apart by its hash."""
    return name if len(name) <= 80 else f"{name[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _in_a_name(value: str) -> str:
    """It becomes part of a folder's name; of a path only the last part says something."""
    return Path(value).name if Path(value).exists() else value.replace("/", "_")


def _parse(field: str, text: str, kind: type) -> object:
    try:
        return tuple(int(part) for part in text.split(",")) if kind == tuple[int, ...] else kind(text)
    except ValueError:
        raise UserError(f"{field}={text!r} is not {'an integer' if kind is int else 'a number'}") from None


def _checked(scale: Scale) -> Scale:
    if scale.corpus == "local":
        for field in PATHS:
            if not str(getattr(scale, field)).strip("."):
                raise UserError(
                    f'scale local needs {field}; give --set {field}=PATH (with make: SET="{field}=PATH ...")'
                )
    for field in PATHS:
        path = getattr(scale, field)
        if str(path) != "." and not path.exists():
            raise UserError(f"{field} {str(path)!r} does not exist; give the path of a file or folder that does")
    for field, words in WORDS.items():
        if getattr(scale, field) not in words:
            raise UserError(f"{field}={getattr(scale, field)!r} is unknown; {nearest(getattr(scale, field), words)}")
    for field in fields(scale):
        value = getattr(scale, field.name)
        if field.type is int and value < (field.name not in MAY_BE_NONE) and field.name != "corpus_seed":
            raise UserError(f"{field.name}={value} must be at least {int(field.name not in MAY_BE_NONE)}")
        if field.type is float and not 0 < value < math.inf:
            raise UserError(f"{field.name}={value} must be above 0, and finite")
    if not Path(scale.model).is_dir():
        parse_shape(scale.model)
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
