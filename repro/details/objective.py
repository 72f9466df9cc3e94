"""PPO's objective: ratio and clip, value loss, and how the losses of tokens are averaged."""

from functools import partial

from repro.detail import ByName, Detail, Variant
from repro.ops import baseline, entropy, loss, ratio, trust_region

GROUP = "Objective"

POLICY_OBJECTIVE = Detail(
    name="policy_objective",
    stages=("ppo",),
    paper="N+ section 7; Schulman et al. 2017, sections 3 and 4 and table 1; CISPO, arXiv 2506.13585",
    numbers=(20,),
    question="What should keep a step near the policy that sampled?",
    reference="clipped",
    variants={
        "clipped": Variant(
            loss.Objective(ByName(loss.clipped)),
            "PPO's clip: no gradient once a ratio has left the range on the side that its advantage asks for",
        ),
        "unclipped": Variant(loss.Objective(ByName(loss.unclipped)), "nothing: ratio times advantage"),
        "kl_penalty": Variant(
            loss.Objective(ByName(loss.kl_penalised), beta=1.0),
            "ratio times advantage, less the KL from the policy that sampled",
        ),
        "adaptive_kl_penalty": Variant(
            loss.Objective(ByName(loss.kl_penalised), beta=1.0, adapt=partial(loss.adaptive_beta, target=0.01)),
            "the same with a coefficient that doubles or halves after each batch, so that this KL is near 0.01 at its "
            "last step",
        ),
        "policy_gradient": Variant(
            loss.Objective(ByName(loss.policy_gradient)),
            "log-probability times advantage, as if every pass were the first",
        ),
        "clipped_weight": Variant(
            loss.Objective(ByName(loss.clipped_weight)),
            "the same weighted by the ratio, clipped from above and without a gradient: no token drops out (CISPO)",
        ),
    },
    hypothesis="Four passes over a batch push a favoured token as far as the objective allows. Without a clip or a "
    "penalty the policy moves further per batch, on advantages that no longer hold. A penalty of this size does what the "
    "clip does; one that adapts finds the KL below its target at such learning rates, and halves until it is none.",
    expected={
        "policy/approx_kl": {"unclipped": "up", "policy_gradient": "up"},
        "objective/kl": {"unclipped": "up", "policy_gradient": "up", "adaptive_kl_penalty": "up"},
        "test/sampled_win_rate": {"kl_penalty": "same", "adaptive_kl_penalty": "same"},
    },
)

CLIP_RANGE = Detail(
    name="clip_range",
    stages=("ppo",),
    paper="N+ table 7; Schulman et al. 2017, table 1",
    numbers=(20,),
    question="How far may a token's probability move per batch?",
    reference="0.2",
    variants={
        "0.2": Variant(0.2, "no gain from a ratio above 1.2, or below 0.8 where the advantage is negative"),
        "0.1": Variant(0.1, "no gain above 1.1 or below 0.9"),
        "0.3": Variant(0.3, "no gain above 1.3 or below 0.7"),
    },
    hypothesis="A tighter clip slows the policy, a wider one lets it move further on stale advantages.",
    expected={"policy/clip_fraction": {"0.1": "up", "0.3": "down"}, "test/sampled_win_rate": "same"},
)

CLIP_ABOVE = Detail(
    name="clip_above",
    stages=("ppo",),
    paper="not in N+; DAPO (Yu et al. 2025, arXiv 2503.14476)",
    question="Should a token's probability be allowed to grow further than it may shrink?",
    reference="same",
    variants={
        "same": Variant(ratio.same_above, "as far above 1 as below it: clip_range on both sides"),
        "0.28": Variant(partial(ratio.wider_above, clip_high=0.28), "up to 1.28, and down to 1 less clip_range"),
    },
    hypothesis="The clip above stops good tokens that were unlikely after a few steps; with more room they grow, and "
    "the policy keeps more entropy.",
    expected={"policy/clip_fraction": "down", "objective/entropy": "up", "test/sampled_win_rate": "same"},
)

RATIO_LEVEL = Detail(
    name="ratio_level",
    stages=("ppo",),
    paper="N+ section 7 (per token); GSPO (Zheng et al. 2025, arXiv 2507.18071)",
    question="Should each token have a ratio of its own, or a response one for all?",
    reference="token",
    variants={
        "token": Variant(ratio.RatioLevel(ratio.per_token), "each token's own ratio"),
        "response_mean": Variant(
            ratio.RatioLevel(ratio.mean_of_response, clip=(3e-4, 4e-4)),
            "the geometric mean over the response, clipped at 0.0003 below and 0.0004 above 1, the source's range (GSPO, which "
            "has one advantage per response: beside GAE this averages the tokens' advantages)",
        ),
        "response_product": Variant(
            ratio.RatioLevel(ratio.product_of_response), "the product over the response: its probability's ratio"
        ),
    },
    hypothesis="The mean of a response leaves a range of 0.0003 in the first step, so most of the later passes are "
    "clipped and the policy moves less. The product leaves its range in a step too, with far more variance.",
    expected={
        "policy/clip_fraction": "up",
        "policy/approx_kl": {"response_mean": "down"},
        "test/sampled_win_rate": {"response_mean": "down"},
    },
)

DUAL_CLIP = Detail(
    name="dual_clip",
    stages=("ppo",),
    paper="not in N+; Ye et al. 2020, arXiv 1912.09729",
    question="Should the loss of a bad token that has become likelier be bounded?",
    reference="off",
    variants={
        "off": Variant(ratio.unbounded, "it grows with the ratio, without end"),
        "3": Variant(partial(ratio.dual_clip, limit=3.0), "from a ratio of 3 on a bad token has no gradient"),
    },
    hypothesis="A ratio of 3 needs a token to become three times as likely within a batch: at the paper's learning rate "
    "almost none does, and nothing changes.",
    expected={"policy/approx_kl": "same", "test/sampled_win_rate": "same"},
)

CONSTRAINED_STEP = Detail(
    name="constrained_step",
    stages=("ppo",),
    paper="N+ section 7 (the clip); TRPO (Schulman et al. 2015, arXiv 1502.05477, section 6 and appendix C)",
    numbers=(20,),
    question="Should a step of the policy be held within a KL radius, rather than clipped?",
    reference="clip",
    variants={
        "clip": Variant(trust_region.Step("adamw"), "AdamW on policy and critic, in as many steps as a batch has"),
        "trpo": Variant(
            trust_region.Step(
                "trpo",
                loss.Objective(ByName(loss.unclipped)),
                trust_region.TrustRegion(
                    radius=0.01, damping=0.1, cg_iterations=10, backtrack_ratio=0.8, max_backtracks=10
                ),
            ),
            "on the first pass the natural gradient of ratio times advantage, to a KL of 0.01 nats a token at most; "
            "AdamW, its learning rate and the further passes are the critic's alone",
        ),
    },
    hypothesis="The step has a length in nats that neither the learning rate nor its schedule changes: at the paper's "
    "rate it goes further than four clipped passes, and as far in the last batch as in the first.",
    expected={"policy/approx_kl": "up", "objective/kl": "up", "test/sampled_win_rate": "same"},
)

VALUE_CLIP = Detail(
    name="value_clip",
    stages=("ppo",),
    paper="N+ table 7; blog, on value clipping",
    numbers=(20,),
    question="Does clipping the value loss matter?",
    reference="0.2",
    variants={
        "0.2": Variant(
            partial(loss.clip_value, clip=0.2), "the larger of the squared errors of the value and of the clipped value"
        ),
        "off": Variant(loss.free_value, "the plain squared error"),
    },
    hypothesis="Clipped, the critic moves at most 0.2 per batch where its targets are far off: it fits later.",
    expected={"loss/value": "down", "value/explained_variance": "up"},
)

VALUE_LOSS = Detail(
    name="value_loss",
    stages=("ppo",),
    paper="N+ code (squared); Andrychowicz et al. 2020, arXiv 2006.05990",
    question="Should the critic's loss be squared far from its target too?",
    reference="squared",
    variants={
        "squared": Variant(loss.half_square, "half the squared error"),
        "huber": Variant(partial(loss.huber, limit=1.0), "from an error of 1 on, linear: the gradient stops growing"),
    },
    hypothesis="Scores have a spread of about 1, so few errors are larger; those of responses that do not end are, and "
    "they pull less. The source found the squared loss better.",
    expected={"test/sampled_win_rate": "same"},
)

VALUE_COEF = Detail(
    name="value_coef",
    stages=("ppo",),
    paper="N+ table 7 (c1); Schulman et al. 2017, equation 9",
    numbers=(20,),
    question="What weight should the critic's loss have?",
    reference="0.1",
    variants={
        "0.1": Variant(0.1, "a tenth of the policy loss's weight"),
        "0.5": Variant(0.5, "half of the policy loss's weight"),
        "1": Variant(1.0, "the policy loss's weight"),
    },
    hypothesis="With a network of its own the critic has its own gradient, and Adam divides by its size: the weight "
    "cancels, up to epsilon. It should matter only where policy and critic share a trunk or a gradient clip.",
    expected={"test/sampled_win_rate": "same", "loss/value": "same"},
)

# The paper's code is token_mean_per_micro_batch, which depends on how much memory there is; the reference does not.
LOSS_AGGREGATION = Detail(
    name="loss_aggregation",
    stages=("ppo",),
    paper="N+ code (masked mean per micro-batch); GRPO; Dr. GRPO",
    numbers=(20,),
    question="Over what should the per-token losses be averaged?",
    reference="token_mean",
    variants={
        "token_mean": Variant(
            ByName(loss.token_mean), "every token of the optimizer step counts alike, however it is split"
        ),
        "token_mean_per_micro_batch": Variant(
            ByName(loss.token_mean_per_micro_batch),
            "over each micro-batch's tokens, then over micro-batches: the paper's code",
        ),
        "sequence_mean": Variant(ByName(loss.sequence_mean), "over each response's tokens, then over responses (GRPO)"),
        "sum_over_limit": Variant(
            ByName(loss.sum_over_limit), "a sum over tokens, divided by the limit and the episodes (Dr. GRPO)"
        ),
    },
    hypothesis="A sequence mean gives each token of a short response more weight than one of a long response.",
    expected={"test/length": "same", "test/sampled_win_rate": "same"},
)

TRUNCATED_RESPONSES = Detail(
    name="truncated_responses",
    stages=("ppo",),
    paper="N+ detail 23.3 (they count, with a score of -1); DAPO (arXiv 2503.14476)",
    numbers=(23,),
    question="Should a response that does not end count in the loss?",
    reference="counted",
    variants={
        "counted": Variant(loss.all_responses, "every response counts"),
        "left_out": Variant(loss.ended_responses, "one without an end of text counts for nothing, in both losses"),
    },
    hypothesis="The score of -1 then reaches nobody: nothing teaches the policy to end within the limit but that "
    "responses that do end are good or bad.",
    expected={"objective/eos_rate": "down", "test/eos_rate": "down", "test/sampled_win_rate": "down"},
)

UNINFORMATIVE_GROUPS = Detail(
    name="uninformative_groups",
    stages=("ppo",),
    paper="not in N+; DAPO (Yu et al. 2025, arXiv 2503.14476: dynamic sampling), which samples others in their place",
    question="Should responses to a query that all have the same score count in the policy's loss?",
    reference="kept",
    variants={
        "kept": Variant(baseline.every_group, "every response counts"),
        "dropped": Variant(
            baseline.groups_that_differ,
            "those to a query whose responses all have the same score count for nothing; none are sampled in their place, so "
            "an update has fewer episodes",
        ),
    },
    hypothesis="A reward model's scores are equal only where no response to a query ends. Such a group says by its KL alone "
    "which response is better, and this drift towards the SFT policy goes: the KL is a little larger, and only as long as "
    "responses do not end.",
    expected={"objective/kl": "same", "test/sampled_win_rate": "same"},
)

GOOD_RESPONSES = Detail(
    name="good_responses",
    stages=("ppo",),
    paper="not in N+; VAPO (Yue et al. 2025, arXiv 2504.05118)",
    question="Should the policy also imitate its own good responses?",
    reference="by_advantage",
    variants={
        "by_advantage": Variant(loss.no_imitation, "they are reinforced by their advantages alone"),
        "imitated_0.1": Variant(
            partial(loss.imitate_good_responses, coefficient=0.1),
            "0.1 times the negative log-likelihood of responses with a positive mean advantage is added",
        ),
    },
    hypothesis="Beside whitened advantages of size 1 a tenth is little: every token of a good response gets likelier, "
    "whatever its own advantage is. The entropy falls a little sooner.",
    expected={"objective/entropy": "down", "test/sampled_win_rate": "same"},
)

ENTROPY_BONUS = Detail(
    name="entropy_bonus",
    stages=("ppo",),
    paper="N+ code (none); Schulman et al. 2017, equation 9 (c2)",
    numbers=(20,),
    question="Should the policy have a bonus for its entropy?",
    reference="none",
    variants={
        "none": Variant((), "no bonus"),
        "0.01": Variant(
            (partial(loss.entropy_bonus, coefficient=0.01),), "0.01 per nat of each token's entropy, in the loss"
        ),
    },
    hypothesis="The KL penalty already favours entropy where the SFT policy has it; a bonus favours it everywhere, "
    "also for words that should be certain.",
    expected={"objective/entropy": "up", "test/sampled_win_rate": "down"},
)

ENTROPY_TARGET = Detail(
    name="entropy_target",
    stages=("ppo",),
    paper="N+ code (none); SAC (Haarnoja et al. 2018, arXiv 1812.05905, section 5)",
    question="Should an entropy bonus hold the policy's entropy at a level?",
    reference="off",
    variants={
        "off": Variant(entropy.EntropyTarget(), "the entropy goes where it goes"),
        "3_nats": Variant(
            entropy.EntropyTarget(
                entropy.bonus_at, initial=0.01, adapt=partial(entropy.towards_level, level=3.0, rate=0.01)
            ),
            "a bonus in the loss at 0.01 per nat of each token's entropy at first; after each update its coefficient rises by "
            "0.01 for each nat that a response's entropy is below 3, and falls above, to 0 at the least",
        ),
    },
    hypothesis="The embedded corpus's SFT policy has 4 nats in a response and PPO takes 2 of them away. Held at 3, the policy "
    "spends probability on words that are not the best: more entropy and a lower score, and nothing gained from exploring "
    "where all that pays is nearby.",
    expected={"objective/entropy": "up", "objective/score": "down", "test/sampled_win_rate": "down"},
)

PTX_MIX = Detail(
    name="ptx_mix",
    stages=("ppo",),
    paper="not in N+; InstructGPT, equation 2 (pretraining gradients)",
    question="Should a language-modelling loss be added to PPO's?",
    reference="off",
    variants={
        "off": Variant(loss.Mix(0.0, 0.0), "the policy's loss is PPO's alone"),
        "1": Variant(
            loss.Mix(1.0, 1.0),
            "one SFT text per episode, its next-token loss at coefficient 1; there is no pretraining set",
        ),
        "27.8": Variant(loss.Mix(27.8, 1.0), "the same at InstructGPT's coefficient"),
    },
    hypothesis="The SFT texts hold the policy near the SFT policy; at 27.8 the gradient is hardly anything else.",
    expected={"objective/kl": "down", "objective/score": "down"},
)
