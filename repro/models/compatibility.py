"""Whether a base model can be trained here: it has to say the same whenever it is asked the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from repro.errors import UserError
from repro.models import forward_pass, logprobs, modes, pretrained

if TYPE_CHECKING:  # imported where they are used: whoever reads the registry does without
    from transformers import PreTrainedModel


def infer_position_ids(policy: PreTrainedModel) -> PreTrainedModel:
    """The policy, told its positions from the mask where it would count padding on the left too, as GPT-2 does.

    Its configuration says so from then on, and whatever is saved of it is loaded the same way.
    """
    if _moved_by_padding(policy):
        policy.config.positions = "from_mask"
    return pretrained.patch_forward(policy)


def require_reproducible(policy: PreTrainedModel) -> None:
    """UserError where two training passes disagree, padding on the left changes the logits, or sampling with a cache says
    something else than the training pass (N+ details 7 and 14).
    """
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        first, again = (modes.set_dropout(policy, 0.0)(**forward_pass.model_inputs(ids, -1)).logits for _ in range(2))
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
    as_it_is, shifted = (
        modes.set_dropout(policy, 0.0)(**forward_pass.model_inputs(x, -1)).logits[:, -8:] for x in (ids, padded)
    )
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
    found = logprobs.token_logprobs(torch.cat(logits, 1), response, -1, -1, 1.0)
    return found, logprobs.response_logprobs(policy, query, response, -1, -1, 1.0)
