"""What the index shows of a study: read from the store, or from the JSON beside pages whose study is no longer there.

`facts` is what a page's JSON keeps for this beside its verdicts, so that a gallery can be built again without the store.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from repro import record
from repro.reports.figures import forest
from repro.reports.pages import provenance
from repro.reports.pages.markup import known
from repro.reports.reading.study import Study
from repro.reports.statistics import judging, pairing
from repro.reports.statistics.outcomes import stopped_at
from repro.reports.statistics.words import IDENTICAL, KILLED

STUDY, ATLAS = "verdict.json", "atlas.json"  # the file beside a page says of which kind it is
ROWS = ["arm", "n", "mean", "low", "high", "verdict", "smallest_effect", "primary"]


@dataclass(frozen=True)
class Entry:
    """One study of the index."""

    detail: str
    scale: str
    reference: str
    primary: str
    facts: Mapping  # question, seeds, runs, planned, open, lost, newest [ms], hours
    rows: pd.DataFrame  # ROWS, one per arm but the reference
    pairs: pd.DataFrame  # metric, arm, difference: single seeds
    troubles: Sequence[str] = ()
    stored: bool = True  # whether the study is in the store


def of_study(study: Study) -> Entry:
    """A study of the store."""
    rows, pairs = compare(study)
    own = study.detail, study.scale, study.reference, study.primary, facts(study)
    return Entry(*own, rows[ROWS], pairs, tuple(study.troubles))


def compare(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each arm's verdict and interval on the primary metric, and the differences of single seeds behind them."""
    pairs = _pairs(study)
    rows, _ = judging.judge(study, pairs)
    return rows.assign(smallest_effect=study.smallest_effect, primary=study.primary), pairs


def missing_runs(study: Study) -> int:
    """The number of planned runs that are missing; an arm that a look decided has no runs after it."""
    planned = dict.fromkeys(study.arms, study.seeds)
    if study.looks:
        planned = stopped_at(study, judging.judge(study, _pairs(study))[1])
    return sum(map(len, planned.values())) - len(study.runs)


def ends(rows: pd.DataFrame, pairs: pd.DataFrame) -> tuple[float, float]:
    """The ends of an axis for small drawings of intervals: four smallest effects to either side, so that these can be seen.

    Further where three in four intervals are, or where no smallest effect was recorded.
    """
    half = 4 * rows["smallest_effect"].max()
    far = np.nanmax([half, rows[["low", "high", "mean"]].abs().max(axis=1).quantile(0.75)])
    return (-far, far) if half == half and far == far else forest.limits(rows, pairs)


def facts(study: Study) -> dict:
    """What the index shows of a study beside its verdicts, for a page's JSON.

    Of its runs that have not finished `lost` have ended in another way; `open` go on, or were never started.
    """
    pairs, missing, ends = _pairs(study), missing_runs(study), study.runs["outcome"].value_counts()
    lost = sum(int(ends.get(word, 0)) for word in (record.DIVERGED, record.FAILED, KILLED))
    return {
        "question": study.tags[record.QUESTION],
        "seeds": len(study.seeds),
        "runs": len(study.runs),
        "planned": len(study.runs) + missing,
        "open": len(study.runs) + missing - lost - int(ends.get(record.FINISHED, 0)),
        "lost": lost,
        "newest": int(study.runs["started"].max()),
        "hours": provenance.hours(study.runs),
        "differences": {arm: [known(x) for x in rows["difference"]] for arm, rows in pairs.groupby("arm", sort=False)},
    }


def _pairs(study: Study) -> pd.DataFrame:
    """The differences of single seeds on the primary metric."""
    own = study.finals[study.finals["metric"] == study.primary].assign(step=0)
    return pairing.differences(own, study.reference)


# Without the store


def kept(root: Path) -> dict[tuple[str, str], Entry]:
    """(detail, scale) -> the study as the JSON beside a page has it: its own page's, else that of an atlas."""
    atlases = [entry for file in sorted(root.glob(f"*/{ATLAS}")) for entry in _of_atlas(read(file))]
    own = [_of_verdict(read(file)) for file in sorted(root.glob(f"*/{STUDY}")) if "arms" in read(file)]
    return {(entry.detail, entry.scale): entry for entry in (*atlases, *own)}


def kept_hours(root: Path, stored: Collection[tuple[str, str]]) -> float:
    """Machine hours behind the pages of studies that are not `stored`: those of atlases, and of pages that none has."""
    found, told = 0.0, set(stored)
    for atlas in map(read, sorted(root.glob(f"*/{ATLAS}"))):
        found += hours(atlas, {detail for detail, scale in stored if scale == atlas.get("scale")})
        told |= {(detail, atlas["scale"]) for detail in atlas.get("studies", ())}
    return found + sum(entry.facts.get("hours", 0.0) for key, entry in kept(root).items() if key not in told)


def hours(atlas: Mapping, stored: Collection[str] = ()) -> float:
    """Machine hours of the stores behind an `atlas.json`, each shared stage once, but of those whose details are `stored`."""
    return sum(store["machine_hours"] for store in stores(atlas) if set(store["studies"]) - set(stored))


def stores(atlas: Mapping) -> Iterator[Mapping]:
    """Of each store behind an `atlas.json`: studies (details), newest [ms], machine_hours, ran (empty where it is not known).

    First the one that it was built from, then those of earlier rows.
    """
    earlier = atlas.get("earlier", [])
    others = {detail for store in earlier for detail in store["studies"]}
    own = [detail for detail in atlas.get("studies", {}) if detail not in others]
    if own:
        newest = max(atlas["studies"][detail].get("newest", 0) for detail in own)
        hours = atlas.get("machine_hours", 0.0)
        yield {"studies": own, "newest": newest, "machine_hours": hours, "ran": atlas.get("ran", {})}
    yield from earlier


def corrected(root: Path) -> dict[tuple[str, str, str], tuple[int, str, str]]:
    """(detail, scale, arm) -> seeds, verdict, and verdict after Holm's correction, of the atlases in the folder."""
    return {
        (row["detail"], atlas["scale"], row["variant"]): (row["n"], row["verdict"], row["verdict_corrected"])
        for atlas in map(read, sorted(root.glob(f"*/{ATLAS}")))
        for row in atlas.get("effects", ())
    }


def read(file: Path) -> dict:
    """The JSON beside a page; nothing where it was not written to its end."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _of_verdict(verdict: dict) -> Entry:
    """The study of a `verdict.json`; earlier versions kept no facts and had no word for identical arms."""
    same = set(verdict.get("identical", ()))
    arms = [row | {"variant": arm} for arm, row in verdict["arms"].items()]
    arms = [row | {"verdict": IDENTICAL if row["variant"] in same else row["verdict"]} for row in arms]
    own = verdict.get("index") or {"question": "", "seeds": len(verdict["seeds"]), "lost": 0, "differences": {}}
    return _entry(verdict["detail"], verdict["scale"], verdict, arms, own)


def _of_atlas(atlas: dict) -> list[Entry]:
    """The studies of an `atlas.json`; none of an earlier version, which kept no facts."""
    found = []
    for detail, own in atlas.get("studies", {}).items():
        arms = [row for row in atlas["effects"] if row["detail"] == detail]
        found += [_entry(detail, atlas["scale"], arms[0], arms, own)] if arms else []
    return found


def _entry(detail: str, scale: str, verdict: Mapping, arms: Sequence[Mapping], own: Mapping) -> Entry:
    number = {None: float("nan")}
    rows = [
        (
            arm["variant"],
            arm["n"],
            *(number.get(each, each) for each in (arm["mean_difference"], *arm["ci95"])),
            arm["verdict"],
            number.get(verdict["smallest_effect"], verdict["smallest_effect"]),
            verdict["primary"],
        )
        for arm in arms
    ]
    pairs = [(verdict["primary"], arm, each) for arm, seeds in own["differences"].items() for each in seeds]
    frame = pd.DataFrame(pairs, columns=["metric", "arm", "difference"]).astype({"difference": float})
    frames = pd.DataFrame(rows, columns=ROWS), frame
    return Entry(detail, scale, verdict["reference"], verdict["primary"], own, *frames, stored=False)
