"""The numbers of a training episode token by token: derived quantities, and their colour scales.

What stands at token t: the value is the critic's in the state before it, the reward is what it was paid, and the ratio
compares the policy after the update's epochs with the one that sampled.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

ROBUST = 98  # percentile of the shown values at which a colour scale ends; what is beyond is marked


@dataclass(frozen=True)
class Quantity:
    """One number per token: its name, unit and meaning, and its colours.

    A ramp is `signed` (about zero, in two hues), `rising` (darkest where it is largest) or `falling`. `{against}` is replaced
    with the name of the reference policy.
    """

    key: str
    words: str
    unit: str
    ramp: str
    meaning: str


QUANTITIES = (
    Quantity(
        "advantage",
        "advantage",
        "",
        "signed",
        "The advantage in the policy's loss, whitened if the recipe whitens it: above zero, the update makes the token "
        "more likely.",
    ),
    Quantity(
        "raw_advantage",
        "return \N{MINUS SIGN} value",
        "",
        "signed",
        "Return minus the critic's value of the state before the token; with GAE, the advantage before whitening.",
    ),
    Quantity(
        "reward",
        "reward",
        "",
        "signed",
        "The reward of the token as GAE uses it: minus KL coefficient times its KL, plus the score at the last token or in "
        "the state after it (where recorded; of a response that did not end, what the recipe pays for it); whitened if the "
        "recipe whitens rewards.",
    ),
    Quantity(
        "kl",
        "KL",
        "nats",
        "signed",
        "log p(policy) \N{MINUS SIGN} log p({against}), before the update: above zero, the token is more likely under "
        "the policy than under the {against} policy. The sum over the tokens is the episode's KL.",
    ),
    Quantity(
        "log_ratio",
        "log ratio",
        "nats",
        "signed",
        "log p after this update's epochs \N{MINUS SIGN} log p when it was sampled: the effect of the update.",
    ),
    Quantity("ratio", "ratio", "", "rising", "The exponential of the log ratio: what PPO clips."),
    Quantity("value", "value", "", "rising", "The critic's estimate of the return from the state before the token."),
    Quantity(
        "logprob",
        "log p(policy)",
        "nats",
        "falling",
        "Log-probability under the policy before the update: zero is certain, far below zero is unlikely.",
    ),
    Quantity("ref_logprob", "log p({against})", "nats", "falling", "The same under the {against} policy."),
    Quantity("returns", "return", "", "rising", "The target of the critic's value."),
    Quantity(
        "score_so_far",
        "score so far",
        "",
        "rising",
        "The reward model's output at this token. It was trained only at the end of a text: before that it is a hint.",
    ),
)
ROWS = ("advantage", "raw_advantage", "reward", "kl", "log_ratio", "value", "logprob")  # shown as heat maps
LIKELIHOODS = ("logprob", "ref_logprob")  # compared with each other, so they share a scale


def quantities(against: str) -> tuple[Quantity, ...]:
    """All quantities, with texts for a recipe whose reference policy is `against`."""
    return tuple(
        replace(each, words=each.words.format(against=against), meaning=each.meaning.format(against=against))
        for each in QUANTITIES
    )


def policy_numbers(response: Mapping) -> dict[str, np.ndarray]:
    """Each quantity of a sampled response, [tokens], one more with the state after the last; NaN where unrecorded."""
    names = ("logprob", "ref_logprob", "updated_logprob", "value", "reward", "advantage", "returns", "score_so_far")
    numbers = _aligned(response, names)
    updated = numbers.pop("updated_logprob")
    log_ratio = updated - numbers["logprob"]
    return numbers | {
        "raw_advantage": numbers["returns"] - numbers["value"],
        "kl": numbers["logprob"] - numbers["ref_logprob"],
        "log_ratio": log_ratio,
        "ratio": np.exp(log_ratio),
    }


def sft_numbers(response: Mapping) -> dict[str, np.ndarray]:
    """The quantities of the other policy's response by the same names, [tokens]; NaN where unrecorded."""
    numbers = _aligned(response, ("logprob", "policy_logprob", "score_so_far"))
    ours, theirs = numbers["policy_logprob"], numbers["logprob"]
    return {"logprob": ours, "ref_logprob": theirs, "score_so_far": numbers["score_so_far"], "kl": ours - theirs}


def flipped(numbers: Mapping[str, np.ndarray]) -> list[int]:
    """The tokens whose advantage has another sign in the loss than it had before whitening."""
    return np.flatnonzero(numbers.get("advantage", math.nan) * numbers.get("raw_advantage", math.nan) < 0).tolist()


def _aligned(response: Mapping, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The lists of a record as arrays of one length, the longest's; NaN where one has no number."""
    lists = {name: np.array(response.get(name, ()), dtype=float) for name in names}
    places = max(len(response["tokens"]), *map(len, lists.values()))
    return {name: np.pad(values, (0, places - len(values)), constant_values=math.nan) for name, values in lists.items()}


def scales(numbers: Sequence[Mapping[str, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """Quantity -> where its colour scale begins and ends, over all these responses."""
    return {
        each.key: scale_of([values[key] for values in numbers for key in _pool(each.key) if key in values], each.ramp)
        for each in QUANTITIES
    }


def _pool(key: str) -> tuple[str, ...]:
    """The quantities whose values decide a scale together."""
    return LIKELIHOODS if key in LIKELIHOODS else (key,)


def scale_of(values: Sequence[np.ndarray], ramp: str) -> tuple[float, float]:
    """Two ends that a few large values do not move, symmetric about zero for what has a sign."""
    flat = np.concatenate([*values, []])
    known = flat[np.isfinite(flat)]
    if ramp == "signed":
        end = np.percentile(np.abs(known), ROBUST) if known.size else 0.0
        end = float(end) or float(np.abs(known).max(initial=0.0)) or 1.0
        return -end, end
    low, high = np.percentile(known, (100 - ROBUST, ROBUST)) if known.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1.0)


def strength(value: float, scale: tuple[float, float], ramp: str) -> float:
    """How strong a value's colour is, 0 to 1 or, with a sign, -1 to 1; NaN stays NaN.

    Where most values are near zero and a few are far from it, the strength grows with the square root of the distance.
    """
    low, high = scale
    if ramp == "signed":
        return float(np.copysign(np.sqrt(np.clip(abs(value) / high, 0, 1)), value))
    share = float(np.clip((value - low) / (high - low), 0, 1))
    return math.sqrt(1 - share) if ramp == "falling" else share
