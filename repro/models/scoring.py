"""Scores of texts under a reward model: of a batch, of pairs, and of a dataset whose rows ranks shard."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from repro.models import batching, forward_pass, padding, prefill, ranks, wrapping
from repro.models.ensemble import RewardEnsemble
from repro.models.pooling import POOLINGS
from repro.models.scalar_model import ScalarModel
from repro.ops.branch import join, joinable
from repro.ops.places import last, last_true


def response_scores(reward_model: nn.Module, query: Tensor, response: Tensor, pad: int) -> Tensor:
    """[B, Q], [B, R] -> [B, R] float32: the reward model's output at each response token; only the last was trained."""
    inputs = forward_pass.model_inputs(torch.cat([query, response], 1), pad)
    return reward_model(**inputs, places=last(response.shape[1]))


def score(reward_model: nn.Module, ids: Tensor, response_tokens: Tensor, pad: int) -> Tensor:
    """[B, T] padded on either side, [B] response lengths in tokens -> [B] float32 scores, by the model's own pooling.

    Columns on the left that are padding in every row are not run, since no pooling depends on them.
    """
    if isinstance(reward_model, RewardEnsemble):
        return score_with_members(reward_model, ids, response_tokens, pad)[0]
    ids = padding.trim_left(ids, pad)
    pooling, is_token = POOLINGS[_scalar(reward_model).reward_token], ids != pad
    output = reward_model(**forward_pass.model_inputs(ids, pad), places=pooling.places(is_token))
    return pooling.pool(output, is_token, response_tokens)


@torch.no_grad()
def score_responses(reward_model: nn.Module, query: Tensor, response: Tensor, pad: int, shared: bool = False) -> Tensor:
    """[B, Q], [B, R] -> [B] float32 scores of the texts that they are together, without gradients.

    If `shared`, queries that rows share are run once, where the reward is read at the last token of a response.
    """
    is_token = response != pad
    if not (shared and _read_in_response(reward_model, is_token)):
        return score(reward_model, torch.cat([query, response], 1), is_token.sum(1), pad)
    from repro.models.kv_cache import growing_cache

    cache = growing_cache(_scalar(reward_model).trunk.config, query.shape[1] + response.shape[1])
    _, mask = prefill.prefill(partial(reward_model, places=last(1)), query, cache, pad)
    ids, mask = response.masked_fill(~is_token, 0), torch.cat([mask, is_token.long()], 1)
    places = last_true(is_token)
    return reward_model(input_ids=ids, attention_mask=mask, past_key_values=cache, places=places)[:, 0]


def _read_in_response(reward_model: nn.Module, is_token: Tensor) -> bool:
    """Whether a model's score of each text is its output at one token, which is in the response: [B, R] bool."""
    reads_one = POOLINGS[_scalar(reward_model).reward_token].places is last_true
    return reads_one and not isinstance(reward_model, RewardEnsemble) and ranks.all_ranks(bool(is_token.any(1).all()))


def score_with_members(
    reward_model: nn.Module, ids: Tensor, response_tokens: Tensor, pad: int
) -> tuple[Tensor, Tensor]:
    """As `score`, and of several reward models [B, members] what each of them says; [B, 0] of one."""
    if not isinstance(reward_model, RewardEnsemble):
        scores = score(reward_model, ids, response_tokens, pad)
        return scores, scores.new_empty(len(scores), 0)
    members = torch.stack([score(member, ids, response_tokens, pad) for member in reward_model.members])
    return reward_model.combine(members), members.T


def score_pairs(
    reward_model: nn.Module, first: Tensor, second: Tensor, response_tokens: tuple[Tensor, Tensor], pad: int
) -> Tensor:
    """Two [B, T] batches of texts and their [B] response lengths, on the CPU -> [B, 2] float32 scores.

    Where the reward is read at one token, the prefix that the two texts of a row have in common is run once.
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
    """[N, T] padded on either side, [N] response lengths -> [N] float32 scores on the CPU, `batch` at a time over all ranks."""
    device = next(reward_model.parameters()).device

    def scores(rows: Tensor) -> Tensor:
        part = trim_for(reward_model, ids[rows], pad).to(device)
        return score(reward_model, part, response_tokens[rows].to(device), pad)

    return batching.map_rows(batching.longest_first(ids, pad), batch, scores)


def trim_for(reward_model: nn.Module, ids: Tensor, pad: int) -> Tensor:
    """[B, T] without the columns on the right that are padding in every row, unless the pooling reads the last column."""
    return POOLINGS[_scalar(reward_model).reward_token].trim(ids, pad)


def _scalar(reward_model: nn.Module) -> ScalarModel:
    """The reward model, or the first of several, without its DDP or FSDP wrapper."""
    network = wrapping.unwrap(reward_model)
    return wrapping.unwrap(network.members[0]) if isinstance(network, RewardEnsemble) else network
