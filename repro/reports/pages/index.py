"""The index of all pages: each study's verdicts with a link to its page, the other pages, and what is missing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from repro import record
from repro.reports.figures import forest
from repro.reports.pages import data, markup, provenance
from repro.reports.reading.studies import read_store
from repro.reports.reading.study import Study
from repro.reports.statistics import judging, pairing
from repro.reports.statistics import survey as surveys
from repro.reports.statistics.outcomes import stopped_at

STUDY, ATLAS = "verdict.json", "atlas.json"  # the file beside a page says of which kind it is
PAPER, EPISODES = "paper", "episodes"  # folders of the other pages


def build(root: Path, uri: str, registered: Sequence[Mapping]) -> Path:
    """Writes `index.html` into the folder of all pages; its path.

    `registered` has name and group of each detail, in the registry's order. Verdicts come from the store, links from the
    pages in the folder. Every link is relative, so the folder can be moved.
    """
    studies, left_out = read_store(uri)
    pages, page = study_pages(root), root / "index.html"
    root.mkdir(parents=True, exist_ok=True)
    page.write_text(render(studies, left_out, registered, pages, root), encoding="utf-8")
    return page


def study_pages(root: Path) -> dict[tuple[str, str], Path]:
    """(detail, scale) -> the study's page, of those that were built into the folder."""
    found = {}
    for file in sorted(root.glob(f"*/{STUDY}")):
        content = _record(file)
        if {"detail", "scale"} <= content.keys() and (file.parent / "index.html").is_file():
            found[content["detail"], content["scale"]] = file.parent / "index.html"
    return found


def render(
    studies: Sequence[Study],
    left_out: Mapping[tuple[str, str], str],
    registered: Sequence[Mapping],
    pages: Mapping[tuple[str, str], Path],
    root: Path,
) -> str:
    """The HTML of the page."""
    runs = pd.concat([study.runs for study in studies]) if studies else pd.DataFrame(columns=["outcome"])
    recorded = {(study.detail, study.scale) for study in studies} | left_out.keys()
    return markup.render(
        "index.html.j2",
        groups=_groups(studies, registered, pages, root),
        studies=len(studies),
        runs=len(runs),
        hours=provenance.hours(runs),
        details=len({study.detail for study in studies}),
        registered=len(registered),
        left_out=[{"name": "-".join(key), "why": why} for key, why in sorted(left_out.items())],
        not_run=[entry for entry in registered if entry["name"] not in {detail for detail, _ in recorded}],
        gone=[{"name": "-".join(key), "link": _link(pages[key], root)} for key in sorted(pages.keys() - recorded)],
        atlases=_atlases(root),
        paper=_link(root / PAPER / "index.html", root),
        episodes=[{"name": file.stem, "link": _link(file, root)} for file in sorted((root / EPISODES).glob("*.html"))],
    )


def _groups(
    studies: Sequence[Study], registered: Sequence[Mapping], pages: Mapping[tuple[str, str], Path], root: Path
) -> list[dict]:
    """The studies under the registry's groups, in its order; a detail at several scales stands together."""
    place = {entry["name"]: i for i, entry in enumerate(registered)}
    group = {entry["name"]: entry["group"] for entry in registered}
    compared = {(study.detail, study.scale): compare(study) for study in studies}
    ends = scales(list(compared.values())) if compared else {}
    groups: dict[str, list[dict]] = {}
    for study in sorted(studies, key=lambda each: (place.get(each.detail, len(place)), each.detail, each.scale)):
        page = pages.get((study.detail, study.scale), Path())
        drawn = arms(*compared[study.detail, study.scale], ends)
        card = _card(study, page, root) | {"arms": drawn}
        groups.setdefault(group.get(study.detail, surveys.UNLISTED), []).append(card)
    return [{"name": name, "cards": cards} for name, cards in groups.items()]


def _card(study: Study, page: Path, root: Path) -> dict:
    """The values that the index shows of one study."""
    newest = int(study.runs["started"].max())
    return {
        "detail": study.detail,
        "scale": study.scale,
        "question": study.tags[record.QUESTION],
        "reference": study.reference,
        "primary": study.primary,
        "seeds": len(study.seeds),
        "lost": int((study.runs["outcome"] != record.FINISHED).sum()) + missing_runs(study),
        "newest": newest,
        "hours": provenance.hours(study.runs),
        "troubles": study.troubles,
        "link": _link(page, root),
        "data": _link(page.with_name(data.PAGE), root) if page.name else "",
        "stale": page.is_file() and page.stat().st_mtime * 1000 < newest,
    }


def missing_runs(study: Study) -> int:
    """The number of planned runs that are missing; an arm that a look decided has no runs after it."""
    planned = dict.fromkeys(study.arms, study.seeds)
    if study.looks:
        planned = stopped_at(study, judging.judge(study, _pairs(study))[1])
    return sum(map(len, planned.values())) - len(study.runs)


def _pairs(study: Study) -> pd.DataFrame:
    """The differences of single seeds on the primary metric."""
    own = study.finals[study.finals["metric"] == study.primary].assign(step=0)
    return pairing.differences(own, study.reference)


def compare(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each arm's verdict and interval on the primary metric, and the differences of single seeds behind them."""
    pairs = _pairs(study)
    rows, _ = judging.judge(study, pairs)
    return rows.assign(smallest_effect=study.smallest_effect, primary=study.primary), pairs


def scales(compared: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> dict[str, tuple[float, float]]:
    """Primary metric -> the ends of the one axis on which all of its studies are drawn."""
    rows, pairs = (pd.concat(frames) for frames in zip(*compared, strict=True))
    return {primary: forest.limits(own, pairs[pairs["metric"] == primary]) for primary, own in rows.groupby("primary")}


def arms(rows: pd.DataFrame, pairs: pd.DataFrame, ends: Mapping[str, tuple[float, float]]) -> list[dict]:
    """Each arm's verdict, its interval as numbers and as a drawing on its primary metric's axis."""
    return [
        row
        | {
            "word": "identical" if row["identical"] else row["verdict"],
            "whisker": markup.whisker(row, *ends[row["primary"]], pairs.loc[pairs["arm"] == row["arm"], "difference"]),
        }
        for row in rows.to_dict("records")
    ]


def _atlases(root: Path) -> list[dict]:
    """The pages on all details that were built."""
    return [
        {"scale": _record(file).get("scale", "not known"), "link": _link(file.parent / "index.html", root)}
        for file in sorted(root.glob(f"*/{ATLAS}"))
        if (file.parent / "index.html").is_file()
    ]


def _record(file: Path) -> dict:
    """The JSON beside a page; nothing where it was not written to its end."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _link(page: Path, root: Path) -> str:
    """The address of a page as seen from the index; nothing where there is none."""
    return quote(page.relative_to(root).as_posix()) if page.is_file() else ""
