"""Token sequences: where a response ends, how likely its tokens are, and which of them count.

`eos` is the id of the end-of-text token, `pad` that of padding. Temperatures are those of the distribution that is measured;
1e-7 is added to each, as in the paper's code.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from repro.types import EpisodeMask, EpisodeTokens, PerToken, TokenIndex, TokenMask, Tokens

TEMPERATURE_EPSILON = 1e-7

# ---------------------------------------------------------------------------------------------- the end of a response


def first_true(flags: TokenMask) -> TokenIndex:
    """Index of the first true place of each row; the row's length where there is none.

    min {t : flags_t}

    Args:
        flags: [episodes, tokens].

    Source: N+ code, `first_true_indices`.
    """
    length = flags.shape[1]
    index = torch.arange(length, device=flags.device).expand_as(flags)
    return torch.where(flags, index, length).amin(dim=1)


def last_token(response: Tokens, eos: int) -> tuple[TokenIndex, EpisodeMask]:
    """Index of each response's last token, and whether it is an end of text.

    The first end of text where there is one, else the last column.

    Args:
        response: [episodes, tokens] ids as they were sampled; what follows the first `eos` does not matter.
        eos: id of the end of text.

    Source: N+ detail 23.2.
    """
    end = first_true(response == eos)
    return end.clamp(max=response.shape[1] - 1), end < response.shape[1]


def truncate_after_eos(response: Tokens, eos: int, pad: int) -> Tokens:
    """The response with everything after its first end of text replaced by padding.

    Args:
        response: [episodes, tokens] ids as they were sampled.
        eos: id of the end of text, which stays.
        pad: id of padding.

    Source: N+ detail 23.2, `truncate_response` in the code.
    """
    index = torch.arange(response.shape[1], device=response.device)
    return torch.where(index[None, :] <= first_true(response == eos)[:, None], response, pad)


def ignore_eos(drawn: EpisodeTokens, ended: EpisodeMask, pad: int) -> EpisodeTokens:
    """The token that a row gets: what was drawn, after its end of text too, up to a fixed length.

    Stands where `stop_at_eos` may; `ended` and `pad` are not read. Source: N+ detail 23.1.
    """
    return drawn


def stop_at_eos(drawn: EpisodeTokens, ended: EpisodeMask, pad: int) -> EpisodeTokens:
    """The token that a row gets: what was drawn, and padding once the row has ended.

    Args:
        drawn: [episodes] the ids that were drawn at this step.
        ended: [episodes] whether an end of text was drawn at a step before.
        pad: id of padding.

    Departure: N+ samples on, and truncates afterwards.
    """
    return torch.where(ended, pad, drawn)


def up_to_end(last: TokenIndex, length: int) -> TokenIndex:
    """Index of the last token that losses and rewards count: the response's last.

    Stands where `to_the_limit` may; `length` is not read. Source: N+ code, which masks what follows.
    """
    return last


def to_the_limit(last: TokenIndex, length: int) -> TokenIndex:
    """Index of the last token that losses and rewards count: the last column, however early the text ended.

    Args:
        last: [episodes] of each response's last token.
        length: columns of a response.

    Source: the paper's code before it had masks.
    """
    return torch.full_like(last, length - 1)


# ---------------------------------------------------------------------------------------------- how likely tokens are


def logprob_of(
    logits: Float[Tensor, "*places vocabulary"], tokens: Int[Tensor, "*places"], temperature: float
) -> Float32[Tensor, "*places"]:
    """Log-probability of each token, in nats; half-precision logits are computed with in float32.

    log p(x) = z_x / temperature - log sum_v exp(z_v / temperature)

    Args:
        logits: [*places, vocabulary] z, that the token was drawn from.
        tokens: [*places] x, ids below the vocabulary's size.
        temperature: that the token was sampled at, if its log-probability is to be the sampler's.

    Source: N+ blog, on scaling logits by the temperature.
    """
    scaled = logits.float() / (temperature + TEMPERATURE_EPSILON)
    return scaled.gather(-1, tokens[..., None]).squeeze(-1) - scaled.logsumexp(-1)


def entropy_of(logits: Float[Tensor, "*places vocabulary"], temperature: float) -> Float32[Tensor, "*places"]:
    """Entropy of the distribution that a token is drawn from, in nats.

    H(p) = -sum_v p_v log p_v

    Args:
        logits: [*places, vocabulary]; -inf is a token that cannot be drawn, and adds 0 to result and gradient.
        temperature: that p is taken at.
    """
    logprob = _log_softmax(logits, temperature)
    return -(logprob.exp() * logprob.masked_fill(logprob == -torch.inf, 0.0)).sum(-1)


def kl_of(
    logits: Float[Tensor, "*places vocabulary"], ref_logits: Float[Tensor, "*places vocabulary"], temperature: float
) -> Float32[Tensor, "*places"]:
    """KL divergence between two distributions of a token, exact over the whole vocabulary, in nats.

    KL(p, q) = sum_v p_v (log p_v - log q_v),  over the tokens that p can draw

    Args:
        logits: [*places, vocabulary] of p, the policy.
        ref_logits: [*places, vocabulary] of q, the reference; -inf where p can draw makes the result infinite.
        temperature: that both are taken at.

    Departure: N+ estimates it from the sampled token (`reward.k1`).
    """
    logprob, ref_logprob = _log_softmax(logits, temperature), _log_softmax(ref_logits, temperature)
    apart = (logprob - ref_logprob).masked_fill(logprob == -torch.inf, 0.0)
    return (logprob.exp() * apart).sum(-1)


def every_token(logits: Float[Tensor, "texts vocabulary"]) -> Float[Tensor, "texts vocabulary"]:
    """Every token may be drawn: `logits`, [texts, vocabulary], as they are."""
    return logits


def top_k(logits: Float[Tensor, "texts vocabulary"], count: int) -> Float[Tensor, "texts vocabulary"]:
    """Only the likeliest tokens may be drawn; the others have a logit of -inf.

    Args:
        logits: [texts, vocabulary] at the sampling temperature.
        count: how many remain; of equal ones all.

    Source: Fan et al. 2018, arXiv 1805.04833.
    """
    least = logits.topk(min(count, logits.shape[-1]), -1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def top_p(logits: Float[Tensor, "texts vocabulary"], mass: float) -> Float[Tensor, "texts vocabulary"]:
    """Only the fewest tokens that have a probability mass together may be drawn; the others have a logit of -inf.

    Args:
        logits: [texts, vocabulary] at the sampling temperature.
        mass: above 0; at 1 or more every token remains.

    Source: nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751).
    """
    ordered, index = logits.sort(-1, descending=True)
    probability = ordered.softmax(-1)
    # By what stands before a token, so the first is never dropped; a mass of 1 rounding reaches before the last one.
    drop = (probability.cumsum(-1) - probability >= mass) & (mass < 1)
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, index, drop), -torch.inf)


def from_sampler(sampled: PerToken) -> PerToken:
    """The old log-probabilities of the ratio, as the sampler computed them in its decoding steps.

    Args:
        sampled: [episodes, tokens] those, in nats.

    Source: N+ code.
    """
    return sampled


def recomputed(again: Callable[[], PerToken]) -> PerToken:
    """The old log-probabilities of the ratio, from a forward pass as the update makes it.

    Args:
        again: computes them, [episodes, tokens].

    Source: an older version of N+'s code.
    """
    return again()


def at_temperature(temperature: float) -> float:
    """Log-probabilities are taken at the `temperature` that is sampled at.

    Source: N+ blog, on scaling logits by the temperature.
    """
    return temperature


def without_temperature(temperature: float) -> float:
    """Log-probabilities are taken at temperature 1, whatever was sampled at.

    Stands where `at_temperature` may; `temperature` is not read.
    """
    return 1.0


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return (logits.float() / (temperature + TEMPERATURE_EPSILON)).log_softmax(-1)


# ---------------------------------------------------------------------------------------------- which tokens SFT predicts


def whole_text(
    ids: Int[Tensor, "texts width"], response_tokens: Int[Tensor, " texts"], pad: int
) -> Bool[Tensor, "texts width"]:
    """True on every token that is not padding: query and response.

    Stands where `response_only` may; `response_tokens` is not read. Source: N+ detail 9.
    """
    return ids != pad


def response_only(
    ids: Int[Tensor, "texts width"], response_tokens: Int[Tensor, " texts"], pad: int
) -> Bool[Tensor, "texts width"]:
    """True on the response's tokens: the text's last ones, as many as the response has.

    Args:
        ids: [texts, width] query and response, padded on the right.
        response_tokens: [texts] tokens of each response, its end of text included.
        pad: id of padding; where it is that of the end of text, the end is taken for padding.

    Departure: N+ detail 9 predicts the query too.
    """
    index, length = torch.arange(ids.shape[1], device=ids.device), (ids != pad).sum(1, keepdim=True)
    return (index < length) & (index >= length - response_tokens[:, None])
