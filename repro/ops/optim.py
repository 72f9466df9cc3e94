"""Learning-rate schedules, the factor of the base rate at the start of step k of K, k = 0 to K - 1; when a batch is done."""

import math


def linear_to_zero(step: int, steps: int) -> float:
    """A straight line to 0, without warm-up.

    1 - k / K

    Args:
        step: k.
        steps: K, at least 1.

    Source: N+ table 7 (PPO).
    """
    return 1.0 - step / steps


def cosine_to_zero(step: int, steps: int) -> float:
    """Half a cosine to 0, without warm-up.

    (1 + cos(pi k / K)) / 2

    Args:
        step: k.
        steps: K, at least 1.

    Source: N+ details 9 and 10 (SFT and reward model).
    """
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))


def constant(step: int, steps: int) -> float:
    """1 at every step.

    Stands where `linear_to_zero` may; `step` and `steps` are not read. Source: InstructGPT, appendix C.4.
    """
    return 1.0


def never_stop(kl: float) -> bool:
    """A batch is done when all of its epochs are: never before.

    Stands where `kl_above` may; `kl` is not read.
    """
    return False


def kl_above(kl: float, limit: float) -> bool:
    """A batch is done as soon as the policy has moved further than a limit from the one that sampled it.

    Args:
        kl: k2 estimate of KL(old, new) that the last optimizer step started from, in nats per token.
        limit: in the same unit; infinite, this is `never_stop`.

    Source: Spinning Up (Achiam 2018), PPO's `target_kl`, whose limit is 1.5 times that number. Departures: it looks before a
    step, this after it; it estimates the KL by the mean of log p_old - log p_new, this by half its square (N+ `approxkl`); it
    stops the policy alone, this the critic's steps too.
    """
    return kl > limit
