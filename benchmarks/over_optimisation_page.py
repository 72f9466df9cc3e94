"""docs/over-optimisation.md: what was run, the points, the fits, and sentences that the numbers alone decide."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from benchmarks.over_optimisation_figure import BY_REWARD, POINTS, PPO, frame
from benchmarks.over_optimisation_fits import RESAMPLES, Fit
from benchmarks.render import source, table
from repro.reports.figures.numbers import count, number, signed, span
from repro.reports.statistics.student import t_interval

NEAR = 0.05  # √nats: half the width of a point in the figure
FAR = 100.0  # √nats: a peak past it is none
FEW = 6  # seeds; of fewer a bootstrap's percentiles are too near to each other
INTRODUCTION = """# Over-optimisation

How much of a reward model's score is worth having? Gao et al. ([arXiv 2210.10760](https://arxiv.org/abs/2210.10760))
plot the gold score over d = √KL, the square root of the KL to the SFT policy, for two ways of optimising against the
reward model. With R the gold score less the SFT policy's, they find R(d) = d (α − β d) for best-of-n and
R(d) = d (α − β log d) for PPO. This page asks the same of the [embedded task](embedded.md), whose gold score is known.
"""
METHOD = """
**Best of n.** The SFT policy's samples of each post are drawn once, at temperature 0.7. The mean over all subsets of n is
computed in closed form (`repro/ops/best_of.py`). The best is chosen in two ways: by the reward model's score, and by what
PPO is rewarded with, which is −1 where a response does not end (N+ detail 23.3).

- *KL* is log n − (n − 1)/n nats: exact where no two samples tie, too large where summaries repeat.
- *KL at most* is a closer bound.
- *Ended* is the share of the chosen summaries that end.

**PPO.** The points are where each arm ended on the test posts: gold score, score and KL of sampled summaries. The thin
lines are the batches that it trained on, in tenths of the training. In these batches, but not at
the points, a response that does not end scores −1. The curve is fitted through tenths and points, since the ends of arms
can lie too near to each other.

**Gain** is over the SFT policy on the same posts: {posts} test posts for best-of-n, {test_posts} for PPO. Intervals of
means are 95 % t intervals over seeds; those of α and β are percentiles of {resamples:,} bootstraps that draw seeds."""
FIGURE = """
![Gold score and reward model's score over the square root of the KL, of best-of-n and of PPO, with Gao's curves]\
(images/over-optimisation.png)

Large marks are means over seeds, small marks are seeds, bands are of the fitted curves.
"""


def page(found: Mapping, fits: Mapping[str, Fit]) -> str:
    """The whole page as Markdown."""
    data, asked = frame(found), found["asked"]
    numbers = {"posts": f"{asked['posts']:,}", "test_posts": f"{asked['test_posts']:,}", "resamples": RESAMPLES}
    parts = [
        INTRODUCTION,
        "## What it says\n\n" + "\n".join(f"- {told}" for told in sentences(found, fits, data)),
        FIGURE,
        f"## What was run\n\n```\n{command(asked)}\n```\n\n{_on_what(found)}",
        METHOD.format(**numbers),
        *(f"## {method[0].upper()}{method[1:]}\n\n{best_table(found, data, method)}" for method in POINTS),
        f"## PPO\n\n{ppo_table(found, data)}",
        f"## The fitted curves\n\n{fit_table(found, fits)}",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def command(asked: Mapping) -> str:
    """The command that gives this page again."""
    words = ["make over-optimisation", f'SEEDS="{" ".join(map(str, asked["seeds"]))}"']
    words += [f"POSTS={asked['posts']}", f"N={asked['n']}", f'ARMS="{" ".join(asked["arms"])}"']
    words += [f"SCALE={asked['scale'].partition('+')[0]}"]
    words += [f'{name.upper()}="{" ".join(asked[name])}"' for name in ("set", "with") if asked[name]]
    return " ".join(words)


def _on_what(found: Mapping) -> str:
    asked = found["asked"]
    shared = f" All stages with {', '.join(asked['with'])}." if asked["with"] else ""
    changed = f" Changed in the scale: {', '.join(asked['set'])}." if asked["set"] else ""
    seeds = f"Scale {asked['scale']}, seeds {', '.join(map(str, asked['seeds']))}.{shared}{changed}"
    return f"{seeds} {source(found['about'])} Stages that were cached are older and perhaps from another commit."


# ---------------------------------------------------------------------------------------------- the tables


def best_table(found: Mapping, data: pd.DataFrame, method: str) -> str:
    rows = []
    for place, first in enumerate(found["best_of_n"][0][POINTS[method]]):
        points = [each[POINTS[method]][place] for each in found["best_of_n"]]
        means = [number(float(np.mean([point[name] for point in points]))) for name in ("kl_at_most", "ended", "gold")]
        gains = [_mean(gain_of(data, method, str(first["n"]), metric)) for metric in ("gold", "score")]
        rows.append([str(first["n"]), number(first["kl"]), *means, *gains])
    return table(["n", "KL [nats]", "KL at most", "ended", "gold score", "gain in gold score", "gain in score"], rows)


def ppo_table(found: Mapping, data: pd.DataFrame) -> str:
    rows = []
    for arm in by_kl(data):
        runs = [each for each in found["ppo"] if each["arm"] == arm]
        kl, gold = (_mean(pd.Series([run[name] for run in runs]), "") for name in ("kl", "gold"))
        gains = [_mean(gain_of(data, PPO, arm, metric)) for metric in ("gold", "score")]
        rows.append([arm, kl, gold, *gains, _mean(beside_best_of_n(data, arm))])
    head = ["KL coefficient", "KL [nats]", "gold score", "gain in gold score", "gain in score"]
    return table([*head, "gain in gold score less that of best-of-n by PPO's reward at that KL"], rows)


def fit_table(found: Mapping, fits: Mapping[str, Fit]) -> str:
    rows = []
    for method, each in fits.items():
        told = [
            f"{number(value)} ({span(*each.interval(place))})" for place, value in enumerate((each.alpha, each.beta))
        ]
        alone = "; ".join(
            f"{seed}: {number(alpha)}, {number(beta)}"
            for seed, (alpha, beta) in zip(found["asked"]["seeds"], each.each.tolist())
        )
        peak = number(each.peak) if each.interval(1)[0] > 0 and each.peak < FAR else "not determined"
        rows.append([method, f"R = {each.curve.formula}", *told, peak, alone])
    return table(["method", "curve", "α", "β", "peak at d", "α, β of each seed"], rows)


def by_kl(data: pd.DataFrame) -> list[str]:
    """The arms of PPO by where they ended, the nearest to the SFT policy first."""
    ends = data[(data["part"] == "end") & (data["method"] == PPO)]
    return ends.groupby("at")["kl"].mean().sort_values().index.tolist()


def gain_of(data: pd.DataFrame, method: str, at: str, metric: str) -> pd.Series:
    """The gains of each seed of an n or an arm, by seed."""
    rows = data[(data["part"] == "end") & (data["method"] == method) & (data["at"] == at) & (data["metric"] == metric)]
    return rows.set_index("seed")["gain"]


def beside_best_of_n(data: pd.DataFrame, arm: str, method: str = BY_REWARD) -> pd.Series:
    """By seed, an arm's gain in gold score less best-of-n's at the same d, read by straight lines; NaN past the largest n."""
    ends = data[(data["part"] == "end") & (data["metric"] == "gold")]
    best, ppo = (ends[ends["method"] == method] for method in (method, PPO))
    rows = {}
    for row in ppo[ppo["at"] == arm].itertuples():
        own = best[best["seed"] == row.seed].sort_values("d")
        rows[row.seed] = row.gain - np.interp(row.d, own["d"], own["gain"], right=np.nan)
    return pd.Series(rows, dtype=float)


def _mean(values: pd.Series, sign: str = "+") -> str:
    """A mean over seeds with its t interval."""
    low, high = t_interval(values)
    between = "" if math.isnan(low) else f" ({number(low, sign)} to {number(high, sign)})"
    return f"{number(values.mean(), sign)}{between}"


# ---------------------------------------------------------------------------------------------- the sentences


def sentences(found: Mapping, fits: Mapping[str, Fit], data: pd.DataFrame) -> list[str]:
    """What the numbers say, each sentence decided by an interval."""
    told = [*(_of_best_of_n(found, data, method) for method in POINTS), *_of_ppo(data)]
    told += [_of_bend(method, each, data) for method, each in fits.items()]
    told += [_of_equal_kl(data, arm) for arm in by_kl(data)]
    return [*told, _of_repeats(found), *_of_seeds(len(found["asked"]["seeds"]))]


def way_of(difference: pd.Series) -> str:
    """up, down, or neither, as the t interval of a difference over seeds says."""
    low, high = t_interval(difference)
    return "up" if low > 0 else "down" if high < 0 else "neither"


def _of_best_of_n(found: Mapping, data: pd.DataFrame, method: str) -> str:
    rows = [each[POINTS[method]] for each in found["best_of_n"]]
    sizes = [str(point["n"]) for point in rows[0]]
    gains = {n: gain_of(data, method, n, "gold") for n in sizes}
    best, last = max(sizes, key=lambda n: gains[n].mean()), sizes[-1]
    score = _mean(gain_of(data, method, last, "score"))
    first, final = (100 * np.mean([points[place]["ended"] for points in rows]) for place in (0, -1))
    ended = f"{first:.0f} % of single samples end, and {final:.0f} % of the best of {last}."
    name = f"{method[0].upper()}{method[1:]}"
    if best == last:
        return (
            f"{name}: the gold score is highest at the largest n, {last}: {_mean(gains[last])} over the SFT policy; the "
            f"reward model's score is {score} there. No over-optimisation up to that n. {ended}"
        )
    fall = gains[last] - gains[best]
    word = {"down": "it falls", "up": "it rises", "neither": "no fall is shown"}[way_of(fall)]
    return (
        f"{name}: the gold score is highest at n = {best}, {_mean(gains[best])} over the SFT policy. From there to n = "
        f"{last} {word}: {_mean(fall)}, while the reward model's score ends {score} above the SFT policy's. {ended}"
    )


def _of_ppo(data: pd.DataFrame) -> list[str]:
    """Between the arm with the highest gold score and the one that went farthest."""
    arms = by_kl(data)
    gold, score = ({arm: gain_of(data, PPO, arm, metric) for arm in arms} for metric in ("gold", "score"))
    best, last = max(arms, key=lambda arm: gold[arm].mean()), arms[-1]
    if best == last:
        told = f"PPO: the arm that goes farthest, KL coefficient {last}, has the highest gold score too, {_mean(gold[last])}"
        return [
            f"{told} over the SFT policy, with a score {_mean(score[last])} above. No over-optimisation up to that KL."
        ]
    change, up = gold[last] - gold[best], score[last] - score[best]
    word = {"down": "falls", "up": "rises", "neither": "is not shown to change"}[way_of(change)]
    rise = {"down": "falls", "up": "rises", "neither": "is not shown to change"}[way_of(up)]
    is_over = way_of(change) == "down" and way_of(up) == "up"
    return [
        f"PPO: the gold score is highest at KL coefficient {best}, {_mean(gold[best])} over the SFT policy. From there to the "
        f"arm that goes farthest, {last}, it {word} ({_mean(change)}), and the reward model's score {rise} ({_mean(up)}). "
        + ("That is over-optimisation." if is_over else "Over-optimisation is not shown.")
    ]


def _of_bend(method: str, fit: Fit, data: pd.DataFrame) -> str:
    low, high = fit.interval(1)
    farthest = data.loc[data["method"] == method, "d"].max()
    known = f"β of {method} is {signed(fit.beta)}"
    known += f" ({span(low, high)})" if not math.isnan(low) else ""
    if low > 0:
        bent = "above 0: each further √nat is worth less"
    elif high < 0:
        bent = "below 0: the gold score bends upwards within the points"
    else:
        bent = "not distinguishable from 0"
    where = "before" if fit.peak <= farthest else "past"
    peak = f" The curve's peak, at d = {number(fit.peak)}, lies {where} the farthest point ({number(farthest)})."
    return f"{known}, {bent}.{peak if low > 0 and fit.peak < FAR else ''}"


def _of_equal_kl(data: pd.DataFrame, arm: str) -> str:
    beside = beside_best_of_n(data, arm)
    if beside.isna().any():
        return f"At equal KL: KL coefficient {arm} went farther than the largest n, so it has no counterpart."
    word = {"up": "above", "down": "below", "neither": "not distinguishable from"}[way_of(beside)]
    return f"At equal KL: PPO at KL coefficient {arm} is {word} {BY_REWARD} in gold score: {_mean(beside)}."


def _of_repeats(found: Mapping) -> str:
    """How much too large the formula's KL is at the largest n, by how the best is chosen."""
    different = np.mean([each["distinct"] for each in found["best_of_n"]])
    bounds = []
    for method, place in POINTS.items():
        last = [each[place][-1] for each in found["best_of_n"]]
        n, kl = last[0]["n"], last[0]["kl"]
        at_most = float(np.mean([point["kl_at_most"] for point in last]))
        excess = math.sqrt(kl) - math.sqrt(at_most)
        right = f"the point lies at least {number(excess)} √nats too far right" if excess >= NEAR else "hardly lower"
        bounds.append(f"{number(at_most)} for {method} ({right})")
    return (
        f"A post's {n} samples are {different:.0f} different summaries on average. At n = {n} the formula's KL is "
        f"{number(kl)} nats, and the closer bound {', '.join(bounds)}. A point too far right is to the disadvantage of "
        "best-of-n."
    )


def _of_seeds(seeds: int) -> list[str]:
    if seeds >= FEW:
        return []
    different = math.comb(2 * seeds - 1, seeds)
    told = f"{count(seeds, 'seed')} can be drawn in only {different} ways: the bootstrap's intervals of α and β are too narrow."
    return [told if seeds > 1 else "One seed has no interval."]
