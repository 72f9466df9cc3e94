"""One look for every figure: colours, dashes and markers by an arm's position, and the words on the axes."""

from contextlib import AbstractContextManager

import matplotlib as mpl
from matplotlib.axes import Axes

# Okabe and Ito's palette, which the common colour-blindnesses can tell apart; the reference is always the dark one.
PALETTE = ("#1a1a1a", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("", (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (3, 1, 1, 1, 1, 1), (8, 3), (2, 2, 6, 2))
SFT = "#888888"  # the policy before PPO, which is no arm
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

RC = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.formatter.useoffset": False,
    "text.parse_math": False,  # an arm's name is a name, whatever dollars are in it
    "svg.hashsalt": "reports",
    "svg.fonttype": "path",
}  # a fixed salt: the same numbers give the same file

LABELS = {
    "objective/score": ("reward-model score", ""),
    "objective/gold": ("gold score", ""),
    "objective/kl": ("KL to the SFT policy", "nats"),
    "objective/rlhf_reward": ("RLHF reward", ""),
    "objective/eos_rate": ("responses that end", "share"),
    "objective/length": ("response length", "tokens"),
    "objective/entropy": ("policy entropy", "nats"),
    "policy/approx_kl": ("KL of an update", "nats"),
    "policy/clip_fraction": ("clipped ratios", "share"),
    "policy/ratio": ("probability ratio", ""),
    "policy/ratio_error": ("distance of the ratio from 1", ""),
    "loss/policy": ("policy loss", ""),
    "loss/total": ("whole loss", ""),
    "loss/value": ("value loss", ""),
    "value/mean": ("value", ""),
    "value/clip_fraction": ("clipped values", "share"),
    "value/explained_variance": ("explained variance", ""),
    "eval/win_rate": ("win rate on validation posts", "share"),
    "eval/gold": ("gold score on validation posts", ""),
    "eval/score": ("reward-model score on validation posts", ""),
    "test/win_rate": ("win rate", "share"),
    "test/length_controlled_win_rate": ("win rate at equal length", "share"),
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
    "rm/bias": ("normalisation bias", ""),
    "rm/gain": ("normalisation gain", ""),
    "rm/reference_score_mean": ("raw score of references, mean", ""),
    "rm/reference_score_std": ("raw score of references, spread", ""),
    "rm/eos_mean": ("raw score at the end of text", ""),
    "rm/off_eos_mean": ("raw score before the end of text", ""),
    "rm/off_eos_negative": ("tokens before it with a negative score", "share"),
    "rm/padding_difference_mean": ("padded left less right, mean", ""),
    "rm/padding_difference_largest": ("padded left or right, largest difference", ""),
}
# How a metric of another policy or another way of sampling is named, and what that adds to its words.
PREFIXES = {"sft_test/": ("test/", ", before PPO"), "test/sampled_": ("test/", ", sampled")}


def context() -> AbstractContextManager[None]:
    """The style's settings for as long as the context is open."""
    return mpl.rc_context(RC)


def name(metric: str) -> str:
    """A metric in words, without its unit; its own name where it has none."""
    return _entry(metric)[0]


def label(metric: str) -> str:
    """A metric in words with its unit in brackets, as on an axis."""
    return name(metric) + bracketed(metric)


def unit(metric: str) -> str:
    """A metric's unit; nothing where it has none."""
    return _entry(metric)[1]


def bracketed(metric: str) -> str:
    """A metric's unit as it follows a word, in brackets; nothing where it has none."""
    return f" [{unit(metric)}]" if unit(metric) else ""


def colours(arms: tuple[str, ...]) -> dict[str, str]:
    """Arm -> colour by position; the palette repeats after seven arms, dashes and markers with it."""
    return dict(zip(arms, _cycled(PALETTE, len(arms)), strict=True))


def dashes(arms: tuple[str, ...]) -> dict[str, tuple[float, ...] | str]:
    """Arm -> dash pattern by position, so that the lines tell apart in grey."""
    return dict(zip(arms, _cycled(DASHES, len(arms)), strict=True))


def dash(arm: str, arms: tuple[str, ...]) -> tuple[float | None, ...]:
    """One arm's dash pattern as a line takes it."""
    return dashes(arms)[arm] or (None, None)


def markers(arms: tuple[str, ...]) -> dict[str, str]:
    """Arm -> marker by position, so that the dots tell apart in grey."""
    return dict(zip(arms, _cycled(MARKERS, len(arms)), strict=True))


def symmetric_log(axes: Axes, linear: float) -> None:
    """A horizontal axis that is logarithmic past `linear` on either side, with numbers as they are spelled elsewhere."""
    axes.set_xscale("symlog", linthresh=linear)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))


def few_ticks(axes: Axes, axis: str = "both") -> None:
    """At most five steps of numbers along an axis that is not logarithmic: small panels have no room for more."""
    for name, one in (("x", axes.xaxis), ("y", axes.yaxis)):
        if axis in (name, "both") and one.get_scale() == "linear":
            axes.locator_params(axis=name, nbins=5)


def quiet(axes: Axes) -> None:
    """Takes the grid off the axis that holds categories."""
    axes.grid(visible=False, axis="y")


def _entry(metric: str) -> tuple[str, str]:
    """A metric's words and unit."""
    for prefix, (plain, added) in PREFIXES.items():
        if metric.startswith(prefix):
            words, unit = _entry(plain + metric.removeprefix(prefix))
            return words + added, unit
    return LABELS.get(metric, (metric, ""))


def _cycled(values: tuple, count: int) -> list:
    """The first `count` values, starting again at the end."""
    return [values[i % len(values)] for i in range(count)]
