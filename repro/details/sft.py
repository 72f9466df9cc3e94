"""Supervised fine-tuning (N+ detail 9)."""

from repro.detail import Detail, Variant
from repro.ops import optim, text

GROUP = "SFT"

SFT_LOSS_TOKENS = Detail(
    name="sft_loss_tokens",
    stages=("sft",),
    paper="N+ detail 9",
    numbers=(9,),
    question="Should SFT learn the prompt too?",
    reference="query_and_response",
    variants={
        "query_and_response": Variant(text.whole_text, "every token but padding is predicted"),
        "response_only": Variant(
            text.response_only, "the tokens of the summary and its end of text are predicted, those of the post are not"
        ),
    },
    hypothesis="A post has many tokens, which teach nothing about summaries; without them each step is about summaries "
    "only, and the reward model, which starts from SFT, was trained on less text.",
    expected={"sft_test/sampled_win_rate": "up", "rm/validation_accuracy": "down"},
)

SFT_EPOCHS = Detail(
    name="sft_epochs",
    stages=("sft",),
    paper="N+ detail 9; InstructGPT trains 16",
    numbers=(9,),
    question="How often should SFT see its posts?",
    reference="1",
    variants={
        "1": Variant(1, "one pass"),
        "2": Variant(2, "two passes, one schedule over both"),
        "3": Variant(3, "three passes, one schedule over all"),
    },
    hypothesis="More passes imitate the references better and leave the policy less random, so PPO has less to "
    "explore.",
    expected={"sft_test/rouge_l": "up", "objective/entropy": "down"},
)

LR_SCHEDULE_SFT = Detail(
    name="lr_schedule_sft",
    stages=("sft",),
    paper="N+ detail 9",
    numbers=(9,),
    question="Which learning-rate schedule should SFT have?",
    reference="cosine",
    variants={
        "cosine": Variant(optim.cosine_to_zero, "half a cosine from the full rate to 0, no warm-up"),
        "linear": Variant(optim.linear_to_zero, "a straight line from the full rate to 0"),
        "constant": Variant(optim.constant, "the full rate to the last step"),
    },
    hypothesis="Without decay the last steps are noise at the full rate: the loss ends higher. Which decay does not "
    "matter.",
    expected={"sft/final_loss": {"constant": "up", "linear": "same"}},
)
