"""Sampling by vLLM, in this process and on this GPU: optional (`pip install '.[vllm]'`), and chosen by `Scale.sampler`.

Written against vLLM's documented interface (LLM, SamplingParams, apply_model, reset_prefix_cache) and tested with a stand-in
for it; it has not been run on a GPU. What it does otherwise than the other samplers:
- it draws with a seed for each episode and not with the episode's uniform numbers: other tokens, from the same distribution;
- its log-probabilities come from other kernels than the update's. `policy/sampler_gap` says how far they are apart, and the
  detail `old_logprob` can have them computed again.
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

SHARE = 0.3  # of the GPU's memory that is vLLM's for good: its weights and its cache
NEVER = -100.0  # the lowest that vLLM adds to a logit


class Vllm:
    """A sampler (`repro.models.generate.Sampler`) that holds an engine, which is made when it first samples.

    Weights are handed over each time: cheap beside a rollout, and no engine can draw with those of an earlier update.
    """

    def __init__(self) -> None:
        self.engines: list[Any] = []  # one, once it has sampled

    @torch.no_grad()
    def __call__(
        self, policy: nn.Module, query: Tensor, uniform: Tensor, how: Sampling, eos: int, pad: int
    ) -> tuple[Tensor, Tensor]:
        network = _network(policy, how)
        if not self.engines:
            self.engines.append(_engine(network))
        (engine,) = self.engines
        _hand_over(engine, network)
        prompts = [{"prompt_token_ids": row[row != pad].tolist()} for row in query.cpu()]
        answers = engine.generate(prompts, _parameters(uniform, how, eos, pad), use_tqdm=False)
        tokens = torch.full(uniform.shape, pad, dtype=torch.long)
        logprob = torch.zeros(uniform.shape)
        for row, answer in enumerate(each.outputs[0] for each in answers):
            drawn = list(answer.token_ids)
            tokens[row, : len(drawn)] = torch.tensor(drawn)
            logprob[row, : len(drawn)] = torch.tensor([at[token].logprob for at, token in zip(answer.logprobs, drawn)])
        return tokens.to(query.device), logprob.to(query.device)


def _network(policy: nn.Module, how: Sampling) -> nn.Module:
    """The policy's own network; UserError where vLLM could not draw what the arm asks for."""
    network = wrapping.unwrap(policy)
    if ranks.world_size() > 1:
        raise UserError("sampler=vllm runs in a stage of one process; set processes=1, or sampler=static")
    if how.measured_at != how.temperature:
        raise UserError(
            "vLLM measures at the temperature that it samples at, and this arm does not; set sampler=static"
        )
    if hasattr(network, "peft_config"):
        raise UserError("sampler=vllm takes whole weights, and this arm trains an adapter; set sampler=static")
    return network


def _engine(network: nn.Module) -> Any:
    """An engine with the network's architecture; its own weights are no matter, since it gets others before it draws."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the model in this process, so that weights need not travel
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
            gpu_memory_utilization=SHARE,
            logprobs_mode="processed_logprobs",  # after the temperature: those of the distribution that is drawn from
        )


def _hand_over(engine: Any, network: nn.Module) -> None:
    """The network's weights to the engine; what it remembers of earlier prompts came from others."""
    weights = [(name, weight.detach()) for name, weight in network.state_dict().items()]

    def load(inside: nn.Module) -> int:
        return len(inside.load_weights(weights) or ())

    engine.apply_model(load)
    engine.reset_prefix_cache()


def _parameters(uniform: Tensor, how: Sampling, eos: int, pad: int) -> list[Any]:
    """[B, R] -> one set for each episode, whose seed is made of its first uniform number."""
    from vllm import SamplingParams

    ended = how.after_end(torch.full((1,), -1), torch.ones(1, dtype=torch.bool), pad)
    return [
        SamplingParams(
            temperature=how.temperature,
            top_p=1.0,
            max_tokens=uniform.shape[1],
            seed=seed,
            logprobs=0,  # of the token that was drawn
            ignore_eos=True,  # the configuration's
            stop_token_ids=[eos] if bool((ended == pad).all()) else [],
            logit_bias={pad: NEVER} if pad != eos else {},
            detokenize=False,
        )
        for seed in (uniform[:, 0].double() * 2**24).long().tolist()
    ]
