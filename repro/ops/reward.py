"""What an episode is paid: the score, the penalty for not ending, and the price of leaving the reference policy."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.ops import masked

NO_EOS_SCORE = -1.0  # N+ detail 23.3
Estimator = Callable[[Tensor, Tensor], Tensor]


def replace_with_minus_one(score: Tensor, has_eos: Tensor) -> Tensor:
    """[B], [B] bool -> [B]: an unfinished response scores -1, whatever the reward model says (N+ detail 23.3)."""
    return torch.where(has_eos, score, torch.full_like(score, NO_EOS_SCORE))


def subtract_one(score: Tensor, has_eos: Tensor) -> Tensor:
    """[B], [B] bool -> [B]: an unfinished response loses 1 (TRL's `missing_eos_penalty`)."""
    return torch.where(has_eos, score, score + NO_EOS_SCORE)


def keep_score(score: Tensor, has_eos: Tensor) -> Tensor:
    """[B], [B] bool -> [B]: the reward model's score of the cut-off text stands."""
    return score


def k1(logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """log p - log q: unbiased for KL(p, q) on samples of p, of either sign (the paper's)."""
    return logprob - ref_logprob


def k2(logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """(log p - log q)^2 / 2: never negative, biased; its gradient on samples of p is that of KL(p, q)."""
    return (logprob - ref_logprob) ** 2 / 2


def k3(logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """q/p - 1 - log(q/p): never negative and unbiased on samples of p (Schulman's note on approximating KL)."""
    ratio = ref_logprob - logprob
    return ratio.exp() - 1 - ratio


Whole = Callable[[], Tensor]  # [B, R] the KL over the whole vocabulary, computed when it is called


def from_samples(estimator: Estimator) -> Callable[[Tensor, Tensor, Whole], Tensor]:
    """The estimate from the sampled tokens' log-probabilities alone."""

    def estimate(logprob: Tensor, ref_logprob: Tensor, whole: Whole) -> Tensor:
        return estimator(logprob, ref_logprob)

    return estimate


def over_vocabulary(logprob: Tensor, ref_logprob: Tensor, whole: Whole) -> Tensor:
    """No estimate: the sum over all tokens that could have been drawn."""
    return whole()


def no_kl(logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """Nothing, in the loss."""
    return torch.zeros_like(logprob)


def charged(kl: Tensor) -> Tensor:
    """The KL is paid out of the reward."""
    return kl


def free(kl: Tensor) -> Tensor:
    """The KL costs no reward."""
    return torch.zeros_like(kl)


@dataclass(frozen=True)
class KL:
    """What the reward is charged of the KL estimate, [B, R] -> [B, R]; and the term of the loss, an `Estimator`."""

    in_reward: Callable[[Tensor], Tensor]
    in_loss: Estimator


def clip_score(score: Tensor, limit: float) -> Tensor:
    """[B] -> [B]: the reward model's score, no further than `limit` from 0; without end where that is infinite."""
    return score.clamp(-limit, limit)


def score_after_eos(score: Tensor, last: Tensor, shape: torch.Size) -> Tensor:
    """[B] -> [B, R]: the score in the terminal state, one after the last token; on it where there is no room."""
    return _place(score, torch.where(last + 1 < shape[1], last + 1, last), shape)


def score_at_eos(score: Tensor, last: Tensor, shape: torch.Size) -> Tensor:
    """[B] -> [B, R]: the score on the last token itself."""
    return _place(score, last, shape)


def _place(score: Tensor, index: Tensor, shape: torch.Size) -> Tensor:
    return torch.zeros(shape, dtype=score.dtype, device=score.device).scatter(1, index[:, None], score[:, None])


def fixed_coefficient(coefficient: float, kl: float, episodes: int) -> float:
    """The KL coefficient never changes (N+)."""
    return coefficient


def adaptive_coefficient(coefficient: float, kl: float, episodes: int) -> float:
    """Nudge the coefficient so that the KL of an episode nears 6 nats over 10,000 episodes (N+ blog, on the adaptive KL)."""
    error = min(max(kl / 6.0 - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * episodes / 10_000)


@dataclass(frozen=True)
class Normalisation:
    """What the reward model subtracts from its output, then divides by."""

    bias: float
    gain: float


def centre(reference_scores: Tensor) -> Normalisation:
    """The references of the SFT set score 0 on average (N+ detail 15)."""
    return Normalisation(bias=reference_scores.mean().item(), gain=1.0)


def centre_and_scale(reference_scores: Tensor) -> Normalisation:
    """The references score 0 on average with a standard deviation of 1, as Ziegler et al. 2019
    had samples of the pre-trained policy."""
    return Normalisation(bias=reference_scores.mean().item(), gain=reference_scores.std().clamp(min=1e-6).item())


def centre_and_multiply(reference_scores: Tensor, factor: float) -> Normalisation:
    """The references score 0 on average, and every difference is `factor` times what the Bradley-Terry loss made it."""
    return Normalisation(bias=reference_scores.mean().item(), gain=1 / factor)


def as_trained(reference_scores: Tensor) -> Normalisation:
    """Scores as the Bradley-Terry loss left them: their offset is arbitrary."""
    return Normalisation(bias=0.0, gain=1.0)


def whole_reward(score: Tensor, kl: Tensor, mask: Tensor) -> Tensor:
    """[B, R] placed score less [B, R] priced KL on the response's tokens."""
    return score - masked.keep(kl, mask)
