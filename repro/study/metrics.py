"""Every metric's name, once: what it is, its unit, and over what it is averaged.

`objective/`, `policy/`, `value/` and `loss/` are of one PPO batch and logged at the number of episodes before it; `eval/`
is of the validation posts at that moment; `test/` is of the trained policy on the test posts, `sft_test/` of the policy
before PPO on the same posts. `eval/` and names with `sampled_` are of responses sampled at temperature 0.7, as PPO samples
them; the other names of `test/` are of near-greedy ones (temperature 0.01), as the paper's.

Studies are judged by `test/sampled_win_rate`: near 0 a temperature rounds. A policy that would state a fact in 51 of 100
samples and one that would in 49 write it always and never, so that one coin moves the near-greedy win rate of a whole run.
"""

from fnmatch import fnmatchcase

METRICS: dict[str, str] = {
    "data/*_posts": "posts of a split",
    "data/*_query_tokens_mean": "tokens of a prompt that are not padding; mean over the split's posts",
    "data/*_reference_tokens_mean": "tokens of a reference within its limit that are not padding; mean over posts",
    "data/*_cut_queries": "share of posts whose prompt was too long: shortened, or left out where the recipe says so",
    "data/*_references_without_eos": "share of posts whose prompt and reference, joined, do not reach their end of text",
    "data/*_comparisons": "comparisons of a split",
    "data/*_pairs_without_eos": "share of comparisons of which a summary or both do not reach their end of text",
    "base/parameters": "weights of the base model",
    "sft/loss": "nats per token that the recipe counts: query and response in the paper",
    "sft/final_loss": "nats per token that the recipe counts, of the last batch",
    "rm/loss": "the recipe's loss, Bradley-Terry's in the paper, in nats per comparison",
    "rm/train_accuracy": "share of the batch's comparisons in which the chosen summary scores higher",
    "rm/validation_accuracy": "share of validation comparisons in which the chosen summary scores higher, ties half; in the "
    "paper they come from policies that training has not",
    "rm/cnndm_accuracy": "the same on comparisons of summaries of news articles, which training has none of",
    "rm/right_over_wrong": "share of test posts on which a right summary scores above itself with one fact replaced",
    "rm/right_over_wrong/*": "the same where this fact was replaced",
    "rm/bias": "what is subtracted from the reward model's output",
    "rm/gain": "what the result is divided by",
    "rm/reference_score_mean": "mean raw output over SFT references",
    "rm/reference_score_std": "standard deviation of the raw output over SFT references",
    "rm/off_eos_mean": "output on the tokens of validation references before their end of text; mean over tokens",
    "rm/off_eos_negative": "share of validation references' tokens before their end of text where it is negative",
    "rm/eos_mean": "output at the end of text of validation references; mean over references that have one",
    "rm/padding_difference_mean": "score padded on the left less padded on the right; mean over validation references",
    "rm/padding_difference_largest": "largest absolute difference between a score padded on the left and on the right",
    "rm/accuracy/batch/*": "validation accuracy on this batch of labels, where it has 20 comparisons or more",
    "rm/accuracy/confidence/*": "validation accuracy where labellers gave this confidence, 1 to 9",
    "rm/accuracy/policies/*": "validation accuracy where these two policies were compared",
    "rm/calibration/*": "validation accuracy where |margin| is within 0.25 of this, where 20 comparisons or more are",
    "rm/calibration_error": "|accuracy - mean sigmoid(|margin|)| in bins of |margin| 0.5 wide; mean over comparisons",
    "dpo/loss": "-log sigmoid of the margin in nats; mean over the batch's comparisons",
    "dpo/train_accuracy": "share of the batch's comparisons whose margin is above 0; ties half",
    "dpo/margin": "beta x (log policy - log reference), chosen summary less rejected one; mean over the batch",
    "dpo/validation_accuracy": "share of validation comparisons whose margin is above 0; ties half",
    "objective/score": "score that episodes are paid, the rule for unfinished ones applied; mean over episodes",
    "objective/gold": "gold score of the sampled responses; mean over episodes",
    "objective/kl": "log policy - log reference, summed over the tokens that count, in nats; mean over episodes",
    "objective/kl_coefficient": "price of a nat",
    "objective/rlhf_reward": "score - coefficient x KL; mean over episodes",
    "objective/entropy": "-log policy, summed over the tokens that count, in nats; mean over episodes",
    "objective/length": "tokens up to the end of text, it included; mean over episodes",
    "objective/eos_rate": "share of episodes that end within the limit",
    "policy/approx_kl": "(new - old log-probability)^2 / 2; mean over response tokens, then over passes",
    "policy/clip_fraction": "share of response tokens where the clip stops the gradient, or would; mean over passes",
    "policy/ratio": "new / old probability; mean over response tokens, then over passes",
    "policy/ratio_error": "|ratio - 1|; mean over response tokens, then over passes",
    "policy/first_ratio_error": "|ratio - 1| in the first pass, before any step: 0 to rounding unless something is random",
    "policy/sampler_gap": "|log-probability by the sampler - by the update's forward pass| in the first pass, before any step, "
    "in nats; mean over response tokens",
    "loss/policy": "the policy's loss as it is aggregated; mean over passes",
    "loss/value": "the critic's loss as it is aggregated, its factor 1/2 included; mean over passes",
    "loss/total": "what is differentiated; mean over passes",
    "value/mean": "the critic's values during the rollout; mean over states up to the terminal one",
    "value/clip_fraction": "share of those states where the clipped value decides the loss",
    "value/explained_variance": "1 - mean squared error of the values / variance of the returns, over the same states",
    "ppo/updates": "batches that were learnt from",
    "eval/win_rate": "share of validation posts on which the policy's summary beats the reference; ties half",
    "eval/gold": "mean gold score",
    "eval/score": "mean score",
    "test/win_rate": "share of test posts on which the policy's summary beats the reference, by gold score where the facts "
    "are known, else by reward model; ties half",
    "test/gold": "mean gold score: facts covered, less facts wrong or repeated, broken grammar, words, no end",
    "test/score": "mean score of the reward model, without the rule for unfinished responses",
    "test/kl": "as objective/kl, over sampled responses to the test posts",
    "test/length": "mean tokens, end of text included",
    "test/eos_rate": "share of responses that end within the limit",
    "test/covered_facts": "mean number of right facts, of 9",
    "test/wrong_facts": "mean number of wrong facts",
    "test/rouge_l": "mean ROUGE-L F-measure against the reference",
    "test/reference_gold": "mean gold score of the references",
    "test/judge_agreement": "share of posts on which reward model and gold score order the policy's summary and the "
    "reference alike, of those on which neither ties",
    "test/sampled_*": "as test/, at temperature 0.7",
    "sft_test/judge_agreement": "as test/judge_agreement, of the policy before PPO",
    "sft_test/*": "as test/, of the policy before PPO",
    "judge/win_rate": "share of the judged test posts on which a language model prefers the policy's summary to the reference "
    "in both orders; half where it contradicts itself or both are the same; of posts with a preference in both orders",
    "judge/sft_win_rate": "as judge/win_rate, of the policy before PPO",
    "judge/tie_rate": "share of those posts that are such a half",
    "judge/order_flips": "share of posts with a preference in both orders where the two contradict each other",
    "judge/first_preferred": "share of preferences for the summary shown first, of posts with one in both orders",
    "judge/unparsable": "share of the questions, two a post whose summaries differ, without a preference that can be read",
    "judge/reward_model_agreement": "share of posts on which reward model and language model prefer the same summary, of "
    "those on which neither ties",
    "nonfinite/*": "how often this metric was not a finite number, and so was not logged",
}


def known(name: str) -> bool:
    """Whether the table defines this name, or a pattern that it falls under."""
    return any(fnmatchcase(name, pattern) for pattern in METRICS)
