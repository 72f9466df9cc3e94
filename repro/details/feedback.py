"""Rounds of feedback: comparisons of what the policy writes now, and a reward model that has seen them (since N+).

Who compares is a field of the budget, Scale.annotator: the embedded corpus has annotators of its own, and on another corpus a
reward model or a language model is named.
"""

from dataclasses import dataclass

from repro.detail import PIPELINE, Detail, Variant

GROUP = "Rounds of feedback"
FEWER = 4  # a round has a quarter as many new comparisons as the corpus has


@dataclass(frozen=True)
class Rounds:
    """How many times reward model and PPO follow each other, whose samples are compared between, and where PPO starts."""

    number: int
    compared: str = "last"  # the policy of the round before, or "sft"
    start: str = "sft"  # or "last": the policy of the round before


FEEDBACK_ROUNDS = Detail(
    name="feedback_rounds",
    stages=(PIPELINE,),
    paper="N+ (one); Bai et al. 2022, arXiv 2204.05862; Llama 2, arXiv 2307.09288",
    question="Should annotators compare what the trained policy writes, for another reward model and another PPO?",
    reference="1",
    variants={
        "1": Variant(Rounds(1), "one reward model, of comparisons that were there before the policy"),
        "2": Variant(
            Rounds(2),
            "annotators compare pairs that the trained policy sampled, a quarter as many as there were; a reward model "
            "of old and new ones; PPO again from the SFT policy",
        ),
        "3": Variant(Rounds(3), "the same once more, with the second round's policy"),
        "2_continued": Variant(Rounds(2, start="last"), "as 2, but the second PPO goes on from the first one's policy"),
        "2_of_sft_samples": Variant(
            Rounds(2, compared="sft"),
            "as 2, but the new pairs are the SFT policy's: as many comparisons, of no new kind",
        ),
    },
    hypothesis="The policy ends where the reward model has seen nothing, and is sure of itself there. A few comparisons "
    "from that place close the holes that were found; of the SFT policy's samples as many teach little. Continued, the "
    "policy has twice the episodes. Each round costs a reward model and a PPO, and what "
    "its annotators are paid.",
    expected={
        "test/sampled_win_rate": {"2": "up", "3": "up", "2_continued": "up", "2_of_sft_samples": "same"},
        "test/judge_agreement": {"2": "up", "3": "up", "2_continued": "up"},
    },
)
