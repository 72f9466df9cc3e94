"""The index of all pages: each study's verdicts with a link to its page, the other pages, and what is missing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from repro.reports.pages import data, entries, markup, provenance
from repro.reports.pages.entries import ATLAS, STUDY, Entry
from repro.reports.reading.studies import read_store
from repro.reports.reading.study import Study
from repro.reports.statistics import survey as surveys
from repro.reports.statistics.words import VERDICTS

PAPER, EPISODES = "paper", "episodes"  # folders of the other pages
BUILT = "page of {}, as it was built then"  # of a study that is no longer in the store


def build(root: Path, uri: str, registered: Sequence[Mapping]) -> Path:
    """Writes `index.html` into the folder of all pages; its path.

    `registered` has name and group of each detail, in the registry's order. Verdicts come from the store, or, of a study
    that is not in it, from the JSON beside its page or the atlas. Every link is relative, so the folder can be moved. An
    empty `uri` is of no store.
    """
    studies, left_out = read_store(uri) if uri else ([], {})
    pages, page = study_pages(root), root / "index.html"
    root.mkdir(parents=True, exist_ok=True)
    page.write_text(render(studies, left_out, registered, pages, root), encoding="utf-8")
    return page


def study_pages(root: Path) -> dict[tuple[str, str], Path]:
    """(detail, scale) -> the study's page, of those that were built into the folder."""
    found = {}
    for file in sorted(root.glob(f"*/{STUDY}")):
        content = entries.read(file)
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
    stored = {(study.detail, study.scale): entries.of_study(study) for study in studies}
    shown = {key: entry for key, entry in entries.kept(root).items() if key not in left_out} | stored
    recorded, details = shown.keys() | left_out.keys(), {detail for detail, _ in shown}
    return markup.render(
        "index.html.j2",
        groups=_groups(list(shown.values()), registered, pages, root),
        counts=_counts(list(shown.values()), registered, root),
        studies=len(shown),
        runs=sum(entry.facts.get("runs", 0) for entry in shown.values()),
        hours=provenance.hours(runs) + entries.kept_hours(root, stored.keys()),
        details=len(details & {entry["name"] for entry in registered}),
        registered=len(registered),
        left_out=[{"name": "-".join(key), "why": why} for key, why in sorted(left_out.items())],
        not_run=[entry for entry in registered if entry["name"] not in {detail for detail, _ in recorded}],
        gone=[{"name": "-".join(key), "link": _link(pages[key], root)} for key in sorted(pages.keys() - recorded)],
        atlases=_atlases(root),
        paper=_link(root / PAPER / "index.html", root),
        episodes=[{"name": file.stem, "link": _link(file, root)} for file in sorted((root / EPISODES).glob("*.html"))],
    )


def _groups(
    shown: Sequence[Entry], registered: Sequence[Mapping], pages: Mapping[tuple[str, str], Path], root: Path
) -> list[dict]:
    """The studies under the registry's groups, in its order; a detail at several scales stands together."""
    place = {entry["name"]: i for i, entry in enumerate(registered)}
    group = {entry["name"]: entry["group"] for entry in registered}
    ends = scales([(entry.rows, entry.pairs) for entry in shown]) if shown else {}
    after = entries.corrected(root)
    groups: dict[str, list[dict]] = {}
    for entry in sorted(shown, key=lambda each: (place.get(each.detail, len(place)), each.detail, each.scale)):
        drawn = [row | {"after": _after(entry, row, after)} for row in arms(entry.rows, entry.pairs, ends)]
        card = _card(entry, pages.get((entry.detail, entry.scale), Path()), root) | {"arms": drawn}
        groups.setdefault(group.get(entry.detail, surveys.UNLISTED), []).append(card)
    return [{"name": name, "cards": cards} for name, cards in groups.items()]


def _after(entry: Entry, row: Mapping, after: Mapping[tuple[str, str, str], tuple[int, str, str]]) -> str:
    """The verdict after Holm's correction where the atlas has another for the same seeds; else nothing."""
    n, word, corrected = after.get((entry.detail, entry.scale, row["arm"]), (0, "", ""))
    return corrected if (n, word) == (row["n"], row["verdict"]) and corrected != word else ""


def _counts(shown: Sequence[Entry], registered: Sequence[Mapping], root: Path) -> list[dict]:
    """Per scale the number of variants with each word, as they stand and after Holm's correction.

    The control is none, and one without a paired seed has no word yet.
    """
    control = {entry["name"] for entry in registered if entry["group"] == surveys.CONTROL}
    after = entries.corrected(root)
    found: dict[str, list[tuple[str, str]]] = {}
    for entry in shown:
        for row in entry.rows[entry.rows["n"] > 0].to_dict("records") if entry.detail not in control else ():
            words = row["verdict"], _after(entry, row, after) or row["verdict"]
            found.setdefault(entry.scale, []).append(words)
    return [
        {
            "scale": scale,
            "variants": len(words),
            "words": _tally([word for word, _ in words]),
            "corrected": _tally([word for _, word in words]) if any(a != b for a, b in words) else {},
        }
        for scale, words in sorted(found.items(), key=lambda each: (-len(each[1]), each[0]))
    ]


def _tally(words: Sequence[str]) -> dict[str, int]:
    """Word -> how often it is said, in the order of the table of words."""
    return {word: words.count(word) for word in VERDICTS if word in words}


def _card(entry: Entry, page: Path, root: Path) -> dict:
    """The values that the index shows of one study."""
    newest = entry.facts.get("newest", 0)
    return {
        "detail": entry.detail,
        "scale": entry.scale,
        "name": f"{entry.detail}-{entry.scale}",
        "question": entry.facts["question"],
        "reference": entry.reference,
        "primary": entry.primary,
        "seeds": entry.facts["seeds"],
        "lost": entry.facts["lost"],
        "open": entry.facts.get("open", 0),  # JSON of an earlier version counts these among the lost
        "planned": entry.facts.get("planned", 0),
        "newest": newest,
        "built": BUILT.format(markup.day(newest)) if page.name and newest else "as it was built",
        "hours": entry.facts.get("hours", float("nan")),
        "troubles": entry.troubles,
        "stored": entry.stored,
        "link": _link(page, root),
        "data": _link(page.with_name(data.PAGE), root) if page.name else "",
        "stale": entry.stored and page.is_file() and page.stat().st_mtime * 1000 < newest,
    }


def scales(compared: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> dict[str, tuple[float, float]]:
    """Primary metric -> the ends of the one axis on which all of its studies are drawn."""
    rows, pairs = (pd.concat(frames) for frames in zip(*compared, strict=True))
    return {primary: entries.ends(own, pairs[pairs["metric"] == primary]) for primary, own in rows.groupby("primary")}


def arms(rows: pd.DataFrame, pairs: pd.DataFrame, ends: Mapping[str, tuple[float, float]]) -> list[dict]:
    """Each arm's verdict, its interval as numbers and as a drawing on its primary metric's axis."""
    return [
        row
        | {"whisker": markup.whisker(row, *ends[row["primary"]], pairs.loc[pairs["arm"] == row["arm"], "difference"])}
        for row in rows.to_dict("records")
    ]


def _atlases(root: Path) -> list[dict]:
    """The pages on all details that were built."""
    return [
        {"scale": entries.read(file).get("scale", "not known"), "link": _link(file.parent / "index.html", root)}
        for file in sorted(root.glob(f"*/{ATLAS}"))
        if (file.parent / "index.html").is_file()
    ]


def _link(page: Path, root: Path) -> str:
    """The address of a page as seen from the index; nothing where there is none."""
    return quote(page.relative_to(root).as_posix()) if page.is_file() else ""
