"""PPO's critic, sampling, treatment of the end of text, and whitening (N+ details 22 to 25)."""

from repro.detail import ByName, Detail, Variant
from repro.models import critics
from repro.ops import masked, reward, text

GROUP = "PPO"

CRITIC_INIT = Detail(
    name="critic_init",
    stages=("ppo",),
    paper="N+ detail 22",
    numbers=(22,),
    question="Should the critic start as the reward model?",
    reference="from_reward_model",
    variants={
        "from_reward_model": Variant(
            critics.from_reward_model, "a copy of the reward model, its normalisation included"
        ),
        "sft_trunk_random_head": Variant(
            critics.with_random_head, "the SFT policy's trunk, a head from N(0, 1/sqrt(d + 1))"
        ),
        "sft_trunk_zero_head": Variant(critics.with_zero_head, "the SFT policy's trunk, a head of zeros"),
        "reward_model_zero_head": Variant(
            critics.from_reward_model_with_zero_head, "the reward model's trunk, a head of zeros"
        ),
    },
    hypothesis="The reward model knows what the score will be at the end, but its outputs before it are arbitrary: a "
    "fresh head starts with less to unlearn, the reward model's with more that it will need.",
    expected={"loss/value": "up", "value/explained_variance": "down", "test/sampled_win_rate": "down"},
)

CRITIC_TRUNK = Detail(
    name="critic_trunk",
    stages=("ppo",),
    paper="N+ detail 22; blog, on the value head; Stiennon et al. 2020, appendix G.1",
    numbers=(22,),
    question="May policy and critic share their trunk?",
    reference="separate",
    variants={
        "separate": Variant(critics.with_own_trunk, "a network of its own"),
        "shared": Variant(
            critics.on_policy_trunk, "a head of zeros on the policy's trunk, whose weights both losses move"
        ),
    },
    hypothesis="The value loss changes the policy's weights without any reward for it: the policy moves away from the "
    "reference faster for the same score. Stiennon et al. found separate networks better.",
    expected={"objective/kl": "up", "value/explained_variance": "down", "test/sampled_win_rate": "down"},
)

CRITIC_WARM_UP = Detail(
    name="critic_warm_up",
    stages=("ppo",),
    paper="N+ code (none); VC-PPO (Yuan et al. 2025, arXiv 2503.01491: value pretraining)",
    numbers=(22,),
    question="Should the critic learn alone before the policy does?",
    reference="none",
    variants={
        "none": Variant(0, "both learn from the first update on"),
        "8": Variant(
            8,
            "eight updates of the critic alone, on the SFT policy's samples and their Monte Carlo returns: eight batches "
            "of episodes beyond the budget",
        ),
        "32": Variant(32, "thirty-two of them, at the cost of as many batches beyond the budget"),
    },
    hypothesis="The reward model's outputs before the end, with which the critic starts, no longer reach the policy: "
    "the first advantages are nearer to right. The critic soon catches up without it, so the end is the same.",
    expected={"value/explained_variance": "up", "loss/value": "down", "test/sampled_win_rate": "same"},
)

SAMPLING = Detail(
    name="sampling",
    stages=("ppo",),
    paper="N+ details 23.1 and 23.2",
    numbers=(23,),
    question="Should sampling go on after the end of text?",
    reference="fixed_length_then_truncate",
    variants={
        "fixed_length_then_truncate": Variant(
            text.ignore_eos,
            "every response is sampled to the length limit; the reward model sees it cut after its end of text",
        ),
        "stop_at_eos": Variant(text.stop_at_eos, "after its end of text a response gets padding"),
    },
    hypothesis="With everything after the end masked the two are the same numbers, at less cost; they differ only "
    "where after_eos=unmasked counts the tokens that follow.",
    expected={"test/sampled_win_rate": "same", "objective/kl": "same"},
)

NO_EOS_SCORE = Detail(
    name="no_eos_score",
    stages=("ppo",),
    paper="N+ detail 23.3 (the EOS trick)",
    numbers=(23,),
    question="What should be the score of a response that does not end?",
    reference="replace_with_minus_one",
    variants={
        "replace_with_minus_one": Variant(reward.replace_with_minus_one, "its score is replaced with -1"),
        "subtract_one": Variant(reward.subtract_one, "1 is subtracted from its score (TRL's missing_eos_penalty)"),
        "keep": Variant(reward.keep_score, "the reward model's score of the cut-off text stands"),
    },
    hypothesis="The reward model was trained on texts that end; what it says of a cut-off one is noise. Unless that is "
    "replaced, nothing teaches the policy to finish within the limit.",
    expected={"test/eos_rate": "down", "objective/eos_rate": "down", "test/length": "up"},
)

AFTER_EOS = Detail(
    name="after_eos",
    stages=("ppo",),
    paper="N+ detail 23.2 (the code's older version, before masks)",
    numbers=(23,),
    question="What if the tokens after the end of text count too?",
    reference="masked",
    variants={
        "masked": Variant(text.up_to_end, "KL, whitening and both losses stop at the end of text"),
        "unmasked": Variant(
            text.to_the_limit,
            "they include the tokens after it, up to the length limit, which the reward model never sees",
        ),
    },
    renamed={"charged": "unmasked"},
    hypothesis="Tokens after the end earn no score and still have a KL penalty, so ending early costs reward, and part "
    "of every gradient is about text that nobody reads.",
    expected={"test/kl": "up", "test/length": "up", "test/sampled_win_rate": "down"},
)

WHITEN_REWARD = Detail(
    name="whiten_reward",
    stages=("ppo",),
    paper="N+ detail 24",
    numbers=(24,),
    question="Should per-token rewards be whitened?",
    reference="off",
    variants={
        "off": Variant(masked.unchanged, "rewards enter as they are"),
        "scale_only": Variant(masked.scale, "divided by their spread over the batch, their mean kept"),
    },
    hypothesis="Dividing by the batch's spread changes the scale of the critic's targets from update to update; the "
    "paper saw slightly shorter and slightly less preferred summaries.",
    expected={"test/length": "down", "test/sampled_win_rate": "down"},
)

WHITEN_ADV = Detail(
    name="whiten_adv",
    stages=("ppo",),
    paper="N+ detail 25",
    numbers=(25,),
    question="Does whitening the advantages matter?",
    reference="shift_and_scale",
    variants={
        "shift_and_scale": Variant(masked.whiten, "mean 0 and spread 1 over the batch's response tokens"),
        "scale_only": Variant(masked.scale, "spread 1, their mean kept"),
        "off": Variant(masked.unchanged, "advantages enter as they are"),
    },
    hypothesis="Without it the step size follows the scale of the reward: larger policy KL early, unstable late.",
    expected={"policy/approx_kl": "up", "objective/kl": "up"},
)

WHITEN_MOMENTS = Detail(
    name="whiten_moments",
    stages=("ppo",),
    paper="N+ details 24 and 25 (code); blog, on whitening",
    numbers=(24, 25),
    question="Which variance should whitening divide by?",
    reference="biased",
    variants={
        "biased": Variant(0, "the sum of squares over the count"),
        "unbiased": Variant(1, "the sum of squares over the count less one (TRL's)"),
    },
    hypothesis="Over a thousand tokens the two differ by half a thousandth: a rounding error that Adam does not feel.",
    expected={"test/sampled_win_rate": "same"},
)

# The paper's code is each_rank, which depends on how many there are; the reference does not.
WHITEN_SCOPE = Detail(
    name="whiten_scope",
    stages=("ppo",),
    paper="N+ detail 25 (code: per rank); blog, on whitening",
    numbers=(24, 25),
    question="Over which episodes should whitening take its mean and spread?",
    reference="whole_batch",
    variants={
        "whole_batch": Variant(
            ByName(masked.over_batch), "over all episodes of all ranks, so the answer does not depend on the machine"
        ),
        "each_rank": Variant(
            ByName(masked.over_rank), "over each rank's episodes, as the paper's code does; on one rank the same"
        ),
        "each_micro_batch": Variant(ByName(masked.over_micro_batch), "over each micro-batch's episodes"),
    },
    hypothesis="A mean over fewer episodes is noisier, and takes out of each part whatever the part has in common.",
    expected={"test/sampled_win_rate": "same"},
)
