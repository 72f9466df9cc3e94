"""An entropy bonus whose coefficient moves, so that the policy's entropy stays at a level."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from repro.ops import loss

# Functions, (logits, temperature) -> the bonus of each place, to be added up.
Bonuses = tuple[Callable, ...]


def no_bonus(coefficient: float) -> Bonuses:
    """No bonus for entropy: none are measured.

    Stands where `bonus_at` may; `coefficient` is not read.
    """
    return ()


def bonus_at(coefficient: float) -> Bonuses:
    """The bonus for entropy at a coefficient: `loss.entropy_bonus`.

    Args:
        coefficient: per nat of a token's entropy.
    """
    return (partial(loss.entropy_bonus, coefficient=coefficient),)


def same_coefficient(coefficient: float, entropy: float) -> float:
    """The coefficient, which never moves: `coefficient`.

    Stands where `towards_level` may; `entropy` is not read.
    """
    return coefficient


def towards_level(coefficient: float, entropy: float, level: float, rate: float) -> float:
    """The coefficient after one gradient step of its dual problem: up while the entropy is below its level, never below 0.

    max(c - rate (H - level), 0)

    At the level it stays; a policy that keeps more entropy than that ends without a bonus.

    Args:
        coefficient: c, per nat of a token's entropy.
        entropy: H of a response, in nats; mean over a batch.
        level: that H is to have, in nats of a response.
        rate: of the step.

    Source: SAC (Haarnoja et al. 2018, arXiv 1812.05905, section 5). Departure: theirs is per action, and its step is Adam's.
    """
    return max(coefficient - rate * (entropy - level), 0.0)


@dataclass(frozen=True)
class EntropyTarget:
    """What the policy is paid for entropy: the bonuses at a coefficient, the first coefficient, and that after an update.

    `adapt` maps the coefficient and the entropy of a response [nats], as the update's episodes had it, to the next coefficient.
    """

    bonuses: Callable[[float], Bonuses] = no_bonus
    initial: float = 0.0
    adapt: Callable[[float, float], float] = same_coefficient

    def metrics(self, coefficient: float) -> dict[str, float]:
        """The coefficient as a metric, where it moves."""
        return {} if self.adapt is same_coefficient else {"objective/entropy_coefficient": coefficient}
