"""What a page says of the ceiling: how far from it each arm ends, and how much of the way there it goes."""

import math

from repro.reports.figures.numbers import MINUS, count, difference, number, span
from repro.reports.figures.takeaways import listed
from repro.reports.pages.markup import known
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics import ceiling
from repro.reports.statistics.findings import Findings

WHAT = "the reference with the gold score as reward"
FILE = "ceiling"  # the key in a study's JSON


def sentence(study: Study, findings: Findings) -> str:
    """The ceiling and each arm's distance from it; nothing where there is no ceiling."""
    rows = findings.ceiling
    if rows.empty:
        return ""
    arms = listed(f"{row.arm} {_apart(row)}" for row in rows.itertuples())
    return f"{_level(study)}; beside it, with 95 % intervals, {arms}."


def _level(study: Study) -> str:
    """What the ceiling reaches."""
    mean, low, high = ceiling.reached(study)
    within = "" if math.isnan(low) else f"95 % interval {number(low)} to {number(high)}, "
    seeds = count(len(ceiling.level(study)), "seed")
    return f"The ceiling, {WHAT}, has a {terms.said(study.primary)} of {number(mean)} ({within}{seeds})"


def _apart(row) -> str:
    """An arm's distance, and how much of the way it goes, as a sentence has them."""
    share = percent(row.share)
    way = f"; {share} of the way from before PPO" if share else ""
    return f"is at {difference(row.mean, row.low, row.high)} ({span(row.low, row.high)}{way})"


def percent(share: float) -> str:
    """A share of the way in percent; nothing where there is no such way."""
    return "" if math.isnan(share) else f"{100 * share:.0f} %".replace("-", MINUS)


def section(study: Study, findings: Findings) -> dict:
    """The ceiling for a template: its level, and a row for each arm; nothing where there is none."""
    if findings.ceiling.empty:
        return {}
    rows = [row | {"percent": percent(row["share"])} for row in findings.ceiling.to_dict("records")]
    return {"level": _level(study), "rows": rows}


def as_json(study: Study, findings: Findings) -> dict:
    """The ceiling in the JSON beside a page, under a key of its own; nothing where there is none."""
    if findings.ceiling.empty:
        return {}
    mean, low, high = ceiling.reached(study)
    arms = {
        row.arm: {
            "n": int(row.n),
            "mean_difference": known(row.mean),
            "ci95": [known(row.low), known(row.high)],
            "share_of_the_way": known(row.share),
        }
        for row in findings.ceiling.itertuples()
    }
    seeds = [int(seed) for seed in ceiling.level(study).index]
    own = {"mean": known(mean), "ci95": [known(low), known(high)], "seeds": seeds}
    return {FILE: own | {"arms": arms, "sentence": sentence(study, findings)}}
