"""The page of a study: one self-contained HTML file, its figures as files beside it, and the verdict as JSON."""

import json
import math
import shutil
from pathlib import Path

from repro import record
from repro.reports.figures import (
    before_after,
    chart,
    checks,
    curves,
    differences,
    effect,
    ensemble,
    frontier,
    length,
    rounds,
    style,
)
from repro.reports.figures.differences import FINALS, compared, tested
from repro.reports.figures.numbers import count, difference, number, span
from repro.reports.pages import ceiling, data, entries, facts, inspect, judge, markup, opening, provenance, samples
from repro.reports.pages.markup import known
from repro.reports.pages.provenance import described, groups
from repro.reports.reading import terms
from repro.reports.reading.artifacts import gone, read_config
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings, analyse
from repro.reports.statistics.resampling import ENOUGH_SEEDS
from repro.reports.statistics.sample_size import MOST_SEEDS
from repro.reports.statistics.size import nothing_to_see
from repro.reports.statistics.student import CONFIDENCE
from repro.reports.statistics.words import UNDECIDED

CHARTS = (
    *effect.CHARTS,
    *curves.CHARTS,
    *differences.CHARTS,
    *before_after.CHARTS,
    *ensemble.CHARTS,
    *rounds.CHARTS,
    *frontier.CHARTS,
    *length.CHARTS,
    checks.BEFORE_PPO,
    *checks.CHARTS,
)
OWN_SECTION = {chart.name for chart in (*effect.CHARTS, *frontier.CHARTS, *length.CHARTS, *checks.CHARTS)}
VERDICT, CURVES = "verdict.json", "curves.csv.gz"
AGREEMENT = (
    "sft_test/judge_agreement",
    "test/judge_agreement",
    "sft_test/sampled_judge_agreement",
    "test/sampled_judge_agreement",
    "dpo/validation_accuracy",
)
UNIT_OF_JUDGE = {record.GOLD_SCORE: "the embedded corpus's gold score", record.REWARD_MODEL: "the reward model"}


def build(study: Study, out: Path) -> Path:
    """Writes `index.html`, `figures/`, `episodes/` and `verdict.json` of a study into `out`; the path of `index.html`."""
    study, page = length.controlled(study), Path(out) / "index.html"
    findings = analyse(study)
    for folder in ("figures", "episodes", "formats"):  # files of an earlier page
        shutil.rmtree(page.parent / folder, ignore_errors=True)
    charts = chart.save_all(CHARTS, study, findings, page.parent / "figures")
    chart.write_csv(study.curves, page.parent / "figures" / CURVES)
    links, data_page = inspect.build_all(study, page.parent), data.build(study, page.parent)
    page.write_text(render(study, findings, charts, page.parent / "figures", links, data_page), encoding="utf-8")
    markup.write_json(verdict_record(study, findings, page), page.parent / VERDICT)
    return page


def headline(page: Path) -> str:
    """The verdict of a page in words, one line per arm, and one on the ceiling where it has one."""
    verdict = json.loads((page.parent / VERDICT).read_text(encoding="utf-8"))
    above = [verdict[ceiling.FILE]] if ceiling.FILE in verdict else []
    return "\n".join(each["sentence"] for each in (*verdict["arms"].values(), *above))


# The verdict


def verdict_record(study: Study, findings: Findings, page: Path) -> dict:
    """The verdict as JSON; numbers that do not exist are null."""
    arms = {
        row.arm: {
            "n": int(row.n),
            "mean_difference": known(row.mean),
            "ci95": [known(row.low), known(row.high)],
            "verdict": row.verdict,
            "sentence": sentence(row, study),
            **({"does": study.does[row.arm]} if row.arm in study.does else {}),
        }
        for row in findings.verdicts.itertuples()
    }
    return {
        "detail": study.detail,
        "scale": study.scale,
        "primary": study.primary,
        "arms": arms,
        "seeds": list(study.seeds),
        "report": page.as_posix(),
        "reference": study.reference,
        **({"reference_does": study.does[study.reference]} if study.reference in study.does else {}),
        "smallest_effect": known(study.smallest_effect),
        "identical": findings.verdicts.loc[findings.verdicts["identical"], "arm"].tolist(),
        "looks": list(study.looks),
        "index": entries.facts(study),
        **ceiling.as_json(study, findings),
    }


def sentence(row, study: Study) -> str:
    """An arm's verdict in words, with its difference, interval, number of seeds and smallest effect."""
    facts = (
        f"{terms.said(study.primary)} {difference(row.mean, row.low, row.high)} ({interval_of(study)} "
        f"{span(row.low, row.high)}, {count(row.n, 'paired seed')}; "
        f"smallest effect of interest {number(study.smallest_effect)})"
    )
    evidence = "" if row.identical or row.n < 2 else f": {facts}"
    return f"{conclusion(row, study)}{evidence}. {remark(row, study)}".strip()


def interval_of(study: Study) -> str:
    """The name of the verdict's interval; over all looks it is wider than with a fixed number of seeds."""
    return "95 % interval over all looks" if study.looks else "95 % interval"


def conclusion(row, study: Study) -> str:
    """An arm's verdict in a few words, without a number."""
    if row.verdict == UNDECIDED:
        return f"Undecided whether {row.arm} differs from {study.reference}"
    return f"{row.arm} {opening.SAID[row.verdict][0]} {study.reference}"


def remark(row, study: Study) -> str:
    """A remark on a verdict: why there is none, or what would decide it."""
    if row.identical:
        return (
            f"Every final value is equal in {count(row.n, 'paired seed')}: either the detail has no effect at this scale, or "
            "the case that it is about did not occur."
        )
    if row.n < 2 and not study.looks:
        return f"{count(row.n, 'paired seed')}, and an interval needs two.".capitalize()
    small = nothing_to_see(study) if row.verdict == UNDECIDED else ""
    if small:
        return small
    if row.reason:
        return f"{row.reason}.".capitalize()
    return what_would_decide(row, study) if row.verdict == UNDECIDED else ""


def what_would_decide(row, study: Study) -> str:
    """How many more seeds an undecided arm needs, from the spread of its paired differences."""
    if math.isnan(row.more_seeds):
        return "The number of seeds that would decide is unknown: no smallest effect of interest was recorded."
    if math.isinf(row.more_seeds):
        return f"At this spread not even {MOST_SEEDS} seeds would decide about an effect of {number(study.smallest_effect)}."
    return f"At this spread about {count(int(row.more_seeds), 'more seed')} would decide it."


# The page


def comparisons(study: Study, findings: Findings) -> int:
    """How many intervals the differences have, over all metrics and variants."""
    return int(findings.intervals.loc[findings.intervals["metric"].isin(compared(study)), "low"].count())


def render(
    study: Study,
    findings: Findings,
    charts: list[chart.Drawn],
    folder: Path,
    links: dict[tuple[str, int], str],
    data_page: str = "",
) -> str:
    """The HTML of a page, all that came from a run escaped. `links` lead to episodes, `data_page` to the page on the data."""
    found = {each.chart.name: each for each in charts}
    drawn = {name: markup.panels(each, folder) for name, each in found.items()}
    posts, judgement, rows = samples.posts(study), judge.section(study), difference_rows(study, findings)
    missing = [] if posts else gone(study)
    counts = {"posts": len(posts), "judged": len(judgement["runs"]), "differences": len(rows)}
    return markup.render(
        "ablation.html.j2",
        study=study,
        confidence=CONFIDENCE,
        interval_of=interval_of(study),
        looks=findings.looks.to_dict("records"),
        progress=opening.progress(study, findings),
        enough_seeds=ENOUGH_SEEDS,
        curves=CURVES,
        judge=UNIT_OF_JUDGE.get(study.tags[record.JUDGE], study.tags[record.JUDGE]),
        colours=style.colours(study.arms),
        takeaway=opening.takeaway(study, findings),
        inside=opening.sections(study, findings, found, counts, missing),
        verdicts=cards(study, findings),
        ceiling=ceiling.section(study, findings),
        outcomes=outcomes(findings),
        warnings=warnings(study, findings),
        tally=findings.tally.to_dict("records"),
        predictions=findings.predictions.to_dict("records"),
        prediction_results=findings.predictions["result"].value_counts().to_dict() if len(findings.predictions) else {},
        differences=rows,
        comparisons=comparisons(study, findings),
        robust=findings.robust.to_dict("records"),
        levels=findings.levels.to_dict("records"),
        checkpoints=checkpoints(study, findings),
        seeds=seed_table(study),
        runs=run_rows(study, links),
        episodes={seed: link.partition("#")[0] for (_, seed), link in links.items()},
        equal_kl=frontier.at_equal_kl(study).to_dict("records"),
        length_unit=length.unit_of(study),
        agreement=agreement(study),
        judgement=judgement,
        reward_models=reward_models(study),
        posts=posts,
        stages=provenance.shared_stages(study),
        data_page=data_page,
        missing=missing,
        seconds=provenance.seconds_table(study),
        costs=provenance.costs(study),
        ran=provenance.what_ran(study.runs),
        sources=provenance.sources(study.runs),
        outdated=provenance.outdated(study),
        **_facts(study),
        **_by_section(drawn),
    )


def _facts(study: Study) -> dict[str, object]:
    """What is said of task, model, budget and recipe: in one sentence, in a table, and in full."""
    config = read_config(study)
    return {"about": facts.line(study, config), "facts": facts.rows(study, config), "every": facts.every(study)}


def _by_section(drawn: dict[str, dict]) -> dict[str, object]:
    """The figures that were drawn, by the section that shows them, and whether the ceiling is in one of them."""
    of = {"effect": effect, "frontier": frontier, "lengths": length, "checks": checks}
    return {
        section: [drawn[each.name] for each in module.CHARTS if each.name in drawn] for section, module in of.items()
    } | {"charts": [drawn[name] for name in drawn if name not in OWN_SECTION], "in_figure": "before_after" in drawn}


def cards(study: Study, findings: Findings) -> list[dict]:
    """One card per arm: its verdict, in a word and in words; the interval is in the figure beside the cards."""
    return [
        {
            "arm": row.arm,
            "word": row.verdict,
            "conclusion": conclusion(row, study),
            "remark": remark(row, study),
            "row": row,
        }
        for row in findings.verdicts.itertuples()
    ]


def outcomes(findings: Findings) -> dict[str, int]:
    """Outcome -> number of runs over all arms; missing and run-away runs are counted too, the latter beside their outcome."""
    counts: dict[str, int] = {}
    for row in findings.tally.itertuples():
        ends = row.outcomes | {"missing": row.absent, "ran away": row.ran_away}
        for name, seeds in ends.items():
            counts[name] = counts.get(name, 0) + len(seeds)
    return {name: n for name, n in counts.items() if n}


def warnings(study: Study, findings: Findings) -> list[str]:
    """Warnings beside the verdict: seeds without a result, changed plans, values that are not finite."""
    found = [text for row in findings.tally.itertuples() for text in (_lost(row, study), _ran_away(row)) if text]
    if study.amended:
        found.append(f"The plan was changed between runs ({', '.join(study.amended)}): this page shows the newest.")
    found += study.troubles
    counts = study.curves[study.curves["metric"].str.startswith("nonfinite/") & (study.curves["value"] > 0)]
    for (arm, metric), rows in counts.groupby(["arm", "metric"]):
        seeds = ", ".join(map(str, sorted(rows["seed"].unique())))
        found.append(f"{arm}: {metric.removeprefix('nonfinite/')} was not finite at times (seed {seeds}).")
    return found


def _lost(row, study: Study) -> str:
    """A sentence on an arm's seeds that did not finish, and on those in the verdict; empty where all finished."""
    lost = {name: seeds for name, seeds in row.outcomes.items() if name != record.FINISHED}
    lost |= {"never run": row.absent} if row.absent else {}
    if not lost and len(row.counted) == row.planned:
        return ""
    listed = "; ".join(f"{name}: seed {', '.join(map(str, seeds))}" for name, seeds in sorted(lost.items()))
    return (
        f"{row.arm}: {listed or 'every seed finished'}. {len(row.counted)} of {row.planned} seeds have "
        f"{study.primary} in this arm and in the reference; the verdict uses only those."
    )


def _ran_away(row) -> str:
    """A sentence on an arm's seeds that ended above the study's KL cap; empty where none did."""
    if not row.ran_away:
        return ""
    return (
        f"{row.arm} ran away: seed {', '.join(map(str, row.ran_away))} ended with a KL above {number(row.cap)} nats, "
        f"{len(row.ran_away)} of {row.kl_known} (95 % interval of the share {100 * row.ran_away_low:.0f} % to "
        f"{100 * row.ran_away_high:.0f} %). What was evaluated counts towards the verdict like any other run."
    )


def checkpoints(study: Study, findings: Findings) -> dict:
    """Per seed and arm, over the test posts: the checkpoint less the reference's, and less its SFT policy."""
    columns = [("prompts", arm) for arm in study.arms[1:]] + [("gains", arm) for arm in study.arms]
    intervals = {
        (kind, row.arm, row.seed): row for kind in ("prompts", "gains") for row in getattr(findings, kind).itertuples()
    }
    shown = [(kind, arm) for kind, arm in columns if any((kind, arm, seed) in intervals for seed in study.seeds)]
    rows = [{"seed": seed, "cells": [intervals.get((*column, seed)) for column in shown]} for seed in study.seeds]
    return {"columns": shown, "rows": rows if shown else []}


def difference_rows(study: Study, findings: Findings) -> list[dict]:
    """One row per final metric, the primary first: each arm's interval, nothing where it has no pair."""
    intervals = {(row.metric, row.arm): row for row in findings.intervals.itertuples()}
    rows = [
        {"metric": metric, "cells": [intervals.get((metric, arm)) for arm in study.arms[1:]]}
        for metric in compared(study)
    ]
    return [row for row in rows if any(row["cells"])]


def seed_table(study: Study) -> dict:
    """One row per arm and seed with its outcome and, per tested metric, (before PPO, after PPO)."""
    value = study.finals.set_index(["arm", "seed", "metric"])["value"].to_dict()
    metrics = [m for m in tested(study) if m in FINALS]
    # The SFT policy is at no distance from itself but for rounding.
    before = {metric: f"sft_{metric}" for metric in metrics if metric != "test/kl"}
    rows = [
        {
            "arm": run.arm,
            "seed": run.seed,
            "outcome": run.outcome,
            "cells": [
                tuple(value.get((run.arm, run.seed, name), math.nan) for name in (before.get(metric), metric))
                for metric in metrics
            ],
        }
        for run in study.runs.itertuples()
    ]
    return {"metrics": metrics, "rows": rows}


def run_rows(study: Study, links: dict[tuple[str, int], str]) -> list[dict]:
    """Per arm and seed its run, and where its episodes are; a link to episodes ends with the number of the one it opens."""
    rows = study.runs[["arm", "seed", "run_id"]].to_dict("records")
    found = [links.get((row["arm"], row["seed"]), "") for row in rows]
    return [row | {"link": link, "episode": link.rpartition("-")[2]} for row, link in zip(rows, found, strict=True)]


def reward_models(study: Study) -> dict:
    """One column per distinct reward model, headed by the runs that use it, and one row per metric."""
    own = study.finals["metric"].str.startswith("rm/") & ~study.finals["metric"].str.startswith(checks.FAMILIES)
    wide = study.finals[own].pivot(index=["arm", "seed"], columns="metric", values="value")
    columns = {}
    for members in groups(study.runs, record.stage_tag("rm")):
        known = wide[wide.index.isin(members)].dropna(how="all")
        if not known.empty:
            columns[described(members, study)] = known.iloc[0]
    listed = [m for m in terms.LABELS if m in wide] + [m for m in wide if m not in terms.LABELS]
    rows = [{"metric": metric, "cells": [column[metric] for column in columns.values()]} for metric in listed]
    return {"users": list(columns), "rows": rows}


def agreement(study: Study) -> dict:
    """Per run: how often judge and reward model order policy and reference alike, and DPO's implicit reward's accuracy."""
    recorded = set(study.finals["metric"])
    metrics = [metric for metric in AGREEMENT if metric in recorded]
    value = study.finals.set_index(["arm", "seed", "metric"])["value"].to_dict()
    rows = [
        {"arm": run.arm, "seed": run.seed, "cells": [value.get((run.arm, run.seed, m), math.nan) for m in metrics]}
        for run in study.runs.itertuples()
    ]
    return {"metrics": metrics, "rows": rows if metrics else []}
