"""Scores of texts under a reward model, one at a time, in pairs or in rows that ranks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repro.models import batching, forward_pass, padding, wrapping
from repro.models.pooling import POOLINGS
from repro.models.scalar_model import ScalarModel
from repro.ops.branch import join, joinable
from repro.ops.places import last, last_true


def response_scores(reward_model: nn.Module, query: Tensor, response: Tensor, pad: int) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: what a reward model says at each response token, trained at the last or not."""
    inputs = forward_pass.model_inputs(torch.cat([query, response], 1), pad)
    return reward_model(**inputs, places=last(response.shape[1]))


def score(reward_model: nn.Module, ids: Tensor, response_tokens: Tensor, pad: int) -> Tensor:
    """[B, T] padded on either side, [B] response tokens of each -> [B] float32: the reward, pooled as the model says.

    Columns that are padding on the left of every row are not run: no pooling depends on them.
    """
    ids = padding.trim_left(ids, pad)
    how, is_token = POOLINGS[_scalar(reward_model).reward_token], ids != pad
    output = reward_model(**forward_pass.model_inputs(ids, pad), places=how.places(is_token))
    return how.pool(output, is_token, response_tokens)


def score_pairs(
    reward_model: nn.Module, first: Tensor, second: Tensor, response_tokens: tuple[Tensor, Tensor], pad: int
) -> Tensor:
    """[B, T] texts twice, [B] response tokens of each twice, on the CPU -> [B, 2] float32: the rewards of both.

    Where the texts of a row begin alike and the reward is read at one token, what they share is run once.
    """
    network, device = _scalar(reward_model), next(reward_model.parameters()).device
    if (
        POOLINGS[network.reward_token].places is last_true
        and forward_pass.supports_branches(network.trunk)
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


def score_rows(reward_model: nn.Module, ids: Tensor, response_tokens: Tensor, pad: int, batch: int) -> Tensor:
    """[N, T] padded on either side, [N] -> [N] float32 on the CPU, `batch` rows at a time; ranks share the rows."""
    device = next(reward_model.parameters()).device

    def scores(rows: Tensor) -> Tensor:
        part = trim_for(reward_model, ids[rows], pad).to(device)
        return score(reward_model, part, response_tokens[rows].to(device), pad)

    return batching.map_rows(batching.longest_first(ids, pad), batch, scores)


def trim_for(reward_model: nn.Module, ids: Tensor, pad: int) -> Tensor:
    """[B, T] rows without the columns on the right that are padding in every row, unless the reward is read there."""
    return POOLINGS[_scalar(reward_model).reward_token].trim(ids, pad)


def _scalar(reward_model: nn.Module) -> ScalarModel:
    """The network itself, where ranks have wrapped it."""
    return wrapping.unwrap(reward_model)
