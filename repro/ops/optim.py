"""Learning-rate schedules, as factors of the base rate at the start of a step."""

import math


def linear_to_zero(step: int, steps: int) -> float:
    """1 at step 0, 1/steps at the last (the paper's PPO)."""
    return 1.0 - step / steps


def cosine_to_zero(step: int, steps: int) -> float:
    """Half a cosine from 1 to 0, without warm-up (the paper's SFT and reward model)."""
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))


def constant(step: int, steps: int) -> float:
    """1 throughout."""
    return 1.0
