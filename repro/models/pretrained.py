"""Networks: initialising, loading from a folder of `transformers` or a GGUF file, and saving.

A policy is a causal language model of `transformers`; a reward model or critic is its trunk with a scalar head.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repro.errors import UserError, quoted, reason
from repro.models import folders, position_ids, ranks
from repro.models.pooling import POOLINGS
from repro.models.scalar_model import ScalarModel, trunk_of
from repro.models.shape import parse_shape

if TYPE_CHECKING:  # imported where it is used, since the registry is read without these libraries
    from transformers import PreTrainedModel


def initialise_policy(shape: str, vocabulary: int, positions: int, seed: int) -> PreTrainedModel:
    """A GPT-NeoX with random weights from "gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE"."""
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    hidden, layers, heads, intermediate = parse_shape(shape)
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=positions,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return patch_forward(AutoModelForCausalLM.from_config(config))


def load_policy(source: Path) -> PreTrainedModel:
    """A causal language model in float32: a folder as `transformers` saves it, or a GGUF file, unpacked."""
    return patch_forward(read_network(source))


def read_network(source: Path, **options: Any) -> Any:
    """`AutoModelForCausalLM.from_pretrained` of a folder or GGUF file with these options, in float32."""
    from transformers import AutoModelForCausalLM

    source_options = network_kwargs(source)
    # Dequantising a GGUF shows a progress bar that no setting turns off.
    quiet = redirect_stderr(io.StringIO()) if "gguf_file" in source_options else nullcontext()
    with quiet:
        return AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **source_options, **options)


def network_kwargs(source: Path) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a network, a GGUF dequantised; UserError where there is none."""
    kwargs = source_kwargs(source, "config.json")
    if "gguf_file" not in kwargs:
        return kwargs
    from transformers import GgufConfig

    return kwargs | {"quantization_config": GgufConfig(dequantize=True)}


def read_config(source: Path) -> Any:
    """The configuration of transformers for a network; UserError where its config.json is none."""
    from transformers import AutoConfig

    options = network_kwargs(source)
    if "gguf_file" not in options:
        folders.read_config(source)
    try:
        with _silent():  # what is wrong with a configuration is said once, by whoever reads its fields
            return AutoConfig.from_pretrained(**options, trust_remote_code=False)
    except Exception as error:  # whatever a field of another type than it expects leads to
        raise UserError(f"{source}: no configuration of a network ({reason(error)}); give another model") from error


@contextmanager
def _silent() -> Iterator[None]:
    """No warnings of transformers."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def read_causal_config(source: Path) -> Any:
    """The configuration of a causal language model's text, whose size of the vocabulary is known; UserError for another."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = read_config(source)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"{source}: {config.model_type} is no causal language model; give another model")
    if type(getattr(config.get_text_config(), "vocab_size", None)) is not int:
        raise UserError(f"{source}: its configuration has no vocab_size; a language model is needed")
    return config.get_text_config()


def source_kwargs(source: Path, expected: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a folder with the `expected` file, a GGUF file, or a folder with one GGUF file."""
    if (source / expected).is_file():
        return {"pretrained_model_name_or_path": source, "local_files_only": True}
    files = [source] if source.suffix == ".gguf" else sorted(source.glob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"{source}: {len(files)} GGUF files and no {expected}; a folder with one of either is needed")
    from transformers.utils import is_gguf_available

    if not is_gguf_available():
        raise UserError(f"{files[0]}: reading it needs the package gguf; install it with pip install '.[gguf]'")
    folder, name = files[0].parent, files[0].name
    return {"pretrained_model_name_or_path": folder, "local_files_only": True, "gguf_file": name}


def patch_forward(network: nn.Module) -> nn.Module:
    """The network with the forward pass used here: position ids by its configuration, and the faster GPT-NeoX layers."""
    from repro.models.neox import patch_layers

    patch_layers(network)
    return position_ids.POSITION_IDS[getattr(trunk_of(network).config, "positions", "implicit")](network)


def save_policy(policy: nn.Module, folder: Path, weights: Mapping[str, Tensor] = {}) -> None:
    """Save in the format of `transformers`, an adapter merged into the weights; only rank 0 writes.

    `weights` are the full weights of a sharded policy, from `wrapping.gather_weights`.
    """
    if ranks.is_main():
        _merge_adapter(policy).save_pretrained(folder, **({"state_dict": dict(weights)} if weights else {}))


def _merge_adapter(network: nn.Module) -> nn.Module:
    """A copy with the adapter merged, since merging in place would end its training; without an adapter, the network itself."""
    return deepcopy(network).merge_and_unload() if hasattr(network, "merge_and_unload") else network


def save_scalar(network: ScalarModel, folder: Path, weights: Mapping[str, Tensor] = {}) -> None:
    """Save the trunk's configuration with `reward_token`, and all weights and buffers; otherwise as `save_policy`."""
    if not ranks.is_main():
        return
    folder.mkdir(parents=True, exist_ok=True)
    trunk = _merge_adapter(network.trunk)
    config = deepcopy(trunk.config)  # a policy may share it
    config.reward_token = network.reward_token
    config.save_pretrained(folder)
    head = {name: value for name, value in network.state_dict().items() if not name.startswith("trunk.")}
    state = weights or head | {f"trunk.{name}": value for name, value in trunk.state_dict().items()}
    save_file({name: value.contiguous().cpu() for name, value in state.items()}, folder / "model.safetensors")


def read_scalar_config(folder: Path) -> Any:
    """The configuration of a saved scalar model; UserError where it does not say at which token the score is read."""
    config = read_config(folder)
    reward_token = getattr(config, "reward_token", "missing")
    if str(reward_token) not in POOLINGS:
        raise UserError(
            f"{folder / 'config.json'}: reward_token is {quoted(reward_token)}; it must be one of {', '.join(POOLINGS)}"
        )
    return config


def load_scalar(folder: Path) -> ScalarModel:
    """A saved scalar model, loaded strictly: a missing head bias, normalisation or pooling is an error."""
    from transformers import AutoModel

    config = read_scalar_config(folder)
    try:
        network = ScalarModel(AutoModel.from_config(config), config.reward_token)
        weights = load_file(folder / "model.safetensors")
    except Exception as error:  # transformers and safetensors share no narrower class
        raise UserError(f"{folder}: no reward model ({reason(error)}); give a whole one") from error
    folders.require_same(folder, network.state_dict(), weights)
    network.load_state_dict(weights, strict=True)
    return patch_forward(network)
