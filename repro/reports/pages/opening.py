"""What a page says first, and the line that says of each closed section what is inside."""

import math
from collections.abc import Mapping, Sequence

from repro import record
from repro.errors import few
from repro.reports.figures.chart import Drawn
from repro.reports.figures.numbers import count, difference, number, span
from repro.reports.figures.takeaways import listed
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings
from repro.reports.statistics.size import nothing_to_see
from repro.reports.statistics.words import UNDECIDED

# A verdict's word -> how a sentence goes on after the arms that it is said of, in the singular and in the plural.
SAID = {
    "better": ("is better than", "are better than"),
    "worse": ("is worse than", "are worse than"),
    "no difference": ("makes no difference that matters beside", "make no difference that matters beside"),
    "identical": ("is identical to", "are identical to"),
    "undecided": ("is not yet told apart from", "are not yet told apart from"),
}


def takeaway(study: Study, findings: Findings) -> str:
    """The verdict of the whole study in one sentence."""
    small = nothing_to_see(study)
    if small:
        return small
    if findings.verdicts.empty:
        return "Only the reference arm has runs: there is nothing to compare yet."
    if study.detail == record.CONTROL_DETAIL and (findings.verdicts["n"] > 1).any():
        return _how_far_apart(study, findings)
    arms = findings.verdicts.groupby("verdict")["arm"].agg(list)
    parts = [
        f"{listed(arms[word])} {said[len(arms[word]) > 1]} {study.reference}"
        for word, said in SAID.items()
        if word in arms
    ]
    return f"{'; '.join(parts)}, by the {terms.said(study.primary)}."


def _how_far_apart(study: Study, findings: Findings) -> str:
    """What the control is run for: how far runs of one recipe lie apart."""
    seeds = findings.differences[findings.differences["metric"] == study.primary].groupby("arm")["difference"]
    parts = [
        f"{difference(row.mean, row.low, row.high)} in the mean, single seeds {span(lowest, highest)}, sd {number(row.sd)}"
        for row in findings.verdicts.itertuples()
        for lowest, highest in [(seeds.min().get(row.arm, math.nan), seeds.max().get(row.arm, math.nan))]
    ]
    return f"Same recipe, other random numbers: {terms.said(study.primary)} {'; '.join(parts)}."


def progress(study: Study, findings: Findings) -> str:
    """How far a sequential study has come; nothing before its first look, or of a fixed number of seeds."""
    if findings.looks.empty:
        return ""
    seeds = int(findings.looks["look"].max())
    word = "undecided after" if (findings.verdicts["verdict"] == UNDECIDED).any() else "decided at"
    look = f"look {study.looks.index(seeds) + 1} of {len(study.looks)}"
    return f"Sequential study, {word} {look}: {seeds} of up to {study.looks[-1]} seeds"


def sections(
    study: Study, findings: Findings, drawn: Mapping[str, Drawn], counts: Mapping[str, int], missing: Sequence[str] = ()
) -> dict[str, str]:
    """Id of a section -> a line on what is inside it and what it shows; `counts` counts rows of tables.

    `missing` are the runs whose files are not where the store says.
    """

    def first(names: Sequence[str], otherwise: str) -> str:
        return next((drawn[name].takeaway for name in names if name in drawn), otherwise)

    return {
        "expected": _predictions(findings),
        "figures": first(("learning_curves", "paired_differences"), "No curves or final values were recorded."),
        "frontier": first(("score_against_kl",), ""),
        "length": first(("win_rate_by_length",), ""),
        "judge": f"{count(counts['judged'], 'run')} judged by a language model."
        if counts["judged"]
        else "No language model has judged this study.",
        "differences": first(
            ("paired_differences",), f"{count(counts['differences'], 'metric')} beside the reference's."
        ),
        "seeds": _seeds(study),
        "reward-models": first(("reward_model_calibration", "reward_model_groups"), "What was measured of them."),
        "samples": f"What each policy wrote under {count(counts['posts'], 'test post')}, to filter and to sort."
        if counts["posts"]
        else no_samples(missing),
        "ran": f"Task, model, budget and recipe; code, shared stages, time and cost of {count(len(study.runs), 'run')}.",
        "reproduce": "The command and every run's id.",
        "rules": "The interval, the smallest effect of interest, and what decides each word.",
    }


def no_samples(missing: Sequence[str]) -> str:
    """Why there are no samples: none were recorded, or the files are gone of runs that logged them."""
    if not missing:
        return "No samples were recorded."
    return f"The files of {count(len(missing), 'run')} are missing: {few(missing)}. The store is without its artifact folder."


def _predictions(findings: Findings) -> str:
    """How the predictions turned out, in numbers."""
    if not len(findings.predictions):
        return "No predictions were recorded."
    results = findings.predictions["result"].value_counts()
    parts = listed(f"{n} {word}" for word, n in results.items())
    return f"Of {count(len(findings.predictions), 'prediction')} written down before the runs: {parts}."


def _seeds(study: Study) -> str:
    """The primary metric's range over all runs, and how many of them finished."""
    values = study.finals.loc[study.finals["metric"] == study.primary, "value"].dropna()
    finished = int((study.runs["outcome"] == record.FINISHED).sum())
    ended = f"{finished} of {count(len(study.runs), 'run')} finished"
    if values.empty:
        return f"{ended}; none has a {terms.said(study.primary)}."
    return f"{ended}; {terms.said(study.primary)} from {number(values.min())} to {number(values.max())}."
