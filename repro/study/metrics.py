"""Every metric's name, once: what it is, its unit, and over what it is averaged.

Four groups are of one PPO batch, logged at the number of episodes sampled before it: `objective/`, `policy/`, `value/` and
`loss/`. Rejection sampling and expert iteration log `objective/` once a round, over all batches that it samples. `eval/` is of
the validation posts at that point of training. `test/` is of the trained policy on the test posts, and `sft_test/` of the SFT
policy on the same posts.

PPO samples responses at the recipe's temperature, 0.7 in the paper; `eval/` and every `sampled_` metric are at 0.7 in every
arm, and the other `test/` metrics of near-greedy responses (temperature 0.01), as in the paper. Studies are judged by
`test/sampled_win_rate`, because near-greedy decoding rounds: a policy that states a fact in 51 of 100 samples states it in
every near-greedy summary, and one that states it in 49 in none, so that one coin changes the win rate of a whole run.
"""

from fnmatch import fnmatchcase

METRICS: dict[str, str] = {
    "data/*_posts": "number of posts in the split",
    "data/*_query_tokens_mean": "tokens of a prompt without padding; mean over the split's posts",
    "data/*_reference_tokens_mean": "tokens of a reference up to its length limit, without padding; mean over the "
    "split's posts",
    "data/*_cut_queries": "share of the split's posts whose prompt is too long, and so is shortened, or left out "
    "(truncation)",
    "data/*_references_without_eos": "share of the split's posts whose prompt and reference, joined, are cut before "
    "the end of text",
    "data/*_comparisons": "number of comparisons in the split",
    "data/*_pairs_without_eos": "share of the split's comparisons in which at least one summary is cut before its end "
    "of text",
    "base/parameters": "number of weights of the base model",
    "sft/loss": "cross-entropy in nats per token of the loss (in the paper of prompt and response); mean over the "
    "batch's tokens",
    "sft/final_loss": "sft/loss of the last batch",
    "rm/loss": "loss in nats per comparison (Bradley-Terry in the paper); mean over the batch's comparisons",
    "rm/train_accuracy": "share of the batch's comparisons in which the chosen summary scores higher, ties "
    "counting half",
    "rm/validation_accuracy": "share of validation comparisons in which the chosen summary scores higher, ties "
    "counting half; in the paper these are summaries by policies that training does not include",
    "rm/cnndm_accuracy": "share of validation comparisons of news articles (CNN/DM, which training has none of) in "
    "which the chosen summary scores higher, ties counting half",
    "rm/feedback_accuracy": "share of comparisons of the newest round of feedback, on validation posts, in which the chosen "
    "summary scores higher, ties counting half",
    "feedback/rm_accuracy": "share of comparisons of the new samples for validation posts in which the reward model of the "
    "round before scores the chosen summary higher, ties counting half",
    "feedback/rm_margin": "score of the chosen summary less that of the rejected one, in the same comparisons by the same "
    "reward model; mean over comparisons",
    "feedback/gold": "gold score of the new samples that annotators compare; mean over samples, where the facts are known",
    "feedback/annotator_score": "score of the new samples by the reward model that compares them, where one is named "
    "(annotator); mean over samples",
    "feedback/undecided": "share of pairs of different samples about which the named annotator has no preference (equal "
    "scores, or answers of a judge that contradict each other or cannot be read); they are left out",
    "feedback/unparsable": "share of pairs of different texts about which an answer of the judge states no preference that can "
    "be read; part of feedback/undecided",
    "feedback/entropy": "-log policy, summed over a sample's tokens, in nats; mean over the same samples",
    "feedback/equal_pairs": "share of pairs of samples that are the same text, so that there is nothing to compare",
    "feedback/comparisons": "comparisons of all rounds of feedback that the reward model learns beside the corpus's",
    "rm/right_over_wrong": "share of test posts on which a correct summary scores higher than the same with one fact "
    "replaced, ties counting half",
    "rm/right_over_wrong/*": "rm/right_over_wrong over the test posts on which this fact was replaced",
    "rm/bias": "normalisation: the number subtracted from the reward model's raw output",
    "rm/gain": "normalisation: the number that the difference is divided by",
    "rm/reference_score_mean": "raw output of the reward model for an SFT reference; mean over the SFT references",
    "rm/reference_score_std": "standard deviation over the SFT references of the reward model's raw output",
    "rm/off_eos_mean": "normalised output at a token before the end of text; mean over such tokens of the validation "
    "references",
    "rm/off_eos_negative": "share of the validation references' tokens before the end of text with a negative "
    "normalised output",
    "rm/eos_mean": "normalised output at the end of text; mean over the validation references that have one",
    "rm/padding_difference_mean": "score of a text padded on the left less its score padded on the right; mean over "
    "the validation references",
    "rm/padding_difference_largest": "largest absolute difference between the scores of one validation reference "
    "padded on the left and on the right",
    "rm/accuracy/batch/*": "rm/validation_accuracy over the comparisons of this batch of labels, if there are at "
    "least 20",
    "rm/accuracy/confidence/*": "rm/validation_accuracy over the comparisons with this confidence of the labeller, 1 "
    "to 9, if there are at least 20",
    "rm/accuracy/policies/*": "rm/validation_accuracy over the comparisons of these two policies, if there are at "
    "least 20",
    "rm/calibration/*": "rm/validation_accuracy over the comparisons whose |margin| is within 0.25 of this, if there "
    "are at least 20",
    "rm/calibration_error": "expected calibration error: |accuracy - mean sigmoid(|margin|)| of a bin of |margin| 0.5 "
    "wide; mean over the validation comparisons",
    "dpo/loss": "-log sigmoid of the margin, in nats per comparison; mean over the batch's comparisons",
    "dpo/train_accuracy": "share of the batch's comparisons with a margin above 0, ties counting half",
    "dpo/margin": "beta x (log policy - log reference policy) of the chosen summary, less that of the rejected one; "
    "mean over the batch's comparisons",
    "dpo/validation_accuracy": "share of validation comparisons with a margin above 0, ties counting half",
    "objective/score": "reward model's score of a response after the rule for responses that do not end "
    "(no_eos_score); mean over the batch's episodes",
    "objective/favourite_score": "objective/score of the best response to each prompt, of which alone rejection sampling and "
    "expert iteration learn; mean over the batch's prompts",
    "objective/gold": "gold score of a response; mean over the batch's episodes",
    "objective/members_spread": "standard deviation between an ensemble's members of the score of a response, each member "
    "less its mean over the batch, in points of score; the root of the mean variance over the batch's episodes; only of an "
    "ensemble",
    "objective/members_rank_correlation": "Spearman's correlation of two members' scores over the batch's episodes; mean over "
    "the pairs of members",
    "objective/members_gold_correlation": "Pearson's correlation of a member's score and the gold score over the batch's "
    "episodes; mean over the members",
    "objective/members_gold_correlation_*": "as objective/members_gold_correlation, of the member of this number; the first is "
    "the reference's reward model",
    "objective/members_combined_gold_correlation": "Pearson's correlation of the ensemble's score and the gold score over the "
    "batch's episodes, before the reward's shape and the rules for what is paid",
    "objective/kl": "log policy - log reference policy, summed over a response's tokens, in nats; mean over the "
    "batch's episodes",
    "objective/kl_coefficient": "KL coefficient beta, in points of score per nat",
    "objective/rlhf_reward": "objective/score less KL coefficient x KL of an episode; mean over the batch's episodes",
    "objective/entropy": "-log policy, summed over a response's tokens, in nats; mean over the batch's episodes",
    "objective/entropy_coefficient": "coefficient of the entropy bonus that holds a level (entropy_target), per nat; 0 "
    "without one",
    "objective/length": "tokens of a response, its end of text included; mean over the batch's episodes",
    "objective/eos_rate": "share of the batch's episodes that end within the length limit",
    "objective/spread_within_groups": "standard deviation of the returns (score less KL penalty) of the responses to a "
    "query, the root of the mean variance over the batch's queries; only where a query has several responses",
    "objective/spread_between_groups": "standard deviation over the batch's queries of the mean return of the responses "
    "to each; only where a query has several responses",
    "policy/approx_kl": "(new - old log-probability)^2 / 2 of a token; mean over response tokens, then over the "
    "batch's optimizer steps",
    "policy/clip_fraction": "share of response tokens whose ratio is clipped, so that they give no gradient (under "
    "other objectives: whose ratio would be); mean over the batch's optimizer steps",
    "policy/ratio": "new / old probability of a token; mean over response tokens, then over the batch's optimizer "
    "steps",
    "policy/ratio_error": "|ratio - 1| of a token; mean over response tokens, then over the batch's optimizer steps",
    "policy/first_ratio_error": "policy/ratio_error of the batch's first optimizer step, before the weights have "
    "changed: 0 up to rounding, unless a forward pass is random",
    "policy/sampler_gap": "|log-probability of a token by the sampler - by the update's forward pass| at the batch's "
    "first optimizer step, before the weights have changed, in nats; mean over response tokens",
    "loss/policy": "policy loss, averaged over tokens as the recipe does (loss_aggregation); mean over the batch's "
    "optimizer steps",
    "loss/value": "value loss with its factor 1/2, before the coefficient, averaged over states as the recipe does "
    "(loss_aggregation); mean over the batch's optimizer steps",
    "loss/total": "the loss whose gradient is taken; mean over the batch's optimizer steps",
    "value/mean": "critic's value of a state during the rollout; mean over the states up to the terminal one",
    "value/clip_fraction": "share of those states in which the clipped value decides the value loss; mean over the "
    "batch's optimizer steps",
    "value/explained_variance": "1 - variance of the values' errors / variance of the returns, over the states up to the "
    "terminal one",
    "ppo/updates": "number of PPO batches trained on",
    "eval/win_rate": "share of validation posts on which the policy's summary beats the reference, ties counting half",
    "eval/gold": "gold score of a summary; mean over the validation posts",
    "eval/score": "reward model's score of a summary; mean over the validation posts",
    "test/win_rate": "share of test posts on which the policy's summary beats the reference, ties counting half; by "
    "gold score where the facts are known, else by the reward model",
    "test/gold": "gold score of a summary (right facts, less wrong or repeated facts, broken grammar, words, and not "
    "ending); mean over the test posts",
    "test/score": "reward model's score of a summary, without the rule for responses that do not end; mean over the "
    "test posts",
    "test/kl": "log policy - log SFT policy, summed over a response's tokens, in nats; mean over responses to the test "
    "posts sampled at temperature 0.7. Where each is the best of n samples, plus log n - (n - 1) / n",
    "test/length": "tokens of a summary, its end of text included; mean over the test posts",
    "test/eos_rate": "share of summaries that end within the length limit",
    "test/covered_facts": "number of right facts in a summary, of 9; mean over the test posts",
    "test/wrong_facts": "number of wrong facts in a summary; mean over the test posts",
    "test/rouge_l": "ROUGE-L F-measure of a summary against the reference; mean over the test posts",
    "test/reference_gold": "gold score of a reference; mean over the test posts",
    "test/judge_agreement": "share of test posts on which reward model and gold score order the policy's summary and "
    "the reference alike, of those on which neither ties",
    "test/sampled_*": "as test/, of summaries sampled at temperature 0.7",
    "sft_test/judge_agreement": "as test/judge_agreement, of the SFT policy",
    "sft_test/*": "as test/, of the SFT policy",
    "judge/win_rate": "share of the judged test posts on which a language model prefers the policy's summary to the "
    "reference in both orders; a post counts half if its two answers contradict each other or both texts are the same",
    "judge/sft_win_rate": "as judge/win_rate, of the SFT policy",
    "judge/tie_rate": "share of the judged test posts that count half in judge/win_rate",
    "judge/order_flips": "share of posts with a preference in both orders whose two preferences contradict each other",
    "judge/first_preferred": "share of preferences that are for the summary shown first, over posts with one in both "
    "orders",
    "judge/unparsable": "share of answers (two for each post whose texts differ, as far as they are there) that state no "
    "preference that can be read",
    "judge/reward_model_agreement": "share of posts on which reward model and language model prefer the same summary, "
    "of those on which neither ties",
    "nonfinite/*": "number of times that this metric was not a finite number, and so was not logged",
}


def known(name: str) -> bool:
    """Whether the table defines this name, or a pattern that it matches."""
    return any(fnmatchcase(name, pattern) for pattern in METRICS)
