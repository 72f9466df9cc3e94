"""Names and units of metrics for readers, and which metrics are curves."""

# Metrics with a value per step, by how their names begin; every other one is a single, final value.
CURVES = (
    *("objective/", "policy/", "loss/", "value/", "eval/", "nonfinite/", "sft/loss", "rm/loss", "rm/train_accuracy"),
    *("dpo/loss", "dpo/train_accuracy", "dpo/margin"),
    *("feedback/rm_", "feedback/gold", "feedback/annotator_score", "feedback/equal_pairs"),  # over rounds
)
LABELS = {
    "objective/score": ("reward-model score", ""),
    "objective/gold": ("gold score", ""),
    "objective/kl": ("KL to the SFT policy", "nats"),
    "objective/rlhf_reward": ("RLHF reward", ""),
    "objective/eos_rate": ("responses that end", "share"),
    "objective/length": ("response length", "tokens"),
    "objective/entropy": ("policy entropy", "nats"),
    "policy/approx_kl": ("approximate KL of an update", "nats"),
    "policy/clip_fraction": ("clipped ratios", "share"),
    "policy/ratio": ("probability ratio", ""),
    "policy/ratio_error": ("distance of the ratio from 1", ""),
    "loss/policy": ("policy loss", ""),
    "loss/total": ("total loss", ""),
    "loss/value": ("value loss", ""),
    "value/mean": ("value", ""),
    "value/clip_fraction": ("clipped values", "share"),
    "value/explained_variance": ("explained variance", ""),
    "eval/win_rate": ("win rate on validation posts", "share"),
    "eval/gold": ("gold score on validation posts", ""),
    "eval/score": ("reward-model score on validation posts", ""),
    "test/win_rate": ("near-greedy win rate", "share"),
    "test/sampled_win_rate": ("win rate, sampled", "share"),
    "test/length_controlled_win_rate": ("near-greedy win rate at equal length", "share"),
    "test/gold": ("gold score", ""),
    "test/score": ("reward-model score", ""),
    "test/kl": ("KL to the SFT policy", "nats"),
    "test/length": ("response length", "tokens"),
    "test/eos_rate": ("responses that end", "share"),
    "test/rouge_l": ("ROUGE-L", ""),
    "test/wrong_facts": ("wrong facts", "per summary"),
    "test/covered_facts": ("covered facts", "per summary"),
    "policy/first_ratio_error": ("ratio error in the first pass", ""),
    "objective/kl_coefficient": ("KL coefficient", "per nat"),
    "objective/spread_within_groups": ("spread of returns within a query", ""),
    "objective/spread_between_groups": ("spread of returns between queries", ""),
    "objective/members_spread": ("spread of the members' scores of a response", ""),
    "objective/members_rank_correlation": ("members rank alike", "correlation"),
    "objective/members_gold_correlation": ("a member follows gold", "correlation"),
    "objective/members_combined_gold_correlation": ("all together follow gold", "correlation"),
    "feedback/rm_accuracy": ("reward model right on new samples", "share"),
    "feedback/rm_margin": ("its margin on new samples", ""),
    "feedback/gold": ("gold score of new samples", ""),
    "feedback/annotator_score": ("annotating model's score of new samples", ""),
    "feedback/equal_pairs": ("pairs of samples that are one text", "share"),
    "objective/entropy_coefficient": ("coefficient of the entropy bonus", "per nat"),
    "test/judge_agreement": ("judge and reward model agree", "share"),
    "sft/loss": ("SFT loss", "nats per token"),
    "dpo/loss": ("DPO loss", "nats"),
    "dpo/train_accuracy": ("DPO, pair accuracy in training", "share"),
    "dpo/margin": ("DPO, margin of the implicit reward", ""),
    "dpo/validation_accuracy": ("DPO, pair accuracy, validation", "share"),
    "rm/loss": ("reward-model loss", "nats"),
    "rm/train_accuracy": ("pair accuracy in training", "share"),
    "rm/validation_accuracy": ("pair accuracy, validation", "share"),
    "rm/calibration_error": ("calibration error", "share"),
    "rm/right_over_wrong": ("right over wrong summary", "share"),
    "rm/bias": ("bias, subtracted from raw scores", ""),
    "rm/gain": ("gain, which raw scores are then divided by", ""),
    "rm/reference_score_mean": ("raw score of references, mean", ""),
    "rm/reference_score_std": ("raw score of references, spread", ""),
    "rm/eos_mean": ("score at the end of text", ""),
    "rm/off_eos_mean": ("score before the end of text", ""),
    "rm/off_eos_negative": ("tokens before the end of text with a negative score", "share"),
    "rm/padding_difference_mean": ("score padded on the left less on the right, mean", ""),
    "rm/padding_difference_largest": ("score padded on the left or right, largest difference", ""),
}
# Prefix of metrics of the SFT policy or of sampled responses -> the plain prefix, and what is added to the name.
PREFIXES = {"sft_test/": ("test/", ", before PPO"), "test/sampled_": ("test/", ", sampled")}


def name(metric: str) -> str:
    """A metric in words, without its unit; its own name where it has none."""
    return _entry(metric)[0]


def label(metric: str) -> str:
    """A metric in words with its unit in brackets, as on an axis."""
    return name(metric) + bracketed(metric)


def said(metric: str) -> str:
    """A metric's name as a sentence has it: sampled win rate, not win rate, sampled."""
    words, comma, rest = name(metric).partition(", ")
    return f"{rest} {words}" if rest == "sampled" else words + comma + rest


def unit(metric: str) -> str:
    """A metric's unit; nothing where it has none."""
    return _entry(metric)[1]


def bracketed(metric: str) -> str:
    """A metric's unit as it follows a word, in brackets; nothing where it has none."""
    return f" [{unit(metric)}]" if unit(metric) else ""


def _entry(metric: str) -> tuple[str, str]:
    """A metric's words and unit."""
    if metric in LABELS:
        return LABELS[metric]
    for prefix, (plain, added) in PREFIXES.items():
        if metric.startswith(prefix):
            words, unit = _entry(plain + metric.removeprefix(prefix))
            return words + added, unit
    return metric, ""
