"""Which choices make no sense together and why; which ones need whole weights, one rank, or the embedded corpus."""

from repro.detail import Clash, Detail, Recipe, others
from repro.details.data import BLIND_SPOT, PROMPT_END, PROMPTS
from repro.details.general import ADAPTER, DROPOUT, POSITION_IDS
from repro.details.objective import (
    ADVANTAGE,
    CLIP_RANGE,
    GAE_LAMBDA,
    LOSS_AGGREGATION,
    POLICY_OBJECTIVE,
    VALUE_CLIP,
    VALUE_COEF,
)
from repro.details.optimisation import (
    GRADIENT_CLIP,
    LOGPROB_TEMPERATURE,
    MINIBATCHES,
    PPO_EPOCHS,
    TEMPERATURE,
    WEIGHT_AVERAGE,
)
from repro.details.ppo import CRITIC_INIT, CRITIC_TRUNK, WHITEN_ADV, WHITEN_MOMENTS, WHITEN_REWARD, WHITEN_SCOPE
from repro.details.registry import DETAILS
from repro.details.reward_and_kl import (
    KL_COEF,
    KL_CONTROLLER,
    KL_ESTIMATOR,
    KL_PLACEMENT,
    REFERENCE_POLICY,
    REWARD_SOURCE,
)
from repro.details.reward_model import ALGORITHM, PADDING_SIDE
from repro.errors import UserError


def _but(detail: Detail, *labels: str) -> tuple[str, ...]:
    """All of a detail's labels but these."""
    return tuple(label for label in detail.variants if label not in labels)


_NO_KL = "there is no KL term, so it changes nothing"
_NO_WHITENING = ((WHITEN_REWARD, ("off",)),)
_FIRST_STEP = "a batch's only step has ratio 1 and old values"
_NO_CRITIC = "no critic is used"

CLASHES: tuple[Clash, ...] = (
    Clash(
        KL_PLACEMENT,
        _but(KL_PLACEMENT, "in_reward"),
        KL_ESTIMATOR,
        others(KL_ESTIMATOR),
        "kl_estimator is for the KL in the reward, and there is none",
    ),
    Clash(KL_PLACEMENT, ("none",), KL_COEF, others(KL_COEF), "there is no KL term for the coefficient to multiply"),
    Clash(
        KL_PLACEMENT,
        ("none",),
        KL_CONTROLLER,
        ("adaptive",),
        "there is no KL term, so there is no coefficient to adapt",
    ),
    Clash(KL_PLACEMENT, ("none",), REFERENCE_POLICY, others(REFERENCE_POLICY), _NO_KL),
    Clash(KL_COEF, ("0",), KL_CONTROLLER, ("adaptive",), "the controller multiplies the coefficient, and 0 remains 0"),
    Clash(KL_COEF, ("0",), KL_PLACEMENT, _but(KL_PLACEMENT, "in_reward", "none"), _NO_KL),
    *(Clash(KL_COEF, ("0",), detail, others(detail), _NO_KL) for detail in (KL_ESTIMATOR, REFERENCE_POLICY)),
    Clash(
        TEMPERATURE,
        ("1",),
        LOGPROB_TEMPERATURE,
        ("unscaled",),
        "at temperature 1 scaled and unscaled log-probabilities are the same",
    ),
    Clash(
        ADAPTER,
        ("lora",),
        CRITIC_TRUNK,
        ("shared",),
        "policy and critic would share one adapter, and merge it twice",
    ),
    Clash(
        ADAPTER,
        ("lora",),
        REFERENCE_POLICY,
        others(REFERENCE_POLICY),
        "the reference is the policy without its adapter: always the SFT policy",
    ),
    Clash(
        ADAPTER,
        ("lora",),
        DROPOUT,
        ("on_everywhere",),
        "the reference is the policy without its adapter, and would have dropout",
    ),
    Clash(
        CRITIC_TRUNK,
        ("shared",),
        CRITIC_INIT,
        others(CRITIC_INIT),
        "the critic has no trunk of its own to initialise",
    ),
    Clash(ADVANTAGE, _but(ADVANTAGE, "gae"), GAE_LAMBDA, others(GAE_LAMBDA), "only GAE uses lambda"),
    *(
        Clash(
            ADVANTAGE,
            ("reward_to_go", "whole_return"),
            detail,
            others(detail),
            _NO_CRITIC,
            beside=((CRITIC_TRUNK, ("separate",)), (GRADIENT_CLIP, ("none",))),
        )
        for detail in (CRITIC_INIT, VALUE_CLIP, VALUE_COEF)
    ),
    *(
        Clash(PPO_EPOCHS, ("1",), detail, labels, _FIRST_STEP, beside=((MINIBATCHES, ("1",)),))
        for detail, labels in (
            (CLIP_RANGE, others(CLIP_RANGE)),
            (VALUE_CLIP, others(VALUE_CLIP)),
            (POLICY_OBJECTIVE, ("unclipped", "kl_penalty", "adaptive_kl_penalty")),
        )
    ),
    Clash(POLICY_OBJECTIVE, _but(POLICY_OBJECTIVE, "clipped"), CLIP_RANGE, others(CLIP_RANGE), "nothing is clipped"),
    *(
        Clash(WHITEN_ADV, ("off",), detail, others(detail), "nothing is whitened", beside=_NO_WHITENING)
        for detail in (WHITEN_MOMENTS, WHITEN_SCOPE)
    ),
    *(
        Clash(
            ALGORITHM,
            ("dpo",),
            detail,
            others(detail),
            "DPO, without episodes or critic, does not read this",
        )
        for detail in DETAILS.values()
        if detail.stages == ("ppo",) and detail is not ALGORITHM
    ),
    Clash(ALGORITHM, ("dpo",), PROMPTS, others(PROMPTS), "DPO trains on comparisons and samples from no prompts"),
    Clash(
        ALGORITHM,
        ("dpo",),
        PROMPT_END,
        ("trailing_space",),
        "DPO joins prompt and summary as tokens, and the summary starts with its own space",
    ),
    Clash(ALGORITHM, ("dpo",), POSITION_IDS, others(POSITION_IDS), "DPO does not read this"),
    Clash(ALGORITHM, ("dpo",), PADDING_SIDE, ("right_then_right",), "DPO scores no responses"),
    Clash(ALGORITHM, ("dpo",), DROPOUT, ("on_everywhere",), "DPO trains without dropout"),
)


# The result of these depends on the number of ranks, so it is part of their cache keys.
RANK_DEPENDENT = {
    (WHITEN_SCOPE.name, "each_rank"),
    (WHITEN_SCOPE.name, "each_micro_batch"),
    (LOSS_AGGREGATION.name, "token_mean_per_micro_batch"),
}
# These average or wrap whole weights; a rank of a sharded network holds a part of each.
NEEDS_WHOLE_WEIGHTS = (ADAPTER, WEIGHT_AVERAGE), ((REFERENCE_POLICY.name, "moving_average"),)


def check_sharing(recipe: Recipe, sharding: str, precision: str) -> None:
    """UserError where the arm does not work with sharded weights (Scale.sharding), or the sharding rounds its buffers.

    In bfloat16 DeepSpeed rounds every buffer too: the rotary frequencies, and the bias that centres the reward.
    """
    if sharding == "none":
        return
    if sharding != "fsdp" and precision != "float32":
        raise UserError(
            f"sharding={sharding} would round the reward's bias and the rotary frequencies to bfloat16; "
            "use sharding=fsdp, or precision=float32"
        )
    details, choices = NEEDS_WHOLE_WEIGHTS
    chosen = [(detail.name, recipe.label(detail)) for detail in DETAILS.values()]
    unfit = [detail.name for detail in details if recipe.label(detail) != detail.reference]
    unfit += [name for name, label in chosen if (name, label) in choices]
    if unfit:
        raise UserError(
            f"{unfit[0]}={recipe.label(DETAILS[unfit[0]])} needs all weights on each rank, and sharding={sharding} shards "
            "them; use sharding=none where the model fits on one device"
        )


# These need the facts of a post or the annotators of its comparisons, which only the embedded corpus knows.
EMBEDDED_ONLY = (BLIND_SPOT, REWARD_SOURCE)


def check_corpus(recipe: Recipe, corpus: str) -> None:
    """UserError where an arm changes the embedded corpus's annotators or asks for its gold score, on another corpus."""
    chosen = [f"{name}={label}" for name, label in recipe.choices if DETAILS[name] in EMBEDDED_ONLY]
    if chosen and corpus != "embedded":
        raise UserError(
            f"{chosen[0]} needs the facts and annotators of the embedded corpus; corpus={corpus} has neither: "
            "use a scale with corpus=embedded"
        )


def check(recipe: Recipe) -> None:
    """UserError, by name and with the reason, where the recipe's choices make no sense together."""
    for clash in CLASHES:
        clash.check(recipe)
