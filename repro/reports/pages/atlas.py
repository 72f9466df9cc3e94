"""The page on all studies of one scale: one self-contained HTML file, its figures as files beside it, and the JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from repro.reports.figures import forest
from repro.reports.figures.numbers import count, difference, number, span
from repro.reports.pages import atlas_record, entries, markup, provenance
from repro.reports.pages.markup import picture
from repro.reports.reading import terms
from repro.reports.reading.studies import read_outlines
from repro.reports.statistics import survey as surveys
from repro.reports.statistics.student import CONFIDENCE, half_width
from repro.reports.statistics.survey import Survey
from repro.reports.statistics.words import IDENTICAL, MOVED, NO_DIFFERENCE, RAN_AWAY, UNDECIDED

# How the sentence on all variants goes on after the number of those with a word, for one and for several.
REST = {
    NO_DIFFERENCE: ("makes no difference that matters", "make no difference that matters"),
    IDENTICAL: ("is identical", "are identical"),
    UNDECIDED: ("is undecided", "are undecided"),
}


def build(scale: str, registered: Sequence[Mapping], uri: str, out: Path, keep: bool = False) -> Path:
    """Writes `index.html`, `figures/` and `atlas.json` over every study of a scale; the path of `index.html`.

    `registered` is what the registry says of each detail, in its order: name, group and variants (labels, or label ->
    words). A detail's own page is linked where it lies beside `out`. With `keep` it has the rows of the page that it
    takes the place of, where their details are not in this store.
    """
    studies, left_out = read_outlines(scale, uri)
    page = Path(out) / "index.html"
    former = entries.read(page.parent / entries.ATLAS) if keep else {}
    kept = former if former.get("scale") == scale else {}
    earlier = atlas_record.earlier(kept, {study.detail for study in studies} | left_out.keys(), registered)
    survey = surveys.survey(scale, studies, left_out, registered, earlier)
    plots = forest.save_all(survey, page.parent / "figures")
    page.write_text(render(survey, registered, plots, page.parent), encoding="utf-8")
    markup.write_json(atlas_record.record(survey, studies, kept), page.parent / entries.ATLAS)
    return page


def headline(page: Path) -> str:
    """A summary of the atlas at `page`, for the terminal."""
    atlas = json.loads((page.parent / entries.ATLAS).read_text(encoding="utf-8"))
    lines = [
        f"{count(len(atlas['studied']), 'detail')} with runs at scale {atlas['scale']}, {len(atlas['not_run'])} without; "
        + ", ".join(f"{n} {'of these ' if word == RAN_AWAY else ''}{word}" for word, n in atlas["outcomes"].items())
        + f"; {entries.hours(atlas):.1f} machine hours."
    ]
    return "\n".join(lines + [family_sentence(family) for family in atlas["families"]])


def family_sentence(family: Mapping) -> str:
    """A family of comparisons in words: their number, results, and the number expected by chance."""
    moved = family["corrected"]["better"] + family["corrected"]["worse"]
    return (
        f"By the {terms.said(family['primary'])}: {count(family['variants'], 'variant')}, {family['tests']} tested; "
        f"{count(family['leave_out_zero'], 'interval')} of 95 % {'excludes' if family['leave_out_zero'] == 1 else 'exclude'} "
        f"zero, about {family['expected_by_chance']:.1f} expected by chance; {moved} better or worse after "
        f"Holm's correction, {family['identical']} identical to the reference."
    )


def named(survey: Survey) -> list[dict]:
    """Per word after Holm's correction, of all variants but the control: those that move, the largest first, and of the
    others how many there are, in words.
    """
    tested = survey.effects.assign(place=range(len(survey.effects))).query("not control")
    found = []
    for word, rows in tested.groupby("corrected"):
        largest = rows.sort_values("mean", key=abs, ascending=False, kind="stable") if word in MOVED else rows.head(0)
        told = "" if word in MOVED else f"{len(rows)} {REST[word][len(rows) > 1]}"
        found.append({"word": word, "rows": largest.to_dict("records"), "told": told})
    order = (*MOVED, *REST)
    return sorted(found, key=lambda each: order.index(each["word"]))


def noise(survey: Survey) -> list[str]:
    """Sentences for each control arm with seeds: the differences between runs that differ only in random numbers."""
    seeds = survey.pairs.groupby(["detail", "arm"])["difference"].agg(["min", "max"])
    controls = survey.effects[survey.effects["control"] & (survey.effects["n"] > 0)]
    return [
        f"Noise floor, {row.detail}: the same recipe with other random numbers changes the {terms.said(row.primary)} by "
        f"{difference(row.mean, row.low, row.high)} (95 % interval {span(row.low, row.high)}, "
        f"{count(row.n, 'paired seed')}; single seeds from {span(*seeds.loc[(row.detail, row.arm)])}). "
        f"A single seed's difference in this range can be chance{_of_means(survey, row)}."
        for row in controls.itertuples()
    ]


def _of_means(survey: Survey, row) -> str:
    """How far from zero the mean of as many seeds as variants usually have lies by chance, from a control's spread.

    That mean over the control's standard deviation s has Student's t with the control's degrees of freedom, so it lies
    within t(0.975, n - 1) s / sqrt(usual) in 95 of 100 studies. Nothing where there is no spread, or no variant.
    """
    usual = next((family["seeds"] for family in survey.families if family["primary"] == row.primary), 0)
    if row.n < 2 or not usual:
        return ""
    reach = half_width(row.sd, row.n) * math.sqrt(row.n / usual)
    return (
        f"; the mean over {count(usual, 'seed')}, as most variants have, would lie within ±{number(reach)} in "
        f"{100 * CONFIDENCE:.0f} of 100 such studies"
    )


# The page


def render(survey: Survey, registered: Sequence[Mapping], plots: list[forest.Plot], out: Path) -> str:
    """The HTML of the page."""
    return markup.render(
        "atlas.html.j2",
        survey=survey,
        registered=len(registered),
        studied=len(set(survey.studied) & {entry["name"] for entry in registered}),
        confidence=CONFIDENCE,
        named=named(survey),
        sentences=[family_sentence(family) for family in survey.families] + noise(survey),
        charts=[_chart(plot, out / "figures") for plot in plots],
        groups=_groups(survey, out),
        controls=int(survey.effects["control"].sum()),
        unpaired=int((survey.effects["n"] == 0).sum()),
        outcomes=surveys.outcomes(survey),
        shared=surveys.shared_reference(survey),
        hours=provenance.hours(survey.runs) + sum(store["machine_hours"] for store in survey.earlier.stores),
        seeds=_seed_counts(survey.effects),
        stored=survey.runs["detail"].nunique(),
        ran=provenance.what_ran(survey.runs),
    )


def _chart(plot: forest.Plot, figures: Path) -> dict:
    """A figure, and the one that takes its place on a phone where it has one."""
    wide, narrow = (
        picture(name, plot.title, plot.caption, figures) if drawn else {}
        for name, drawn in ((plot.name, plot.draw), (plot.narrow_name, plot.narrow))
    )
    return wide | {"narrow": narrow}


def _groups(survey: Survey, out: Path) -> list[dict]:
    """The rows of the table under the registry's groups."""
    ends = {
        primary: entries.ends(rows, survey.pairs.merge(rows[["detail", "arm"]]))
        for primary, rows in survey.effects.groupby("primary")
    }
    groups: dict[str, list[dict]] = {}
    for place, row in enumerate(survey.effects.to_dict("records")):
        link = _link(row["detail"], survey.scale, out)
        shown = row | {"place": place, "link": link, "whisker": markup.whisker(row, *ends[row["primary"]])}
        groups.setdefault(row["group"], []).append(shown)
    return [{"name": name, "rows": rows} for name, rows in groups.items()]


def _link(detail: str, scale: str, out: Path) -> str:
    """Where a detail's own page lies, relative to this one; nothing where there is none."""
    folder = markup.folder(detail, scale)
    return f"../{quote(folder)}/index.html" if (out.parent / folder / "index.html").is_file() else ""


def _seed_counts(effects: pd.DataFrame) -> str:
    """How many variants have how many paired seeds, in words."""
    counts = effects["n"].value_counts().sort_index(ascending=False)
    return ", ".join(f"{count(int(variants), 'variant')} with {n}" for n, variants in counts.items())
