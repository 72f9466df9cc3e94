"""PPO's epochs and minibatches, sampling temperature, Adam, learning rate, and averaged weights."""

import math
from functools import partial

import torch

from repro.detail import ByName, Detail, Variant
from repro.models import mixed_precision, modes, weights
from repro.ops import optim, ratio, text, truncation

GROUP = "Optimisation and sampling"

PPO_EPOCHS = Detail(
    name="ppo_epochs",
    stages=("ppo",),
    paper="N+ table 7",
    numbers=(20,),
    question="How many passes should PPO make over a batch?",
    reference="4",
    variants={
        "4": Variant(4, "four passes"),
        "1": Variant(1, "one pass: on-policy"),
        "2": Variant(2, "two passes"),
        "8": Variant(8, "eight passes"),
    },
    hypothesis="Fewer passes learn less from each batch; more go further off-policy and clip more.",
    expected={
        "policy/clip_fraction": {"1": "down", "2": "down", "8": "up"},
        "policy/approx_kl": {"1": "down", "2": "down", "8": "up"},
    },
)

MINIBATCHES = Detail(
    name="minibatches",
    stages=("ppo",),
    paper="N+ table 7; blog, on minibatches; InstructGPT, appendix E.11",
    numbers=(20,),
    question="Into how many optimizer steps should a pass be divided?",
    reference="1",
    variants={
        "1": Variant(1, "one step per pass, over the whole batch"),
        "4": Variant(4, "four steps, over a quarter of the episodes each"),
        "8": Variant(8, "eight steps, over an eighth each"),
    },
    hypothesis="More and noisier steps at the same learning rate: the policy goes further per batch, and clips more.",
    expected={"policy/approx_kl": "up", "policy/clip_fraction": "up", "objective/kl": "up"},
)

UPDATE_DROPOUT = Detail(
    name="update_dropout",
    stages=("ppo",),
    paper="N+ detail 7 (none anywhere)",
    numbers=(7,),
    question="Does dropout hurt PPO where only the updates have it?",
    reference="as_in_rollouts",
    variants={
        "as_in_rollouts": Variant(modes.dropout_as_it_is, "updates have the dropout of the rollouts, which is none"),
        "0.1": Variant(
            partial(modes.dropout_within, probability=0.1), "0.1 in the updates' forward passes, none in rollouts"
        ),
    },
    hypothesis="The old log-probabilities are then right, and the new ones noisy: the ratio is not 1 before the first "
    "step, and part of every gradient is about the noise.",
    expected={
        "policy/first_ratio_error": "up",
        "policy/clip_fraction": "up",
        "test/sampled_win_rate": "down",
    },
)

EARLY_STOP = Detail(
    name="early_stop",
    stages=("ppo",),
    paper="N+ code (none); Spinning Up (Achiam 2018)",
    numbers=(20,),
    question="Should the passes over a batch end once the policy has moved far enough?",
    reference="off",
    variants={
        "off": Variant(optim.never_stop, "all passes are made"),
        "0.02": Variant(
            partial(optim.kl_above, limit=0.02),
            "until KL(old, new) exceeds 0.02 nats a token, between Spinning Up's limits of 0.015 and 0.075",
        ),
        "0.002": Variant(partial(optim.kl_above, limit=0.002), "until it exceeds a tenth of that"),
    },
    hypothesis="At the paper's learning rate four passes move the policy by less than 0.02, so that limit is not "
    "reached. A tenth of it ends most batches early, which is fewer passes.",
    expected={
        "policy/approx_kl": {"0.02": "same", "0.002": "down"},
        "test/sampled_win_rate": {"0.02": "same", "0.002": "down"},
    },
)

SAMPLER_PRECISION = Detail(
    name="sampler_precision",
    stages=("ppo",),
    paper="N+ code (the trainer's); Qi et al. 2025, arXiv 2510.26788",
    numbers=(8,),
    question="May responses be sampled in a coarser precision than the update computes in?",
    reference="of_trainer",
    variants={
        "of_trainer": Variant(mixed_precision.sample_as_trained, "the sampler computes as the update does"),
        "bfloat16": Variant(mixed_precision.sample_in_bfloat16, "it computes in bfloat16"),
        "int8_weights": Variant(
            mixed_precision.sample_with_int8_weights, "its weights are rounded to 8 bits, row by row of each matrix"
        ),
    },
    hypothesis="The old log-probabilities are the sampler's own, so the ratio knows of the rounding: nothing is lost but "
    "a first ratio of 1. With old_logprob=recomputed nothing knows of it.",
    expected={"policy/first_ratio_error": "up", "test/sampled_win_rate": "same"},
)

SAMPLER_CORRECTION = Detail(
    name="sampler_correction",
    stages=("ppo",),
    paper="not in N+; Yao et al. 2025 (truncated importance sampling); Qi et al. 2025, arXiv 2510.26788",
    question="Should a token's loss be corrected for a sampler that is not quite the policy?",
    reference="none",
    variants={
        "none": Variant(ratio.uncorrected, "every token weighs the same"),
        "truncated_2": Variant(
            partial(ratio.truncated_weight, limit=2.0),
            "its policy loss is multiplied by its probability under the trainer over that under the sampler, at most 2",
        ),
        "masked_2": Variant(
            partial(ratio.masked_weight, limit=2.0),
            "the same weight, and 0 where the two differ by more than a factor of 2",
        ),
    },
    hypothesis="With old_logprob=from_sampler there is nothing to correct, and every weight is 1. Beside recomputed "
    "ones and a sampler in bfloat16 the weights differ from 1 by a hundredth: too little to see.",
    expected={"test/sampled_win_rate": "same"},
)

_LIKELIEST_0_9, _LIKELIEST_10 = partial(text.top_p, mass=0.9), partial(text.top_k, count=10)

TRUNCATED_SAMPLING = Detail(
    name="truncated_sampling",
    stages=("ppo",),
    paper="N+ code (none); Holtzman et al. 2020, arXiv 1904.09751; Fan et al. 2018, arXiv 1805.04833; DeepSeek-V3.2 (2025), "
    "arXiv 2512.02556",
    numbers=(20, 23),
    question="May unlikely tokens be left out when episodes are sampled?",
    reference="off",
    variants={
        "off": Variant(truncation.Truncation(), "every token may be drawn"),
        "top_p_0.9": Variant(
            truncation.Truncation(_LIKELIEST_0_9),
            "only the likeliest that have 0.9 of the probability together; log-probabilities stay those over all tokens",
        ),
        "top_k_10": Variant(
            truncation.Truncation(_LIKELIEST_10), "only the ten likeliest; log-probabilities stay those over all tokens"
        ),
        "top_p_0.9_replayed": Variant(
            truncation.Truncation(_LIKELIEST_0_9, partial(truncation.support_of, truncate=_LIKELIEST_0_9)),
            "the likeliest that have 0.9 together; each log-probability of training, the reference policy's too, is over the "
            "tokens that the sampler kept there",
        ),
        "top_k_10_replayed": Variant(
            truncation.Truncation(_LIKELIEST_10, partial(truncation.support_of, truncate=_LIKELIEST_10)),
            "the ten likeliest; each log-probability of training, the reference policy's too, is over those ten",
        ),
    },
    hypothesis="What is never drawn is never learnt about, good or bad: the policy explores less, and its KL rises for "
    "the tokens that remain. Of 512 tokens ten are nearly all of the probability. Over all tokens, a drawn token's gradient "
    "also takes from tokens that could not be drawn, which is probability for the likeliest whatever the score says; replayed, "
    "it is that of the policy that sampled, and no entropy is lost to it. Replayed, the entropy is over the kept tokens, so it "
    "is lower as measured.",
    expected={
        "objective/entropy": "down",
        "test/sampled_win_rate": {
            "top_p_0.9": "down",
            "top_k_10": "same",
            "top_p_0.9_replayed": "same",
            "top_k_10_replayed": "same",
        },
    },
)

OLD_LOGPROB = Detail(
    name="old_logprob",
    stages=("ppo",),
    paper="N+ code (the sampler's; an older version recomputed them)",
    numbers=(20,),
    question="Where should the old log-probabilities come from?",
    reference="from_sampler",
    variants={
        "from_sampler": Variant(ByName(text.from_sampler), "from the logits that the response was sampled from"),
        "recomputed": Variant(ByName(text.recomputed), "from a second forward pass, as the update's"),
    },
    hypothesis="In float32 the two agree to 1e-6, and the first ratio is 1 to that. They differ in bfloat16, with "
    "another engine for sampling, or with dropout.",
    expected={"policy/first_ratio_error": "down", "test/sampled_win_rate": "same"},
)

LOGPROB_TEMPERATURE = Detail(
    name="logprob_temperature",
    stages=("ppo",),
    paper="blog, on scaling logits by the temperature",
    numbers=(20,),
    question="Should log-probabilities be computed at the sampling temperature?",
    reference="scaled",
    variants={
        "scaled": Variant(
            text.at_temperature, "old, new and reference log-probabilities are at the sampling temperature"
        ),
        "unscaled": Variant(text.without_temperature, "all three are at temperature 1"),
    },
    hypothesis="At temperature 1 the log-probabilities are of a policy that did not sample: its KL is overstated on "
    "the likely tokens and the ratios with it. The blog saw the KL rise faster and performance degrade.",
    expected={"test/kl": "up", "test/sampled_win_rate": "down"},
)

TEMPERATURE = Detail(
    name="temperature",
    stages=("ppo",),
    paper="N+ table 7; InstructGPT samples at 1",
    numbers=(20,),
    question="At which temperature should PPO sample?",
    reference="0.7",
    variants={
        "0.7": Variant(0.7, "sharper than the policy's own distribution"),
        "1": Variant(1.0, "the policy's own distribution"),
    },
    hypothesis="At 1 more samples are poor and more are new: the score in training is lower, the entropy higher.",
    expected={"objective/entropy": "up", "objective/score": "down"},
)

STALENESS = Detail(
    name="staleness",
    stages=("ppo",),
    paper="N+ code (0); asynchronous RLHF (Noukhovitch et al. 2024, arXiv 2410.18252)",
    numbers=(20,),
    question="May episodes be older than the policy that learns from them?",
    reference="0",
    variants={
        "0": Variant(0, "an update learns from what the policy before it sampled"),
        "1": Variant(
            1, "from what the policy of an update earlier sampled, as where sampler and trainer run side by side"
        ),
        "4": Variant(4, "from what the policy of four updates earlier sampled"),
    },
    hypothesis="The ratio knows who sampled, so one update costs little. Four move the policy further than the clip "
    "allows before the first pass begins: more is clipped, and less is learnt from each batch.",
    expected={
        "policy/first_ratio_error": "up",
        "policy/clip_fraction": "up",
        "test/sampled_win_rate": {"1": "same", "4": "down"},
    },
)

CRITIC_LEARNING_RATE = Detail(
    name="critic_learning_rate",
    stages=("ppo",),
    paper="N+ code (the policy's); Zheng et al. 2023, arXiv 2307.04964",
    numbers=(20,),
    question="Should the critic learn faster than the policy?",
    reference="same",
    variants={
        "same": Variant(1.0, "one learning rate for both"),
        "3x": Variant(3.0, "three times the policy's"),
        "10x": Variant(10.0, "ten times the policy's"),
    },
    hypothesis="The critic has the reward model's outputs before the end to unlearn, in as many steps as the policy "
    "has: three times the rate fits sooner, ten times overshoots.",
    expected={
        "loss/value": {"3x": "down"},
        "value/explained_variance": {"3x": "up"},
        "test/sampled_win_rate": {"3x": "up"},
    },
)

ADAM_EPSILON = Detail(
    name="adam_epsilon",
    stages=("sft", "rm", "ppo"),
    paper="N+ details 9, 10 and 20",
    numbers=(9, 10, 20),
    question="Does Adam's epsilon matter?",
    reference="1e-5",
    variants={
        "1e-5": Variant(1e-5, "the paper's, and the 2019 code's"),
        "1e-8": Variant(1e-8, "PyTorch's default"),
    },
    hypothesis="Where gradients are near 1e-5, as in PPO's whitened, averaged loss, a large epsilon damps the steps: "
    "without it the policy moves further.",
    expected={"policy/approx_kl": "up"},
)

ADAM_FLAVOUR = Detail(
    name="adam_flavour",
    stages=("sft", "rm", "ppo"),
    paper="blog, on Adam",
    numbers=(9, 10, 20),
    question="Does it matter where Adam adds its epsilon?",
    reference="pytorch",
    variants={
        "pytorch": Variant(torch.optim.AdamW, "to the root of the bias-corrected second moment"),
        "tensorflow": Variant(weights.TensorFlowAdam, "to the root of the uncorrected one: early steps are smaller"),
    },
    hypothesis="At epsilon 1e-5 the first steps shrink several-fold, which is what the 2019 results were made with; "
    "the blog saw a sixth of the policy KL after two epochs.",
    expected={"policy/approx_kl": "down"},
)

WEIGHT_DECAY = Detail(
    name="weight_decay",
    stages=("sft", "rm", "ppo"),
    paper="N+ code (PyTorch's default)",
    numbers=(9, 10, 20),
    question="Does AdamW's weight decay matter?",
    reference="0.01",
    variants={
        "0.01": Variant(0.01, "PyTorch's default, which the paper never set"),
        "0": Variant(0.0, "none, as in TRL"),
    },
    hypothesis="Times the learning rate it takes a thousandth of a per cent off a weight per step: nothing, over so "
    "few steps.",
    expected={"test/sampled_win_rate": "same"},
)

LR_SCHEDULE = Detail(
    name="lr_schedule",
    stages=("ppo",),
    paper="N+ table 7 and code (linear by hand); InstructGPT holds it constant",
    numbers=(20,),
    question="Which learning-rate schedule should PPO have?",
    reference="linear",
    variants={
        "linear": Variant(optim.linear_to_zero, "a straight line from the full rate to 0"),
        "constant": Variant(optim.constant, "the full rate to the last update"),
        "cosine": Variant(optim.cosine_to_zero, "half a cosine from the full rate to 0"),
    },
    hypothesis="At a constant rate the policy keeps moving to the end: further from the reference, with a higher "
    "score.",
    expected={
        "objective/kl": {"constant": "up", "cosine": "same"},
        "objective/score": {"constant": "up", "cosine": "same"},
    },
)

GRADIENT_CLIP = Detail(
    name="gradient_clip",
    stages=("ppo",),
    paper="N+ code (none); PPO for games clips at 0.5",
    numbers=(20,),
    question="Should gradients be clipped?",
    reference="none",
    variants={
        "none": Variant(math.inf, "no limit on the gradient's norm"),
        "1": Variant(1.0, "the joint gradient of policy and critic is scaled to a norm of at most 1"),
    },
    hypothesis="Adam already divides by the gradient's size, so a clip acts only where one batch's is far larger than "
    "the last: early, while the critic is wrong.",
    expected={"objective/kl": "down", "test/sampled_win_rate": "same"},
)

WEIGHT_AVERAGE = Detail(
    name="weight_average",
    stages=("ppo",),
    paper="not in N+; InstructGPT, appendix C.4",
    question="Should the final policy be an average of the weights over its optimizer steps?",
    reference="none",
    variants={
        "none": Variant(weights.LastWeights, "the policy after its last optimizer step"),
        "0.992": Variant(
            partial(weights.ema_weights, decay=0.992), "an exponential moving average over optimizer steps"
        ),
    },
    hypothesis="Over few steps the average lags behind the policy: it is nearer to the SFT policy in KL and in score.",
    expected={"test/kl": "down", "test/score": "down"},
)
