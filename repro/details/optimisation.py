"""PPO's epochs and minibatches, sampling temperature, Adam, learning rate, and averaged weights."""

import math
from functools import partial

import torch

from repro.detail import ByName, Detail, Variant
from repro.models import weights
from repro.ops import optim, text

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
