"""The reward of an episode: the score, the KL penalty to the reference policy, and where both enter."""

import math
from functools import partial

from repro.detail import ByName, Detail, Variant
from repro.models import weights
from repro.ops import reward

GROUP = "Reward and KL"

KL_PLACEMENT = Detail(
    name="kl_placement",
    stages=("ppo",),
    paper="N+ section 7; Ziegler et al. 2019, equation 2; blog, on the per-token KL; Liu et al. 2025, arXiv 2510.01555",
    question="Should the KL to the reference policy be a reward or a loss?",
    reference="in_reward",
    variants={
        "in_reward": Variant(
            reward.KLPlacement(reward.subtract_all, ByName(reward.no_kl)),
            "a token's KL is subtracted from its reward, so that the tokens before it are penalised too",
        ),
        "in_loss_k2": Variant(
            reward.KLPlacement(reward.subtract_nothing, ByName(reward.k2)),
            "half the squared log-ratio is added to the loss; its gradient is the KL's",
        ),
        "in_loss_k3": Variant(
            reward.KLPlacement(reward.subtract_nothing, ByName(reward.k3)),
            "q/p - 1 - log(q/p) is added to the loss; its gradient is the forward KL's (GRPO)",
        ),
        "in_loss_k3_times_ratio": Variant(
            reward.KLPlacement(reward.subtract_nothing, ByName(reward.k3_times_ratio)),
            "the same weighted by the ratio to the policy that sampled, with a gradient through the ratio: the KL's, after "
            "several steps too (DeepSeek-V3.2)",
        ),
        "in_loss_k1": Variant(
            reward.KLPlacement(reward.subtract_nothing, ByName(reward.k1)),
            "the log-ratio is added to the loss; its gradient is 0 in expectation",
        ),
        "none": Variant(reward.KLPlacement(reward.subtract_nothing, ByName(reward.no_kl)), "no KL term anywhere"),
    },
    hypothesis="In the loss it acts token by token, without credit for what follows: it holds the policy less. k1 in "
    "the loss has a gradient of zero in expectation, as if there were no KL at all.",
    expected={"objective/kl": "up", "objective/score": "up", "test/sampled_win_rate": "down"},
)

KL_ESTIMATOR = Detail(
    name="kl_estimator",
    stages=("ppo",),
    paper="N+ section 7; Schulman, approximating KL divergence (2020)",
    question="Which per-token estimate of the KL should be subtracted from the reward?",
    reference="k1",
    variants={
        "k1": Variant(ByName(reward.k1), "log p - log q of the sampled token: unbiased, of either sign"),
        "k2": Variant(ByName(reward.k2), "half its square: never negative, biased"),
        "k3": Variant(ByName(reward.k3), "q/p - 1 - log(q/p): never negative, unbiased"),
        "whole_vocabulary": Variant(
            ByName(reward.over_vocabulary), "the sum over every token that could have been drawn: exact"
        ),
    },
    hypothesis="k2, k3 and the exact sum are never negative: no token gains reward by being likelier under the "
    "reference, so the penalty is larger in all and the policy remains nearer.",
    expected={"objective/kl": "down", "objective/score": "down"},
)

KL_COEF = Detail(
    name="kl_coef",
    stages=("ppo",),
    paper="N+ table 7 (beta); InstructGPT, appendix E.7",
    numbers=(20,),
    question="How large should the coefficient of the KL penalty be?",
    reference="0.05",
    variants={
        "0.05": Variant(0.05, "a nat of KL takes 0.05 off the reward"),
        "0": Variant(0.0, "no KL penalty"),
        "0.01": Variant(0.01, "a fifth of the paper's coefficient"),
        "0.02": Variant(0.02, "InstructGPT found 0.01 and 0.02 best"),
        "0.1": Variant(0.1, "twice the paper's coefficient"),
        "0.2": Variant(0.2, "four times the paper's coefficient"),
    },
    hypothesis="At 0 nothing holds the policy where the reward model was trained: its score goes on rising while the "
    "summaries get worse. A larger coefficient keeps the score lower and the summaries near the SFT policy's.",
    expected={
        "objective/kl": {"0": "up", "0.01": "up", "0.02": "up", "0.1": "down", "0.2": "down"},
        "objective/score": {"0": "up", "0.01": "up", "0.02": "up", "0.1": "down", "0.2": "down"},
        "test/sampled_win_rate": {"0": "down"},
    },
)

KL_CONTROLLER = Detail(
    name="kl_controller",
    stages=("ppo",),
    paper="blog, on the adaptive KL; Ziegler et al. 2019, section 2.2",
    question="Should the KL coefficient adapt to a target?",
    reference="fixed",
    variants={
        "fixed": Variant(reward.fixed_coefficient, "the coefficient never changes"),
        "adaptive": Variant(
            reward.adaptive_coefficient,
            "it is multiplied after each batch so that an episode's KL approaches 6 nats (horizon: 10,000 episodes)",
        ),
    },
    hypothesis="Below its target of 6 nats the controller lowers the coefficient, and the policy drifts towards the "
    "target.",
    expected={"objective/kl_coefficient": "down", "objective/kl": "up"},
)

REFERENCE_POLICY = Detail(
    name="reference_policy",
    stages=("ppo",),
    paper="N+ section 7; others measure to the base model, or let the reference move",
    question="Which policy should the KL be measured to?",
    reference="sft",
    variants={
        "sft": Variant(weights.ReferencePolicy("sft"), "the SFT policy, frozen"),
        "base": Variant(weights.ReferencePolicy("base"), "the pre-trained model, which has never seen a summary end"),
        "moving_average": Variant(
            weights.ReferencePolicy("sft", partial(weights.ema_update, decay=0.99)),
            "the SFT policy at first; after each update its weights move by a hundredth towards the policy's",
        ),
    },
    hypothesis="Measured to the base model, whatever SFT taught is penalised, ending included: part of SFT is undone. "
    "A reference that moves with the policy penalises a continuing drift less and less.",
    expected={"test/kl": {"base": "up", "moving_average": "up"}, "test/sampled_win_rate": {"base": "down"}},
)

REWARD_SOURCE = Detail(
    name="reward_source",
    stages=("ppo",),
    paper="not in N+; the gold reward of Gao et al. 2022, arXiv 2210.10760",
    question="What would PPO reach if nothing were lost in the reward model?",
    reference="reward_model",
    variants={
        "reward_model": Variant("reward_model", "the reward model's score of the response"),
        "gold": Variant("gold", "the gold score of the embedded corpus, less its mean over the SFT references"),
    },
    hypothesis="The gold score has no holes and no noise: the policy ends better by what the reward model got wrong, "
    "and two runs are closer together. It is the ceiling of this recipe, not of the task.",
    expected={"test/sampled_win_rate": "up", "test/sampled_gold": "up", "test/judge_agreement": "same"},
)

REWARD_SHAPE = Detail(
    name="reward_shape",
    stages=("ppo",),
    paper="N+ (as scored); PAR (Fu et al. 2025, arXiv 2502.18770); Wang et al. 2024, arXiv 2402.00742",
    question="Should a score count less the further it is above the reference summary's?",
    reference="as_scored",
    variants={
        "as_scored": Variant(reward.as_scored, "a point of score counts the same everywhere"),
        "sigmoid_over_reference": Variant(
            reward.sigmoid_over_reference, "the probability of beating the post's reference summary"
        ),
        "log_sigmoid_over_reference": Variant(
            reward.log_sigmoid_over_reference, "its logarithm: all that matters is not to be worse"
        ),
    },
    hypothesis="Flat far above the reference, a score that is hacked earns nothing more: less over-optimisation. The "
    "rewards are smaller beside the same KL penalty, so the policy stays nearer.",
    expected={"objective/kl": "down", "test/sampled_win_rate": "down"},
)

LENGTH_PRICE = Detail(
    name="length_price",
    stages=("ppo",),
    paper="not in N+; Singhal et al. 2023, arXiv 2310.03716; DAPO (arXiv 2503.14476)",
    question="Should length cost reward?",
    reference="free",
    variants={
        "free": Variant(reward.length_is_free, "a response's length costs nothing"),
        "0.02_per_token": Variant(
            partial(reward.price_per_token, price=0.02), "0.02 of score for each token: 0.4 at 20 tokens"
        ),
        "ramp_from_0.8": Variant(
            partial(reward.ramp_to_the_limit, start=0.8), "nothing up to 0.8 of the limit, then a line up to 1 (DAPO)"
        ),
    },
    hypothesis="Facts cost tokens: at 0.02 a token a summary leaves out the facts that are worth less.",
    expected={"test/length": "down", "test/sampled_win_rate": {"0.02_per_token": "down"}},
)

KL_POSITION = Detail(
    name="kl_position",
    stages=("ppo",),
    paper="N+ section 7 (at each token); RLOO (Ahmadian et al. 2024, arXiv 2402.14740)",
    question="Should each token pay for its own KL, or the response for all of it at the end?",
    reference="each_token",
    variants={
        "each_token": Variant(reward.each_at_its_token, "a token's KL is subtracted from that token's reward"),
        "with_the_score": Variant(
            reward.all_with_the_score, "the response's KL is subtracted from its score, where that is paid"
        ),
    },
    hypothesis="With lambda .95 over 20 tokens the two credit nearly the same; at the end the critic has more to guess "
    "from the start on.",
    expected={"objective/kl": "up", "test/sampled_win_rate": "same"},
)

REWARD_CLIP = Detail(
    name="reward_clip",
    stages=("ppo",),
    paper="not in N+; PPO-max (Zheng et al. 2023) clips",
    question="Should the reward model's score be clipped?",
    reference="none",
    variants={
        "none": Variant(partial(reward.clip_score, limit=math.inf), "scores enter as they are"),
        "5": Variant(
            partial(reward.clip_score, limit=5.0), "clipped to [-5, 5], which a centred reward model rarely reaches"
        ),
        "1": Variant(
            partial(reward.clip_score, limit=1.0),
            "clipped to [-1, 1]: a good summary and an excellent one get the same score",
        ),
    },
    hypothesis="A clip that is reached removes the reward for going further: the score stops at the limit, and with it "
    "the hacking.",
    expected={"objective/score": {"5": "same", "1": "down"}, "objective/kl": {"1": "down"}},
)

SCORE_POSITION = Detail(
    name="score_position",
    stages=("ppo",),
    paper="N+ section 7 (code: index after the end of text)",
    question="Is the score the reward of the state after the end of text, or of the end of text itself?",
    reference="after_eos",
    variants={
        "after_eos": Variant(
            reward.score_after_eos,
            "in the terminal state, one after the last token; at the last token where the response fills the limit",
        ),
        "at_eos": Variant(
            reward.score_at_eos, "at the last token itself; the state after it keeps a value, whose target is 0"
        ),
    },
    hypothesis="One step of discounting (lambda) apart: the state after the end gets a value of its own to bootstrap "
    "from.",
    expected={"test/sampled_win_rate": "same"},
)
