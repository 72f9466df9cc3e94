"""Token sequences: where a response ends, and how likely its tokens are."""

import torch
from torch import Tensor

# Added to the temperature, as the paper's code does (DETAILS 4, items 7 and 8).
TEMPERATURE_EPSILON = 1e-7


def first_true(flags: Tensor) -> Tensor:
    """[B, R] bool -> [B] index of the first true; R where there is none."""
    length = flags.shape[1]
    index = torch.arange(length, device=flags.device).expand_as(flags)
    return torch.where(flags, index, length).amin(dim=1)


def last_token(response: Tensor, eos: int) -> tuple[Tensor, Tensor]:
    """[B, R] -> ([B] index of the last token, [B] whether it is an end of text) (N+ detail 23.2)."""
    end = first_true(response == eos)
    return end.clamp(max=response.shape[1] - 1), end < response.shape[1]


def truncate_after_eos(response: Tensor, eos: int, pad: int) -> Tensor:
    """[B, R] with everything after the first end of text replaced by `pad` (N+ detail 23.2)."""
    index = torch.arange(response.shape[1], device=response.device)
    return torch.where(index[None, :] <= first_true(response == eos)[:, None], response, pad)


def logprob_of(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """[B, R, V], [B, R] -> [B, R] float32: log-probability of each token at `temperature` (N+ blog, detail P1)."""
    scaled = logits.float() / (temperature + TEMPERATURE_EPSILON)
    return scaled.gather(-1, tokens[..., None]).squeeze(-1) - scaled.logsumexp(-1)
