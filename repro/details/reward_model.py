"""The reward model, and DPO, which does without one (N+ details 10 to 19)."""

from functools import partial

from repro.detail import PIPELINE, Check, Detail, Variant
from repro.models import padding, scalar_model
from repro.models.padding import Padding
from repro.ops import ensemble, preference, reward
from repro.ops.best_of import ONE_SAMPLE, Selection
from repro.ops.ensemble import Ensemble

GROUP = "Reward model"
ROUNDS = 4  # of expert iteration: few enough to pay for sampling anew, and for the policy to have moved in between

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
    "have to teach that, one bit each: accuracy is lower, and the policy is trained against a worse reward model.",
    expected={"rm/validation_accuracy": "down", "test/sampled_win_rate": "down"},
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
            preference.PreferenceObjective(preference.bradley_terry),
            "-log sigmoid of the margin, over shuffled comparisons",
        ),
        "label_smoothing": Variant(
            preference.PreferenceObjective(partial(preference.smoothed, smoothing=0.1)),
            "as if one label in ten were the wrong way round",
        ),
        "margin": Variant(
            preference.PreferenceObjective(partial(preference.with_margin, lead=1.0)),
            "the loss asks for a lead of 1 of the chosen summary",
        ),
        "grouped_by_post": Variant(
            preference.PreferenceObjective(preference.bradley_terry, preference.by_post),
            "all comparisons of a post share a batch, each weighted by one over their number (InstructGPT)",
        ),
    },
    hypothesis="Smoothing keeps margins small where labellers slip, and so better calibrated; asking for a lead makes "
    "them large: the order stays, but the score's unit changes, and with it the weight of the KL penalty. Grouping "
    "spares the model a second step on a post it has just learnt, and gives every post the same weight.",
    expected={
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
        "2": Variant(2, "two passes, each shuffled anew, under one cosine schedule"),
    },
    hypothesis="The second pass learns the labellers' slips by heart: accuracy in training rises and on validation it "
    "falls, while margins grow beyond what they are worth.",
    expected={"rm/validation_accuracy": "down", "rm/calibration_error": "up"},
)

RM_HEAD_INIT = Detail(
    name="rm_head_init",
    stages=("rm",),
    paper="N+ detail 11",
    numbers=(11,),
    question="Does the initialisation of the reward head matter?",
    reference="normal",
    variants={
        "normal": Variant(scalar_model.head_normal, "weights from N(0, 1/sqrt(d + 1)), bias 0"),
        "library_default": Variant(
            scalar_model.head_library_default, "weights and bias uniform within 1/sqrt(d), as `nn.Linear` starts"
        ),
        "zeros": Variant(scalar_model.head_zeros, "all zeros: every text starts with the same score"),
    },
    hypothesis="All three are small against what one epoch teaches: accuracy stays.",
    expected={"rm/validation_accuracy": "same", "test/sampled_win_rate": "same"},
)

REWARD_ENSEMBLE = Detail(
    name="reward_ensemble",
    stages=(PIPELINE, "ppo"),
    paper="N+ (one reward model); Coste et al. 2023, arXiv 2310.02743; Eisenstein et al. 2023, arXiv 2312.09244",
    question="Should several reward models judge a response together?",
    reference="one",
    variants={
        "one": Variant(Ensemble(1, ensemble.mean), "the score of one reward model"),
        "mean_of_3": Variant(
            Ensemble(3, ensemble.mean), "the mean score of three, which differ in their head's start and their batches"
        ),
        "lowest_of_3": Variant(Ensemble(3, ensemble.lowest), "the score of the one of three that likes it least"),
        "mean_minus_variance_of_3": Variant(
            Ensemble(3, ensemble.mean_minus_variance), "the mean score of three less half of their variance"
        ),
    },
    hypothesis="All three start from the same SFT policy and see the same comparisons, so they share what the "
    "annotators taught them wrong, and differ in the holes that chance left: those the mean fills. The lowest score and "
    "the price of disagreement also keep the policy from where nobody has been: less KL. They cost two more reward "
    "models, in training and at every episode.",
    expected={"test/sampled_win_rate": "up", "test/judge_agreement": "up", "test/kl": {"lowest_of_3": "down"}},
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
    "them, though a fault lowers the outputs from its own token on.",
    expected={
        "rm/validation_accuracy": {"mean_over_response": "down", "last_position": "same"},
        "test/sampled_win_rate": "down",
    },
)

REWARD_OFF_EOS = Check(
    name="reward_off_eos",
    numbers=(13,),
    stages=("rm",),
    paper="N+ detail 13",
    question="What is the reward model's output before a summary has ended?",
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
            Padding(padding.unchanged, padding.unchanged),
            "the reward model is trained on right-padded texts; in PPO the padding stands before the query",
        ),
        "left_then_left": Variant(
            Padding(padding.pad_left, padding.unchanged), "it is trained on texts padded on the left too"
        ),
        "right_then_right": Variant(
            Padding(padding.unchanged, padding.pad_right),
            "in PPO all padding is moved behind the response before the text is scored",
        ),
    },
    hypothesis="Padding is masked, and rotary positions know only how far apart two tokens are: the side changes "
    "rewards by rounding. With learned absolute positions it would change everything.",
    expected={"rm/validation_accuracy": "same", "objective/score": "same", "test/sampled_win_rate": "same"},
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
            "centred and multiplied by 8: the KL penalty weighs an eighth",
        ),
    },
    hypothesis="The Bradley-Terry loss leaves the offset free. Without centring, -1 for an unfinished response may be "
    "a reward or a harsh penalty; with scaling, the KL coefficient weighs differently for each reward model; eight "
    "times as large, the KL penalty hardly counts.",
    expected={
        "test/sampled_win_rate": {"none": "same", "centre_and_scale": "same"},
        "test/kl": {"centre_times_8": "up"},
    },
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
    measures="the share of posts on which reward model and gold score (where it is known) order the policy's summary "
    "and the reference alike; posts on which either ties are left out",
    found="With GPT-3.5 as judge 0.403 at 1B, 0.726 at 2.8B and 0.767 at 6.9B.",
    metrics=("test/judge_agreement", "sft_test/judge_agreement"),
)

CALIBRATION = Check(
    name="calibration",
    numbers=(18,),
    stages=("rm",),
    paper="N+ detail 18",
    question="Is the reward model's accuracy at a margin what sigmoid(margin) promises?",
    measures="validation accuracy by |margin| in bins 0.5 wide, and the expected calibration error against "
    "sigmoid(|margin|)",
    found="Accuracy rises with the margin at every size, and stays below what it promises: about 0.54 at a margin of "
    "0.25, and 0.85 at 5.25 for 1B, 0.95 at 5.75 for 2.8B, 0.97 at 6.5 for 6.9B, where it should be over 0.99.",
    metrics=("rm/calibration/*", "rm/calibration_error"),
)

ALGORITHM = Detail(
    name="algorithm",
    stages=("ppo",),
    paper="N+ detail 19; Rafailov et al. 2023; RAFT, Dong et al. 2023, arXiv 2304.06767; Llama 2, section 3.2.3",
    numbers=(19,),
    question="Is a reward model and PPO better than learning from the comparisons directly, or from the best of its own "
    "samples?",
    reference="ppo",
    variants={
        "ppo": Variant("ppo", "the policy is optimised against the reward model"),
        "sft": Variant("sft", "nothing: the SFT policy is the last one, to be evaluated or to choose samples from"),
        "dpo": Variant(
            "dpo",
            "the policy is trained on the comparisons as if its log-ratio to SFT were the reward (DPO, beta 0.05)",
        ),
        "rejection_sampling": Variant(
            preference.ExpertIteration(rounds=1),
            "the policy is fine-tuned on the best of four of the SFT policy's samples to each prompt, all sampled first",
        ),
        "expert_iteration": Variant(
            preference.ExpertIteration(rounds=ROUNDS),
            "the same in four rounds, each sampling from the latest policy; in all PPO's number of episodes",
        ),
    },
    hypothesis="DPO has to change the probability of every token of a summary to express what the reward model says "
    "with one output: its implicit reward is less accurate. And it never trains on its own samples. Rejection sampling "
    "cannot exceed best of four of the SFT policy by much, which is 0.64 nats away from it. Each round of expert iteration "
    "starts where the last one ended and goes further; but three samples of four teach nothing, and no sample teaches what "
    "to avoid. RLOO's table 1 has RAFT with four samples between RLOO and PPO; PPO as it is tuned here is as good as RLOO, so "
    "both should end below it, expert iteration the nearer.",
    expected={
        "test/sampled_win_rate": "down",
        "test/length": {"dpo": "up"},
        "test/kl": {"rejection_sampling": "down"},
    },
)

SELECTION = Detail(
    name="selection",
    stages=("evaluate",),
    paper="not in N+; Stiennon et al. 2020, appendix G.3; Gao et al. 2022, arXiv 2210.10760",
    question="What is gained where the reward model chooses among several samples?",
    reference="one_sample",
    variants={
        "one_sample": Variant(ONE_SAMPLE, "each summary is the only one that was sampled"),
        "best_of_4": Variant(
            Selection(4), "of four samples the one that the reward model scores highest, -1 if it does not end"
        ),
        "best_of_16": Variant(
            Selection(16), "of sixteen samples the one that it scores highest, -1 if it does not end"
        ),
    },
    hypothesis="On top of PPO there is little left to choose: its samples are alike. Beside algorithm=sft, where PPO is "
    "what it competes with, sixteen samples come near PPO at a KL of 1.8 nats, and pay at every summary.",
    expected={"test/sampled_win_rate": "up", "test/sampled_score": "up", "test/kl": "up"},
)
