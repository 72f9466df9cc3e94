"""Whether a base model can be trained here: equal inputs have to give equal logits, whatever the padding or the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from repro.errors import UserError
from repro.models import forward_pass, logprobs, modes, pretrained

if TYPE_CHECKING:  # imported where it is used, since the registry is read without these libraries
    from transformers import PreTrainedModel


def infer_position_ids(policy: PreTrainedModel) -> PreTrainedModel:
    """The policy with positions counted from the mask, if padding on the left changes its logits, as it does GPT-2's.

    The configuration records it, so that a saved policy is loaded in the same way.
    """
    if _depends_on_left_padding(policy):
        policy.config.positions = "from_mask"
    return pretrained.patch_forward(policy)


def require_reproducible(policy: PreTrainedModel) -> None:
    """UserError where two forward passes in training mode differ, padding on the left changes the logits, or sampling with
    a KV cache gives other log-probabilities than one forward pass (N+ details 7 and 14).
    """
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        first, again = (modes.set_dropout(policy, 0.0)(**forward_pass.model_inputs(ids, -1)).logits for _ in range(2))
        if not torch.equal(first, again):
            raise UserError("the base model has dropout that cannot be switched off; give one without")
        if _depends_on_left_padding(policy):
            raise UserError("padding on the left changes the base model's logits; give one whose attention masks it")
        cached, uncached = _logprobs_with_and_without_cache(policy, ids[:, :5], ids[:, 5:])
    if not torch.allclose(cached, uncached, atol=1e-3):
        raise UserError(
            "the base model's log-probabilities differ between sampling token by token and one pass over the whole text; "
            "give one whose past is in a cache of keys and values"
        )


@torch.no_grad()
def _depends_on_left_padding(policy: PreTrainedModel) -> bool:
    """Whether three columns of padding on the left change the logits."""
    ids = torch.arange(1, 9)[None]
    padded = torch.cat([torch.full((1, 3), -1), ids], 1)
    unpadded, shifted = (
        modes.set_dropout(policy, 0.0)(**forward_pass.model_inputs(x, -1)).logits[:, -8:] for x in (ids, padded)
    )
    return not torch.allclose(unpadded, shifted, atol=1e-3)


def _logprobs_with_and_without_cache(policy: PreTrainedModel, query: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
    """[1, Q], [1, R] -> [1, R] each: log-probabilities of the response, token by token with a cache and in one pass."""
    from transformers import DynamicCache

    cache, input_ids, logits = DynamicCache(config=policy.config), query, []
    for t in range(response.shape[1]):
        mask = torch.ones(1, query.shape[1] + t, dtype=torch.long)
        inputs = {"input_ids": input_ids, "attention_mask": mask, "past_key_values": cache, "use_cache": True}
        logits.append(policy(**inputs, logits_to_keep=1).logits)
        input_ids = response[:, t : t + 1]
    cached = logprobs.token_logprobs(torch.cat(logits, 1), response, -1, -1, 1.0)
    return cached, logprobs.response_logprobs(policy, query, response, -1, -1, 1.0)
