"""The control: a detail that changes nothing but random numbers."""

from repro.detail import Detail, Variant

GROUP = "Control"

DRAWS = Detail(
    name="draws",
    stages=("ppo",),
    paper="a control, of no paper: the recipe against itself",
    question="How far apart are two runs that differ only in PPO's random numbers?",
    reference="first",
    variants={
        "first": Variant("", "the random numbers that every arm with the same seed uses"),
        "again": Variant(
            "again ", "different ones: another order of posts and minibatches, and other sampled responses"
        ),
    },
    hypothesis="Nothing differs on average; how far single seeds lie apart is what every other detail has to beat.",
    expected={"test/sampled_win_rate": "same", "objective/kl": "same"},
)
