"""Policies, reward models and critics: made, saved, sampled from and scored with. No detail is read here.

A policy is a causal language model of `transformers` with rotary positions; a reward model or critic is a trunk of one
with a scalar head.
Padding is token 0 behind an attention mask, as the paper's code does, so that no embedding is added for it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from repro.errors import UserError
from repro.models import ranks
from repro.models.shape import parse_shape
from repro.ops import text
from repro.ops.branch import join, joinable
from repro.ops.masked import keep
from repro.ops.places import EVERY, Places, at, last, last_true
from repro.ops.vocabulary import selected_logprob

if TYPE_CHECKING:  # imported where they are used: the registry, which names functions of this module, does without
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NARROWED = ("sdpa", "eager")  # attention whose mask has a row for each query: it can be asked about some places alone
POSITIONS = 2_048  # places of responses whose logits exist at once: 0.4 GB of them in float32 with Pythia's vocabulary
NONE = -1  # the token that is none
# Of models that go on to change logits.
AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")

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


def reading(network: nn.Module, places: Places) -> dict[str, Places]:
    """The argument by which a network's forward pass is told which places are read, where it can be told."""
    config = network.config
    plain = config.model_type == "gpt_neox" and config.rope_parameters["rope_type"] == "default"
    return {"places": places} if plain and config._attn_implementation in NARROWED else {}


def response_logits(policy: nn.Module, query: Tensor, response: Tensor, pad: int, eos: int) -> Tensor:
    """[B, Q], [B, R] -> [B, R, V]: the logits that each response token was drawn from.

    The last token predicts nothing, so it is not run; logits of the query are not computed.
    """
    ids = torch.cat([query, response[:, :-1]], 1)
    tokens = response.shape[1]
    inputs = attend(ids, pad) | reading(policy, last(tokens))
    logits = policy(**inputs, logits_to_keep=tokens, use_cache=False).logits
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
    return response_measures(policy, query, response, pad, eos, temperature)[0]


def response_measures(
    policy: nn.Module,
    query: Tensor,
    response: Tensor,
    pad: int,
    eos: int,
    temperature: float,
    *others: Callable[[Tensor, float], Tensor],
    positions: int = POSITIONS,
) -> tuple[Tensor, ...]:
    """[B, Q], [B, R] -> [B, R] float32 each: log-probability of each response token, and `others` of (its logits [..., V],
    temperature), as an entropy; 0 of padding.
    """

    ids, never = torch.cat([query, response[:, :-1]], 1), pad if pad != eos else NONE

    def measure(logits: Tensor, tokens: Tensor) -> Tensor:
        logits = drawable(logits, pad, eos)
        logprob = text.logprob_of(logits, tokens.clamp(max=logits.shape[-1] - 1), temperature)
        return torch.stack([logprob, *(other(logits, temperature) for other in others)], -1)

    if others:
        found = measured(policy, ids, response, pad, measure, positions)
    else:
        found = selected_logprobs(policy, ids, response, pad, temperature + text.TEMPERATURE_EPSILON, never)[..., None]
    return found.masked_fill(is_padding(response, pad, eos)[..., None], 0.0).unbind(-1)


def selected_logprobs(
    policy: nn.Module, ids: Tensor, tokens: Tensor, pad: int, temperature: float, never: int = NONE
) -> Tensor:
    """[B, T], [B, N] -> [B, N] float32: log-probability of each token after one of the last N places of `ids`.

    `never` is a token that cannot be drawn. Logits exist a block at a time, where the output layer allows it.
    """

    def measure(logits: Tensor, tokens: Tensor) -> Tensor:
        logits = without(logits, never) / temperature
        tokens = tokens.clamp(max=logits.shape[-1] - 1)[..., None]
        return logits.float().log_softmax(-1).gather(-1, tokens)

    network = own_network(policy)
    head = network.get_output_embeddings()
    if _changes_logits(network) or type(head) is not nn.Linear or head.bias is not None:
        return measured(policy, ids, tokens, pad, measure)[..., 0]

    def of_hidden(hidden: Tensor) -> Tensor:
        flat = tokens.clamp(max=len(head.weight) - 1).flatten()
        return selected_logprob(hidden.flatten(0, 1), head.weight, flat, temperature, never).view_as(tokens)

    with _instead_of(head, of_hidden):
        return policy(**_inputs(network, ids, tokens, pad)).logits


def measured(
    policy: nn.Module,
    ids: Tensor,
    tokens: Tensor,
    pad: int,
    measure: Callable[[Tensor, Tensor], Tensor],
    positions: int = POSITIONS,
) -> Tensor:
    """[B, T], [B, N] -> [B, N, K]: what `measure` makes, [n, V] and [n] -> [n, K], of the logits of the last N places.

    Logits exist for `positions` places at a time, in the backward pass too, which computes them again.
    """
    network = own_network(policy)
    inputs, head = _inputs(network, ids, tokens, pad), network.get_output_embeddings()
    if _changes_logits(network):
        return measure(policy(**inputs).logits, tokens)
    project = head.forward

    def part(hidden: Tensor, tokens: Tensor) -> Tensor:
        return measure(project(hidden), tokens)

    def of_hidden(hidden: Tensor) -> Tensor:
        if tokens.numel() <= positions:
            return part(hidden, tokens)
        parts = zip(hidden.flatten(0, 1).split(positions), tokens.flatten().split(positions))
        found = [checkpoint(part, *each, use_reentrant=False, preserve_rng_state=False) for each in parts]
        return torch.cat(found).unflatten(0, tokens.shape)

    with _instead_of(head, of_hidden):
        return policy(**inputs).logits


def own_network(network: nn.Module) -> nn.Module:
    """The network itself, however ranks have wrapped it."""
    from accelerate.utils import extract_model_from_parallel

    return network.network if isinstance(network, Learner) else extract_model_from_parallel(network)


def _inputs(network: nn.Module, ids: Tensor, tokens: Tensor, pad: int) -> dict[str, Any]:
    """What a forward pass is given that is read at as many of the last places as there are tokens in a row."""
    count = tokens.shape[1]
    return attend(ids, pad) | {"logits_to_keep": count, "use_cache": False} | reading(network, last(count))


def _changes_logits(network: nn.Module) -> bool:
    return any(getattr(network.config.get_text_config(), name, None) for name in AFTER_THE_HEAD)


@contextmanager
def _instead_of(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within, the output layer gives something else than logits of its hidden states; so it runs where ranks expect it."""
    project, patched = head.forward, "forward" in vars(head)
    head.forward = forward
    try:
        yield
    finally:
        head.forward = project
        if not patched:
            del head.forward


def response_kl(
    policy: nn.Module, reference: nn.Module, query: Tensor, response: Tensor, pad: int, eos: int, temperature: float
) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: KL(policy, reference) in nats over the vocabulary at each token; 0 of padding.

    As many episodes at a time as have `POSITIONS` places, which bounds memory where no gradient is asked for.
    """
    rows = max(1, POSITIONS // response.shape[1])
    parts = [
        text.kl_of(*(response_logits(network, *part, pad, eos) for network in (policy, reference)), temperature)
        for part in zip(query.split(rows), response.split(rows))
    ]
    return torch.cat(parts).masked_fill(is_padding(response, pad, eos), 0.0)


def drawable(logits: Tensor, pad: int, eos: int) -> Tensor:
    """[..., V] logits, in which a padding token of its own cannot be drawn: a mask would take it for a hole.

    Pythia's output layer has a place for it (50277 of 50304), with some probability that training never moved.
    """
    return without(logits, pad if pad != eos else NONE)


def without(logits: Tensor, token: int) -> Tensor:
    """[..., V] logits, in which one token cannot be drawn, or `NONE` of them."""
    if not 0 <= token < logits.shape[-1]:
        return logits
    return logits.index_fill(-1, torch.full((1,), token, device=logits.device), -math.inf)


def response_values(critic: nn.Module, query: Tensor, response: Tensor, pad: int) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: the value of the state before each response token."""
    ids = torch.cat([query, response[:, :-1]], 1)
    return critic(**attend(ids, pad), places=last(response.shape[1]))


def response_scores(reward_model: nn.Module, query: Tensor, response: Tensor, pad: int) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: what a reward model says at each response token, trained at the last or not."""
    return reward_model(**attend(torch.cat([query, response], 1), pad), places=last(response.shape[1]))


def score(reward_model: nn.Module, ids: Tensor, response_tokens: Tensor, pad: int) -> Tensor:
    """[B, T] padded on either side, [B] response tokens of each -> [B] float32: the reward, read where the model says.

    Columns that are padding on the left of every row are not run: no reading depends on them.
    """
    ids = trim_left(ids, pad)
    how, is_token = READINGS[_scalar(reward_model).reward_token], ids != pad
    output = reward_model(**attend(ids, pad), places=how.places(is_token))
    return how.read(output, is_token, response_tokens)


def score_pairs(
    reward_model: nn.Module, first: Tensor, second: Tensor, response_tokens: tuple[Tensor, Tensor], pad: int
) -> Tensor:
    """[B, T] texts twice, [B] response tokens of each twice, on the CPU -> [B, 2] float32: the rewards of both.

    Where the texts of a row begin alike and the reward is read at one token, what they share is run once.
    """
    network, device = _scalar(reward_model), next(reward_model.parameters()).device
    if (
        READINGS[network.reward_token].places is last_true
        and reads_branches(network.trunk)
        and joinable(first, second, pad)
    ):
        joined = join(first, second, response_tokens, pad)
        ids, mask, positions, ends = (
            part.to(device) for part in (joined.ids, joined.mask, joined.positions, joined.last)
        )
        inputs = {"input_ids": ids.masked_fill(ids == pad, 0), "attention_mask": mask, "position_ids": positions}
        return reward_model(**inputs, places=ends)
    ids = trim_for(reward_model, torch.cat([first, second]), pad).to(device)
    return torch.stack(score(reward_model, ids, torch.cat(response_tokens).to(device), pad).chunk(2), 1)


def reads_branches(trunk: nn.Module) -> bool:
    """Whether a network takes positions and a mask of its own for each place: it does where it can be told places."""
    return bool(reading(trunk, EVERY)) and trunk.config._attn_implementation == "sdpa"


def score_rows(reward_model: nn.Module, ids: Tensor, response_tokens: Tensor, pad: int, batch: int) -> Tensor:
    """[N, T] padded on either side, [N] -> [N] float32 on the CPU, `batch` rows at a time; ranks share the rows."""
    device = next(reward_model.parameters()).device

    def scores(rows: Tensor) -> Tensor:
        part = trim_for(reward_model, ids[rows], pad).to(device)
        return score(reward_model, part, response_tokens[rows].to(device), pad)

    return over_rows(longest_first(ids, pad), batch, scores)


@torch.no_grad()
def over_rows(order: Tensor, batch: int, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """-> [N] on the CPU: what `measure` makes, [B] row numbers -> [B], of rows taken in `order` [N], `batch` at a time.

    Ranks share the rows.
    """
    own, _ = ranks.mine(order)
    measured = torch.cat([measure(rows).cpu() for rows in own.split(batch)])
    (every,) = ranks.merged([measured.numpy()], order)
    return torch.from_numpy(every)


def longest_first(ids: Tensor, pad: int) -> Tensor:
    """[N, T] padded -> [N] row numbers, those with the most tokens first: batches of like lengths have little padding."""
    return (ids != pad).sum(1).argsort(descending=True, stable=True)


def trim_for(reward_model: nn.Module, ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows without the columns on the right that are padding in every row, unless the reward is read there."""
    return READINGS[_scalar(reward_model).reward_token].trim(ids, pad)


def count_tokens(response: Tensor, pad: int) -> Tensor:
    """[B, R] -> [B]: how many tokens of each row are not padding."""
    return (response != pad).sum(1)


# ---------------------------------------------------------------------------------------------- scalar models


@dataclass(frozen=True)
class Reading:
    """How a reward model's outputs become one reward: `trim` takes the columns that are not needed, and of the others'
    [B, T] bool, which are tokens, `places` says where the output is needed and `read` makes one number of it.
    """

    trim: Callable[[Tensor, int], Tensor]
    places: Callable[[Tensor], Places]
    read: Callable[[Tensor, Tensor, Tensor], Tensor]


def _scalar(reward_model: nn.Module) -> ScalarModel:
    """The network itself, where ranks have wrapped it."""
    return own_network(reward_model)


def as_it_is(ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows, unchanged."""
    return ids


def last_column(is_token: Tensor) -> Places:
    """[B, T] -> the last column, which is mostly padding."""
    return last(1)


def every_place(is_token: Tensor) -> Places:
    """[B, T] -> all of them."""
    return EVERY


def as_it_is_read(output: Tensor, is_token: Tensor, response_tokens: Tensor) -> Tensor:
    """[B, 1] outputs -> [B]: the one that was asked for."""
    return output[:, 0]


def mean_over_response(output: Tensor, is_token: Tensor, response_tokens: Tensor) -> Tensor:
    """[B, T] outputs, [B, T] bool, [B] -> [B]: the mean output over the response's tokens; 0 where it has none."""
    mask = last_tokens(is_token, response_tokens)
    return keep(output, mask).sum(1) / mask.sum(1).clamp(min=1)


def last_tokens(is_token: Tensor, count: Tensor) -> Tensor:
    """[B, T] bool, [B] -> [B, T] bool: the last `count` tokens of each row, wherever its padding is."""
    from_the_end = is_token.flip(1).cumsum(1).flip(1)
    return is_token & (from_the_end <= count[:, None])


READINGS = {
    "eos": Reading(trim_right, last_true, as_it_is_read),  # the last token that is not padding (N+ detail 12)
    "last_position": Reading(as_it_is, last_column, as_it_is_read),
    "mean_over_response": Reading(trim_right, every_place, mean_over_response),
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
        self._no_split_modules = getattr(trunk, "_no_split_modules", None) or ()  # what accelerate shards one by one
        self.reward_token = reward_token
        self.head = nn.Linear(width_of(trunk), 1)
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("gain", torch.ones(()))

    def forward(self, places: Places = EVERY, **inputs: Tensor) -> Tensor:
        """`input_ids` [B, T] and the like -> [B, K] float32: normalised output at these places."""
        told = reading(self.trunk, places)
        hidden = self.trunk(**inputs, **told, use_cache=False).last_hidden_state
        hidden = hidden if told else at(hidden, places)
        with torch.autocast(hidden.device.type, enabled=False):  # it would round the score to bfloat16
            output = nn.functional.linear(hidden.float(), self.head.weight.float(), self.head.bias.float())
            return (output.squeeze(-1) - self.bias) / self.gain


def width_of(trunk: PreTrainedModel) -> int:
    """Numbers that a trunk says of each token; the smallest OPT projects its hidden ones down."""
    config = trunk.config.get_text_config()
    return getattr(config, "word_embed_proj_dim", config.hidden_size)


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
    trunk_of(network).register_forward_pre_hook(_count_positions, with_kwargs=True)
    return network


def _count_positions(trunk: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Of a cached step the mask covers the whole text and the ids its last tokens. A mask of every place's own [B, 1, T, T]
    says nothing of positions, and whoever gives it gives them too.
    """
    if kwargs["attention_mask"].dim() == 4:
        return args, kwargs
    ids = args[0] if args else kwargs["input_ids"]
    positions = (kwargs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return args, kwargs | {"position_ids": positions[:, -ids.shape[1] :]}


def mixed_as_declared(precision: str) -> str:
    """accelerate's word for a scale's precision: bfloat16 autocast where "auto" finds a device that likes it."""
    likes_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bf16" if precision == "bfloat16" or (precision == "auto" and likes_bfloat16) else "no"


def mixed_never(precision: str) -> str:
    """float32 throughout."""
    return "no"


def mixed_bfloat16(precision: str) -> str:
    """bfloat16 autocast over float32 weights, on any device."""
    return "bf16"


# ---------------------------------------------------------------------------------------------- trained together, or not


class Learners(nn.Module):
    """The networks that one optimizer trains, as one module: ranks that share weights wrap it as a whole."""

    def __init__(self, **networks: nn.Module) -> None:
        super().__init__()
        self._no_split_modules = getattr(next(iter(networks.values())), "_no_split_modules", None) or ()
        for name, network in networks.items():
            self.add_module(name, network)

    def forward(self, network: str, **inputs: Any) -> Any:
        return self.get_submodule(network)(**inputs)


class Learner:
    """One network of `Learners`, called through whatever ranks have wrapped them in."""

    def __init__(self, wrapped: nn.Module, name: str) -> None:
        self.wrapped, self.name = wrapped, name

    def __call__(self, **inputs: Any) -> Any:
        return self.wrapped(self.name, **inputs)

    @property
    def network(self) -> nn.Module:
        """The network itself, its weights perhaps in shards."""
        from accelerate.utils import extract_model_from_parallel

        return extract_model_from_parallel(self.wrapped).get_submodule(self.name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


def trunk_of(network: nn.Module) -> nn.Module:
    """The transformer under a policy's or a scalar model's head."""
    network = network.network if isinstance(network, Learner) else network
    return network.trunk if isinstance(network, ScalarModel) else network.base_model


@contextmanager
def recomputing(networks: Iterable[nn.Module], what: str) -> Iterator[None]:
    """Within, a backward pass computes the activations of "layers" again instead of keeping them; or of "nothing"."""
    trunks = [trunk_of(network) for network in networks] if what == "layers" else []
    for trunk in trunks:
        trunk.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        for trunk in trunks:
            trunk.gradient_checkpointing_disable()


def held_in(network: nn.Module, weights: str) -> nn.Module:
    """The frozen network with its transformer's weights in "float32" or "bfloat16"; a scalar head stays as it is.

    Buffers stay too: rotary frequencies in bfloat16 would put tokens in other places.
    """
    for parameter in trunk_of(network).parameters() if isinstance(network, ScalarModel) else network.parameters():
        parameter.data = parameter.data.to(getattr(torch, weights))
    return network


def placed(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A frozen network on this rank's device, under the precision that training has; no rank shares it."""
    network.to(accelerator.device)
    network.forward = _under(accelerator.autocast, network.forward)
    return network


def cast_once(accelerator: Accelerator) -> AbstractContextManager:
    """Within, autocast rounds a weight once and not in every forward pass; not where ranks share weights, which come and go."""
    from accelerate.utils import DistributedType

    shared = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    return nullcontext() if shared else accelerator.autocast()


def _under(context: Callable[[], AbstractContextManager], forward: Callable) -> Callable:
    def run(*args: Any, **kwargs: Any) -> Any:
        with context():
            return forward(*args, **kwargs)

    return run


# ---------------------------------------------------------------------------------------------- making, saving, loading


def set_dropout(network: nn.Module, probability: float) -> nn.Module:
    """The network in training mode with every dropout at `probability`: 0 unless a recipe says otherwise (N+ detail 7)."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        for name in [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]:
            setattr(module, name, 0.0 if name == "layerdrop" else probability)  # of whole layers: another thing
    return network.train()


def frozen(network: nn.Module) -> nn.Module:
    return set_dropout(network, 0.0).eval().requires_grad_(False)


def with_own_positions(policy: PreTrainedModel) -> PreTrainedModel:
    """The policy, told its positions from the mask where it would count padding on the left too, as GPT-2 does.

    Its configuration says so from then on, and whatever is saved of it is loaded the same way.
    """
    if _moved_by_padding(policy):
        policy.config.positions = "from_mask"
    return positioned(policy)


def require_reproducible(policy: PreTrainedModel) -> None:
    """UserError where two training passes disagree, padding on the left changes the logits, or sampling with a cache says
    something else than the training pass (N+ details 7 and 14).
    """
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        first, again = (set_dropout(policy, 0.0)(**attend(ids, -1)).logits for _ in range(2))
        if not torch.equal(first, again):
            raise UserError("the base model has dropout that cannot be switched off; give one without")
        if _moved_by_padding(policy):
            raise UserError("padding on the left changes what the base model says; give one whose attention masks it")
        step_by_step, measured = _sampled(policy, ids[:, :5], ids[:, 5:])
    if not torch.allclose(step_by_step, measured, atol=1e-3):
        raise UserError(
            "sampling token by token and one pass over the whole text disagree about the base model's log-probabilities; "
            "give one whose past is in a cache of keys and values"
        )


@torch.no_grad()
def _moved_by_padding(policy: PreTrainedModel) -> bool:
    """Whether three columns of padding on the left change the logits."""
    ids = torch.arange(1, 9)[None]
    padded = torch.cat([torch.full((1, 3), -1), ids], 1)
    as_it_is, shifted = (set_dropout(policy, 0.0)(**attend(x, -1)).logits[:, -8:] for x in (ids, padded))
    return not torch.allclose(as_it_is, shifted, atol=1e-3)


def _sampled(policy: PreTrainedModel, query: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
    """[1, Q], [1, R] -> [1, R] twice: log-probabilities of the response, token by token and in one pass."""
    from transformers import DynamicCache

    cache, step, logits = DynamicCache(config=policy.config), query, []
    for t in range(response.shape[1]):
        mask = torch.ones(1, query.shape[1] + t, dtype=torch.long)
        inputs = {"input_ids": step, "attention_mask": mask, "past_key_values": cache, "use_cache": True}
        logits.append(policy(**inputs, logits_to_keep=1).logits)
        step = response[:, t : t + 1]
    found = token_logprobs(torch.cat(logits, 1), response, -1, -1, 1.0)
    return found, response_logprobs(policy, query, response, -1, -1, 1.0)


def initialise(shape: str, vocabulary: int, positions: int, seed: int) -> PreTrainedModel:
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
        return positioned(AutoModelForCausalLM.from_config(config))


def load_policy(source: Path) -> PreTrainedModel:
    """A causal language model in float32: a folder as `transformers` saves it, or a GGUF file, unpacked."""
    return positioned(read_network(source))


def read_network(source: Path, **options: Any) -> Any:
    """What `from_pretrained` makes of a source and these options, in float32."""
    from transformers import AutoModelForCausalLM

    found = network_in(source)
    # A GGUF is unpacked behind a progress bar that no setting turns off.
    quiet = redirect_stderr(io.StringIO()) if "gguf_file" in found else nullcontext()
    with quiet:
        return AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **found, **options)


def network_in(source: Path) -> dict[str, Any]:
    """Arguments by which `from_pretrained` finds a network, its weights unpacked; UserError where there is none."""
    found = pretrained_in(source, "config.json")
    if "gguf_file" not in found:
        return found
    from transformers import GgufConfig

    return found | {"quantization_config": GgufConfig(dequantize=True)}


def pretrained_in(source: Path, usual: str) -> dict[str, Any]:
    """Arguments by which `from_pretrained` finds what lies in a folder with the `usual` file, in a GGUF, or by one."""
    if (source / usual).is_file():
        return {"pretrained_model_name_or_path": source, "local_files_only": True}
    files = [source] if source.suffix == ".gguf" else sorted(source.glob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"{source}: {len(files)} GGUF files and no {usual}; a folder with one of either is needed")
    from transformers.utils import is_gguf_available

    if not is_gguf_available():
        raise UserError(f"{files[0]}: reading it needs the package gguf; install it with pip install '.[gguf]'")
    folder, name = files[0].parent, files[0].name
    return {"pretrained_model_name_or_path": folder, "local_files_only": True, "gguf_file": name}


POSITIONED = {"implicit": positions_implicit, "from_mask": positions_from_mask}


def positioned(network: nn.Module) -> nn.Module:
    """The network as it is run here: told its positions as its configuration says, and GPT-NeoX with less work."""
    from repro.models.neox import with_less_work

    with_less_work(network)
    return POSITIONED[getattr(trunk_of(network).config, "positions", "implicit")](network)


def prepared(accelerator: Accelerator, network: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
    """What is trained, as accelerate wraps it for this rank, under its autocast however ranks share the weights."""
    if accelerator.is_fsdp2:  # it would hand out rounded weights and outputs, log-probabilities among them
        network.forward = _under(accelerator.autocast, network.forward)
    return accelerator.prepare(network, optimizer)


def gathered(accelerator: Accelerator, wrapped: nn.Module) -> dict[str, Tensor]:
    """All weights of a network that ranks share, on the first of them; nothing where each rank has them all.

    Every rank has to call it.
    """
    from accelerate.utils import DistributedType

    shared = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    return accelerator.get_state_dict(wrapped) if shared else {}


def part_of(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Of the weights of `Learners` those of one network."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def save_policy(policy: nn.Module, folder: Path, weights: Mapping[str, Tensor] = {}) -> None:
    """As `transformers` saves it, an adapter merged into the weights; these weights, where it does not have them all.

    The first rank writes.
    """
    if ranks.first():
        _merged(policy).save_pretrained(folder, **({"state_dict": dict(weights)} if weights else {}))


def _merged(network: nn.Module) -> nn.Module:
    """A copy with its adapter merged, since merging ends an adapter's training; without one, the network itself."""
    return deepcopy(network).merge_and_unload() if hasattr(network, "merge_and_unload") else network


def save_scalar(network: ScalarModel, folder: Path, weights: Mapping[str, Tensor] = {}) -> None:
    """Configuration of the trunk, and all weights and buffers, an adapter merged into them; else as `save_policy`."""
    if not ranks.first():
        return
    folder.mkdir(parents=True, exist_ok=True)
    trunk = _merged(network.trunk)
    config = deepcopy(trunk.config)  # it may be a policy's too
    config.reward_token = network.reward_token
    config.save_pretrained(folder)
    own = {name: value for name, value in network.state_dict().items() if not name.startswith("trunk.")}
    state = weights or own | {f"trunk.{name}": value for name, value in trunk.state_dict().items()}
    save_file({name: value.contiguous().cpu() for name, value in state.items()}, folder / "model.safetensors")


def load_scalar(folder: Path) -> ScalarModel:
    """The saved network, strictly: a missing head bias, normalisation or reading is an error, not a default."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    reward_token = getattr(config, "reward_token", "missing")
    if reward_token not in READINGS:
        raise UserError(
            f"{folder / 'config.json'}: reward_token is {reward_token}; it must be one of {', '.join(READINGS)}"
        )
    network = ScalarModel(AutoModel.from_config(config), reward_token)
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return positioned(network)
