"""Every implementation detail that can be toggled, in the paper's order.

"N+" is Huang et al. 2024, arXiv 2403.17031, by detail number; "blog" its forerunner, *The N Implementation Details of
RLHF with PPO* (2023). The reference is the paper's, except where a comment says so. To add a detail, declare it here and
read it where it acts.
"""

from functools import partial

from repro import model
from repro.detail import Detail, nearest
from repro.errors import UserError
from repro.ops import loss, masked, reward

# ---------------------------------------------------------------------------------------------- data

PAD_TOKEN = Detail(
    name="pad_token",
    stages=("data",),
    paper="N+ detail 3",
    question="Does a policy need a padding token that is not its end of text?",
    reference="own",
    variants={"own": model.pad_with_own_token, "eos": model.pad_with_eos},
    hypothesis="When padding is the end of text, masking the padding masks the end of text too: SFT never sees a reason "
    "to stop, every sample runs to the limit, and PPO cannot find a token whose probability is zero.",
    moves={"test/eos_rate": "down", "test/length": "up", "test/win_rate": "down"},
)

# ---------------------------------------------------------------------------------------------- general

DROPOUT = Detail(
    name="dropout",
    stages=("sft", "rm", "ppo"),
    paper="N+ detail 7",
    question="Does dropout hurt RLHF?",
    reference="off",
    variants={
        "off": {},
        "on_in_sft_and_rm": {"sft": 0.1, "rm": 0.1},
        "on_everywhere": {"sft": 0.1, "rm": 0.1, "ppo": 0.1},
    },
    hypothesis="On in PPO, two passes over the same tokens disagree: the ratio is not 1 before the first step, clipping "
    "starts at once, and the KL that is charged is partly noise.",
    moves={
        "policy/first_ratio_error": {"on_everywhere": "up"},
        "objective/kl": {"on_everywhere": "up"},
        "policy/clip_fraction": {"on_everywhere": "up"},
    },
)

# ---------------------------------------------------------------------------------------------- reward model

RM_HEAD_INIT = Detail(
    name="rm_head_init",
    stages=("rm",),
    paper="N+ detail 11",
    question="Does the initialisation of the reward head matter?",
    reference="normal",
    variants={"normal": model.head_normal, "library_default": model.head_library_default, "zeros": model.head_zeros},
    hypothesis="All three are small against what one epoch teaches: accuracy stays.",
    moves={"rm/validation_accuracy": "same", "test/win_rate": "same"},
)

REWARD_NORMALISATION = Detail(
    name="reward_normalisation",
    stages=("rm",),
    paper="N+ detail 15",
    question="Must the reward model's scores be centred on the SFT references?",
    reference="centre",
    variants={"centre": reward.centre, "none": reward.as_trained, "centre_and_scale": reward.centre_and_scale},
    hypothesis="The Bradley-Terry loss leaves the offset free. Without centring, -1 for an unfinished response may be a "
    "prize or a catastrophe; with scaling, the KL coefficient means something else for each reward model.",
    moves={"objective/score": "up", "test/win_rate": "same"},
)

# ---------------------------------------------------------------------------------------------- PPO

CRITIC_INIT = Detail(
    name="critic_init",
    stages=("ppo",),
    paper="N+ detail 22",
    question="Should the critic start as the reward model?",
    reference="from_reward_model",
    variants={
        "from_reward_model": model.critic_from_reward_model,
        "sft_trunk_random_head": model.critic_with_random_head,
        "sft_trunk_zero_head": model.critic_with_zero_head,
    },
    hypothesis="The reward model knows what the score will be at the end, but its outputs before it are arbitrary: a "
    "fresh head starts with less to unlearn, the reward model's with more that it will need.",
    moves={"loss/value": "up", "value/explained_variance": "down", "test/win_rate": "down"},
)

NO_EOS_SCORE = Detail(
    name="no_eos_score",
    stages=("ppo",),
    paper="N+ detail 23.3 (the EOS trick)",
    question="What should a response that does not end be paid?",
    reference="replace_with_minus_one",
    variants={
        "replace_with_minus_one": reward.replace_with_minus_one,
        "subtract_one": reward.subtract_one,
        "keep": reward.keep_score,
    },
    hypothesis="The reward model was trained on texts that end; what it says of a cut-off one is noise. Unless that is "
    "replaced, nothing teaches the policy to finish within the limit.",
    moves={"test/eos_rate": "down", "objective/eos_rate": "down", "test/length": "up"},
)

WHITEN_REWARD = Detail(
    name="whiten_reward",
    stages=("ppo",),
    paper="N+ detail 24",
    question="Should per-token rewards be whitened?",
    reference="off",
    variants={"off": masked.unchanged, "scale_only": masked.scale},
    hypothesis="Dividing by the batch's spread changes the scale of the critic's targets from update to update; the paper "
    "saw slightly shorter and slightly less preferred summaries.",
    moves={"test/length": "down", "test/win_rate": "down"},
)

WHITEN_ADV = Detail(
    name="whiten_adv",
    stages=("ppo",),
    paper="N+ detail 25",
    question="Does whitening the advantages matter?",
    reference="shift_and_scale",
    variants={"shift_and_scale": masked.whiten, "scale_only": masked.scale, "off": masked.unchanged},
    hypothesis="Without it the step size follows the scale of the reward: larger policy KL early, unstable late.",
    moves={"policy/approx_kl": "up", "objective/kl": "up"},
)

# ---------------------------------------------------------------------------------------------- reward and KL

KL_PLACEMENT = Detail(
    name="kl_placement",
    stages=("ppo",),
    paper="N+ section 7; Ziegler et al. 2019, equation 2",
    question="Should the KL to the reference policy be a reward or a loss?",
    reference="in_reward",
    variants={
        "in_reward": reward.kl_in_reward,
        "in_loss": reward.kl_in_loss,
        "in_loss_as_estimated": reward.kl_in_loss_as_estimated,
        "none": reward.kl_nowhere,
    },
    hypothesis="In the loss it acts token by token, without credit for what follows: it holds the policy less. With k1 as "
    "the estimate, in_loss_as_estimated has a gradient of zero in expectation, as if there were no KL at all.",
    moves={"objective/kl": "up", "objective/score": "up", "test/win_rate": "down"},
)

KL_ESTIMATOR = Detail(
    name="kl_estimator",
    stages=("ppo",),
    paper="N+ section 7; Schulman, approximating KL divergence (2020)",
    question="Which per-token estimate of the KL should be charged?",
    reference="k1",
    variants={"k1": reward.k1, "k2": reward.k2, "k3": reward.k3},
    hypothesis="k2 and k3 are never negative: no token earns by being likelier under the reference, so more is charged in "
    "all and the policy stays nearer.",
    moves={"objective/kl": "down", "objective/score": "down"},
)

KL_COEF = Detail(
    name="kl_coef",
    stages=("ppo",),
    paper="N+ table 7 (beta)",
    question="How dear should it be to leave the reference policy?",
    reference="0.05",
    variants={"0.05": 0.05, "0": 0.0, "0.01": 0.01, "0.02": 0.02, "0.1": 0.1, "0.2": 0.2},
    hypothesis="At 0 nothing holds the policy where the reward model was trained: its score goes on rising while the "
    "summaries get worse. A dearer KL keeps the score lower and the summaries near the SFT policy's.",
    moves={
        "objective/kl": {"0": "up", "0.01": "up", "0.02": "up", "0.1": "down", "0.2": "down"},
        "objective/score": {"0": "up", "0.01": "up", "0.02": "up", "0.1": "down", "0.2": "down"},
        "test/win_rate": {"0": "down"},
    },
)

KL_CONTROLLER = Detail(
    name="kl_controller",
    stages=("ppo",),
    paper="blog, detail P11; Ziegler et al. 2019, section 2.2",
    question="Should the KL coefficient adapt to a target?",
    reference="fixed",
    variants={"fixed": reward.fixed_coefficient, "adaptive": reward.adaptive_coefficient},
    hypothesis="Below its target of 6 nats the controller cheapens the KL, and the policy drifts towards the target.",
    moves={"objective/kl_coefficient": "down", "objective/kl": "up"},
)

SCORE_POSITION = Detail(
    name="score_position",
    stages=("ppo",),
    paper="N+ section 7 (code: index after the end of text)",
    question="Is the score paid in the state after the end of text, or on it?",
    reference="after_eos",
    variants={"after_eos": reward.score_after_eos, "at_eos": reward.score_at_eos},
    hypothesis="One step of discounting (lambda) apart: the state after the end gets a value of its own to bootstrap from.",
    moves={"test/win_rate": "same"},
)

# ---------------------------------------------------------------------------------------------- objective

CLIP_RANGE = Detail(
    name="clip_range",
    stages=("ppo",),
    paper="N+ table 7; Schulman et al. 2017, table 1",
    question="How far may a token's probability move per batch?",
    reference="0.2",
    variants={"0.2": 0.2, "0.1": 0.1, "0.3": 0.3},
    hypothesis="A tighter clip slows the policy, a wider one lets it move further on stale advantages.",
    moves={"policy/clip_fraction": {"0.1": "up", "0.3": "down"}, "test/win_rate": "same"},
)

GAMMA = Detail(
    name="gamma",
    stages=("ppo",),
    paper="N+ table 7; Stiennon et al. 2020, footnote 8",
    question="Should rewards be discounted?",
    reference="1",
    variants={"1": 1.0, "0.99": 0.99, "0.95": 0.95},
    hypothesis="A discount pays for ending sooner.",
    moves={"test/length": "down"},
)

GAE_LAMBDA = Detail(
    name="gae_lambda",
    stages=("ppo",),
    paper="N+ table 7; Schulman et al. 2016",
    question="How much of the advantage should rest on the critic?",
    reference="0.95",
    variants={"0.95": 0.95, "0": 0.0, "0.9": 0.9, "1": 1.0},
    hypothesis="At 0 every token rests on a critic that starts wrong; at 1 the score reaches all tokens with all its noise.",
    moves={"test/win_rate": "down", "value/explained_variance": "down"},
)

VALUE_CLIP = Detail(
    name="value_clip",
    stages=("ppo",),
    paper="N+ table 7; blog, detail P10",
    question="Does clipping the value loss matter?",
    reference="0.2",
    variants={"0.2": partial(loss.clip_value, clip=0.2), "off": loss.free_value},
    hypothesis="Clipped, the critic moves at most 0.2 per batch where its targets are far off: it fits later.",
    moves={"loss/value": "down", "value/explained_variance": "up"},
)

# The paper's code is token_mean_per_micro_batch, which depends on how much memory there is; the reference does not.
LOSS_AGGREGATION = Detail(
    name="loss_aggregation",
    stages=("ppo",),
    paper="N+ code (masked mean per micro-batch); GRPO; Dr. GRPO",
    question="Over what should the per-token losses be averaged?",
    reference="token_mean",
    variants={
        "token_mean": loss.token_mean,
        "token_mean_per_micro_batch": loss.token_mean_per_micro_batch,
        "sequence_mean": loss.sequence_mean,
        "sum_over_limit": loss.sum_over_limit,
    },
    hypothesis="A sequence mean gives each token of a short response more weight than one of a long response.",
    moves={"test/length": "same", "test/win_rate": "same"},
)

PPO_EPOCHS = Detail(
    name="ppo_epochs",
    stages=("ppo",),
    paper="N+ table 7",
    question="How often should a batch be used?",
    reference="4",
    variants={"4": 4, "1": 1, "2": 2, "8": 8},
    hypothesis="Fewer passes learn less from each batch; more go further off-policy and clip more.",
    moves={
        "policy/clip_fraction": {"1": "down", "2": "down", "8": "up"},
        "policy/approx_kl": {"1": "down", "2": "down", "8": "up"},
    },
)

DETAILS: dict[str, Detail] = {value.name: value for value in list(vars().values()) if isinstance(value, Detail)}


def find(name: str) -> Detail:
    """The detail of that name; a UserError names the nearest when there is none."""
    if name not in DETAILS:
        raise UserError(f"there is no detail {name!r}; {nearest(name, DETAILS)}")
    return DETAILS[name]
