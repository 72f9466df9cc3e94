"""Policies, reward models and critics: made, saved, sampled from and scored with. No detail is read here.

A policy is a causal language model of `transformers` with rotary positions; a reward model or critic is a trunk of one
with a scalar head.
Padding is token 0 behind an attention mask, as the paper's code does, so that no embedding is added for it.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import extract_model_from_parallel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GPTNeoXConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from repro.errors import UserError
from repro.ops import text
from repro.ops.masked import keep

# ---------------------------------------------------------------------------------------------- tokenizers


def pad_with_own_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with a padding token that is not its end of text (N+ detail 3)."""
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            f"the tokenizer pads with its end of text {tokenizer.eos_token!r}, and the recipe wants them apart; "
            "give it a [PAD] token of its own"
        )
    return tokenizer


def pad_with_eos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with its end of text for padding, as much code has it."""
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


# ---------------------------------------------------------------------------------------------- forward passes


def attend(ids: Tensor, pad: int) -> dict[str, Tensor]:
    """[B, T] token ids -> the arguments of a forward pass: padding is masked and replaced by token 0."""
    mask = ids != pad
    return {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask.long()}


def trim_left(query: Tensor, pad: int) -> Tensor:
    """[B, Q] left-padded queries without the columns that are padding in every row."""
    return query[:, int((query != pad).any(0).float().argmax()) :]


def trim_right(ids: Tensor, pad: int) -> Tensor:
    """[B, T] right-padded sequences without the columns that are padding in every row; at least one column is left."""
    used = (ids != pad).any(0).nonzero()
    return ids[:, : int(used[-1]) + 1 if len(used) else 1]


def response_logits(policy: nn.Module, query: Tensor, response: Tensor, pad: int, eos: int) -> Tensor:
    """[B, Q], [B, R] -> [B, R, V]: the logits that each response token was drawn from.

    The last token predicts nothing, so it is not run; logits of the query are not computed.
    """
    ids = torch.cat([query, response[:, :-1]], 1)
    logits = policy(**attend(ids, pad), logits_to_keep=response.shape[1], use_cache=False).logits
    return drawable(logits, pad, eos)


def token_logprobs(logits: Tensor, response: Tensor, pad: int, eos: int, temperature: float) -> Tensor:
    """[B, R, V], [B, R] -> [B, R] float32: log-probability of each response token; 0 of padding."""
    tokens = response.clamp(max=logits.shape[-1] - 1)
    return text.logprob_of(logits, tokens, temperature).masked_fill(is_padding(response, pad, eos), 0.0)


def is_padding(response: Tensor, pad: int, eos: int) -> Tensor:
    """[B, R] -> [B, R] bool; padding that is the end of text cannot be told from one that was drawn."""
    return (response == pad) & (pad != eos)


def response_logprobs(
    policy: nn.Module, query: Tensor, response: Tensor, pad: int, eos: int, temperature: float
) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: `token_logprobs` of a forward pass."""
    return token_logprobs(response_logits(policy, query, response, pad, eos), response, pad, eos, temperature)


def response_kl(
    policy: nn.Module, reference: nn.Module, query: Tensor, response: Tensor, pad: int, eos: int, temperature: float
) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: KL(policy, reference) in nats over the vocabulary at each token; 0 of padding."""
    logits, ref_logits = (response_logits(network, query, response, pad, eos) for network in (policy, reference))
    return text.kl_of(logits, ref_logits, temperature).masked_fill(is_padding(response, pad, eos), 0.0)


def drawable(logits: Tensor, pad: int, eos: int) -> Tensor:
    """[..., V] logits, in which a padding token of its own cannot be drawn: a mask would take it for a hole.

    Pythia's output layer has a place for it (50277 of 50304), with some probability that training never moved.
    """
    if pad == eos or pad >= logits.shape[-1]:
        return logits
    return logits.index_fill(-1, torch.tensor([pad], device=logits.device), -math.inf)


def response_values(critic: nn.Module, query: Tensor, response: Tensor, pad: int) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: the value of the state before each response token."""
    ids = torch.cat([query, response[:, :-1]], 1)
    return critic(**attend(ids, pad))[:, query.shape[1] - 1 :]


def response_scores(reward_model: nn.Module, query: Tensor, response: Tensor, pad: int) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: what a reward model says at each response token, trained at the last or not."""
    return reward_model(**attend(torch.cat([query, response], 1), pad))[:, query.shape[1] :]


def score(reward_model: nn.Module, ids: Tensor, response_tokens: Tensor, pad: int) -> Tensor:
    """[B, T] padded on either side, [B] response tokens of each -> [B] float32: the reward, read where the model says.

    Columns that are padding on the left of every row are not run: no reading depends on them.
    """
    ids = trim_left(ids, pad)
    reading = READINGS[_scalar(reward_model).reward_token]
    return reading.read(reward_model(**attend(ids, pad)), ids != pad, response_tokens)


@torch.no_grad()
def score_rows(reward_model: nn.Module, ids: Tensor, response_tokens: Tensor, pad: int, batch: int) -> Tensor:
    """[N, T] padded on either side, [N] -> [N] float32 on the CPU, `batch` rows at a time."""
    device, scores = next(reward_model.parameters()).device, []
    for part, count in zip(ids.split(batch), response_tokens.split(batch)):
        part = trim_for(reward_model, part, pad)
        scores.append(score(reward_model, part.to(device), count.to(device), pad).cpu())
    return torch.cat(scores)


def trim_for(reward_model: nn.Module, ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows without the columns on the right that are padding in every row, unless the reward is read there."""
    return READINGS[_scalar(reward_model).reward_token].trim(ids, pad)


def count_tokens(response: Tensor, pad: int) -> Tensor:
    """[B, R] -> [B]: how many tokens of each row are not padding."""
    return (response != pad).sum(1)


# ---------------------------------------------------------------------------------------------- scalar models


@dataclass(frozen=True)
class Reading:
    """How a reward model's outputs become one reward; `trim` takes the columns that `read` does not need."""

    trim: Callable[[Tensor, int], Tensor]
    read: Callable[[Tensor, Tensor, Tensor], Tensor]


def _scalar(reward_model: nn.Module) -> "ScalarModel":
    """The network itself, where ranks have wrapped it."""
    return extract_model_from_parallel(reward_model)


def as_it_is(ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows, unchanged."""
    return ids


def at_last_token(output: Tensor, is_token: Tensor, response_tokens: Tensor) -> Tensor:
    """[B, T] outputs, [B, T] bool, [B] -> [B]: the output at the last token that is not padding (N+ detail 12)."""
    index = torch.arange(output.shape[1], device=output.device)
    last = torch.where(is_token, index, 0).amax(1)
    return output.gather(1, last[:, None]).squeeze(1)


def at_last_position(output: Tensor, is_token: Tensor, response_tokens: Tensor) -> Tensor:
    """[B, T] outputs, [B, T] bool, [B] -> [B]: the output at the last column, which is mostly padding."""
    return output[:, -1]


def mean_over_response(output: Tensor, is_token: Tensor, response_tokens: Tensor) -> Tensor:
    """[B, T] outputs, [B, T] bool, [B] -> [B]: the mean output over the response's tokens; 0 where it has none."""
    mask = last_tokens(is_token, response_tokens)
    return keep(output, mask).sum(1) / mask.sum(1).clamp(min=1)


def last_tokens(is_token: Tensor, count: Tensor) -> Tensor:
    """[B, T] bool, [B] -> [B, T] bool: the last `count` tokens of each row, wherever its padding is."""
    from_the_end = is_token.flip(1).cumsum(1).flip(1)
    return is_token & (from_the_end <= count[:, None])


READINGS = {
    "eos": Reading(trim_right, at_last_token),
    "last_position": Reading(as_it_is, at_last_position),
    "mean_over_response": Reading(trim_right, mean_over_response),
}


@dataclass(frozen=True)
class Padding:
    """On which side texts are padded when they are scored: (ids [B, T], pad) -> ids [B, T], one for each stage."""

    in_rm: Callable[[Tensor, int], Tensor]
    in_ppo: Callable[[Tensor, int], Tensor]


def pad_left(ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows with all of their padding moved to the left."""
    return ids.gather(1, (ids != pad).long().argsort(dim=1, stable=True))


def pad_right(ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows with all of their padding moved to the right."""
    return ids.gather(1, (ids == pad).long().argsort(dim=1, stable=True))


class ScalarModel(nn.Module):
    """A trunk with a linear head: a reward model read at one token, or a critic read at all of them (N+ detail 11).

    `reward_token` names the reading that makes its outputs one reward; it is saved with the configuration.
    """

    def __init__(self, trunk: PreTrainedModel, reward_token: str = "eos") -> None:
        super().__init__()
        self.trunk = trunk
        self.reward_token = reward_token
        self.head = nn.Linear(trunk.config.hidden_size, 1)
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("gain", torch.ones(()))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T] -> [B, T] float32: normalised output at every token."""
        hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):  # it would round the score to bfloat16
            output = nn.functional.linear(hidden.float(), self.head.weight.float(), self.head.bias.float())
            return (output.squeeze(-1) - self.bias) / self.gain


def head_normal(head: nn.Linear, generator: torch.Generator) -> None:
    """Weights from N(0, 1/sqrt(d + 1)), bias 0 (N+ detail 11)."""
    nn.init.normal_(head.weight, std=1 / math.sqrt(head.in_features + 1), generator=generator)
    nn.init.zeros_(head.bias)


def head_library_default(head: nn.Linear, generator: torch.Generator) -> None:
    """Weights and bias uniform within 1/sqrt(d), as `nn.Linear` starts."""
    bound = 1 / math.sqrt(head.in_features)
    nn.init.uniform_(head.weight, -bound, bound, generator=generator)
    nn.init.uniform_(head.bias, -bound, bound, generator=generator)


def head_zeros(head: nn.Linear, generator: torch.Generator) -> None:
    """All zeros: every text scores 0 before the first step."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)


def critic_from_reward_model(reward_model: Path, sft: Path, generator: torch.Generator) -> ScalarModel:
    """A copy of the reward model, its normalisation included (N+ detail 22)."""
    return load_scalar(reward_model)


def critic_with_random_head(reward_model: Path, sft: Path, generator: torch.Generator) -> ScalarModel:
    return _critic_on_sft(sft, head_normal, generator)


def critic_with_zero_head(reward_model: Path, sft: Path, generator: torch.Generator) -> ScalarModel:
    return _critic_on_sft(sft, head_zeros, generator)


def _critic_on_sft(sft: Path, initialise, generator: torch.Generator) -> ScalarModel:
    critic = ScalarModel(load_policy(sft).base_model)
    initialise(critic.head, generator)
    return critic


def critic_of_its_own(critic: ScalarModel, policy: nn.Module) -> ScalarModel:
    """The critic shares no weight with the policy (N+ detail 22)."""
    return critic


def critic_on_policy(critic: ScalarModel, policy: PreTrainedModel) -> ScalarModel:
    """A head of zeros on the policy's own trunk, whose weights both losses then move (the 2019 code)."""
    shared = ScalarModel(policy.base_model)
    nn.init.zeros_(shared.head.weight)
    nn.init.zeros_(shared.head.bias)
    return shared


# ---------------------------------------------------------------------------------------------- positions and precision


def positions_implicit(network: nn.Module) -> nn.Module:
    """Positions count columns, padding included: with rotary positions only distances matter (the paper's code)."""
    return network


def positions_from_mask(network: nn.Module) -> nn.Module:
    """Positions count the tokens that are not padding, so that a text's first is 0 on whichever side it is padded."""
    trunk = network.trunk if isinstance(network, ScalarModel) else network.base_model
    trunk.register_forward_pre_hook(_count_positions, with_kwargs=True)
    return network


def _count_positions(trunk: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Of a cached step the mask covers the whole text and the ids its last tokens."""
    ids = args[0] if args else kwargs["input_ids"]
    positions = (kwargs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return args, kwargs | {"position_ids": positions[:, -ids.shape[1] :]}


def mixed_as_declared(precision: str) -> str:
    """accelerate's word for a scale's precision: bfloat16 autocast where "auto" finds a device that likes it."""
    likes_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bf16" if precision == "auto" and likes_bfloat16 else "no"


def mixed_never(precision: str) -> str:
    """float32 throughout."""
    return "no"


def mixed_bfloat16(precision: str) -> str:
    """bfloat16 autocast over float32 weights, on any device."""
    return "bf16"


# ---------------------------------------------------------------------------------------------- making, saving, loading


def set_dropout(network: nn.Module, probability: float) -> nn.Module:
    """The network in training mode with every dropout at `probability`: 0 unless a recipe says otherwise (N+ detail 7)."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = probability
    return network.train()


def frozen(network: nn.Module) -> nn.Module:
    return set_dropout(network, 0.0).eval().requires_grad_(False)


def parse_shape(shape: str) -> tuple[int, int, int, int]:
    """Hidden size, layers, heads and intermediate size of "gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE"."""
    parts = shape.removeprefix("gpt-neox:").split("/")
    if (
        len(parts) == 4
        and all(part.isdecimal() and int(part) > 0 for part in parts)
        and int(parts[0]) % int(parts[2]) == 0
    ):
        return tuple(map(int, parts))
    raise UserError(
        f"{shape!r} is neither a model's folder nor a shape; a shape is gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE in whole "
        "numbers, HIDDEN a multiple of HEADS, as gpt-neox:128/6/4/512 (Pythia-14m)"
    )


def require_reproducible(policy: PreTrainedModel) -> None:
    """UserError where two training passes disagree, or padding on the left changes the logits (N+ details 7 and 14)."""
    ids = torch.arange(1, 9)[None]
    padded = torch.cat([torch.full((1, 3), -1), ids], 1)
    with torch.no_grad():
        first, again, shifted = (set_dropout(policy, 0.0)(**attend(x, -1)).logits[:, -8:] for x in (ids, ids, padded))
    if not torch.equal(first, again):
        raise UserError("the base model has dropout that cannot be switched off; give one without")
    if not torch.allclose(first, shifted, atol=1e-3):
        raise UserError("padding on the left changes what the base model says; give one with rotary positions")


def initialise(shape: str, vocabulary: int, positions: int, seed: int) -> PreTrainedModel:
    """A GPT-NeoX with random weights from "gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE"."""
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
        return AutoModelForCausalLM.from_config(config)


def load_policy(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def save_policy(policy: nn.Module, folder: Path) -> None:
    """As `transformers` saves it, an adapter merged into the weights."""
    _merged(policy).save_pretrained(folder)


def _merged(network: nn.Module) -> nn.Module:
    return network.merge_and_unload() if hasattr(network, "merge_and_unload") else network


def save_scalar(network: ScalarModel, folder: Path) -> None:
    """Configuration of the trunk, and all weights and buffers, an adapter merged into them."""
    network.trunk = _merged(network.trunk)
    folder.mkdir(parents=True, exist_ok=True)
    config = deepcopy(network.trunk.config)  # it may be a policy's too
    config.reward_token = network.reward_token
    config.save_pretrained(folder)
    save_file(
        {name: value.contiguous().cpu() for name, value in network.state_dict().items()}, folder / "model.safetensors"
    )


def load_scalar(folder: Path) -> ScalarModel:
    """The saved network, strictly: a missing head bias, normalisation or reading is an error, not a default."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    reward_token = getattr(config, "reward_token", "missing")
    if reward_token not in READINGS:
        raise UserError(
            f"{folder / 'config.json'}: reward_token is {reward_token}; it must be one of {', '.join(READINGS)}"
        )
    network = ScalarModel(AutoModel.from_config(config), reward_token)
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return network
