"""What an arm's choices need of scale and corpus: whole weights, whole groups on each rank, known annotators."""

from repro.detail import Recipe
from repro.details.advantages import BASELINE, RESPONSES_PER_QUERY
from repro.details.data import BLIND_SPOT
from repro.details.feedback import FEEDBACK_ROUNDS
from repro.details.general import ADAPTER, DROPOUT
from repro.details.objective import CONSTRAINED_STEP, LOSS_AGGREGATION
from repro.details.optimisation import SAMPLER_PRECISION, UPDATE_DROPOUT, WEIGHT_AVERAGE
from repro.details.ppo import CRITIC_WARM_UP, WHITEN_SCOPE
from repro.details.registry import DETAILS
from repro.details.reward_and_kl import REFERENCE_POLICY, REWARD_SOURCE
from repro.details.reward_model import ALGORITHM
from repro.errors import UserError
from repro.ops.preference import ExpertIteration

# The result of these depends on the number of ranks, so it is part of their cache keys. With dropout each rank draws what its
# own rows lose, in their order.
RANK_DEPENDENT = {
    (DROPOUT.name, "on_in_sft_and_rm"),
    (DROPOUT.name, "on_everywhere"),
    (UPDATE_DROPOUT.name, "0.1"),
    (WHITEN_SCOPE.name, "each_rank"),
    (WHITEN_SCOPE.name, "each_micro_batch"),
    (LOSS_AGGREGATION.name, "token_mean_per_micro_batch"),
}
# These average, wrap or move whole weights, or optimize some of them; a rank of a sharded network holds a part of each.
NEEDS_WHOLE_WEIGHTS = (
    (ADAPTER, WEIGHT_AVERAGE, CRITIC_WARM_UP),
    (
        (REFERENCE_POLICY.name, "moving_average"),
        (SAMPLER_PRECISION.name, "int8_weights"),
        (CONSTRAINED_STEP.name, "trpo"),
    ),
)


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


def check_batch(recipe: Recipe, episodes: int, ranks: int) -> None:
    """UserError where a batch of so many episodes cannot be shared out in whole groups of responses to one query."""
    group = responses_in_group(recipe)
    if group > 1 and episodes % (group * ranks):
        among = f" on each of {ranks} ranks" if ranks > 1 else ""
        raise UserError(
            f"a batch of {episodes} episodes has no whole number of queries with {group} responses each{among}; set "
            f"ppo_batch to a multiple of {group * ranks}"
        )


def check_rounds(recipe: Recipe, rm_from: str) -> None:
    """UserError where rounds of feedback would teach a reward model that is taken from elsewhere as it is."""
    label = recipe.label(FEEDBACK_ROUNDS)
    if label != FEEDBACK_ROUNDS.reference and rm_from:
        raise UserError(
            f"feedback_rounds={label} trains a reward model for each round, and rm_from={rm_from} trains none; "
            "leave rm_from empty"
        )


def responses_in_group(recipe: Recipe) -> int:
    """How many responses to a query the arm samples."""
    algorithm = ALGORITHM.variants[recipe.label(ALGORITHM)].value
    if isinstance(algorithm, ExpertIteration):
        return algorithm.responses
    baseline = BASELINE.variants[recipe.label(BASELINE)].value
    return baseline.responses(RESPONSES_PER_QUERY.variants[recipe.label(RESPONSES_PER_QUERY)].value)


# These need the facts of a post or the annotators of its comparisons, which only the embedded corpus knows.
EMBEDDED_ONLY = (BLIND_SPOT, REWARD_SOURCE)


def check_corpus(recipe: Recipe, corpus: str, annotator: str) -> None:
    """UserError where an arm needs what only the embedded corpus has, on another one.

    That is its annotators, where they are to be others or where no `annotator` is named for rounds of feedback, and its gold
    score.
    """
    chosen = [f"{name}={label}" for name, label in recipe.choices if DETAILS[name] in EMBEDDED_ONLY]
    if chosen and corpus != "embedded":
        raise UserError(
            f"{chosen[0]} needs the facts and annotators of the embedded corpus; corpus={corpus} has neither: "
            "use a scale with corpus=embedded"
        )
    rounds = recipe.label(FEEDBACK_ROUNDS)
    if rounds != FEEDBACK_ROUNDS.reference and corpus != "embedded" and not annotator:
        raise UserError(
            f"feedback_rounds={rounds} needs annotators, and corpus={corpus} has none of its own; set annotator to a reward "
            "model's folder, or to judge:MODEL"
        )
