"""What each figure shows, in a sentence computed from the data that it draws."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from repro import record
from repro.reports.figures.numbers import count, difference, number, signed
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics import pairing
from repro.reports.statistics.student import CONFIDENCE, ROUNDING

LAST = 0.1  # of a training: what its end is taken to be
MOST = 4  # things that a sentence names; the others are counted


def listed(words: Iterable[str]) -> str:
    """Words as they stand in a sentence, the first few of many."""
    shown = list(words)
    if len(shown) > MOST + 1:
        shown = [*shown[:MOST], f"{len(shown) - MOST} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "nothing"


def effect(data: pd.DataFrame, study: Study) -> str:
    """Each arm's mean difference beside the smallest effect of interest."""
    rows = data.drop_duplicates("arm")
    if not data["difference"].any():
        return f"Every difference to {study.reference} is zero, in {count(data['seed'].nunique(), 'seed')}."
    known = rows.dropna(subset="mean")
    if known.empty:
        return (
            f"Before its first look the study has no mean difference to {study.reference}: the marks are single seeds."
        )
    words = listed(f"{difference(row.mean, row.low, row.high)} for {row.arm}" for row in known.itertuples())
    limit = f", where ±{number(study.smallest_effect)} would matter" if math.isfinite(study.smallest_effect) else ""
    return f"The mean difference in {terms.said(study.primary)} to {study.reference} is {words}{limit}."


def learning_curves(data: pd.DataFrame, study: Study) -> str:
    """In which curves an arm ends apart from the reference, by the paired interval of the last tenth of training."""
    curves = data[data["metric"] != study.primary] if study.primary.startswith("test/") else data
    last = curves[curves["step"] >= (1 - LAST) * curves["step"].max()]
    if set(data["arm"]) <= {study.reference} or study.reference not in set(last["arm"]):
        return "No arm has a reference to be compared with."
    paired = pairing.differences(last, study.reference)
    found = _as_drawn(pairing.intervals(paired), curves)
    if found.empty:  # what samples once a round, or not at all, logs nothing there
        return "No arm has logged anything beside the reference at the end of training."
    if not (found["n"] > 1).any():
        return f"One seed each: how the curves end says nothing of other seeds{_farthest(paired, study)}."
    apart = _apart(found)
    words = listed(f"{terms.said(row.metric)} ({signed(row.mean)}, {row.arm})" for row in apart.itertuples())
    counted = f"of {count(len(found), 'comparison')} at the end of training"
    if apart.empty:
        return f"None {counted} excludes zero: no curve tells an arm from {study.reference}."
    return f"{len(apart)} {counted} {_exclude_zero(len(apart), len(found))}: {words}."


def _apart(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose interval excludes zero; of differences that are all equal t gives none."""
    return rows[((rows["low"] > 0) | (rows["high"] < 0)) & (rows["sd"] > ROUNDING)]


def _exclude_zero(apart: int, intervals: int) -> str:
    """How a sentence goes on after the number of intervals that exclude zero, of so many."""
    verb, chance = "excludes" if apart == 1 else "exclude", (1 - CONFIDENCE) * intervals
    return f"{verb} zero, where about {chance:.1f} would by chance"


def _farthest(paired: pd.DataFrame, study: Study) -> str:
    """The first metric's differences of the arms, as an aside."""
    first = paired[paired["metric"] == paired["metric"].iloc[0]] if len(paired) else paired
    if first.empty:
        return ""
    words = listed(f"{signed(row.difference)} ({row.arm})" for row in first.itertuples())
    return f"; here {terms.said(first['metric'].iloc[0])} ends {words} from {study.reference}"


def paired_curves(data: pd.DataFrame, study: Study) -> str:
    """How far the mean difference ever gets, in the curve that leads to the verdict or the first one."""
    plain = study.primary.removeprefix("test/").removeprefix("sampled_")
    metrics = list(dict.fromkeys(data["metric"]))
    metric = next((m for m in metrics if m.endswith(f"/{plain}")), metrics[0])
    mean = data[data["metric"] == metric].groupby(["arm", "step"], sort=False)["value"].mean().dropna()
    spans = mean.groupby("arm", sort=False).agg(lowest="min", highest="max")
    if spans.empty:
        return f"No difference in {terms.said(metric)} was recorded."
    if not spans.to_numpy().any():
        return f"No arm ever differs from {study.reference} in {terms.said(metric)}."
    words = listed(f"{signed(row.lowest)} and {signed(row.highest)} ({arm})" for arm, row in spans.iterrows())
    return f"During training the mean difference in {terms.said(metric)} stays between {words}."


def paired_differences(data: pd.DataFrame, study: Study) -> str:
    """In how many of the metrics a 95 % interval excludes zero, and in which."""
    found = data.drop_duplicates(["metric", "arm"])
    known = found.dropna(subset="low")
    if known.empty:
        return "One paired seed: there are differences, and no interval to judge them by."
    apart = _apart(known)
    words = listed(f"{terms.said(row.metric)} ({signed(row.mean)}, {row.arm})" for row in apart.itertuples())
    if apart.empty:
        return f"None of {count(len(known), 'interval')} excludes zero."
    return f"{len(apart)} of {count(len(known), 'interval')} {_exclude_zero(len(apart), len(known))}: {words}."


def before_after(data: pd.DataFrame, study: Study) -> str:
    """What PPO makes of the first metric, arm by arm."""
    rows = data[data["metric"] == data["metric"].iloc[0]].dropna(subset=["before", "after"])
    name = terms.said(data["metric"].iloc[0])
    if rows.empty:
        return f"The {name} is not known both before and after PPO."
    means = rows.groupby("arm", sort=False)[["before", "after"]].mean().astype(float)
    if np.allclose(means["before"], means["after"]):
        return f"PPO leaves the {name} where it was in every arm ({number(means['after'].mean())})."
    words = listed(f"{number(row.before)} to {number(row.after)} ({arm})" for arm, row in means.iterrows())
    ups = int((rows["after"] > rows["before"]).sum())
    above = data[data["metric"] == data["metric"].iloc[0]].get("ceiling", pd.Series(dtype=float)).dropna()
    end = "" if above.empty else " The dashed line is the ceiling, with its 95 % t interval: the gold score as reward."
    return f"PPO takes the {name} from {words}; it rises in {ups} of {count(len(rows), 'run')}.{end}"


def score_against_kl(data: pd.DataFrame, study: Study) -> str:
    """What each arm's last score costs in KL, and which seeds are so far out that they ran away."""
    part = data[data["part"] == "end"]
    way = data[data["part"] == "way"]
    rows = part if not part.empty else way[way["step"] == way["step"].max()]
    scores = list(dict.fromkeys(rows["metric"]))
    if not scores:
        return "No score was recorded together with the KL."
    metric = study.primary if study.primary in scores else scores[0]
    means = rows[rows["metric"] == metric].groupby("arm", sort=False)[["kl", "value"]].mean().astype(float)
    words = listed(f"{number(row.value)} at {number(row.kl)} nats ({arm})" for arm, row in means.iterrows())
    return f"Training ends with a {terms.said(metric)} of {words}{_runaways(rows, study)}."


def _runaways(rows: pd.DataFrame, study: Study) -> str:
    """The seeds whose KL is past the study's cap, as an aside."""
    far = rows[rows["kl"] > float(study.tags.get(record.KL_CAP, "nan"))].drop_duplicates(["arm", "seed"])
    words = listed(f"seed {row.seed} of {row.arm} ({number(row.kl)} nats)" for row in far.itertuples())
    return "" if far.empty else f"; {words} ran away"


def win_rate_by_length(data: pd.DataFrame, study: Study) -> str:
    """How much of each arm's win rate is left at equal length."""
    rates = data[data["part"].isin(("as it is", "equal length"))].astype({"win_rate": float})
    wide = rates.pivot(index=["policy", "seed"], columns="part", values="win_rate").dropna()
    if not {"as it is", "equal length"} <= set(wide) or wide.empty:
        return "The near-greedy win rate at equal length cannot be estimated from these summaries."
    means = wide.groupby("policy").mean()
    known = means.reindex([arm for arm in study.arms if arm in means.index])
    words = listed(
        f"{number(equal)} instead of {number(raw)} ({arm})"
        for arm, raw, equal in zip(known.index, known["as it is"], known["equal length"], strict=True)
    )
    return f"At the length of the references the near-greedy win rate is {words}."


def training(data: pd.DataFrame, study: Study) -> str:
    """Where each curve begins and ends, averaged over its runs."""
    ends = []
    for metric, rows in data.groupby("metric", sort=False):
        mean = rows.groupby("step")["value"].mean().dropna()
        if len(mean):
            ends.append(f"{terms.said(metric)} from {number(mean.iloc[0])} to {number(mean.iloc[-1])}")
    return f"Training takes the {listed(ends)}." if ends else "No value of these curves is known."


def calibration(data: pd.DataFrame, study: Study) -> str:
    """How far the probability that the reward model claims is from its accuracy: on average, and where it is most.

    The average is the calibration error, in which no two margins cancel, and which counts each comparison once.
    """
    rows = data[data["family"].str.contains("calibration")]
    if rows.empty:
        return "Accuracy was recorded by the labellers' confidence only."
    errors = study.finals[study.finals["metric"] == "rm/calibration_error"].merge(
        rows[["arm", "seed"]].drop_duplicates(), on=["arm", "seed"]
    )
    by_margin = rows.groupby("x")["value"].agg(["mean", "count"])
    accuracy = by_margin.loc[by_margin["count"] == by_margin["count"].max(), "mean"]  # of all reward models, as drawn
    claim = pd.Series(1 / (1 + np.exp(-accuracy.index)), accuracy.index)
    margin = (claim - accuracy).abs().idxmax()
    word = "surer" if claim[margin] > accuracy[margin] else "less sure"
    return (
        f"The reward model's claim is {number(errors['value'].mean())} from its accuracy on average; at a margin of "
        f"{number(margin)}, where it is farthest, it is {word} than it is right: it claims {number(claim[margin])}, and is "
        f"right in {number(accuracy[margin])}."
    )


def groups(data: pd.DataFrame, study: Study, titles: Mapping[str, str]) -> str:
    """Per family of groups, by its panel's title: those in which the reward model is most and least often right."""
    means = data.groupby(["family", "label"], sort=False)["value"].mean().dropna()
    parts = [f"{title}, {_most_and_least(means[family])}" for family, title in titles.items() if family in means]
    return f"The reward model is right, {'; '.join(parts)}." if parts else "No group's accuracy is known."


def _most_and_least(means: pd.Series) -> str:
    """The label or labels with the largest and the smallest mean; those that read alike are named together."""
    told = means.map(number)
    ends = [f"{listed(means.index[told == number(end)])} ({number(end)})" for end in (means.max(), means.min())]
    return f"most often in {ends[0]}, least in {ends[1]}" if ends[0] != ends[1] else f"as often in {ends[0]}"


def _as_drawn(rows: pd.DataFrame, data: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order in which their metrics are drawn."""
    place = {metric: i for i, metric in enumerate(dict.fromkeys(data["metric"]))}
    return rows.sort_values("metric", key=lambda metric: metric.map(place), kind="stable")
