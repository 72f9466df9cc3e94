"""Where a stage starts from a checkpoint in the place of its training: a folder of one's own, or what the authors released.

Weights are read from safetensors, or from weights-only pickles. Left out: remote code.
"""

from __future__ import annotations

import csv
import math
import os
import pickle
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from repro.errors import UserError, few, quoted, reason
from repro.models import folders, hub

if TYPE_CHECKING:  # imported where it is used, since a Scale is parsed without these libraries
    from torch import Tensor
    from transformers import PreTrainedModel

    from repro.models.scalar_model import ScalarModel

RELEASED = Path(__file__).parents[1] / "data" / "released.csv"
STARTS = {"sft_from": "sft", "rm_from": "rm", "policy_from": "ppo"}  # field of Scale -> stage in released.csv
CHECKPOINTS = STARTS | {"annotator": "rm"}  # beside where stages start, the reward model that compares for another one
# Constant buffers of GPT-NeoX in transformers 4.33: causal mask, its fill value, rotary frequencies.
OLD_BUFFERS = re.compile(r"lm_backbone\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)")


@cache
def released() -> dict[tuple[str, str, int], hub.Reference]:
    """(base model, stage, seed) -> the checkpoint that the paper's authors released (their release_runs.csv)."""
    with RELEASED.open(newline="") as file:
        return {
            (row["model"], row["stage"], int(row["seed"])): hub.Reference("model", row["repo"], row["revision"])
            for row in csv.DictReader(file)
        }


def start_source(value: str, model_source: str, seed: int, stage: str) -> str:
    """The source of a starting point for a seed: of "released" the authors' checkpoint of the stage (sft, rm, ppo, dpo)."""
    if value != "released":
        return value.replace("{seed}", str(seed))
    base = hub.parse(model_source).repo if hub.is_reference(model_source) else str(model_source)
    reference = released().get((base, stage, seed))
    if not reference:
        seeds = sorted(each for name, kind, each in released() if (name, kind) == (base, stage))
        bases = dict.fromkeys(name for name, kind, _ in released() if kind == stage)
        raise UserError(
            f"the authors released no {stage} checkpoint of seed {seed} of {base}; there are seeds "
            + (f"{' '.join(map(str, seeds))}" if seeds else f"only of {', '.join(f'hub:{name}' for name in bases)}")
        )
    return str(reference)


def start_of(value: str, model_source: str, seed: int, stage: str, purpose: str = "") -> Path:
    """The folder of a starting point, by the source of `start_source`; downloaded if the cache lacks it.

    Errors name it by its `purpose`, or else as the start of the stage.
    """
    if not value:
        raise LookupError(f"there is no starting point for {stage}: it is trained here")
    source = start_source(value, model_source, seed, stage)
    folder = hub.resolve(source, "model")
    if not os.path.isdir(folder):
        raise UserError(
            f"{source!r}, {purpose or f'where {stage} of seed {seed} starts'}, is no folder; give one with config.json and "
            "weights"
        )
    return folder


def load_policy(source: str | Path) -> PreTrainedModel:
    """A causal language model in float32, loaded strictly: weights that are missing or of another shape are an error."""
    from repro.models import pretrained

    folder = hub.resolve(source, "model")
    try:
        policy, loading_info = pretrained.read_network(folder, trust_remote_code=False, output_loading_info=True)
    except UserError:
        raise
    except Exception as error:  # transformers, safetensors, torch and pickle share no narrower class
        raise UserError(f"{folder}: no causal language model ({reason(error)}); give another") from error
    wrong = sorted({*loading_info["missing_keys"], *(str(each) for each in loading_info["mismatched_keys"])})
    if wrong:
        raise UserError(f"{folder}: weights are missing or do not fit: {few(wrong, 2)}; give a whole checkpoint")
    return pretrained.patch_forward(policy)


def load_reward_model(folder: Path) -> ScalarModel:
    """A reward model of the authors, or one that `pretrained.save_scalar` saved; loaded strictly."""
    from repro.models import pretrained

    return (load_released_reward_model if is_released_reward_model(folder) else pretrained.load_scalar)(folder)


def reward_model_vocabulary(folder: Path) -> int:
    """The size of its vocabulary, by its configuration; UserError where that is no reward model's. No weights are read."""
    from repro.models import pretrained

    if not is_released_reward_model(folder):
        return pretrained.read_scalar_config(folder).get_text_config().vocab_size
    base = _released_config(folder)["base_config"]
    size = base.get("vocab_size") if isinstance(base, dict) else None
    if type(size) is not int:
        raise UserError(f"{folder / 'config.json'}: its base_config has no vocab_size; give a reward model")
    return size


def load_released_reward_model(folder: Path) -> ScalarModel:
    """The authors' reward model as a `ScalarModel`, loaded strictly: backbone, head with its bias, and normalisation.

    Theirs is `scalar_head(hidden) - config.bias` on a GPT-NeoX trunk, at the last token that is not padding.
    """
    import torch
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from repro.models import pretrained
    from repro.models.scalar_model import ScalarModel

    config = _released_config(folder)
    try:
        shape = CONFIG_MAPPING[config["base_config"]["model_type"]].from_dict(config["base_config"])
        network = ScalarModel(AutoModel.from_config(shape, dtype=torch.float32))
    except Exception as error:  # as in load_policy
        raise UserError(
            f"{folder / 'config.json'}: no network's base_config ({reason(error)}); give another"
        ) from error
    weights = {name: value for name, value in _weights(folder).items() if not OLD_BUFFERS.fullmatch(name)}
    expected = {
        _released_name(name): value for name, value in network.state_dict().items() if name not in ("bias", "gain")
    }
    folders.require_same(folder, expected, weights)
    renamed = {name: weights[_released_name(name)] for name in network.state_dict() if name not in ("bias", "gain")}
    network.load_state_dict(
        renamed | {"bias": torch.tensor(float(config["bias"])), "gain": torch.ones(())}, strict=True
    )
    return pretrained.patch_forward(network)


def is_released_reward_model(folder: Path) -> bool:
    """Whether a folder holds a reward model in the authors' format, and not in that of `pretrained.save_scalar`."""
    return (folder / "config.json").is_file() and "base_config" in folders.read_config(folder)


def _released_config(folder: Path) -> dict:
    config = folders.read_config(folder)
    missing = [name for name in ("base_config", "hidden_size", "bias") if name not in config]
    if missing:
        raise UserError(
            f"{folder / 'config.json'}: {', '.join(missing)} is missing; a reward model as the paper's authors saved theirs, "
            "with the bias that centres its reward, is needed"
        )
    if type(config["bias"]) not in (int, float) or not math.isfinite(config["bias"]):
        raise UserError(f"{folder / 'config.json'}: bias is {quoted(config['bias'])}; it must be a finite number")
    return config


def _released_name(name: str) -> str:
    return name.replace("trunk.", "lm_backbone.", 1) if name.startswith("trunk.") else f"scalar_{name}"


def _weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, shard by shard."""
    import torch
    from safetensors.torch import load_file

    kinds = hub.first_kind([file.name for file in folder.iterdir()], folders.WEIGHTS)
    files = [file for kind in kinds for file in sorted(folder.glob(kind))]
    if not files:
        raise UserError(f"{folder}: no weights; {' or '.join(folders.WEIGHTS)} is needed")
    try:
        shards = [
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
            for file in files
        ]
    except pickle.UnpicklingError as error:
        raise UserError(f"{folder}: a pickle of more than weights, which is not opened; give safetensors") from error
    except Exception as error:  # as in load_policy
        raise UserError(f"{folder}: the weights cannot be read ({reason(error)}); copy them again") from error
    return {name: value for shard in shards for name, value in shard.items()}
