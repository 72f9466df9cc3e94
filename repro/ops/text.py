"""Token sequences: where a response ends, and how likely its tokens are."""

from collections.abc import Callable

import torch
from torch import Tensor

# Added to the temperature, as the paper's code does.
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
    """[B, R, V], [B, R] -> [B, R] float32: log-probability of each token at `temperature` (N+ blog)."""
    scaled = logits.float() / (temperature + TEMPERATURE_EPSILON)
    return scaled.gather(-1, tokens[..., None]).squeeze(-1) - scaled.logsumexp(-1)


def entropy_of(logits: Tensor, temperature: float) -> Tensor:
    """[B, R, V] -> [B, R] float32: entropy in nats; a logit of -inf is a token that cannot be drawn."""
    logprob = _log_softmax(logits, temperature)
    return -(logprob.exp() * logprob.masked_fill(logprob == -torch.inf, 0.0)).sum(-1)


def kl_of(logits: Tensor, ref_logits: Tensor, temperature: float) -> Tensor:
    """[B, R, V], [B, R, V] -> [B, R] float32: KL(p, q) in nats over the whole vocabulary, of what p can draw."""
    logprob, ref_logprob = _log_softmax(logits, temperature), _log_softmax(ref_logits, temperature)
    apart = (logprob - ref_logprob).masked_fill(logprob == -torch.inf, 0.0)
    return (logprob.exp() * apart).sum(-1)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return (logits.float() / (temperature + TEMPERATURE_EPSILON)).log_softmax(-1)


def go_on(drawn: Tensor, ended: Tensor, pad: int) -> Tensor:
    """[B] tokens, [B] bool -> [B]: sampling goes on after the end of text, to a fixed length (N+ detail 23.1)."""
    return drawn


def stop(drawn: Tensor, ended: Tensor, pad: int) -> Tensor:
    """[B] tokens, [B] bool -> [B]: after its end of text a row gets padding."""
    return torch.where(ended, pad, drawn)


def up_to_end(last: Tensor, length: int) -> Tensor:
    """[B] index of the end of text -> [B] index of the last token that counts: the same (N+ code, masked)."""
    return last


def to_the_limit(last: Tensor, length: int) -> Tensor:
    """[B] -> [B] index of the last token that counts: the limit's, as before the paper's code had masks."""
    return torch.full_like(last, length - 1)


def as_sampled(sampled: Tensor, again: Callable[[], Tensor]) -> Tensor:
    """[B, R]: the sampler's own log-probabilities are the old ones."""
    return sampled


def computed_again(sampled: Tensor, again: Callable[[], Tensor]) -> Tensor:
    """[B, R]: the old log-probabilities come from a forward pass as the update makes it."""
    return again()


def at_temperature(temperature: float) -> float:
    """Log-probabilities are those of the distribution that is sampled from (N+ blog)."""
    return temperature


def without_temperature(temperature: float) -> float:
    """Log-probabilities are taken at temperature 1, whatever was sampled at."""
    return 1.0


def whole_text(ids: Tensor, response_tokens: Tensor, pad: int) -> Tensor:
    """[N, T] right-padded query and response, [N] tokens of the response -> [N, T] true on all that is not padding."""
    return ids != pad


def response_only(ids: Tensor, response_tokens: Tensor, pad: int) -> Tensor:
    """[N, T], [N] -> [N, T] true on the response's tokens: the text's last ones, as many as the response has."""
    index, length = torch.arange(ids.shape[1], device=ids.device), (ids != pad).sum(1, keepdim=True)
    return (index < length) & (index >= length - response_tokens[:, None])
