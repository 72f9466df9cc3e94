"""Writes `docs/details.md` from the registry, every detail and check on one page of Markdown for GitHub, with what was found.

The pages that quote the atlas, `atlas_quotes.PAGES`, get its numbers too and, in the phrases of `numbers`, how many details
there are.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import singledispatch
from pathlib import Path

from repro.api.folders import GALLERY
from repro.cli import atlas_quotes
from repro.cli.catalogue import Entry, clashes, counted, entries, in_words, meaning
from repro.cli.source import ROOT
from repro.detail import Check, Detail, others
from repro.details import DETAILS, GROUPS
from repro.errors import UserError
from repro.record import CONTROL_DETAIL
from repro.reports.reading.terms import CURVES
from repro.study import ablation

PAGE = Path("docs") / "details.md"
# The paper's enumeration, by number from 1.
NUMBERED = (
    "the datasets and their sizes",
    "how a query is formatted, shortened and ended",
    "how a completion starts and ends, and what pads it",
    "each task has its own limit of tokens",
    "fixed shapes, and on which side they are padded",
    "validation comparisons come from other policies than those for training",
    "dropout is off",
    "infrastructure: precision and sharding",
    "SFT: setup",
    "reward model: setup",
    "reward model: initialisation of the head",
    "reward model: read at the end of text",
    "reward model: its output before the end of text means little",
    "reward model: left and right padding agree to rounding",
    "reward model: centred on the SFT demonstrations",
    "reward model: accuracy differs between batches and confidences",
    "reward model: agreement with a judge",
    "reward model: calibration",
    "DPO's implicit reward model",
    "PPO: setup",
    "PPO: prompts are those of SFT, reshuffled when exhausted",
    "PPO: the critic starts as the reward model",
    "PPO: the EOS trick",
    "PPO: whitening rewards, an option",
    "PPO: whitening advantages",
)
PIPE = r"\|"
INTRO = """\
<!-- Made by `make docs` from repro/details/: edit those. -->
# The details

Every implementation detail of RLHF with PPO that this project can vary or measure, in the paper's order: {counted}.

"N+" is [Huang et al. 2024](https://arxiv.org/abs/2403.17031), by the number that it gives a detail (6 and 17 are inferred
from the order of its sections); "blog" is its forerunner, *The N Implementation Details of RLHF with PPO* (2023).

A **detail** is a choice: its first variant is the reference, what the paper's code does unless a comment beside the
declaration says otherwise; the others are what people do instead. `make ablation DETAIL=name` trains every arm of its study on
the same seeds and ends with a verdict; without a file in `ablations/`, the declaration implies its study: every variant, at
scale mini, judged by `test/sampled_win_rate`. A **check** is something that the paper measured: every run logs it. Predictions
were declared before the runs. They are relative to the reference, and of every other variant unless some are named;
[the metrics](#metrics) are explained at the end. What was *found* is of the embedded task, from
[the gallery's atlas](../reports/gallery/atlas/index.html): [results](results.md).

The declarations in the terminal, without what was found: `make details`, `make details DETAIL=name`, and
`.venv/bin/python -m repro details --json` for programs.
"""


def markdown() -> str:
    """The whole page."""
    everything = entries()
    parts = [INTRO.format(counted=counted(everything.values())), *_contents(), *_numbered(everything.values())]
    for group, names in GROUPS.items():
        parts += [f"## {group}\n", *(_section(everything[name]) for name in names)]
    return "\n".join([*parts, *_metrics()])


def pages() -> dict[Path, str]:
    """Each page that is written, by its path from the repository's root, as the registry and the atlas have it now."""
    effects = atlas_quotes.effects(ROOT / atlas_quotes.ATLAS)
    results = table(atlas_quotes.HEADER, atlas_quotes.rows(effects.values()))
    quoting = {
        page: (ROOT / page).read_text(encoding="utf-8") for page in atlas_quotes.PAGES if (ROOT / page).is_file()
    }
    return {PAGE: markdown()} | {
        page: numbers(atlas_quotes.quoted(text, effects, results)) for page, text in quoting.items()
    }


def numbers(text: str) -> str:
    """The text with the registry's and the atlas' numbers, in each phrase that has one; what stands around them is left."""
    variants = {
        key: row for key, row in atlas_quotes.effects(ROOT / atlas_quotes.ATLAS).items() if key[0] != CONTROL_DETAIL
    }
    run = {detail for detail, _ in variants}
    usual = sum(row["primary"] == ablation.PRIMARY for row in variants.values())  # Holm's correction is by metric
    not_run = DETAILS.keys() - run - {CONTROL_DETAIL}
    phrases = {
        r"\d+ details and \d+ checks": counted(entries().values()),
        r"\d+ variants, of \d+ of the \d+ details": f"{len(variants)} variants, of {len(run)} of the {len(DETAILS)} details",
        r"Holm's correction over all \d+": f"Holm's correction over all {usual}",
        r"Not run: \d+ details": f"Not run: {len(not_run)} details",
    }
    for phrase, now in phrases.items():
        text = re.sub(phrase, now, text)
    return text


def write() -> list[Path]:
    """Write the pages that are stale, and name them; UserError where there is no docs folder, as in an installed package."""
    if not (ROOT / PAGE).parent.is_dir():
        raise UserError(
            f"there is no folder {PAGE.parent} beside the package; run this in a checkout of the repository"
        )
    new = stale()
    for page, text in new.items():
        (ROOT / page).write_text(text, encoding="utf-8")
    return list(new)


def stale() -> dict[Path, str]:
    """Of `pages`, those that differ from what is there."""
    return {
        page: text
        for page, text in pages().items()
        if not (ROOT / page).exists() or (ROOT / page).read_text(encoding="utf-8") != text
    }


def _contents() -> Iterator[str]:
    for group, names in GROUPS.items():
        yield f"- [{group}](#{slug(group)}): {', '.join(_link_to(name) for name in names)}"
    yield ""


def _numbered(everything: Iterable[Entry]) -> Iterator[str]:
    yield "## The paper's enumeration\n"
    rows = [
        (str(number), topic, ", ".join(_link_to(e.name) for e in everything if number in e.declared.numbers))
        for number, topic in enumerate(NUMBERED, start=1)
    ]
    yield table(("N+", "what it is about", "here"), rows)


def _metrics() -> Iterator[str]:
    """What each metric is of which something is predicted."""
    yield "## Metrics\n"
    predicted = sorted({metric for detail in DETAILS.values() for metric in detail.expected})
    yield table(("metric", "what it is"), [(f"`{metric}`", prose(meaning(metric))) for metric in predicted])


def _section(entry: Entry) -> str:
    declared = entry.declared
    stages = ", ".join(f"`{stage}`" for stage in declared.stages)
    return "\n".join(
        [
            f"### `{entry.name}`\n",
            f"**{prose(declared.question)}** ({entry.kind}; {prose(declared.paper)}; {entry.read_by} {stages})\n",
            *_own_section(declared),
            *(f"*Makes no sense:* {prose(clash)}\n" for clash in clashes(declared)),
            f"{' · '.join(_links(entry))}\n",
        ]
    )


@singledispatch
def _own_section(declared: Detail | Check) -> list[str]:
    """The parts of a section that a detail has and a check has not, and the other way round."""
    raise NotImplementedError


@_own_section.register
def _(declared: Detail) -> list[str]:
    labels = (declared.reference, *others(declared))
    effects = atlas_quotes.effects(ROOT / atlas_quotes.ATLAS)
    told = {label: effects[declared.name, label] for label in labels if (declared.name, label) in effects}
    variants = {
        "variant": [f"`{label}`" for label in labels],
        "what it does": [prose(declared.variants[label].does) for label in labels],
    }
    variants["variant"][0] = f"**`{declared.reference}`** (reference)"
    predictions = {
        "metric": [f"`{metric}`" for metric in declared.expected],
        "prediction": [in_words(effect, "`{}`") for effect in declared.expected.values()],
    }
    if told:
        primary = next(iter(told.values()))["primary"]
        variants[f"found: `{primary}`"] = [
            atlas_quotes.sentence(told[label]) if label in told else "" for label in labels
        ]
        predictions["result"] = [_results(told, metric) for metric in declared.expected]
    return [_columns(variants), f"*Hypothesis.* {prose(declared.hypothesis)}\n", _columns(predictions)]


def _columns(columns: Mapping[str, list[str]]) -> str:
    """A table of columns by their headings."""
    return table(tuple(columns), zip(*columns.values(), strict=True))


def _results(told: Mapping[str, Mapping], metric: str) -> str:
    """What became of the predictions of a metric: the result, and at which variants where that is not all of them."""
    labels: dict[str, list[str]] = {}
    for label, row in told.items():
        if metric in row["results"]:
            labels.setdefault(row["results"][metric], []).append(f"`{label}`")
    if not labels:
        return "not judged here: a curve" if metric.startswith(CURVES) else ""
    if len(labels) == 1 and len(told) == sum(map(len, labels.values())):
        return next(iter(labels))
    return "; ".join(f"{result} at {', '.join(named)}" for result, named in labels.items())


@_own_section.register
def _(declared: Check) -> list[str]:
    watched = {
        "metric": [f"`{metric}`" for metric in declared.metrics],
        "what it is": [prose(meaning(metric)) for metric in declared.metrics],
    }
    reference = atlas_quotes.reference(ROOT / atlas_quotes.ATLAS)
    here = [prose(atlas_quotes.measured(metric, reference)) for metric in declared.metrics]
    if any(here):
        watched["here: mean over seeds (least to most)"] = here
    return [
        f"*Measured:* {prose(declared.measures)}\n",
        f"*The paper found:* {prose(declared.found)}\n",
        _columns(watched),
    ]


def _links(entry: Entry) -> Iterator[str]:
    yield _link("declaration", entry.place.file, f"#L{entry.place.line}")
    for place in entry.calls:
        yield _link(f"`{str(place).removeprefix('repro/')}`", place.file, f"#L{place.line}")
    if ablation.has_file(entry.name, ROOT / ablation.FOLDER):
        yield _link("study", f"{ablation.FOLDER.as_posix()}/{entry.name}.toml", "")
    elif entry.kind == "detail":
        yield ablation.IMPLIED
    report = GALLERY / entry.name / "index.html"
    if (ROOT / report).exists():
        yield _link("report", report.as_posix(), "")


def _link(title: str, file: str, anchor: str) -> str:
    return f"[{title}](../{file}{anchor})"


def _link_to(name: str) -> str:
    return f"[`{name}`](#{slug(name)})"


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', PIPE) for cell in line)} |\n" for line in lines)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def prose(text: str) -> str:
    """Text with Markdown's punctuation escaped, except in code spans."""
    parts = text.split("`")
    return "`".join(part if i % 2 else re.sub(r"([*<&\[\]~$\\])", r"\\\1", part) for i, part in enumerate(parts))
