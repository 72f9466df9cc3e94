"""What every network of the pipeline shares: dropout, positions, adapters, precision (N+ details 5, 7 and 8)."""

from repro.detail import Detail, Variant
from repro.models import mixed_precision, position_ids, weights

GROUP = "General"

DROPOUT = Detail(
    name="dropout",
    stages=("sft", "rm", "ppo"),
    paper="N+ detail 7",
    numbers=(7,),
    question="Does dropout hurt RLHF?",
    reference="off",
    variants={
        "off": Variant({}, "every dropout is 0 in every stage"),
        "on_in_sft_and_rm": Variant(
            {"sft": 0.1, "rm": 0.1}, "0.1 while the SFT policy and the reward model are trained"
        ),
        "on_everywhere": Variant(
            {"sft": 0.1, "rm": 0.1, "ppo": 0.1},
            "0.1 in PPO too, in policy and critic, in rollouts and updates",
        ),
    },
    hypothesis="On in PPO, two passes over the same tokens disagree: the ratio is not 1 before the first step, "
    "clipping starts at once, and the KL penalty is partly noise. On before PPO, small networks that read every text once "
    "learn less from it, and PPO has a worse reward model.",
    expected={
        "policy/first_ratio_error": {"on_everywhere": "up"},
        "objective/kl": {"on_everywhere": "up"},
        "policy/clip_fraction": {"on_everywhere": "up"},
        "rm/validation_accuracy": {"on_in_sft_and_rm": "down"},
        "test/sampled_win_rate": {"on_in_sft_and_rm": "down"},
    },
)

POSITION_IDS = Detail(
    name="position_ids",
    stages=("baseline", "ppo", "feedback", "evaluate"),
    paper="N+ detail 5 (code: not passed); blog, on position indices",
    numbers=(5,),
    question="Should padding on the left count as positions?",
    reference="implicit",
    variants={
        "implicit": Variant(position_ids.implicit, "positions count columns, padding included"),
        "from_mask": Variant(
            position_ids.from_mask,
            "positions count tokens: the first token of a text has position 0, however much padding precedes it",
        ),
    },
    hypothesis="With rotary positions only distances matter, so the two agree to rounding. With learned positions a "
    "query that is padded on the left would be read from the wrong place.",
    expected={"test/sampled_win_rate": "same", "objective/kl": "same"},
)

ADAPTER = Detail(
    name="adapter",
    stages=("ppo",),
    paper="an older script of the N+ code; Hu et al. 2021",
    numbers=(8,),
    question="Is a low-rank adapter enough for PPO?",
    reference="full_weights",
    variants={
        "full_weights": Variant(weights.full_weights, "all weights of policy and critic are trained"),
        "lora": Variant(
            weights.lora,
            "adapters of rank 8 and alpha 32 on all linear layers of both; the reference policy is the policy without "
            "its adapter",
        ),
    },
    hypothesis="A low-rank update cannot move every token's probability at once: at the same learning rate the policy "
    "stays nearer to where it started, and earns less.",
    expected={"objective/kl": "down", "objective/score": "down"},
)

PRECISION = Detail(
    name="precision",
    stages=("sft", "rm", "baseline", "ppo", "feedback", "evaluate"),
    paper="N+ detail 8 (code: bf16 mixed precision)",
    numbers=(8,),
    question="Does bfloat16 cost anything?",
    reference="as_the_scale_says",
    variants={
        "as_the_scale_says": Variant(
            mixed_precision.by_scale, "bfloat16 autocast where the device supports it, else float32"
        ),
        "float32": Variant(mixed_precision.float32, "float32 throughout, which is the scale's precision on a CPU"),
        "bfloat16": Variant(mixed_precision.bfloat16, "bfloat16 autocast over float32 weights, on any device"),
    },
    hypothesis="The sampler and the update round differently, so the first ratio is off 1 by a per cent or so; whether "
    "that is enough to hurt depends on how far apart the advantages are.",
    expected={"policy/first_ratio_error": {"bfloat16": "up"}, "test/sampled_win_rate": "same"},
)
