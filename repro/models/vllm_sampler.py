"""Sampling with vLLM, in this process and on this GPU: optional (`pip install '.[vllm]'`), chosen by `Scale.sampler`.

Written against vLLM's documented interface (LLM, SamplingParams, apply_model, reset_prefix_cache) and tested with a stand-in
for it; it has not been run on a GPU. It differs from the other samplers in two ways:
- It draws with a seed per episode instead of the episode's uniform random numbers: other tokens of the same distribution.
- Its log-probabilities come from other kernels than the update's. `policy/sampler_gap` measures the difference, and the
  detail `old_logprob` can have them computed by the update's forward pass.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from repro.errors import UserError
from repro.models import ranks, wrapping
from repro.models.generate import Sampling
from repro.ops import text

GPU_MEMORY_UTILIZATION = 0.3  # of the GPU, which vLLM reserves for its weights and its KV cache
LOWEST_LOGIT_BIAS = -100.0


class Vllm:
    """A sampler (`repro.models.generate.Sampler`) with an engine, which it constructs at its first call.

    Every call loads the policy's weights into the engine: cheap beside a rollout, and the engine is never an update behind.
    """

    def __init__(self) -> None:
        self.engines: list[Any] = []  # one, from the first call on

    @torch.no_grad()
    def __call__(
        self, policy: nn.Module, query: Tensor, uniform: Tensor, sampling: Sampling, eos: int, pad: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        network = _network(policy, sampling)
        if not self.engines:
            self.engines.append(_engine(network))
        (engine,) = self.engines
        _load_weights(engine, network)
        prompts = [{"prompt_token_ids": row[row != pad].tolist()} for row in query.cpu()]
        answers = engine.generate(prompts, _parameters(uniform, sampling, eos, pad), use_tqdm=False)
        tokens = torch.full(uniform.shape, pad, dtype=torch.long)
        logprob = torch.zeros(uniform.shape)
        for row, answer in enumerate(each.outputs[0] for each in answers):
            drawn = list(answer.token_ids)
            tokens[row, : len(drawn)] = torch.tensor(drawn)
            logprob[row, : len(drawn)] = torch.tensor([at[token].logprob for at, token in zip(answer.logprobs, drawn)])
        every_token = torch.empty(*uniform.shape, 0, dtype=torch.uint8)
        return tokens.to(query.device), logprob.to(query.device), every_token.to(query.device)


def _network(policy: nn.Module, sampling: Sampling) -> nn.Module:
    """The unwrapped policy; UserError where vLLM cannot sample as the arm does."""
    network = wrapping.unwrap(policy)
    if ranks.world_size() > 1:
        raise UserError("sampler=vllm runs in a stage of one process; set processes=1, or sampler=static")
    if sampling.logprob_temperature != sampling.temperature:
        raise UserError(
            "vLLM takes log-probabilities at the sampling temperature, and this arm does not; set sampler=static"
        )
    if sampling.truncate is not text.every_token:
        raise UserError("sampler=vllm draws from all tokens, and this arm does not; set sampler=static")
    if hasattr(network, "peft_config"):
        raise UserError("sampler=vllm loads full weights, and this arm trains an adapter; set sampler=static")
    return network


def _engine(network: nn.Module) -> Any:
    """An engine with the network's architecture and dummy weights, which `_load_weights` replaces before it samples."""
    # In this process, so that the weights of the model can be replaced.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        from vllm import LLM
    except ImportError:
        raise UserError("sampler=vllm needs vLLM: pip install '.[vllm]', or set sampler=static") from None
    with TemporaryDirectory() as folder:
        network.config.save_pretrained(Path(folder))
        return LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16" if torch.is_autocast_enabled(network.device.type) else "auto",
            max_model_len=network.config.max_position_embeddings,
            gpu_memory_utilization=GPU_MEMORY_UTILIZATION,
            enable_prefix_caching=True,  # responses to one query share its keys and values; some versions have it off
            logprobs_mode="processed_logprobs",  # after the temperature: those of the sampling distribution
        )


def _load_weights(engine: Any, network: nn.Module) -> None:
    """Load the network's weights into the engine, and drop the prefix cache of the old ones."""
    weights = [(name, weight.detach()) for name, weight in network.state_dict().items()]

    def load(model: nn.Module) -> int:
        return len(model.load_weights(weights) or ())

    engine.apply_model(load)
    engine.reset_prefix_cache()


def _parameters(uniform: Tensor, sampling: Sampling, eos: int, pad: int) -> list[Any]:
    """[B, R] -> the SamplingParams of each episode, whose seed is its first uniform random number."""
    from vllm import SamplingParams

    after_eos = sampling.after_eos(torch.full((1,), -1), torch.ones(1, dtype=torch.bool), pad)
    return [
        SamplingParams(
            temperature=sampling.temperature,
            top_p=1.0,
            max_tokens=uniform.shape[1],
            seed=seed,
            logprobs=0,  # of the drawn token only
            ignore_eos=True,  # the configuration's; `stop_token_ids` has the tokenizer's
            stop_token_ids=[eos] if bool((after_eos == pad).all()) else [],
            logit_bias={pad: LOWEST_LOGIT_BIAS} if pad != eos else {},
            detokenize=False,
        )
        for seed in (uniform[:, 0].double() * 2**24).long().tolist()
    ]
