"""Which choices make no sense together, and why."""

from repro.detail import Clash, Detail, Recipe, others
from repro.details.advantages import (
    ADVANTAGE,
    BASELINE,
    CRITIC_LAMBDA,
    GAE_LAMBDA,
    GAMMA,
    LAMBDA_BY_LENGTH,
    RESPONSES_PER_QUERY,
)
from repro.details.control import DRAWS
from repro.details.data import PROMPT_END, PROMPTS
from repro.details.feedback import FEEDBACK_ROUNDS
from repro.details.general import ADAPTER, DROPOUT, POSITION_IDS, PRECISION
from repro.details.objective import (
    CLIP_ABOVE,
    CLIP_RANGE,
    CONSTRAINED_STEP,
    DUAL_CLIP,
    ENTROPY_BONUS,
    ENTROPY_TARGET,
    POLICY_OBJECTIVE,
    RATIO_LEVEL,
    UNINFORMATIVE_GROUPS,
    VALUE_CLIP,
    VALUE_COEF,
    VALUE_LOSS,
)
from repro.details.optimisation import (
    CRITIC_LEARNING_RATE,
    EARLY_STOP,
    GRADIENT_CLIP,
    LOGPROB_TEMPERATURE,
    LR_SCHEDULE,
    MINIBATCHES,
    PPO_EPOCHS,
    SAMPLER_PRECISION,
    STALENESS,
    TEMPERATURE,
    TRUNCATED_SAMPLING,
    UPDATE_DROPOUT,
    WEIGHT_AVERAGE,
)
from repro.details.ppo import (
    AFTER_EOS,
    CRITIC_INIT,
    CRITIC_TRUNK,
    CRITIC_WARM_UP,
    NO_EOS_SCORE,
    SAMPLING,
    WHITEN_ADV,
    WHITEN_MOMENTS,
    WHITEN_REWARD,
    WHITEN_SCOPE,
)
from repro.details.registry import DETAILS
from repro.details.reward_and_kl import (
    KL_COEF,
    KL_CONTROLLER,
    KL_ESTIMATOR,
    KL_PLACEMENT,
    KL_POSITION,
    LENGTH_PRICE,
    REFERENCE_POLICY,
    REWARD_CLIP,
    REWARD_SHAPE,
    REWARD_SOURCE,
    SCORE_POSITION,
)
from repro.details.reward_model import ALGORITHM, PADDING_SIDE, REWARD_ENSEMBLE
from repro.ops.preference import ExpertIteration


def _but(detail: Detail, *labels: str) -> tuple[str, ...]:
    """All of a detail's labels but these."""
    return tuple(label for label in detail.variants if label not in labels)


_NO_KL = "there is no KL term, so it changes nothing"
_NO_WHITENING = ((WHITEN_REWARD, ("off",)),)
_FIRST_STEP = "a batch's only step has ratio 1"
_NO_CRITIC = "no critic is used"
_ONLY_THE_SUM = "only a response's sum counts"
_UNDISCOUNTED_SUM = ((GAMMA, ("1",)), (WHITEN_REWARD, ("off",)))  # a discount or whitening is by token
_ITERATES = tuple(label for label, variant in ALGORITHM.variants.items() if isinstance(variant.value, ExpertIteration))
# What only PPO and these algorithms read: how they sample, score, choose the rate, step, and keep weights.
_READ_BY_ITERATION = (
    ADAPTER,
    AFTER_EOS,
    DRAWS,
    GRADIENT_CLIP,
    LENGTH_PRICE,
    LR_SCHEDULE,
    NO_EOS_SCORE,
    REWARD_CLIP,
    REWARD_SHAPE,
    REWARD_SOURCE,
    SAMPLER_PRECISION,
    SAMPLING,
    TEMPERATURE,
    TRUNCATED_SAMPLING,
    WEIGHT_AVERAGE,
)

CLASHES: tuple[Clash, ...] = (
    Clash(REWARD_SOURCE, ("gold",), REWARD_ENSEMBLE, others(REWARD_ENSEMBLE), "the gold score needs no reward model"),
    *(
        Clash(ALGORITHM, ("dpo", "sft"), detail, others(detail), "no policy is trained against a reward model")
        for detail in (REWARD_ENSEMBLE, FEEDBACK_ROUNDS)
    ),
    Clash(
        FEEDBACK_ROUNDS,
        others(FEEDBACK_ROUNDS),
        REWARD_ENSEMBLE,
        others(REWARD_ENSEMBLE),
        "an ensemble has no rounds of feedback",
    ),
    Clash(
        KL_PLACEMENT,
        _but(KL_PLACEMENT, "in_reward"),
        KL_ESTIMATOR,
        others(KL_ESTIMATOR),
        "it is for the KL in the reward, and there is none",
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
    *(
        Clash(KL_COEF, ("0",), detail, others(detail), _NO_KL)
        for detail in (KL_ESTIMATOR, KL_POSITION, REFERENCE_POLICY)
    ),
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
        FEEDBACK_ROUNDS,
        ("2_continued",),
        "its reference would be the first round's policy, not the SFT policy",
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
    Clash(
        RATIO_LEVEL,
        others(RATIO_LEVEL),
        POLICY_OBJECTIVE,
        ("kl_penalty", "adaptive_kl_penalty"),
        "the penalty is of each token's own ratio",
    ),
    *(
        Clash(ADVANTAGE, _but(ADVANTAGE, "gae"), detail, others(detail), "only GAE uses lambda")
        for detail in (GAE_LAMBDA, LAMBDA_BY_LENGTH)
    ),
    Clash(
        LAMBDA_BY_LENGTH,
        others(LAMBDA_BY_LENGTH),
        GAE_LAMBDA,
        others(GAE_LAMBDA),
        "lambda then follows from the length alone",
    ),
    Clash(GAE_LAMBDA, ("1",), CRITIC_LAMBDA, ("1",), "the critic's returns have a lambda of 1 already"),
    *(
        Clash(
            ADVANTAGE,
            ("reward_to_go", "whole_return"),
            detail,
            others(detail),
            _NO_CRITIC,
            beside=((CRITIC_TRUNK, ("separate",)), (GRADIENT_CLIP, ("none",))),
        )
        for detail in (CRITIC_INIT, CRITIC_WARM_UP, CRITIC_LEARNING_RATE, VALUE_CLIP, VALUE_COEF, VALUE_LOSS)
    ),
    Clash(ADVANTAGE, ("reward_to_go", "whole_return"), CRITIC_LAMBDA, ("1",), "its returns have a lambda of 1 already"),
    *(
        Clash(BASELINE, others(BASELINE), detail, others(detail), "this baseline needs no critic")
        for detail in (
            ADVANTAGE,
            GAE_LAMBDA,
            LAMBDA_BY_LENGTH,
            CRITIC_LAMBDA,
            CRITIC_INIT,
            CRITIC_TRUNK,
            CRITIC_WARM_UP,
            CRITIC_LEARNING_RATE,
            VALUE_CLIP,
            VALUE_LOSS,
            VALUE_COEF,
        )
    ),
    *(
        Clash(BASELINE, _but(BASELINE, "critic", "none"), detail, others(detail), _ONLY_THE_SUM, _UNDISCOUNTED_SUM)
        for detail in (KL_POSITION, SCORE_POSITION)
    ),
    Clash(
        BASELINE,
        ("greedy_response",),
        WHITEN_REWARD,
        others(WHITEN_REWARD),
        "sampled and greedy returns would be in different units",
    ),
    Clash(
        ENTROPY_TARGET,
        others(ENTROPY_TARGET),
        ENTROPY_BONUS,
        others(ENTROPY_BONUS),
        "its bonus has a coefficient of its own",
    ),
    Clash(
        UNINFORMATIVE_GROUPS,
        ("dropped",),
        BASELINE,
        ("batch_mean", "moving_average", "greedy_response", "none"),
        "a response is not compared with others to its query",
    ),
    Clash(
        UNINFORMATIVE_GROUPS,
        ("dropped",),
        RESPONSES_PER_QUERY,
        others(RESPONSES_PER_QUERY),
        "with a critic their advantages differ",
        beside=((BASELINE, ("critic",)),),
    ),
    *(
        Clash(PPO_EPOCHS, ("1",), detail, labels, _FIRST_STEP, beside=((MINIBATCHES, ("1",)), (STALENESS, ("0",))))
        for detail, labels in (
            (CLIP_RANGE, others(CLIP_RANGE)),
            (CLIP_ABOVE, others(CLIP_ABOVE)),
            (DUAL_CLIP, others(DUAL_CLIP)),
            (VALUE_CLIP, others(VALUE_CLIP)),
            (POLICY_OBJECTIVE, ("unclipped", "kl_penalty", "adaptive_kl_penalty")),
        )
    ),
    Clash(
        PPO_EPOCHS, ("1",), EARLY_STOP, others(EARLY_STOP), "a batch has one step only", beside=((MINIBATCHES, ("1",)),)
    ),
    *(
        Clash(
            POLICY_OBJECTIVE, _but(POLICY_OBJECTIVE, *clipping), detail, others(detail), "this objective clips nothing"
        )
        for detail, clipping in (
            (CLIP_RANGE, ("clipped", "clipped_weight")),
            (CLIP_ABOVE, ("clipped", "clipped_weight")),
            (DUAL_CLIP, ("clipped",)),
        )
    ),
    Clash(POLICY_OBJECTIVE, ("policy_gradient",), RATIO_LEVEL, others(RATIO_LEVEL), "this objective has no ratio"),
    *(
        Clash(RATIO_LEVEL, ("response_mean",), detail, others(detail), "its clip has a range of its own")
        for detail in (CLIP_RANGE, CLIP_ABOVE)
    ),
    *(
        Clash(CONSTRAINED_STEP, ("trpo",), detail, others(detail), "TRPO has an objective of its own, without a clip")
        for detail in (CLIP_RANGE, CLIP_ABOVE, DUAL_CLIP, POLICY_OBJECTIVE)
    ),
    Clash(CONSTRAINED_STEP, ("trpo",), MINIBATCHES, others(MINIBATCHES), "TRPO's one step is over the whole batch"),
    Clash(
        CONSTRAINED_STEP,
        ("trpo",),
        CRITIC_TRUNK,
        ("shared",),
        "the critic's steps would move the policy past the radius",
    ),
    *(
        Clash(
            CONSTRAINED_STEP, ("trpo",), detail, labels, "by dropout alone two passes are further apart than the radius"
        )
        for detail, labels in ((DROPOUT, ("on_everywhere",)), (UPDATE_DROPOUT, others(UPDATE_DROPOUT)))
    ),
    *(
        Clash(WHITEN_ADV, ("off",), detail, others(detail), "nothing is whitened", beside=_NO_WHITENING)
        for detail in (WHITEN_MOMENTS, WHITEN_SCOPE)
    ),
    Clash(
        CRITIC_TRUNK,
        ("shared",),
        CRITIC_LEARNING_RATE,
        others(CRITIC_LEARNING_RATE),
        "policy and critic share their weights",
    ),
    Clash(CRITIC_TRUNK, ("shared",), CRITIC_WARM_UP, others(CRITIC_WARM_UP), "it would move the policy's weights too"),
    Clash(
        KL_PLACEMENT, _but(KL_PLACEMENT, "in_reward"), KL_POSITION, others(KL_POSITION), "there is no KL in the reward"
    ),
    Clash(
        REWARD_SOURCE,
        ("gold",),
        REWARD_SHAPE,
        others(REWARD_SHAPE),
        "references have no gold score here",
    ),
    Clash(
        REWARD_SHAPE, ("sigmoid_over_reference",), REWARD_CLIP, others(REWARD_CLIP), "its scores lie between 0 and 1"
    ),
    Clash(DROPOUT, ("on_everywhere",), UPDATE_DROPOUT, others(UPDATE_DROPOUT), "updates have dropout already"),
    Clash(PRECISION, ("bfloat16",), SAMPLER_PRECISION, ("bfloat16",), "the trainer computes in bfloat16 too"),
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
    *(
        Clash(
            ALGORITHM,
            _ITERATES,
            detail,
            others(detail),
            "imitating the best does not read this",
        )
        for detail in DETAILS.values()
        if detail.stages == ("ppo",) and detail not in (ALGORITHM, *_READ_BY_ITERATION)
    ),
    Clash(
        ALGORITHM,
        _ITERATES,
        TRUNCATED_SAMPLING,
        ("top_p_0.9_replayed", "top_k_10_replayed"),
        "imitation has its softmax over all tokens",
    ),
    Clash(ALGORITHM, ("dpo", "sft"), PROMPTS, others(PROMPTS), "without PPO nothing is sampled from prompts"),
    Clash(
        ALGORITHM,
        ("dpo",),
        PROMPT_END,
        ("trailing_space",),
        "DPO joins prompt and summary as tokens, and the summary starts with its own space",
    ),
    Clash(ALGORITHM, ("dpo",), POSITION_IDS, others(POSITION_IDS), "DPO does not read this"),
    Clash(
        ALGORITHM, ("dpo", "sft"), PADDING_SIDE, ("right_then_right",), "without PPO no response is scored in training"
    ),
    Clash(ALGORITHM, ("dpo", "sft"), DROPOUT, ("on_everywhere",), "without PPO it is on_in_sft_and_rm"),
)


def check(recipe: Recipe) -> None:
    """UserError, by name and with the reason, where the recipe's choices make no sense together."""
    for clash in CLASHES:
        clash.check(recipe)
