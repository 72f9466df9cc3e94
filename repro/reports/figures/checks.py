"""What the paper measured of its reward models, as figures: training, calibration, and accuracy by group.

Arms that share their reward models are one curve, drawn once: a detail of PPO has nothing to compare here.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from repro import record
from repro.reports.figures import curves, layout, style, takeaways
from repro.reports.figures.chart import Chart, still_lines
from repro.reports.figures.numbers import count
from repro.reports.figures.sheet import LETTERS, Entry, Sheet, entries, name_lines, room, sheet
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

CALIBRATION = "rm/calibration/"
CONFIDENCE = "rm/accuracy/confidence/"
# Accuracies of named groups, each a panel: how the metrics' names begin, and the panel's title.
GROUPS = {
    "rm/accuracy/batch/": "by batch of labels",
    "rm/accuracy/policies/": "by pair of policies",
    "rm/right_over_wrong/": "right over wrong, by replaced fact",
}
POINTS = 60  # of a curve of hundreds of batches
FAMILIES = (CALIBRATION, CONFIDENCE, *GROUPS)
# Curves of what is trained before PPO, or instead of it, and the stage whose key says whether two runs share one.
TRAINING = {
    "sft/loss": "sft",
    "rm/loss": "rm",
    "rm/train_accuracy": "rm",
    "dpo/loss": "ppo",
    "dpo/train_accuracy": "ppo",
    "dpo/margin": "ppo",
}


# Training before PPO


def training_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric, arm, seed, step [examples], value by stretches; a curve that runs share is listed for the first arm only."""
    frames = []
    for metric, stage in TRAINING.items():
        rows = study.curves[study.curves["metric"] == metric].merge(first_users(study, stage), on=["arm", "seed"])
        frames.append(curves.stretches(rows[["metric", "arm", "seed", "step", "value"]], POINTS))
    return layout.in_order(pd.concat(frames, ignore_index=True), tuple(TRAINING), study.arms)


def draw_training(data: pd.DataFrame, study: Study) -> Sheet | None:
    """A panel per curve: seeds faint, the arm's mean thick with its 95 % t interval."""
    return curves.curve_panels(data, study, "examples")[0]


def first_users(study: Study, stage: str) -> pd.DataFrame:
    """The (arm, seed) that is the first of those that share a result of a stage."""
    key = record.stage_tag(stage)
    runs = study.runs if key in study.runs else study.runs.assign(**{key: study.runs["run_id"]})
    return runs.drop_duplicates(key)[["arm", "seed"]]


# Calibration and confidence


def numbered_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric family, arm and arms that share it, seed, x (|margin|, or confidence), value [share]."""
    rows = reward_model_values(study, (CALIBRATION, CONFIDENCE))
    rows = rows.assign(x=pd.to_numeric(rows["label"], errors="coerce")).dropna(subset="x")
    return rows.sort_values(["family", "arm", "seed", "x"], ignore_index=True)


def by_family(data: pd.DataFrame, key: str) -> pd.DataFrame:
    """The rows of the panel of a family of metrics."""
    return data[data["family"] == key]


def draw_numbered(data: pd.DataFrame, study: Study) -> Sheet:
    """Accuracy by margin beside what a calibrated model promises, and by the labellers' confidence."""
    titles = {CALIBRATION: "calibration: accuracy by margin", CONFIDENCE: "accuracy by confidence"}
    shown = {family: title for family, title in titles.items() if family in set(data["family"])}
    figure, panels = sheet(shown, 2.1, _legend(data, study))
    for family, axes in panels.items():
        rows = data[data["family"] == family]
        for arm, own in rows.groupby("arm", sort=False):
            _means(axes, own, arm, study)
        axes.axhline(0.5, **style.HALF_LINE)
        axes.set(ylabel="pair accuracy [share]", xlabel="the labeller's confidence, 1 to 9")
        style.few_ticks(axes)
    if CALIBRATION in panels:
        _promise(panels[CALIBRATION], data.loc[data["family"] == CALIBRATION, "x"].max())
    return figure


def _promise(axes: Axes, end: float) -> None:
    """The curve of a calibrated reward model: the Bradley-Terry probability of its own margin."""
    margin = np.linspace(0, end + 0.25, 100)
    axes.plot(margin, 1 / (1 + np.exp(-margin)), color="#888888", linewidth=1.2, linestyle=(0, (4, 2)))
    axes.annotate("dashed: sigmoid(margin)", (1, 0.04), xycoords="axes fraction", ha="right", **style.NOTE)
    axes.set(xlabel="|difference of the two scores|", xlim=(0, None))


def _means(axes: Axes, rows: pd.DataFrame, arm: str, study: Study) -> None:
    """Seeds thin, their mean thick where all of them have a value."""
    colour, marker = style.colours(study.arms)[arm], style.markers(study.arms)[arm]
    for _, seed in rows.groupby("seed"):
        axes.plot(seed["x"], seed["value"], color=colour, alpha=style.faint(rows["seed"].nunique()), **style.SEED)
    by_x = rows.groupby("x")["value"].agg(["mean", "count"])
    mean = by_x.loc[by_x["count"] == rows["seed"].nunique(), "mean"]
    axes.plot(mean, color=colour, linewidth=2, dashes=style.dash(arm, study.arms), marker=marker, markersize=5)


# Named groups


def grouped_data(study: Study, findings: Findings) -> pd.DataFrame:
    """metric family, arm and arms that share it, seed, label of the group, value [share]."""
    rows = reward_model_values(study, tuple(GROUPS))
    return rows.sort_values(["family", "label", "arm", "seed"], ignore_index=True)


def draw_grouped(data: pd.DataFrame, study: Study) -> Sheet:
    """A panel per kind of group, a row per group: each seed a small mark, their mean a large one."""
    shown = {family: title for family, title in GROUPS.items() if family in set(data["family"])}
    most = data.groupby("family")["label"].nunique().max()
    arms = [arm for arm in study.arms if arm in set(data["arm"])]
    lines = max(len(name_lines(label).split("\n")) for label in data["label"])
    height = max(1.5, most * max(0.19 * lines, 0.13 * len(arms)))
    figure, panels = sheet(shown, height, _legend(data, study), left=room(list(data["label"].unique())))
    for family, axes in panels.items():
        rows = data[data["family"] == family]
        labels = list(dict.fromkeys(rows["label"]))
        for place, arm in enumerate(arms):
            shift = 0.6 * ((place + 0.5) / len(arms) - 0.5)
            _dots(axes, rows[rows["arm"] == arm], arm, labels, shift, study)
        axes.axvline(0.5, **style.HALF_LINE)
        axes.set_yticks(range(len(labels)), [name_lines(label) for label in labels])
        axes.set(ylim=(len(labels) - 0.5, -0.5), xlabel="pair accuracy [share]")
        style.few_ticks(axes, "x")
        style.quiet(axes)
    return figure


def _dots(axes: Axes, rows: pd.DataFrame, arm: str, labels: list[str], shift: float, study: Study) -> None:
    """One arm's groups: small marks for seeds, a large one for their mean."""
    look = {"color": style.colours(study.arms)[arm], "marker": style.markers(study.arms)[arm], "linestyle": ""}
    place = {label: height + shift for height, label in enumerate(labels)}
    axes.plot(rows["value"], rows["label"].map(place), markersize=3, alpha=0.45, **look)
    mean = rows.groupby("label")["value"].mean()
    axes.plot(mean, mean.index.map(place), markersize=6, **look)


# Shared


def reward_model_values(study: Study, families: tuple[str, ...]) -> pd.DataFrame:
    """family, label, arm (the first that uses the reward model), used_by, seed, value of the metrics of these families."""
    rows = study.finals[study.finals["metric"].str.startswith(families)]
    rows = rows.merge(first_users(study, "rm"), on=["arm", "seed"])
    family = rows["metric"].map(lambda metric: next((f for f in families if metric.startswith(f)), ""))
    label = [metric.removeprefix(own) for metric, own in zip(rows["metric"], family, strict=True)]
    labelled = rows.assign(family=family, label=label, used_by=rows["arm"].map(_users(study)))
    return labelled[["family", "label", "arm", "used_by", "seed", "value"]].dropna(subset="value")


def _sharing(study: Study) -> dict[str, list[str]]:
    """Arm -> the arms that share a reward model with it, itself among them."""
    key = record.stage_tag("rm")
    key = key if key in study.runs else "run_id"
    shared = study.runs.groupby(key)["arm"].agg(frozenset)
    users = {arm: frozenset().union(*shared[[arm in arms for arms in shared]]) for arm in study.arms}
    return {arm: [each for each in study.arms if each in own] for arm, own in users.items()}


def _users(study: Study) -> dict[str, str]:
    """Arm -> in words, the arms that share a reward model with it."""
    everyone = list(study.arms) if len(study.arms) > 1 else None
    return {arm: "all arms" if own == everyone else ", ".join(own) for arm, own in _sharing(study).items()}


def _legend(data: pd.DataFrame, study: Study) -> list[Entry]:
    """A line per reward model for the legend, and the arms that use it."""
    users = data.drop_duplicates("arm").set_index("arm")["used_by"].to_dict()
    shown = [arm for arm in study.arms if arm in users]
    words, sharing = [f"reward models of {users[arm]}" for arm in shown], _sharing(study)
    labels = [
        text if len(text) < LETTERS - 8 else f"reward models of {count(len(sharing[arm]), 'arm')}"
        for text, arm in zip(words, shown, strict=True)
    ]
    return [replace(entry, label=label) for entry, label in zip(entries(shown, study.arms), labels, strict=True)]


BEFORE_PPO = Chart(
    "training",
    "Training before PPO, or instead of it",
    "Losses and accuracies of the batches, averaged over sixtieths of the training where there are more: faint lines are "
    "seeds, thick ones their mean with its 95 % t interval. A stage that arms share is drawn once, as the first of them.",
    training_data,
    draw_training,
    takeaways.training,
    still=still_lines,
)
CHARTS = (
    Chart(
        "reward_model_calibration",
        "Is the reward model as sure as it is right?",
        "Accuracy on validation comparisons by how far apart the two scores are, beside the probability that the margin "
        "claims (below it, the model is too sure), and by how confident the labeller was. Thin lines are seeds; the grey "
        "line is guessing. Groups of fewer than 20 comparisons are left out.",
        numbered_data,
        draw_numbered,
        takeaways.calibration,
        by_family,
    ),
    Chart(
        "reward_model_groups",
        "Where the reward model is right",
        "Accuracy on validation comparisons by batch of labels and by the pair of policies compared, and how often a "
        "right summary scores above itself with one fact replaced. Small marks are seeds, large ones their mean; the grey "
        "line is guessing. Batches and pairs with fewer than 20 comparisons are left out. A batch is one that labels came in, "
        "a policy the writer of a summary, both by the names that the comparisons have; in the embedded corpus writers are "
        "made up: ppo states nearly every fact, sup fewer, terse few, sloppy also wrong ones, and ref is the post's author.",
        grouped_data,
        draw_grouped,
        partial(takeaways.groups, titles=GROUPS),
        by_family,
    ),
)
