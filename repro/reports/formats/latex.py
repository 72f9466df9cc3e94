r"""A study as tables for LaTeX: verdicts and settings, in `\usepackage{booktabs}` and a plain article.

A file has its tables alone, to be `\input`; `example.tex` is an article that does so.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro import record
from repro.reports.figures.numbers import DASH, MINUS, difference, number, signed
from repro.reports.pages import ceiling, commands, page, provenance
from repro.reports.pages.markup import harmless, parsed
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

# What LaTeX reads as a command, and characters that its standard fonts have under another name.
ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_\allowbreak{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # which would be an argument at the beginning of a row, as the star would be
    "]": "{]}",
    "*": "{*}",
    "\0": "-{}",  # a hyphen before another one, which would be a dash
    MINUS: r"$-$",
    DASH: "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "λ": r"$\lambda$",
    "ε": r"$\varepsilon$",
    "σ": r"$\sigma$",
    "μ": r"$\mu$",
    "·": r"\textperiodcentered{}",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "\n": " ",
    "\t": " ",
}
ARTICLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{booktabs}
\begin{document}
\input{verdicts}
\input{settings}
\end{document}
"""


def write(study: Study, findings: Findings, folder: Path) -> list[Path]:
    """Writes `verdicts.tex`, `settings.tex` and `example.tex` into a folder; the files."""
    texts = {"verdicts": verdicts(study, findings), "settings": settings(study), "example": ARTICLE}
    for name, text in texts.items():
        (folder / f"{name}.tex").write_text(text, encoding="utf-8")
    return [folder / f"{name}.tex" for name in texts]


def escaped(text: object) -> str:
    """A text as LaTeX sets it; a character that standard fonts may lack stands as its code, U+1F600."""
    escaped = re.sub("-(?=-)", "\0", str(harmless(str(text))))
    shown = "".join(ESCAPES.get(letter, letter) for letter in escaped)
    return "".join(each if ord(each) < 0x180 else f"U+{ord(each):04X}" for each in shown)


def verdicts(study: Study, findings: Findings) -> str:
    """The table of verdicts on the primary metric, a row for each arm but the reference."""
    above = {row.arm: row for row in findings.ceiling.itertuples()}
    rows = [
        (
            row.arm,
            str(row.n),
            difference(row.mean, row.low, row.high),
            f"{signed(row.low)}, {signed(row.high)}",
            row.verdict,
            *_beside(above, row.arm),
        )
        for row in findings.verdicts.itertuples()
    ]
    caption = (
        f"{study.tags[record.QUESTION]} Difference to {study.reference} in {terms.label(study.primary)} at scale "
        f"{study.scale}, within seeds, with its {page.interval_of(study)}; smallest effect of interest "
        f"{number(study.smallest_effect)}."
    )
    heads: tuple[str, ...] = ("arm", "n", "difference", "interval", "verdict")
    if not above:
        return table(heads, rows, "lrrrl", caption, f"tab:{study.detail}-verdicts")
    heads, caption = (*heads, "less ceiling", "of the way"), f"{caption} {ceiling.sentence(study, findings)}"
    return table(heads, rows, "lrrrlrr", caption, f"tab:{study.detail}-verdicts")


def _beside(above: Mapping[str, Any], arm: str) -> tuple[str, ...]:
    """An arm less the ceiling, and its share of the way there; no cells in a study without a ceiling."""
    if not above:
        return ()
    if arm not in above:
        return DASH, DASH
    row = above[arm]
    return difference(row.mean, row.low, row.high), ceiling.percent(row.share) or DASH


def settings(study: Study) -> str:
    """The table of what was declared and what ran."""
    ran = provenance.what_ran(study.runs)
    rows = [
        ("detail", study.detail),
        ("scale", study.scale),
        *_arms(study),
        ("reference", study.reference),
        *_choices(study),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("looks [seeds]", ", ".join(map(str, study.looks)) or "fixed number of seeds"),
        ("primary metric", terms.label(study.primary)),
        ("better is", "higher" if study.higher_is_better else "lower"),
        ("smallest effect of interest", number(study.smallest_effect)),
        ("judge", study.tags[record.JUDGE]),
        *((kind, "; ".join(ran[kind])) for kind in ("commit", "versions", "machine") if ran[kind]),
        *([("command", "; ".join(map(commands.typed, ran["command"])))] if ran["command"] else []),
    ]
    caption = f"Settings of the study of {study.detail}."
    return table(("setting", "value"), rows, r"lp{.62\linewidth}", caption, f"tab:{study.detail}-settings")


def _arms(study: Study) -> list[tuple[str, str]]:
    """The arms in one row; where they say what they do, in a row each."""
    if not study.does:
        return [("arms", ", ".join(study.arms))]
    told = [f"{arm}: {study.does[arm]}" if arm in study.does else arm for arm in study.arms]
    return list(zip(["arms", *[""] * len(told)], told, strict=False))


def _choices(study: Study) -> list[tuple[str, str]]:
    """The choices that every arm has beside the paper's, apart from the detail itself."""
    recipes = [parsed(text) for text in study.runs[record.RECIPE]] if record.RECIPE in study.runs else []
    shared: Mapping[str, str] = recipes[0] if recipes else {}
    common = [(k, v) for k, v in shared.items() if k != study.detail and all(r.get(k) == v for r in recipes)]
    return [("in all arms", ", ".join(f"{name}={label}" for name, label in common))] if common else []


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], columns: str, caption: str, label: str) -> str:
    """A floating table in booktabs' rules; every cell and the caption are escaped."""
    key = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in label.removeprefix("tab:"))
    lines = [" & ".join(map(escaped, row)) + r" \\" for row in (heads, *rows)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{escaped(caption)}}}",
            rf"\label{{tab:{key}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
