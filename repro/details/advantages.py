"""The advantage of a token: how it is estimated, what it is compared with, and how many responses a query has."""

from functools import partial

from repro.detail import ByName, Detail, Variant
from repro.models import critics
from repro.ops import advantage, baseline

GROUP = "Advantage and baseline"

ADVANTAGE = Detail(
    name="advantage",
    stages=("ppo",),
    paper="N+ table 7 (GAE); Schulman et al. 2016; Mnih et al. 2016",
    numbers=(20,),
    question="How should a token's advantage be estimated?",
    reference="gae",
    variants={
        "gae": Variant(
            ByName(advantage.from_gae),
            "all n-step estimates, weighted by powers of lambda; gae_lambda 0 is one-step TD, 1 Monte Carlo",
        ),
        "n_step": Variant(ByName(partial(advantage.n_step, steps=5)), "five rewards, then the critic"),
        "reward_to_go": Variant(ByName(advantage.reward_to_go), "all rewards from here on, without the critic"),
        "whole_return": Variant(
            ByName(advantage.whole_return), "the whole episode's return on every token, without the critic"
        ),
    },
    hypothesis="Without the critic every token of a good episode is reinforced alike: more variance per batch, so "
    "slower learning at the same number of episodes. Whitening over the batch is then all the baseline there is. "
    "Five rewards reach the score from the last five tokens alone; the others hear of it from a critic that has yet to learn.",
    expected={
        "objective/score": {"reward_to_go": "down", "whole_return": "down"},
        "test/sampled_win_rate": {"whole_return": "down", "n_step": "down"},
    },
)

# A group baseline needs others in its group; where responses_per_query says 1, it samples the source's four.
_GROUP = partial(baseline.at_least_two, otherwise=4)

BASELINE = Detail(
    name="baseline",
    stages=("ppo",),
    paper="N+ section 7 (a critic); RLOO, arXiv 2402.14740; GRPO, arXiv 2402.03300; Dr. GRPO, arXiv 2503.20783; "
    "ReMax, arXiv 2310.10505",
    question="What should a response's return be compared with: a critic's values, or other responses?",
    reference="critic",
    variants={
        "critic": Variant(
            baseline.Baseline(ByName(baseline.critics_advantage), critics.needed),
            "the critic's value of each state, by the estimate that the detail advantage names",
        ),
        "leave_one_out": Variant(
            baseline.Baseline(ByName(baseline.leave_one_out), critics.not_needed, _GROUP),
            "the mean return of the other responses to the query; no critic is trained (RLOO)",
        ),
        "group_mean": Variant(
            baseline.Baseline(ByName(baseline.group_mean), critics.not_needed, _GROUP),
            "the mean return of all responses to the query; no critic is trained (Dr. GRPO)",
        ),
        "group_standardised": Variant(
            baseline.Baseline(ByName(baseline.group_standardised), critics.not_needed, _GROUP),
            "the same, divided by their spread; no critic is trained (GRPO)",
        ),
        "batch_mean": Variant(
            baseline.Baseline(ByName(baseline.batch_mean), critics.not_needed),
            "the mean return of the batch; no critic is trained",
        ),
        "moving_average": Variant(
            baseline.Baseline(
                ByName(baseline.moving_average),
                critics.not_needed,
                follow=partial(baseline.next_moving_average, decay=0.9),
            ),
            "the moving average of earlier batches' mean returns, of which each batch makes up a tenth; no critic is trained",
        ),
        "greedy_response": Variant(
            baseline.Baseline(ByName(baseline.greedy_response), critics.not_needed),
            "the return of the greedy response to the query, sampled for that alone; no critic is trained (ReMax)",
        ),
        "none": Variant(
            baseline.Baseline(ByName(advantage.reward_to_go), critics.not_needed),
            "nothing: each token's return enters as it is, as under advantage=reward_to_go; no critic is trained "
            "(REINFORCE; with whitening, REINFORCE++)",
        ),
    },
    hypothesis="A score comes once, at the end of 20 tokens, so a critic has little to add to the other responses' mean, "
    "which knows the query exactly. It costs a quarter of the queries. The batch's mean does not know the query: more "
    "variance, slower learning. After whitening, leave_one_out and group_mean are the same up to rounding. Whitening takes "
    "the mean out too, so earlier batches' average is the batch's mean once more. The greedy response knows the query at the "
    "cost of a second rollout: better than the batch's mean, and one sample's noise worse than four responses'. Without any "
    "baseline whitening takes out the mean over the batch's tokens, so that this is batch_mean, but that no token pays for the "
    "KL of those before it.",
    expected={
        "objective/score": {"batch_mean": "down", "moving_average": "down", "none": "down"},
        "test/sampled_win_rate": {
            "leave_one_out": "up",
            "group_mean": "up",
            "group_standardised": "up",
            "batch_mean": "down",
            "moving_average": "down",
            "greedy_response": "same",
            "none": "down",
        },
    },
)

RESPONSES_PER_QUERY = Detail(
    name="responses_per_query",
    stages=("ppo",),
    paper="N+ code (one); RLOO (Ahmadian et al. 2024, arXiv 2402.14740, table 1: k is 2 and 4)",
    question="How many responses should a query get, at the same number of episodes?",
    reference="1",
    variants={
        "1": Variant(1, "each episode of a batch has a query of its own"),
        "2": Variant(2, "half as many queries, two responses to each"),
        "4": Variant(4, "a quarter of the queries, four responses to each"),
        "8": Variant(8, "an eighth of the queries, eight responses to each"),
    },
    hypothesis="With a critic a second response to the same query says less than one to another query does; the posts "
    "are alike, though, so little is lost.",
    expected={"test/sampled_win_rate": "same"},
)

GAMMA = Detail(
    name="gamma",
    stages=("ppo",),
    paper="N+ table 7; Stiennon et al. 2020, footnote 8",
    numbers=(20,),
    question="Should rewards be discounted?",
    reference="1",
    variants={
        "1": Variant(1.0, "no discount: a score counts the same however late it comes"),
        "0.99": Variant(0.99, "1 % less per token"),
        "0.95": Variant(0.95, "5 % less per token: after 20 tokens a third is left"),
    },
    hypothesis="A discount rewards ending sooner.",
    expected={"test/length": "down"},
)

GAE_LAMBDA = Detail(
    name="gae_lambda",
    stages=("ppo",),
    paper="N+ table 7; Schulman et al. 2016",
    numbers=(20,),
    question="How much should the advantage rely on the critic?",
    reference="0.95",
    variants={
        "0.95": Variant(0.95, "mostly on the rewards"),
        "0": Variant(0.0, "the one-step temporal difference: all on the critic"),
        "0.9": Variant(0.9, "a little more on the critic"),
        "1": Variant(1.0, "the Monte-Carlo return less the value: the critic is a baseline only"),
    },
    hypothesis="At 0 every token rests on a critic that starts wrong; at 1 the score reaches all tokens with all its "
    "noise.",
    expected={"test/sampled_win_rate": "down", "value/explained_variance": "down"},
)

LAMBDA_BY_LENGTH = Detail(
    name="lambda_by_length",
    stages=("ppo",),
    paper="not in N+; VAPO (Yue et al. 2025, arXiv 2504.05118)",
    question="Should a longer response have a larger lambda?",
    reference="same_for_all",
    variants={
        "same_for_all": Variant(advantage.same_lambda, "gae_lambda, whatever the length"),
        "alpha_0.05": Variant(
            partial(advantage.lambda_by_length, alpha=0.05),
            "1 - 1 / (0.05 length), at least 0: the source's, for responses of thousands of tokens",
        ),
        "alpha_1": Variant(
            partial(advantage.lambda_by_length, alpha=1.0), "1 - 1 / length: .95 at 20 tokens, .5 at two"
        ),
    },
    hypothesis="The source's constant gives a summary of 20 tokens a lambda of 0, which rests on a critic that starts "
    "wrong. A constant for this length gives short responses a little less of their score, and changes nothing.",
    expected={"test/sampled_win_rate": {"alpha_0.05": "down", "alpha_1": "same"}},
)

CRITIC_LAMBDA = Detail(
    name="critic_lambda",
    stages=("ppo",),
    paper="N+ code (the policy's); VC-PPO (Yuan et al. 2025, arXiv 2503.01491)",
    question="Should the critic's returns have a lambda of their own?",
    reference="of_policy",
    variants={
        "of_policy": Variant(advantage.returns_of_policy, "the returns that the advantages imply"),
        "1": Variant(advantage.monte_carlo_returns, "what was paid from each token on (decoupled GAE)"),
    },
    hypothesis="At 0.95 and 20 tokens up to two thirds of a return are the critic's own guesses (1 - 0.95^20): without them "
    "the targets are right from the start, and a little noisier.",
    expected={"value/explained_variance": "up", "test/sampled_win_rate": "same"},
)
