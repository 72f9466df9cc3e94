"""The reward of every token: the reward model's score, the penalty for not ending, and the KL to the reference policy."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repro.ops import masked
from repro.types import EpisodeMask, PerEpisode, PerToken, TokenIndex, TokenMask

NO_EOS_SCORE = -1.0  # N+ detail 23.3

# ---------------------------------------------------------------------------------------------- the score


def replace_with_minus_one(score: PerEpisode, has_eos: EpisodeMask) -> PerEpisode:
    """The score of a response that ends; -1 of one that does not, whatever the reward model says.

    Args:
        score: [episodes] the reward model's, NaN too where a response does not end.
        has_eos: [episodes] whether the response has an end of text.

    Source: N+ detail 23.3 (the EOS trick).
    """
    return torch.where(has_eos, score, torch.full_like(score, NO_EOS_SCORE))


def subtract_one(score: PerEpisode, has_eos: EpisodeMask) -> PerEpisode:
    """The score, less 1 where a response does not end.

    Arguments as in `replace_with_minus_one`. Source: TRL's `missing_eos_penalty`.
    """
    return torch.where(has_eos, score, score + NO_EOS_SCORE)


def keep_score(score: PerEpisode, has_eos: EpisodeMask) -> PerEpisode:
    """The reward model's score, of a response that was cut off too.

    Stands where `replace_with_minus_one` may; `has_eos` is not read.
    """
    return score


def clip_score(score: PerEpisode, limit: float) -> PerEpisode:
    """The score, no further than a limit from 0.

    clip(s, -limit, limit)

    Args:
        score: [episodes] s.
        limit: in the score's unit; infinite, the score is left as it is.

    Source: PPO-max (Zheng et al. 2023); not in N+.
    """
    return score.clamp(-limit, limit)


# ---------------------------------------------------------------------------------------------- its shape and its price


def as_scored(score: PerEpisode, of_references: Callable[[], PerEpisode]) -> PerEpisode:
    """The score as the reward model gives it.

    Stands where `sigmoid_over_reference` may; `of_references` is not read.
    """
    return score


def sigmoid_over_reference(score: PerEpisode, of_references: Callable[[], PerEpisode]) -> PerEpisode:
    """The reward model's probability that the response beats the post's reference: between 0 and 1, and flat far above it.

    sigmoid(s - s_ref)

    Args:
        score: [episodes] s.
        of_references: computes s_ref, [episodes]: another pass of the reward model, made only where it is asked for.

    Source: PAR (Fu et al. 2025, arXiv 2502.18770).
    """
    return torch.sigmoid(score - of_references())


def log_sigmoid_over_reference(score: PerEpisode, of_references: Callable[[], PerEpisode]) -> PerEpisode:
    """The logarithm of that probability: at most 0, a straight line far below the reference.

    log sigmoid(s - s_ref)

    Arguments as in `sigmoid_over_reference`. Source: Wang et al. 2024, arXiv 2402.00742. Departure: theirs is over
    a quantile of the SFT policy's scores.
    """
    return torch.nn.functional.logsigmoid(score - of_references())


def length_is_free(score: PerEpisode, length: PerEpisode, most: int) -> PerEpisode:
    """The score, whatever the response's length.

    Stands where `price_per_token` may; `length` and `most` are not read.
    """
    return score


def price_per_token(score: PerEpisode, length: PerEpisode, most: int, price: float) -> PerEpisode:
    """The score, less a price for each token.

    s - c length

    Args:
        score: [episodes] s.
        length: [episodes] tokens of each response, its end of text included.
        most: M, the most tokens that a response can have.
        price: c, in the score's unit.

    `most` is not read. Source: Singhal et al. 2023, arXiv 2310.03716 (reward shaping against length).
    """
    return score - price * length


def ramp_to_the_limit(score: PerEpisode, length: PerEpisode, most: int, start: float) -> PerEpisode:
    """The score, less up to 1 for a response that comes near the limit.

    s - max(length - start M, 0) / (M - start M)

    Args:
        score: [episodes] s.
        length: [episodes] tokens of each response, its end of text included.
        most: M, the most tokens that a response can have.
        start: where the price begins, as a fraction of the limit, below 1.

    Source: DAPO (Yu et al. 2025, arXiv 2503.14476: start 0.8).
    """
    return score - (length - start * most).clamp(min=0) / ((1 - start) * most)


def score_after_eos(
    score: PerEpisode, last: TokenIndex, shape: tuple[int, ...]
) -> Float[Tensor, "{shape[0]} {shape[1]}"]:
    """The score as the reward of the terminal state, one after the last token; on that token where there is no room.

    r_t = s where t = min(last + 1, tokens - 1), 0 elsewhere

    Args:
        score: [episodes] s.
        last: [episodes] index of each response's last token.
        shape: (episodes, tokens).

    Source: N+ code, `actual_end`.
    """
    return _place(score, torch.where(last + 1 < shape[1], last + 1, last), shape)


def score_at_eos(score: PerEpisode, last: TokenIndex, shape: tuple[int, ...]) -> Float[Tensor, "{shape[0]} {shape[1]}"]:
    """The score as the reward of the last token.

    r_t = s where t = last, 0 elsewhere

    Arguments as in `score_after_eos`. Departure: N+ pays it one later.
    """
    return _place(score, last, shape)


def _place(score: PerEpisode, index: TokenIndex, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, dtype=score.dtype, device=score.device).scatter(1, index[:, None], score[:, None])


# ---------------------------------------------------------------------------------------------- the KL to the reference


def k1(logprob: Float[Tensor, "*places"], ref_logprob: Float[Tensor, "*places"]) -> Float[Tensor, "*places"]:
    """The log-ratio: an unbiased estimate of KL(p, q) on samples of p, of either sign.

    log p(x) - log q(x)

    Args:
        logprob: [*places] log p(x) of the sampled token under the policy, in nats.
        ref_logprob: [*places] log q(x), under the reference policy.

    As a loss, its gradient is 0 in expectation. Source: N+ section 7; Ziegler et al. 2019, equation 2.
    """
    return logprob - ref_logprob


def k2(logprob: Float[Tensor, "*places"], ref_logprob: Float[Tensor, "*places"]) -> Float[Tensor, "*places"]:
    """Half the squared log-ratio: a biased estimate of KL(p, q), never negative.

    (log p(x) - log q(x))^2 / 2

    Arguments as in `k1`. As a loss, its gradient on samples of p is that of KL(p, q). Source: Schulman 2020, approximating KL
    divergence.
    """
    return (logprob - ref_logprob) ** 2 / 2


def k3(logprob: Float[Tensor, "*places"], ref_logprob: Float[Tensor, "*places"]) -> Float[Tensor, "*places"]:
    """The log-ratio with a control variate: an unbiased estimate of KL(p, q) on samples of p, never negative.

    q(x) / p(x) - 1 - log(q(x) / p(x))

    Arguments as in `k1`. As a loss, its gradient on samples of p is that of KL(q, p). Source: Schulman 2020, approximating KL
    divergence; GRPO (Shao et al. 2024, equation 4).
    """
    ratio = ref_logprob - logprob
    return ratio.exp() - 1 - ratio


def over_vocabulary(whole: Callable[[], PerToken]) -> PerToken:
    """No estimate but KL(p, q) itself, in nats, over all tokens that could have been drawn.

    Args:
        whole: computes it, [episodes, tokens] (`text.kl_of`): a forward pass of both policies, made only where it is asked for.

    Departure: N+ section 7 estimates by `k1`.
    """
    return whole()


def no_kl(logprob: PerToken, ref_logprob: PerToken) -> PerToken:
    """0 at every token, in the loss: the reference policy does not hold the policy.

    Stands where `k1`, `k2` and `k3` may; of `logprob` the shape is read, `ref_logprob` is not read.
    """
    return torch.zeros_like(logprob)


def k3_times_ratio(logprob: PerToken, ref_logprob: PerToken, log_ratio: PerToken) -> PerToken:
    """`k3`, weighted by the ratio to the policy that sampled: the gradient is KL(p, q)'s after several steps too.

    r k3,  with the gradient through r = exp(log p_new - log p_old)

    Args:
        logprob: [episodes, tokens] log p_new of the sampled token, in nats.
        ref_logprob: [episodes, tokens] under the reference policy.
        log_ratio: [episodes, tokens] log r.

    Source: Liu et al. 2025, arXiv 2510.01555; DeepSeek-V3.2 (2025).
    """
    return log_ratio.exp() * k3(logprob, ref_logprob)


def subtract_all(kl: PerToken) -> PerToken:
    """The part of the KL that is subtracted from the reward: all of `kl`, [episodes, tokens] in nats."""
    return kl


def subtract_nothing(kl: PerToken) -> PerToken:
    """The part of the KL that is subtracted from the reward: 0 whatever `kl`, [episodes, tokens], is, NaN too."""
    return torch.zeros_like(kl)


@dataclass(frozen=True)
class KLPlacement:
    """Where the KL to the reference acts: the part of its estimate that the reward loses, and the term of the loss.

    `in_loss` takes logprob, ref_logprob and log_ratio by name, or some of them.
    """

    in_reward: Callable[[Tensor], Tensor]
    in_loss: Callable[..., Tensor]


def kl_penalised_reward(score: PerToken, kl_cost: PerToken, mask: TokenMask) -> PerToken:
    """The reward of every token: the score where it is paid, less what the KL costs.

    r_t = s_t - beta KL_t,  the second term where the mask is true

    Args:
        score: [episodes, tokens] s, placed by `score_after_eos` or `score_at_eos`.
        kl_cost: [episodes, tokens] beta KL, the coefficient times the estimate; NaN too where the mask is false.
        mask: [episodes, tokens] the response's tokens, without the terminal state.

    Source: Ziegler et al. 2019, equation 2; N+ section 7.
    """
    return score - masked.keep(kl_cost, mask)


def each_at_its_token(score: PerEpisode, kl_cost: PerToken, mask: TokenMask) -> tuple[PerEpisode, PerToken]:
    """Every token pays for its own KL: score and cost as they are.

    Stands where `all_with_the_score` may; `mask` is not read. Source: Ziegler et al. 2019; N+ section 7.
    """
    return score, kl_cost


def all_with_the_score(score: PerEpisode, kl_cost: PerToken, mask: TokenMask) -> tuple[PerEpisode, PerToken]:
    """The whole response's KL is taken from its score, and no token pays for its own.

    s - sum_t beta KL_t,  and 0 at every token

    Args:
        score: [episodes] s.
        kl_cost: [episodes, tokens] beta KL; NaN too where the mask is false.
        mask: [episodes, tokens] the response's tokens.

    Source: RLOO (Ahmadian et al. 2024, arXiv 2402.14740: the response as one action).
    """
    return score - masked.keep(kl_cost, mask).sum(1), torch.zeros_like(kl_cost)


def fixed_coefficient(coefficient: float, kl: float, episodes: int) -> float:
    """The KL coefficient never changes.

    Stands where `adaptive_coefficient` may; `kl` and `episodes` are not read. Source: N+ table 7 (beta, 0.05).
    """
    return coefficient


def adaptive_coefficient(
    coefficient: float, kl: float, episodes: int, target: float = 6.0, horizon: float = 10_000
) -> float:
    """The KL coefficient for the next batch, moved so that an episode's KL nears a target.

    beta (1 + clip(KL / target - 1, -0.2, 0.2) episodes / horizon)

    Args:
        coefficient: beta of this batch.
        kl: mean over this batch's episodes, in nats per episode.
        episodes: of this batch.
        target: in nats per episode.
        horizon: in episodes; the longer, the less a batch changes.

    Source: Ziegler et al. 2019, section 2.2; target and horizon of its code (N+ blog, on the adaptive KL).
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * episodes / horizon)


def best_of_n_kl(n: int) -> float:
    """KL(best of n samples, one sample) in nats: what choosing the best of n adds, wherever no two samples tie.

    log n - (n - 1) / n

    Args:
        n: samples, at least 1; of one the KL is 0.

    Source: Stiennon et al. 2020, appendix G.3. Where samples tie it is an upper bound (Beirami et al. 2024, arXiv 2401.01879).
    """
    return math.log(n) - (n - 1) / n


# ---------------------------------------------------------------------------------------------- the score's unit

Scores = Float[Tensor, " references"]


@dataclass(frozen=True)
class Normalisation:
    """What the reward model subtracts from its output, then divides by: s' = (s - bias) / scale."""

    bias: float
    scale: float


def centre(reference_scores: Scores) -> Normalisation:
    """Scores with mean 0 over the references of the SFT set.

    s' = s - mean(s_ref)

    Args:
        reference_scores: [references] s_ref, the reward model's of people's own summaries.

    Source: N+ detail 15.
    """
    return Normalisation(bias=reference_scores.mean().item(), scale=1.0)


def centre_and_scale(reference_scores: Scores) -> Normalisation:
    """Scores with mean 0 and standard deviation 1 over the references of the SFT set.

    s' = (s - mean(s_ref)) / max(std(s_ref), 1e-6),  std with Bessel's correction

    Arguments as in `centre`. Source: Ziegler et al. 2019, section 2. Departure: theirs is over samples of the pre-trained
    policy.
    """
    return Normalisation(bias=reference_scores.mean().item(), scale=reference_scores.std().clamp(min=1e-6).item())


def centre_and_multiply(reference_scores: Scores, factor: float) -> Normalisation:
    """Scores with mean 0 over the references of the SFT set, and every difference `factor` times as large.

    s' = factor (s - mean(s_ref))

    Args:
        reference_scores: [references] s_ref.
        factor: 1 leaves `centre`.

    Departure: not in N+; a KL coefficient is worth 1 / factor beside such scores.
    """
    return Normalisation(bias=reference_scores.mean().item(), scale=1 / factor)


def as_trained(reference_scores: Scores) -> Normalisation:
    """Scores as the Bradley-Terry loss left them, with an arbitrary offset.

    Stands where `centre` may; `reference_scores` is not read.
    """
    return Normalisation(bias=0.0, scale=1.0)
