"""The data: prompts, completions, splits (N+ details 1 to 4, 6 and 21)."""

from repro.detail import Check, Detail, Variant
from repro.models import padding
from repro.ops import prompt

GROUP = "Data"

DATASET = Check(
    name="dataset",
    numbers=(1,),
    stages=("data",),
    paper="N+ detail 1",
    question="Is the data what the paper trains on?",
    measures="rows of each split, mean tokens of prompts and references, and what the fixed lengths cut off",
    found="116,722 training posts of the filtered TL;DR set; 92,858 comparisons to train on, and for validation 83.8 "
    "thousand of posts and 2,280 of news",
    metrics=(
        "data/*_posts",
        "data/*_comparisons",
        "data/*_query_tokens_mean",
        "data/*_reference_tokens_mean",
        "data/*_cut_queries",
        "data/*_references_without_eos",
        "data/*_pairs_without_eos",
    ),
)

TRUNCATION = Detail(
    name="truncation",
    stages=("data",),
    paper="N+ detail 2.2",
    numbers=(2,),
    question="How should a post be shortened that is too long for the prompt?",
    reference="last_newline",
    variants={
        "last_newline": Variant(
            prompt.first_that_fits,
            "the post is cut at its last newline, or by a character where it has none, until the whole prompt fits",
        ),
        "hard_cut": Variant(
            prompt.first_tokens, "the prompt's tokens are cut at the end, which removes 'TL;DR:' and with it the task"
        ),
        "drop_post": Variant(
            prompt.left_out, "the post or comparison is left out of its split, in the validation and test splits too"
        ),
    },
    hypothesis="A prompt cut at its end no longer says that a summary is wanted: the policy goes on with the post. "
    "Leaving long posts out costs their share of the data and no more, though the posts tested on are then others.",
    expected={
        "test/sampled_win_rate": {"hard_cut": "down", "drop_post": "same"},
        "test/sampled_gold": {"hard_cut": "down"},
    },
)

PROMPT_END = Detail(
    name="prompt_end",
    stages=("data",),
    paper="N+ detail 2.3",
    numbers=(2,),
    question="Does a space at the end of the prompt matter?",
    reference="colon",
    variants={
        "colon": Variant(prompt.end_with_colon, "the prompt ends with 'TL;DR:'"),
        "trailing_space": Variant(
            prompt.end_with_space,
            "the prompt ends with 'TL;DR: ' wherever a policy samples; texts to train on are unchanged",
        ),
    },
    hypothesis="In the joint text the space is part of the first word's token. A prompt that ends with a space has a "
    "token that training never showed there, and what follows starts in the middle of a word.",
    expected={"sft_test/sampled_win_rate": "down", "sft_test/sampled_gold": "down", "test/sampled_win_rate": "down"},
)

COMPLETION_START = Detail(
    name="completion_start",
    stages=("data",),
    paper="N+ detail 3",
    numbers=(3,),
    question="Should a completion start with a space?",
    reference="leading_space",
    variants={
        "leading_space": Variant(
            prompt.start_as_given, "references are given a leading space, and summaries of comparisons come with one"
        ),
        "none": Variant(prompt.start_without_space, "references and comparisons start with their first letter"),
    },
    hypothesis="Words without a space before them are other tokens, rarer in what the base model read: the first word "
    "is harder to predict, and one epoch of SFT teaches it all the same.",
    expected={"sft/final_loss": "up", "test/sampled_win_rate": "same"},
)

EOS = Detail(
    name="eos",
    stages=("data",),
    paper="N+ detail 3",
    numbers=(3,),
    question="Must a completion end with an end-of-text token?",
    reference="appended",
    variants={
        "appended": Variant(prompt.end_with_eos, "every reference and every summary of a comparison ends with it"),
        "not_appended": Variant(
            prompt.end_open, "no text ends with it: SFT shows no end, and the reward is read at the last word instead"
        ),
    },
    hypothesis="A policy that never saw a text end never ends one: each sample runs to the limit and is paid as "
    "unfinished, so that all episodes score alike and PPO has nothing to learn from.",
    expected={
        "sft_test/eos_rate": "down",
        "test/eos_rate": "down",
        "test/length": "up",
        "objective/eos_rate": "down",
        "test/sampled_win_rate": "down",
    },
)

PAD_TOKEN = Detail(
    name="pad_token",
    stages=("data",),
    paper="N+ detail 3",
    numbers=(3,),
    question="Does a policy need a padding token that is not its end of text?",
    reference="own",
    variants={
        "own": Variant(
            padding.pad_with_own_token,
            "a token of its own, which no text contains: masking the padding leaves the end of text in the loss",
        ),
        "eos": Variant(
            padding.pad_with_eos, "the end of text is the padding token too, and is masked with the padding"
        ),
    },
    hypothesis="When padding is the end of text, masking the padding masks the end of text too: SFT never sees a "
    "reason to stop, every sample runs to the limit, and PPO cannot find a token whose probability is zero.",
    expected={"test/eos_rate": "down", "test/length": "up", "test/sampled_win_rate": "down"},
)

RESPONSE_LIMIT = Detail(
    name="response_limit",
    stages=("data",),
    paper="N+ detail 4",
    numbers=(4,),
    question="May one length limit serve references and comparisons?",
    reference="one_per_task",
    variants={
        "one_per_task": Variant(
            prompt.as_long_as_the_row, "the summaries of comparisons have their own limit, which few of them reach"
        ),
        "shared": Variant(
            prompt.summary_up_to,
            "the summaries of comparisons are cut at the references' limit: a longer one loses its last words and end "
            "of text",
        ),
    },
    renamed={"shared_and_short": "shared"},
    hypothesis="The reward is read at the end of text: where it is cut off, the model is taught to judge fragments at "
    "whatever word they break off, and what stood after the cut cannot count.",
    expected={
        "data/train_pairs_without_eos": "up",
        "rm/validation_accuracy": "down",
        "rm/right_over_wrong": "down",
        "test/sampled_win_rate": "down",
    },
)

PREFERENCE_SPLIT = Detail(
    name="preference_split",
    stages=("data",),
    paper="N+ detail 6",
    numbers=(6,),
    question="Is a reward model's accuracy that of the policies it was trained on?",
    reference="unseen_policies",
    variants={
        "unseen_policies": Variant(
            prompt.keep_apart, "the validation split has summarisers and batches that the training split does not"
        ),
        "iid": Variant(
            prompt.mix,
            "both splits are pooled, shuffled and split again at the same sizes: either has all summarisers, batches "
            "and posts",
        ),
    },
    hypothesis="Comparisons of summarisers and posts that were trained on are easier to judge: the accuracy is higher, "
    "and says less of the policy that PPO will make. The reward model itself is hardly another.",
    expected={"rm/validation_accuracy": "up", "test/sampled_win_rate": "same"},
)

BLIND_SPOT = Detail(
    name="blind_spot",
    stages=("data", "feedback"),
    paper="not in the paper; after the synthetic annotators of Gao et al. 2022, arXiv 2210.10760",
    question="What if those who compare summaries cannot see one kind of fault?",
    reference="none",
    variants={
        "none": Variant(0.0, "the embedded corpus's annotators compare by gold score, with noise"),
        "inventions": Variant(
            1.0,
            "they see a fact that contradicts the post, and take an invented one, which the post does not mention, for "
            "true",
        ),
    },
    hypothesis="The reward model learns to like inventions, and the policy to make them: the score goes up and the "
    "gold score down, the more so at KL coefficient 0 and with more episodes.",
    expected={"test/sampled_win_rate": "down", "test/sampled_gold": "down", "test/judge_agreement": "down"},
)

PROMPTS = Detail(
    name="prompts",
    stages=("data", "ppo"),
    paper="N+ detail 21",
    numbers=(21,),
    question="May PPO use the posts of SFT again?",
    reference="sft_posts",
    variants={
        "sft_posts": Variant("train", "the posts of SFT, reshuffled at every pass"),
        "disjoint": Variant("prompts", "as many other posts, which SFT has not trained on, if there are so many"),
    },
    hypothesis="On posts whose references it was trained on the policy is nearer to them than anywhere else; one epoch "
    "of SFT remembers little, so that fresh posts teach the same.",
    expected={"objective/score": "same", "test/sampled_win_rate": "same"},
)
