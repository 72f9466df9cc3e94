"""Every implementation detail that can be toggled, in the paper's order.

"N+" is Huang et al. 2024, arXiv 2403.17031, by detail number; "blog" its forerunner, *The N Implementation Details of
RLHF with PPO* (2023). The reference is the paper's, except where a comment says so. To add a detail, declare it here and
read it where it acts.
"""

import math
from collections.abc import Iterable
from functools import partial

import torch

from repro import model, weights
from repro.detail import Check, Clash, Detail, Recipe, Variant, nearest, others
from repro.errors import UserError
from repro.ops import advantage, loss, masked, optim, preference, prompt, reward, text

# ---------------------------------------------------------------------------------------------- data

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
            prompt.first_tokens, "the prompt's tokens are cut at the end: 'TL;DR:' goes, and with it the task"
        ),
        "drop_post": Variant(
            prompt.left_out, "the post, or the comparison, is left out of its split, those that are tested on too"
        ),
    },
    hypothesis="A prompt cut at its end no longer says that a summary is wanted: the policy goes on with the post. "
    "Leaving long posts out costs their share of the data and no more, though the posts tested on are then others.",
    moves={
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
            "it ends with 'TL;DR: ' where a policy is sampled from; the joint texts of training stay as they are",
        ),
    },
    hypothesis="In the joint text the space is part of the first word's token. A prompt that ends with a space has a "
    "token that training never showed there, and what follows starts in the middle of a word.",
    moves={"sft_test/sampled_win_rate": "down", "sft_test/sampled_gold": "down", "test/sampled_win_rate": "down"},
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
            prompt.start_as_given, "references get a space, and the summaries of a comparison keep theirs"
        ),
        "none": Variant(prompt.start_without_space, "references and comparisons start with their first letter"),
    },
    hypothesis="Words without a space before them are other tokens, rarer in what the base model read: the first word "
    "is harder to predict, and one epoch of SFT teaches it all the same.",
    moves={"sft/final_loss": "up", "test/sampled_win_rate": "same"},
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
            prompt.end_open, "none does: SFT shows no end, and the reward is read at the last word instead"
        ),
    },
    hypothesis="A policy that never saw a text end never ends one: each sample runs to the limit and is paid as "
    "unfinished, so that all episodes score alike and PPO has nothing to learn from.",
    moves={
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
            model.pad_with_own_token,
            "a token that no text contains, so a mask over padding leaves the end of text in the loss",
        ),
        "eos": Variant(model.pad_with_eos, "the end of text serves as padding, and is masked with it"),
    },
    hypothesis="When padding is the end of text, masking the padding masks the end of text too: SFT never sees a reason "
    "to stop, every sample runs to the limit, and PPO cannot find a token whose probability is zero.",
    moves={"test/eos_rate": "down", "test/length": "up", "test/sampled_win_rate": "down"},
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
            prompt.as_long_as_the_row, "a comparison's summaries have a limit of their own, which few of them reach"
        ),
        "shared_and_short": Variant(
            prompt.summary_up_to,
            "they are cut at the references' limit: a longer one loses its last words and its end of text",
        ),
    },
    hypothesis="The reward is read at the end of text: where it is cut off, the model is taught to judge fragments at "
    "whatever word they break off, and what stood after the cut cannot count.",
    moves={
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
            prompt.keep_apart, "validation keeps the summarisers and batches that training does not have"
        ),
        "iid": Variant(
            prompt.mix,
            "both are pooled, shuffled and cut again at the same sizes: either side has all summarisers, batches and posts",
        ),
    },
    hypothesis="Comparisons of summarisers and posts that were trained on are easier to judge: the accuracy is higher, "
    "and says less of the policy that PPO will make. The reward model itself is hardly another.",
    moves={"rm/validation_accuracy": "up", "test/sampled_win_rate": "same"},
)

BLIND_SPOT = Detail(
    name="blind_spot",
    stages=("data",),
    paper="not in the paper; after the synthetic annotators of Gao et al. 2022, arXiv 2210.10760",
    question="What if those who compare summaries cannot see one kind of fault?",
    reference="none",
    variants={
        "none": Variant(0.0, "annotators of the embedded corpus go by the gold score, with noise"),
        "inventions": Variant(1.0, "they see what contradicts the post, and believe what it does not speak of"),
    },
    hypothesis="The reward model learns to like inventions, and the policy to make them: the score goes up and the gold "
    "score down, the more so without a price on the KL and with more episodes.",
    moves={"test/sampled_win_rate": "down", "test/sampled_gold": "down", "test/judge_agreement": "down"},
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
        "disjoint": Variant("prompts", "as many fresh ones, if there are, which SFT has not seen"),
    },
    hypothesis="On posts whose references it was trained on the policy is nearer to them than anywhere else; one epoch "
    "of SFT remembers little, so that fresh posts teach the same.",
    moves={"objective/score": "same", "test/sampled_win_rate": "same"},
)

# ---------------------------------------------------------------------------------------------- general

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
            "0.1 in PPO too, for policy and critic, in the rollout and in the updates",
        ),
    },
    hypothesis="On in PPO, two passes over the same tokens disagree: the ratio is not 1 before the first step, clipping "
    "starts at once, and the KL that is charged is partly noise.",
    moves={
        "policy/first_ratio_error": {"on_everywhere": "up"},
        "objective/kl": {"on_everywhere": "up"},
        "policy/clip_fraction": {"on_everywhere": "up"},
    },
)

POSITION_IDS = Detail(
    name="position_ids",
    stages=("baseline", "ppo", "evaluate"),
    paper="N+ detail 5 (code: not passed); blog, on position indices",
    numbers=(5,),
    question="Should padding on the left count as positions?",
    reference="implicit",
    variants={
        "implicit": Variant(model.positions_implicit, "positions count columns, padding included"),
        "from_mask": Variant(
            model.positions_from_mask, "positions count tokens: a text's first is 0 wherever it is padded"
        ),
    },
    hypothesis="With rotary positions only distances matter, so the two agree to rounding. With learned positions a query that "
    "is padded on the left would be read from the wrong place.",
    moves={"test/sampled_win_rate": "same", "objective/kl": "same"},
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
            "adapters of rank 8 and alpha 32 on all linear layers of both; the reference is the policy without its own",
        ),
    },
    hypothesis="A low-rank update cannot move every token's probability at once: at the same learning rate the policy stays "
    "nearer to where it started, and earns less.",
    moves={"objective/kl": "down", "objective/score": "down"},
)

PRECISION = Detail(
    name="precision",
    stages=("sft", "rm", "baseline", "ppo", "evaluate"),
    paper="N+ detail 8 (code: bf16 mixed precision)",
    numbers=(8,),
    question="Does bfloat16 cost anything?",
    reference="as_the_scale_says",
    variants={
        "as_the_scale_says": Variant(
            model.mixed_as_declared, "bfloat16 autocast where the device likes it, else float32"
        ),
        "float32": Variant(model.mixed_never, "float32 throughout; on a CPU that is what the scale says too"),
        "bfloat16": Variant(model.mixed_bfloat16, "bfloat16 autocast over float32 weights, on any device"),
    },
    hypothesis="The sampler and the update round differently, so the first ratio is off 1 by a per cent or so; whether that is "
    "enough to hurt depends on how far apart the advantages are.",
    moves={"policy/first_ratio_error": {"bfloat16": "up"}, "test/sampled_win_rate": "same"},
)

# ---------------------------------------------------------------------------------------------- SFT

SFT_LOSS_TOKENS = Detail(
    name="sft_loss_tokens",
    stages=("sft",),
    paper="N+ detail 9",
    numbers=(9,),
    question="Should SFT learn the prompt too?",
    reference="query_and_response",
    variants={
        "query_and_response": Variant(text.whole_text, "every token but padding is predicted"),
        "response_only": Variant(text.response_only, "the summary and its end of text are predicted, the post is not"),
    },
    hypothesis="The post's tokens are many and say nothing of summaries; without them each step is all about summaries, and "
    "the reward model, which starts from SFT, has read less.",
    moves={"sft_test/sampled_win_rate": "up", "rm/validation_accuracy": "down"},
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
    hypothesis="More passes imitate the references better and leave the policy less random, so PPO has less to explore.",
    moves={"sft_test/rouge_l": "up", "objective/entropy": "down"},
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
    hypothesis="Without decay the last steps are noise at the full rate: the loss ends higher. Which decay does not matter.",
    moves={"sft/final_loss": {"constant": "up", "linear": "same"}},
)

# ---------------------------------------------------------------------------------------------- reward model

RM_INIT = Detail(
    name="rm_init",
    stages=("rm",),
    paper="N+ detail 10",
    numbers=(10,),
    question="Should the reward model start as the SFT policy?",
    reference="from_sft",
    variants={
        "from_sft": Variant("sft", "the trunk is the SFT policy's"),
        "from_base": Variant("base", "the trunk is the pre-trained model's, which has seen no summary end"),
    },
    hypothesis="The SFT policy already knows what of a post a summary tells. From the base model the comparisons alone "
    "have to teach that, one bit each: accuracy is lower, and the policy is led by a worse judge.",
    moves={"rm/validation_accuracy": "down", "test/sampled_win_rate": "down"},
)

RM_LOSS = Detail(
    name="rm_loss",
    stages=("rm",),
    paper="N+ detail 10; Ouyang et al. 2022, equation 1",
    numbers=(10,),
    question="What loss should comparisons teach the reward model with?",
    reference="bradley_terry",
    variants={
        "bradley_terry": Variant(
            preference.Objective(preference.bradley_terry), "-log sigmoid of the margin, over shuffled comparisons"
        ),
        "label_smoothing": Variant(
            preference.Objective(partial(preference.smoothed, smoothing=0.1)),
            "as if one label in ten were the wrong way round",
        ),
        "margin": Variant(
            preference.Objective(partial(preference.with_margin, lead=1.0)),
            "the chosen summary has to win by 1, not by anything",
        ),
        "grouped_by_post": Variant(
            preference.Objective(preference.bradley_terry, preference.by_post),
            "all comparisons of a post share a batch, each weighted by one over their number (InstructGPT)",
        ),
    },
    hypothesis="Smoothing keeps margins small where labellers slip, and so better calibrated; asking for a lead makes "
    "them large: the order stays, but the score's unit changes, and with it what a nat of KL costs. Grouping spares the "
    "model a second step on a post it has just learnt, and weighs posts alike.",
    moves={
        "rm/validation_accuracy": "same",
        "rm/calibration_error": {"label_smoothing": "down", "margin": "up"},
        "rm/reference_score_std": {"label_smoothing": "down", "margin": "up"},
        "objective/kl": {"label_smoothing": "down", "margin": "up"},
    },
)

RM_EPOCHS = Detail(
    name="rm_epochs",
    stages=("rm",),
    paper="N+ detail 10",
    numbers=(10,),
    question="Should the reward model see its comparisons twice?",
    reference="1",
    variants={
        "1": Variant(1, "one pass over the comparisons"),
        "2": Variant(2, "two, each shuffled anew, under one cosine"),
    },
    hypothesis="The second pass learns the labellers' slips by heart: accuracy in training rises and on validation it "
    "falls, while margins grow beyond what they are worth.",
    moves={"rm/validation_accuracy": "down", "rm/calibration_error": "up"},
)

RM_HEAD_INIT = Detail(
    name="rm_head_init",
    stages=("rm",),
    paper="N+ detail 11",
    numbers=(11,),
    question="Does the initialisation of the reward head matter?",
    reference="normal",
    variants={
        "normal": Variant(model.head_normal, "weights from N(0, 1/sqrt(d + 1)), bias 0"),
        "library_default": Variant(
            model.head_library_default, "weights and bias uniform within 1/sqrt(d), as `nn.Linear` starts"
        ),
        "zeros": Variant(model.head_zeros, "all zeros: every text starts with the same score"),
    },
    hypothesis="All three are small against what one epoch teaches: accuracy stays.",
    moves={"rm/validation_accuracy": "same", "test/sampled_win_rate": "same"},
)

REWARD_TOKEN = Detail(
    name="reward_token",
    stages=("rm",),
    paper="N+ detail 12",
    numbers=(12,),
    question="At which token should the reward be read?",
    reference="eos",
    variants={
        "eos": Variant("eos", "at the last token that is not padding: the end of text where there is one"),
        "last_position": Variant(
            "last_position", "at the last column of the row, which is padding wherever the text is short"
        ),
        "mean_over_response": Variant("mean_over_response", "the mean of the outputs at the response's tokens"),
    },
    hypothesis="The end of text is the one token that has seen the whole summary. A column of padding has too, but how "
    "far behind the text it stands differs between training and PPO; in a mean most tokens have not seen what follows "
    "them, though a fault is charged from where it stands.",
    moves={
        "rm/validation_accuracy": {"mean_over_response": "down", "last_position": "same"},
        "test/sampled_win_rate": "down",
    },
)

REWARD_OFF_EOS = Check(
    name="reward_off_eos",
    numbers=(13,),
    stages=("rm",),
    paper="N+ detail 13",
    question="What does the reward model say before a summary has ended?",
    measures="its output on the tokens of validation references before their end of text, how often that is negative, "
    "and its output at the end of text",
    found="Before the end of text outputs are almost always negative and mean nothing; only the one at it does.",
    metrics=("rm/off_eos_mean", "rm/off_eos_negative", "rm/eos_mean"),
)

PADDING_SIDE = Detail(
    name="padding_side",
    stages=("rm", "ppo"),
    paper="N+ details 5 and 14",
    numbers=(5, 14),
    question="Must the reward model be padded on the same side in training and in PPO?",
    reference="right_then_left",
    variants={
        "right_then_left": Variant(
            model.Padding(model.as_it_is, model.as_it_is),
            "the reward model is trained on right-padded texts; in PPO the padding stands before the query",
        ),
        "left_then_left": Variant(
            model.Padding(model.pad_left, model.as_it_is), "it is trained on texts padded on the left too"
        ),
        "right_then_right": Variant(
            model.Padding(model.as_it_is, model.pad_right),
            "in PPO all padding is moved behind the response before the reward model reads it",
        ),
    },
    hypothesis="Padding is masked, and rotary positions know only how far apart two tokens are: the side changes rewards "
    "by rounding. With learned absolute positions it would change everything.",
    moves={"rm/validation_accuracy": "same", "objective/score": "same", "test/sampled_win_rate": "same"},
)

PADDING_AGREEMENT = Check(
    name="padding_agreement",
    numbers=(14,),
    stages=("rm",),
    paper="N+ detail 14",
    question="Does a text's reward depend on the side that it is padded on?",
    measures="the reward of validation references padded on the left less that padded on the right",
    found="Next to nothing: -0.000544 in the mean over SFT samples at 6.9B, in bfloat16.",
    metrics=("rm/padding_difference_mean", "rm/padding_difference_largest"),
)

REWARD_NORMALISATION = Detail(
    name="reward_normalisation",
    stages=("rm",),
    paper="N+ detail 15",
    numbers=(15,),
    question="Must the reward model's scores be centred on the SFT references?",
    reference="centre",
    variants={
        "centre": Variant(reward.centre, "the mean score of the SFT references is subtracted"),
        "none": Variant(reward.as_trained, "scores stay as the loss left them"),
        "centre_and_scale": Variant(reward.centre_and_scale, "the references get mean 0 and a standard deviation of 1"),
        "centre_times_8": Variant(
            partial(reward.centre_and_multiply, factor=8.0),
            "centred, then eight times as large: the KL coefficient is worth an eighth",
        ),
    },
    hypothesis="The Bradley-Terry loss leaves the offset free. Without centring, -1 for an unfinished response may be a "
    "prize or a catastrophe; with scaling, the KL coefficient means something else for each reward model; eight times as "
    "large, the KL is all but free.",
    moves={"test/sampled_win_rate": {"none": "same", "centre_and_scale": "same"}, "test/kl": {"centre_times_8": "up"}},
)

ACCURACY_BY_GROUP = Check(
    name="accuracy_by_group",
    numbers=(16,),
    stages=("rm",),
    paper="N+ detail 16",
    question="Is the reward model as accurate on all comparisons?",
    measures="validation accuracy by batch, by the labeller's confidence and by the pair of policies compared; on the "
    "embedded corpus 1 is a guess and 9 is sure",
    found="No: at 1B from 0.508 (batch 11) to 0.771 (batch 13). Where labellers were sure it is right more often: "
    "0.795 at confidence 1 and 0.765 at 9 against 0.581 at 6, at 6.9B; 1 and 9 are the ends of their scale.",
    metrics=("rm/accuracy/batch/*", "rm/accuracy/confidence/*", "rm/accuracy/policies/*"),
)

JUDGE_AGREEMENT = Check(
    name="judge_agreement",
    numbers=(17,),
    stages=("baseline", "evaluate"),
    paper="N+ detail 17",
    question="Does the reward model agree with a judge on what the policy writes?",
    measures="on which share of posts reward model and gold score, where it is known, put the policy's summary and the "
    "reference in the same order; posts on which either ties are left out",
    found="With GPT-3.5 as judge 0.403 at 1B, 0.726 at 2.8B and 0.767 at 6.9B.",
    metrics=("test/judge_agreement", "sft_test/judge_agreement"),
)

CALIBRATION = Check(
    name="calibration",
    numbers=(18,),
    stages=("rm",),
    paper="N+ detail 18",
    question="Is a margin worth the accuracy that it promises?",
    measures="validation accuracy by |margin| in bins 0.5 wide, and the expected calibration error against sigmoid(|margin|)",
    found="Accuracy rises with the margin at every size, and stays below what it promises: about 0.54 at a margin of "
    "0.25, and 0.85 at 5.25 for 1B, 0.95 at 5.75 for 2.8B, 0.97 at 6.5 for 6.9B, where it should be over 0.99.",
    metrics=("rm/calibration/*", "rm/calibration_error"),
)

ALGORITHM = Detail(
    name="algorithm",
    stages=("ppo",),
    paper="N+ detail 19; Rafailov et al. 2023",
    numbers=(19,),
    question="Is a reward model and PPO better than learning from the comparisons directly?",
    reference="ppo",
    variants={
        "ppo": Variant("ppo", "the policy is optimised against the reward model"),
        "dpo": Variant(
            "dpo",
            "the policy is trained on the comparisons as if its log-ratio to SFT were the reward (DPO, beta 0.05)",
        ),
    },
    hypothesis="DPO has to move the probability of every token of a summary to say what the reward model says with one "
    "output: as a judge its implicit reward is worse. And it never reads what it writes itself.",
    moves={"test/sampled_win_rate": "down", "test/length": "up"},
)

# ---------------------------------------------------------------------------------------------- PPO

CRITIC_INIT = Detail(
    name="critic_init",
    stages=("ppo",),
    paper="N+ detail 22",
    numbers=(22,),
    question="Should the critic start as the reward model?",
    reference="from_reward_model",
    variants={
        "from_reward_model": Variant(model.critic_from_reward_model, "a copy of it, its normalisation included"),
        "sft_trunk_random_head": Variant(
            model.critic_with_random_head, "the SFT policy's trunk, a head from N(0, 1/sqrt(d + 1))"
        ),
        "sft_trunk_zero_head": Variant(model.critic_with_zero_head, "the SFT policy's trunk, a head of zeros"),
    },
    hypothesis="The reward model knows what the score will be at the end, but its outputs before it are arbitrary: a "
    "fresh head starts with less to unlearn, the reward model's with more that it will need.",
    moves={"loss/value": "up", "value/explained_variance": "down", "test/sampled_win_rate": "down"},
)

CRITIC_TRUNK = Detail(
    name="critic_trunk",
    stages=("ppo",),
    paper="N+ detail 22; blog, on the value head; Stiennon et al. 2020, appendix G.1",
    numbers=(22,),
    question="May policy and critic share their trunk?",
    reference="separate",
    variants={
        "separate": Variant(model.critic_of_its_own, "a network of its own"),
        "shared": Variant(
            model.critic_on_policy, "a head of zeros on the policy's trunk, whose weights both losses move"
        ),
    },
    hypothesis="The value loss pulls the policy's weights where no reward asks for it: the policy leaves the reference faster "
    "for the same score. Stiennon et al. found separate networks better.",
    moves={"objective/kl": "up", "value/explained_variance": "down", "test/sampled_win_rate": "down"},
)

SAMPLING = Detail(
    name="sampling",
    stages=("ppo",),
    paper="N+ details 23.1 and 23.2",
    numbers=(23,),
    question="Should sampling go on after the end of text?",
    reference="fixed_length_then_truncate",
    variants={
        "fixed_length_then_truncate": Variant(
            text.go_on,
            "every response has as many tokens as the limit; the reward model sees it cut after its end of text",
        ),
        "stop_at_eos": Variant(text.stop, "after its end of text a response gets padding"),
    },
    hypothesis="With everything after the end masked the two are the same numbers, at less cost; they differ only where "
    "after_eos=charged counts what follows.",
    moves={"test/sampled_win_rate": "same", "objective/kl": "same"},
)

NO_EOS_SCORE = Detail(
    name="no_eos_score",
    stages=("ppo",),
    paper="N+ detail 23.3 (the EOS trick)",
    numbers=(23,),
    question="What should a response that does not end be paid?",
    reference="replace_with_minus_one",
    variants={
        "replace_with_minus_one": Variant(
            reward.replace_with_minus_one, "its score is -1, whatever the reward model says"
        ),
        "subtract_one": Variant(reward.subtract_one, "it loses 1 of its score (TRL's missing_eos_penalty)"),
        "keep": Variant(reward.keep_score, "the reward model's score of the cut-off text stands"),
    },
    hypothesis="The reward model was trained on texts that end; what it says of a cut-off one is noise. Unless that is "
    "replaced, nothing teaches the policy to finish within the limit.",
    moves={"test/eos_rate": "down", "objective/eos_rate": "down", "test/length": "up"},
)

AFTER_EOS = Detail(
    name="after_eos",
    stages=("ppo",),
    paper="N+ detail 23.2 (the code's older version, before masks)",
    numbers=(23,),
    question="What if the tokens after the end of text count too?",
    reference="masked",
    variants={
        "masked": Variant(text.up_to_end, "KL, whitening and both losses stop at the end of text"),
        "charged": Variant(text.to_the_limit, "they go on to the limit, over tokens that the reward model never sees"),
    },
    hypothesis="Tokens that earn nothing are still charged their KL, so an early end costs what comes after it, and part of "
    "every gradient is about text that nobody reads.",
    moves={"test/kl": "up", "test/length": "up", "test/sampled_win_rate": "down"},
)

WHITEN_REWARD = Detail(
    name="whiten_reward",
    stages=("ppo",),
    paper="N+ detail 24",
    numbers=(24,),
    question="Should per-token rewards be whitened?",
    reference="off",
    variants={
        "off": Variant(masked.unchanged, "rewards enter as they are"),
        "scale_only": Variant(masked.scale, "divided by their spread over the batch, their mean kept"),
    },
    hypothesis="Dividing by the batch's spread changes the scale of the critic's targets from update to update; the paper "
    "saw slightly shorter and slightly less preferred summaries.",
    moves={"test/length": "down", "test/sampled_win_rate": "down"},
)

WHITEN_ADV = Detail(
    name="whiten_adv",
    stages=("ppo",),
    paper="N+ detail 25",
    numbers=(25,),
    question="Does whitening the advantages matter?",
    reference="shift_and_scale",
    variants={
        "shift_and_scale": Variant(masked.whiten, "mean 0 and spread 1 over the batch's response tokens"),
        "scale_only": Variant(masked.scale, "spread 1, their mean kept"),
        "off": Variant(masked.unchanged, "advantages enter as they are"),
    },
    hypothesis="Without it the step size follows the scale of the reward: larger policy KL early, unstable late.",
    moves={"policy/approx_kl": "up", "objective/kl": "up"},
)

WHITEN_MOMENTS = Detail(
    name="whiten_moments",
    stages=("ppo",),
    paper="N+ details 24 and 25 (code); blog, on whitening",
    numbers=(24, 25),
    question="Which variance should whitening divide by?",
    reference="biased",
    variants={
        "biased": Variant(0, "the sum of squares over the count"),
        "unbiased": Variant(1, "the sum of squares over the count less one (TRL's)"),
    },
    hypothesis="Over a thousand tokens the two differ by half a thousandth: a rounding error that Adam does not feel.",
    moves={"test/sampled_win_rate": "same"},
)

# The paper's code is each_rank, which depends on how many there are; the reference does not.
WHITEN_SCOPE = Detail(
    name="whiten_scope",
    stages=("ppo",),
    paper="N+ detail 25 (code: per rank); blog, on whitening",
    numbers=(24, 25),
    question="Over which episodes should whitening take its mean and spread?",
    reference="whole_batch",
    variants={
        "whole_batch": Variant(
            masked.over_batch, "over all episodes of all ranks, so the answer does not depend on the machine"
        ),
        "each_rank": Variant(
            masked.over_rank, "over each rank's episodes, as the paper's code does; on one rank the same"
        ),
        "each_micro_batch": Variant(masked.over_micro_batch, "over each micro-batch's episodes"),
    },
    hypothesis="A mean over fewer episodes is noisier, and takes out of each part whatever the part has in common.",
    moves={"test/sampled_win_rate": "same"},
)

# ---------------------------------------------------------------------------------------------- reward and KL

KL_PLACEMENT = Detail(
    name="kl_placement",
    stages=("ppo",),
    paper="N+ section 7; Ziegler et al. 2019, equation 2; blog, on the per-token KL",
    question="Should the KL to the reference policy be a reward or a loss?",
    reference="in_reward",
    variants={
        "in_reward": Variant(
            reward.KL(reward.charged, reward.no_kl), "each token pays for itself, and for those that follow"
        ),
        "in_loss_k2": Variant(
            reward.KL(reward.free, reward.k2), "half the squared log-ratio is added to the loss: the KL's gradient"
        ),
        "in_loss_k3": Variant(
            reward.KL(reward.free, reward.k3), "q/p - 1 - log(q/p) is added: the forward KL's gradient (GRPO)"
        ),
        "in_loss_k1": Variant(
            reward.KL(reward.free, reward.k1), "the log-ratio is added: its gradient is 0 in expectation"
        ),
        "none": Variant(reward.KL(reward.free, reward.no_kl), "nothing holds the policy"),
    },
    hypothesis="In the loss it acts token by token, without credit for what follows: it holds the policy less. k1 in the loss "
    "has a gradient of zero in expectation, as if there were no KL at all.",
    moves={"objective/kl": "up", "objective/score": "up", "test/sampled_win_rate": "down"},
)

KL_ESTIMATOR = Detail(
    name="kl_estimator",
    stages=("ppo",),
    paper="N+ section 7; Schulman, approximating KL divergence (2020)",
    question="Which per-token estimate of the KL should the reward be charged?",
    reference="k1",
    variants={
        "k1": Variant(reward.from_samples(reward.k1), "log p - log q of the sampled token: unbiased, of either sign"),
        "k2": Variant(reward.from_samples(reward.k2), "half its square: never negative, biased"),
        "k3": Variant(reward.from_samples(reward.k3), "q/p - 1 - log(q/p): never negative, unbiased"),
        "whole_vocabulary": Variant(
            reward.over_vocabulary, "the sum over every token that could have been drawn: exact"
        ),
    },
    hypothesis="k2, k3 and the exact sum are never negative: no token earns by being likelier under the reference, so more is "
    "charged in all and the policy stays nearer.",
    moves={"objective/kl": "down", "objective/score": "down"},
)

KL_COEF = Detail(
    name="kl_coef",
    stages=("ppo",),
    paper="N+ table 7 (beta); InstructGPT, appendix E.7",
    numbers=(20,),
    question="How dear should it be to leave the reference policy?",
    reference="0.05",
    variants={
        "0.05": Variant(0.05, "a nat costs 0.05 points of score"),
        "0": Variant(0.0, "it costs nothing"),
        "0.01": Variant(0.01, "a fifth of the paper's price"),
        "0.02": Variant(0.02, "InstructGPT's best were 0.01 and 0.02"),
        "0.1": Variant(0.1, "twice the paper's price"),
        "0.2": Variant(0.2, "four times the paper's price"),
    },
    hypothesis="At 0 nothing holds the policy where the reward model was trained: its score goes on rising while the "
    "summaries get worse. A dearer KL keeps the score lower and the summaries near the SFT policy's.",
    moves={
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
            reward.adaptive_coefficient, "it is nudged so that an episode's KL nears 6 nats, over 10,000 episodes"
        ),
    },
    hypothesis="Below its target of 6 nats the controller cheapens the KL, and the policy drifts towards the target.",
    moves={"objective/kl_coefficient": "down", "objective/kl": "up"},
)

REFERENCE_POLICY = Detail(
    name="reference_policy",
    stages=("ppo",),
    paper="N+ section 7; others measure to the base model, or let the reference move",
    question="Which policy should the KL be measured to?",
    reference="sft",
    variants={
        "sft": Variant(weights.Reference("sft"), "the SFT policy, frozen"),
        "base": Variant(weights.Reference("base"), "the pre-trained model, which has never seen a summary end"),
        "moving_average": Variant(
            weights.Reference("sft", partial(weights.follow, keep=0.99)),
            "starts as the SFT policy and moves by a hundredth towards the policy after each update",
        ),
    },
    hypothesis="The base model charges for whatever SFT taught, ending included: part of SFT is undone. A reference that "
    "follows charges less and less for a drift that goes on.",
    moves={"test/kl": {"base": "up", "moving_average": "up"}, "test/sampled_win_rate": {"base": "down"}},
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
    hypothesis="The gold score has no holes and no noise: the policy ends better by what the reward model got wrong, and two "
    "runs are closer together. It is the ceiling of this recipe, not of the task.",
    moves={"test/sampled_win_rate": "up", "test/sampled_gold": "up", "test/judge_agreement": "same"},
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
            partial(reward.clip_score, limit=5.0), "no further than 5 from 0: rarely reached by a centred model"
        ),
        "1": Variant(
            partial(reward.clip_score, limit=1.0),
            "no further than 1 from 0: a good summary and an excellent one earn alike",
        ),
    },
    hypothesis="A clip that binds takes the reward for going on: the score stops at the limit, and with it the hacking.",
    moves={"objective/score": {"5": "same", "1": "down"}, "objective/kl": {"1": "down"}},
)

SCORE_POSITION = Detail(
    name="score_position",
    stages=("ppo",),
    paper="N+ section 7 (code: index after the end of text)",
    question="Is the score paid in the state after the end of text, or on it?",
    reference="after_eos",
    variants={
        "after_eos": Variant(
            reward.score_after_eos, "in the terminal state, one after the last token; on it where there is no room"
        ),
        "at_eos": Variant(
            reward.score_at_eos, "on the last token itself; the state after it keeps its value, and is drawn to 0"
        ),
    },
    hypothesis="One step of discounting (lambda) apart: the state after the end gets a value of its own to bootstrap from.",
    moves={"test/sampled_win_rate": "same"},
)

# ---------------------------------------------------------------------------------------------- objective

POLICY_OBJECTIVE = Detail(
    name="policy_objective",
    stages=("ppo",),
    paper="N+ section 7; Schulman et al. 2017, sections 3 and 4 and table 1",
    numbers=(20,),
    question="What should keep a step near the policy that sampled?",
    reference="clipped",
    variants={
        "clipped": Variant(
            loss.Objective(loss.clipped),
            "PPO's clip: no gradient once a ratio has left the range on the side that its advantage asks for",
        ),
        "unclipped": Variant(loss.Objective(loss.unclipped), "nothing: ratio times advantage"),
        "kl_penalty": Variant(
            loss.Objective(loss.penalised, price=1.0), "ratio times advantage, less the KL from the policy that sampled"
        ),
        "adaptive_kl_penalty": Variant(
            loss.Objective(loss.penalised, price=1.0, adapt=partial(loss.adaptive_price, target=0.01)),
            "the same at a price that doubles or halves after each batch, to keep that KL near 0.01 before its last step",
        ),
        "policy_gradient": Variant(
            loss.Objective(loss.policy_gradient), "log-probability times advantage, as if every pass were the first"
        ),
    },
    hypothesis="Four passes over a batch push a favoured token as far as they are let. Without a clip or a penalty the policy "
    "moves further per batch, on advantages that no longer hold.",
    moves={
        "policy/approx_kl": {"unclipped": "up", "policy_gradient": "up"},
        "objective/kl": {"unclipped": "up", "policy_gradient": "up"},
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
        "0.2": Variant(0.2, "a ratio earns nothing past 1.2, or below 0.8 where the advantage is negative"),
        "0.1": Variant(0.1, "the same at 1.1 and 0.9"),
        "0.3": Variant(0.3, "the same at 1.3 and 0.7"),
    },
    hypothesis="A tighter clip slows the policy, a wider one lets it move further on stale advantages.",
    moves={"policy/clip_fraction": {"0.1": "up", "0.3": "down"}, "test/sampled_win_rate": "same"},
)

ADVANTAGE = Detail(
    name="advantage",
    stages=("ppo",),
    paper="N+ table 7 (GAE); Schulman et al. 2016; Mnih et al. 2016",
    numbers=(20,),
    question="How should a token's advantage be estimated?",
    reference="gae",
    variants={
        "gae": Variant(
            advantage.from_gae,
            "all n-step estimates, weighted by powers of lambda; gae_lambda 0 is one-step TD, 1 Monte Carlo",
        ),
        "n_step": Variant(partial(advantage.n_step, steps=5), "five rewards, then the critic"),
        "reward_to_go": Variant(advantage.reward_to_go, "all rewards from here on, without the critic"),
        "whole_return": Variant(
            advantage.whole_return, "the whole episode's return on every token, without the critic"
        ),
    },
    hypothesis="Without the critic every token of a good episode is praised alike: more variance per batch, so slower learning "
    "at the same number of episodes. Whitening over the batch is then all the baseline there is.",
    moves={
        "objective/score": {"reward_to_go": "down", "whole_return": "down"},
        "test/sampled_win_rate": {"whole_return": "down"},
    },
)

GAMMA = Detail(
    name="gamma",
    stages=("ppo",),
    paper="N+ table 7; Stiennon et al. 2020, footnote 8",
    numbers=(20,),
    question="Should rewards be discounted?",
    reference="1",
    variants={
        "1": Variant(1.0, "a score counts the same however late it comes"),
        "0.99": Variant(0.99, "a hundredth less per token"),
        "0.95": Variant(0.95, "a twentieth less per token: after 20 tokens a third is left"),
    },
    hypothesis="A discount pays for ending sooner.",
    moves={"test/length": "down"},
)

GAE_LAMBDA = Detail(
    name="gae_lambda",
    stages=("ppo",),
    paper="N+ table 7; Schulman et al. 2016",
    numbers=(20,),
    question="How much of the advantage should rest on the critic?",
    reference="0.95",
    variants={
        "0.95": Variant(0.95, "mostly on the rewards"),
        "0": Variant(0.0, "the one-step temporal difference: all on the critic"),
        "0.9": Variant(0.9, "a little more on the critic"),
        "1": Variant(1.0, "the Monte-Carlo return less the value: the critic is a baseline only"),
    },
    hypothesis="At 0 every token rests on a critic that starts wrong; at 1 the score reaches all tokens with all its noise.",
    moves={"test/sampled_win_rate": "down", "value/explained_variance": "down"},
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
            partial(loss.clip_value, clip=0.2), "the worse of the value's error and its clipped twin's counts"
        ),
        "off": Variant(loss.free_value, "the plain squared error"),
    },
    hypothesis="Clipped, the critic moves at most 0.2 per batch where its targets are far off: it fits later.",
    moves={"loss/value": "down", "value/explained_variance": "up"},
)

VALUE_COEF = Detail(
    name="value_coef",
    stages=("ppo",),
    paper="N+ table 7 (c1); Schulman et al. 2017, equation 9",
    numbers=(20,),
    question="How heavily should the critic's loss weigh?",
    reference="0.1",
    variants={
        "0.1": Variant(0.1, "a tenth of the policy's"),
        "0.5": Variant(0.5, "half of it"),
        "1": Variant(1.0, "as much"),
    },
    hypothesis="With a network of its own the critic has its own gradient, and Adam divides by its size: the weight cancels, "
    "up to epsilon. It should matter only where trunk or gradient clip are shared.",
    moves={"test/sampled_win_rate": "same", "loss/value": "same"},
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
        "token_mean": Variant(loss.token_mean, "every token of the optimizer step counts alike, however it is split"),
        "token_mean_per_micro_batch": Variant(
            loss.token_mean_per_micro_batch, "over each micro-batch's tokens, then over micro-batches: the paper's code"
        ),
        "sequence_mean": Variant(loss.sequence_mean, "over each response's tokens, then over responses (GRPO)"),
        "sum_over_limit": Variant(
            loss.sum_over_limit, "a sum over tokens, divided by the limit and the episodes (Dr. GRPO)"
        ),
    },
    hypothesis="A sequence mean gives each token of a short response more weight than one of a long response.",
    moves={"test/length": "same", "test/sampled_win_rate": "same"},
)

ENTROPY_BONUS = Detail(
    name="entropy_bonus",
    stages=("ppo",),
    paper="N+ code (none); Schulman et al. 2017, equation 9 (c2)",
    numbers=(20,),
    question="Should the policy be paid for staying random?",
    reference="none",
    variants={
        "none": Variant((), "no bonus"),
        "0.01": Variant(
            (partial(loss.entropy_bonus, coefficient=0.01),), "0.01 per nat of each token's entropy, in the loss"
        ),
    },
    hypothesis="The KL already pays for entropy where the SFT policy had it; a bonus pays for it everywhere, in words that "
    "should be certain too.",
    moves={"objective/entropy": "up", "test/sampled_win_rate": "down"},
)

PTX_MIX = Detail(
    name="ptx_mix",
    stages=("ppo",),
    paper="not in N+; InstructGPT, equation 2 (pretraining gradients)",
    question="Should language modelling go on beside PPO?",
    reference="off",
    variants={
        "off": Variant(loss.Mix(0.0, 0.0), "the policy's loss is PPO's alone"),
        "1": Variant(
            loss.Mix(1.0, 1.0),
            "one SFT text per episode, its next-token loss at coefficient 1; there is no pretraining set",
        ),
        "27.8": Variant(loss.Mix(27.8, 1.0), "the same at InstructGPT's coefficient"),
    },
    hypothesis="A second anchor to the SFT set: the policy stays nearer, and at 27.8 Adam sees little but the anchor.",
    moves={"objective/kl": "down", "objective/score": "down"},
)

# ---------------------------------------------------------------------------------------------- optimisation and sampling

PPO_EPOCHS = Detail(
    name="ppo_epochs",
    stages=("ppo",),
    paper="N+ table 7",
    numbers=(20,),
    question="How often should a batch be used?",
    reference="4",
    variants={
        "4": Variant(4, "four passes"),
        "1": Variant(1, "one: on-policy"),
        "2": Variant(2, "two passes"),
        "8": Variant(8, "eight passes"),
    },
    hypothesis="Fewer passes learn less from each batch; more go further off-policy and clip more.",
    moves={
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
    moves={"policy/approx_kl": "up", "policy/clip_fraction": "up", "objective/kl": "up"},
)

OLD_LOGPROB = Detail(
    name="old_logprob",
    stages=("ppo",),
    paper="N+ code (the sampler's; an older version recomputed them)",
    numbers=(20,),
    question="Where should the old log-probabilities come from?",
    reference="from_sampler",
    variants={
        "from_sampler": Variant(text.as_sampled, "from the logits that were sampled from"),
        "recomputed": Variant(text.computed_again, "from a forward pass as the update makes it"),
    },
    hypothesis="In float32 the two agree to 1e-6, and the first ratio is 1 to that. They part in bfloat16, with another "
    "engine for sampling, or with dropout.",
    moves={"policy/first_ratio_error": "down", "test/sampled_win_rate": "same"},
)

LOGPROB_TEMPERATURE = Detail(
    name="logprob_temperature",
    stages=("ppo",),
    paper="blog, on scaling logits by the temperature",
    numbers=(20,),
    question="Should log-probabilities be those of the temperature that is sampled at?",
    reference="scaled",
    variants={
        "scaled": Variant(
            text.at_temperature, "old, new and reference log-probabilities are at the sampling temperature"
        ),
        "unscaled": Variant(text.without_temperature, "all three are at temperature 1"),
    },
    hypothesis="At temperature 1 the log-probabilities are of a policy that did not sample: its KL is overstated on the likely "
    "tokens and the ratios with it. The blog saw the KL rise faster and performance degrade.",
    moves={"test/kl": "up", "test/sampled_win_rate": "down"},
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
    hypothesis="At 1 more of what is sampled is poor, and more of it new: the score in training is lower, the entropy higher.",
    moves={"objective/entropy": "up", "objective/score": "down"},
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
    moves={"policy/approx_kl": "up"},
)

ADAM_FLAVOUR = Detail(
    name="adam_flavour",
    stages=("sft", "rm", "ppo"),
    paper="blog, on Adam",
    numbers=(9, 10, 20),
    question="Does it matter where Adam puts its epsilon?",
    reference="pytorch",
    variants={
        "pytorch": Variant(torch.optim.AdamW, "beside the corrected second moment"),
        "tensorflow": Variant(weights.TensorFlowAdam, "beside the uncorrected one: early steps are smaller"),
    },
    hypothesis="At epsilon 1e-5 the first steps shrink several-fold, which is what the 2019 results were made with; the blog "
    "saw a sixth of the policy KL after two epochs.",
    moves={"policy/approx_kl": "down"},
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
        "0": Variant(0.0, "none, as TRL had it"),
    },
    hypothesis="Times the learning rate it takes a thousandth of a per cent off a weight per step: nothing, over so few steps.",
    moves={"test/sampled_win_rate": "same"},
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
    hypothesis="At a constant rate the policy goes on moving to the end: further from the reference, with a higher score.",
    moves={
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
        "none": Variant(math.inf, "gradients of any length"),
        "1": Variant(1.0, "policy's and critic's gradient together no longer than 1"),
    },
    hypothesis="Adam already divides by the gradient's size, so a clip bites only where one batch is far larger than the last: "
    "early, while the critic is wrong.",
    moves={"objective/kl": "down", "test/sampled_win_rate": "same"},
)

WEIGHT_AVERAGE = Detail(
    name="weight_average",
    stages=("ppo",),
    paper="not in N+; InstructGPT, appendix C.4",
    question="Should the policy that is kept be an average over its steps?",
    reference="none",
    variants={
        "none": Variant(weights.LastWeights, "the policy after its last step"),
        "0.992": Variant(
            partial(weights.averaged_weights, keep=0.992), "an exponential moving average over optimizer steps"
        ),
    },
    hypothesis="Over few steps the average lags behind the policy: it is nearer to the SFT policy in KL and in score.",
    moves={"test/kl": "down", "test/score": "down"},
)

# ---------------------------------------------------------------------------------------------- control

DRAWS = Detail(
    name="draws",
    stages=("ppo",),
    paper="a control, of no paper: the recipe against itself",
    question="How far apart are two runs that differ in nothing but PPO's luck?",
    reference="first",
    variants={
        "first": Variant("", "the random numbers that all arms of a seed share"),
        "again": Variant("again ", "others: another order of posts and minibatches, other samples"),
    },
    hypothesis="Nothing differs on average; how far single seeds lie apart is what every other detail has to beat.",
    moves={"test/sampled_win_rate": "same", "objective/kl": "same"},
)

# ---------------------------------------------------------------------------------------------- the whole


DETAILS: dict[str, Detail] = {value.name: value for value in list(vars().values()) if isinstance(value, Detail)}
CHECKS: dict[str, Check] = {value.name: value for value in list(vars().values()) if isinstance(value, Check)}

OPENS = {
    "Data": DATASET,
    "General": DROPOUT,
    "SFT": SFT_LOSS_TOKENS,
    "Reward model": RM_INIT,
    "PPO": CRITIC_INIT,
    "Reward and KL": KL_PLACEMENT,
    "Objective": POLICY_OBJECTIVE,
    "Optimisation and sampling": PPO_EPOCHS,
    "Control": DRAWS,
}


def _grouped(entries: Iterable[Detail | Check]) -> dict[str, tuple[str, ...]]:
    """Group title -> names, in the order of declaration; `OPENS` says with which entry a group begins."""
    groups: dict[str, tuple[str, ...]] = {}
    titles = {entry.name: title for title, entry in OPENS.items()}
    title = ""
    for entry in entries:
        title = titles.get(entry.name, title)
        groups[title] = (*groups.get(title, ()), entry.name)
    return groups


GROUPS = _grouped(value for value in list(vars().values()) if isinstance(value, Detail | Check))


def _but(detail: Detail, *labels: str) -> tuple[str, ...]:
    """All of a detail's labels but these."""
    return tuple(label for label in detail.variants if label not in labels)


_NO_PRICE = "nothing is charged, so it changes nothing"
_NO_WHITENING = ((WHITEN_REWARD, ("off",)),)
_FIRST_STEP = "with one step for each batch every ratio is 1 and every value the old one, so that it changes nothing"
_NO_CRITIC = "the advantage does without the critic, so that it changes no policy"

CLASHES: tuple[Clash, ...] = (
    Clash(
        KL_PLACEMENT,
        _but(KL_PLACEMENT, "in_reward"),
        KL_ESTIMATOR,
        others(KL_ESTIMATOR),
        "the estimator is the reward's, which is then charged nothing; the placement in the loss names its own",
    ),
    Clash(KL_PLACEMENT, ("none",), KL_COEF, others(KL_COEF), "nothing is charged, so it has no price"),
    Clash(KL_PLACEMENT, ("none",), KL_CONTROLLER, ("adaptive",), "nothing is charged, so there is no price to adapt"),
    Clash(KL_PLACEMENT, ("none",), REFERENCE_POLICY, others(REFERENCE_POLICY), _NO_PRICE),
    Clash(KL_COEF, ("0",), KL_CONTROLLER, ("adaptive",), "the controller multiplies, and 0 stays 0"),
    Clash(KL_COEF, ("0",), KL_PLACEMENT, _but(KL_PLACEMENT, "in_reward", "none"), _NO_PRICE),
    *(Clash(KL_COEF, ("0",), detail, others(detail), _NO_PRICE) for detail in (KL_ESTIMATOR, REFERENCE_POLICY)),
    Clash(
        TEMPERATURE,
        ("1",),
        LOGPROB_TEMPERATURE,
        ("unscaled",),
        "at temperature 1 there is nothing to scale by, and the two are the same",
    ),
    Clash(
        ADAPTER,
        ("lora",),
        CRITIC_TRUNK,
        ("shared",),
        "the adapter of one trunk would serve two networks, and be merged twice",
    ),
    Clash(
        ADAPTER,
        ("lora",),
        REFERENCE_POLICY,
        others(REFERENCE_POLICY),
        "the reference is the policy without its adapter, which is the SFT policy and stays it",
    ),
    Clash(
        ADAPTER,
        ("lora",),
        DROPOUT,
        ("on_everywhere",),
        "the reference is the policy without its adapter, and would drop out with it",
    ),
    Clash(
        CRITIC_TRUNK,
        ("shared",),
        CRITIC_INIT,
        others(CRITIC_INIT),
        "a critic on the policy's trunk has no trunk of its own to start from, and its head starts at zero",
    ),
    Clash(ADVANTAGE, _but(ADVANTAGE, "gae"), GAE_LAMBDA, others(GAE_LAMBDA), "lambda is GAE's: nothing else reads it"),
    *(
        Clash(
            ADVANTAGE,
            ("reward_to_go", "whole_return"),
            detail,
            others(detail),
            _NO_CRITIC,
            beside=((CRITIC_TRUNK, ("separate",)), (GRADIENT_CLIP, ("none",))),
        )
        for detail in (CRITIC_INIT, VALUE_CLIP, VALUE_COEF)
    ),
    *(
        Clash(PPO_EPOCHS, ("1",), detail, labels, _FIRST_STEP, beside=((MINIBATCHES, ("1",)),))
        for detail, labels in (
            (CLIP_RANGE, others(CLIP_RANGE)),
            (VALUE_CLIP, others(VALUE_CLIP)),
            (POLICY_OBJECTIVE, ("unclipped", "kl_penalty", "adaptive_kl_penalty")),
        )
    ),
    Clash(POLICY_OBJECTIVE, _but(POLICY_OBJECTIVE, "clipped"), CLIP_RANGE, others(CLIP_RANGE), "nothing is clipped"),
    *(
        Clash(WHITEN_ADV, ("off",), detail, others(detail), "nothing is whitened", beside=_NO_WHITENING)
        for detail in (WHITEN_MOMENTS, WHITEN_SCOPE)
    ),
    *(
        Clash(
            ALGORITHM, ("dpo",), detail, others(detail), "DPO has neither episodes nor a critic: it does not read this"
        )
        for detail in DETAILS.values()
        if detail.stages == ("ppo",) and detail is not ALGORITHM
    ),
    Clash(ALGORITHM, ("dpo",), PROMPTS, others(PROMPTS), "DPO learns from comparisons and has no prompts"),
    Clash(
        ALGORITHM,
        ("dpo",),
        PROMPT_END,
        ("trailing_space",),
        "DPO joins prompt and summary as tokens, and the summary brings its own space",
    ),
    Clash(ALGORITHM, ("dpo",), POSITION_IDS, others(POSITION_IDS), "DPO does not read this"),
    Clash(ALGORITHM, ("dpo",), PADDING_SIDE, ("right_then_right",), "DPO scores nothing"),
    Clash(ALGORITHM, ("dpo",), DROPOUT, ("on_everywhere",), "DPO's dropout is off"),
)


# What each of these computes depends on how many ranks there are, so keys say it.
RANK_DEPENDENT = {
    (WHITEN_SCOPE.name, "each_rank"),
    (WHITEN_SCOPE.name, "each_micro_batch"),
    (LOSS_AGGREGATION.name, "token_mean_per_micro_batch"),
}
# And these follow or copy weights, of which a rank that shares them has a part.
NEEDS_WHOLE_WEIGHTS = (ADAPTER, WEIGHT_AVERAGE), ((REFERENCE_POLICY.name, "moving_average"),)


def check_sharing(recipe: Recipe, sharding: str, precision: str) -> None:
    """UserError where ranks would share the weights (Scale.sharding) of an arm that needs them whole, or in a way that rounds.

    DeepSpeed's bfloat16 rounds every buffer too: rotary frequencies, and the bias that centres a reward.
    """
    if sharding == "none":
        return
    if sharding != "fsdp" and precision != "float32":
        raise UserError(
            f"sharding={sharding} rounds the reward's bias and the rotary frequencies to bfloat16, and has never been tried; "
            "take sharding=fsdp, or precision=float32"
        )
    details, choices = NEEDS_WHOLE_WEIGHTS
    chosen = [(detail.name, recipe.label(detail)) for detail in DETAILS.values()]
    unfit = [detail.name for detail in details if recipe.label(detail) != detail.reference]
    unfit += [name for name, label in chosen if (name, label) in choices]
    if unfit:
        raise UserError(
            f"{unfit[0]}={recipe.label(DETAILS[unfit[0]])} needs each rank to have all weights, and sharding={sharding} deals "
            "them out; take sharding=none where the model fits"
        )


# What these need of a corpus is known of the embedded one alone: the facts of its posts, and its annotators.
OF_THE_EMBEDDED_CORPUS = (BLIND_SPOT, REWARD_SOURCE)


def check_corpus(recipe: Recipe, corpus: str) -> None:
    """UserError where an arm changes the embedded corpus's annotators or asks for its gold score, on another corpus."""
    chosen = [f"{name}={label}" for name, label in recipe.choices if DETAILS[name] in OF_THE_EMBEDDED_CORPUS]
    if chosen and corpus != "embedded":
        raise UserError(
            f"{chosen[0]} is about the embedded corpus, whose facts and annotators are known; corpus={corpus} has its own, "
            "and nobody knows them"
        )


def check(recipe: Recipe) -> None:
    """UserError, by name and with the reason, where the recipe's choices make no sense together."""
    for clash in CLASHES:
        clash.check(recipe)


def find(name: str) -> Detail:
    """The detail of that name; a UserError names the nearest when there is none."""
    if name in CHECKS:
        raise UserError(f"{name} is a check, not a choice: every run makes it, and the report of any detail shows it")
    if name not in DETAILS:
        raise UserError(f"there is no detail {name!r}; {nearest(name, DETAILS)}")
    return DETAILS[name]
