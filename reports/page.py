"""The page of a study: one self-contained HTML file, its figures as files beside it, and the verdict as JSON."""

import math
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten

import pandas as pd

from reports import checks, figures, markup, style
from reports.markup import count, known, number, parsed, picture, signed, span
from reports.read import Study, read_study, tracking_uri
from reports.statistics import CONFIDENCE, MOST_SEEDS, POWER, Findings, analyse

POSTS = 40  # the first of the test set, so nobody chose them
OPENING = 100  # characters of a post that its line shows
STAGES = ("data", "base", "sft", "rm", "baseline", "ppo", "evaluate")
AGREEMENT = (
    "sft_test/judge_agreement",
    "test/judge_agreement",
    "sft_test/sampled_judge_agreement",
    "test/sampled_judge_agreement",
    "dpo/validation_accuracy",
)
UNIT_OF_JUDGE = {"gold score": "the embedded corpus's gold score", "reward model": "the reward model"}


def report(detail: str, scale: str, out_root: Path) -> Path:
    """Reads a study from the store and writes its page under `out_root`; the path of `index.html`."""
    study = read_study(detail, scale, tracking_uri())
    return build(study, Path(out_root) / markup.folder(detail, scale))


def build(study: Study, out: Path) -> Path:
    """Writes `index.html`, `figures/` and `verdict.json` of a study into the folder `out`; the path of `index.html`."""
    findings, page = analyse(study), out / "index.html"
    charts = figures.save_all((*figures.CHARTS, checks.BEFORE_PPO, *checks.CHARTS), study, findings, out / "figures")
    page.write_text(render(study, findings, charts, out / "figures"), encoding="utf-8")
    markup.write_json(verdict_record(study, findings, page), out / "verdict.json")
    return page


def headline(study: Study) -> str:
    """The verdict in plain words, one sentence per arm, each on its line."""
    return "\n".join(sentence(row, study) for row in analyse(study).verdicts.itertuples())


# The verdict


def verdict_record(study: Study, findings: Findings, page: Path) -> dict:
    """The verdict for machines; numbers that do not exist are null."""
    arms = {
        row.arm: {
            "n": int(row.n),
            "mean_difference": known(row.mean),
            "ci95": [known(row.low), known(row.high)],
            "verdict": row.verdict,
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
        "smallest_effect": study.smallest_effect,
        "identical": findings.verdicts.loc[findings.verdicts["identical"], "arm"].tolist(),
    }


def sentence(row, study: Study) -> str:
    """An arm's verdict in words, with its difference, interval, number of seeds and smallest effect."""
    facts = (
        f"{style.name(study.primary)} {signed(row.mean)} (95 % interval {span(row.low, row.high)}, "
        f"{count(row.n, 'paired seed')}; smallest effect of interest {number(study.smallest_effect)})"
    )
    if row.identical:
        return (
            f"{row.arm} is identical to {study.reference}: every final value agrees in {count(row.n, 'paired seed')}. "
            "Either the detail cannot act at this scale, or nothing that it acts on happened."
        )
    openings = {
        "better": f"{row.arm} is better than {study.reference}: {facts}.",
        "worse": f"{row.arm} is worse than {study.reference}: {facts}.",
        "no difference": f"{row.arm} makes no difference that matters beside {study.reference}: {facts}.",
    }
    undecided = f"Undecided whether {row.arm} differs from {study.reference}: "
    if row.n < 2:
        return undecided + f"{count(row.n, 'paired seed')}, and an interval needs two."
    return openings.get(row.verdict, undecided + f"{facts}. " + what_would_decide(row, study))


def what_would_decide(row, study: Study) -> str:
    """How many seeds an undecided arm needs, from the spread of its paired differences."""
    effect, power = number(study.smallest_effect), f"{100 * POWER:.0f} %"
    if math.isnan(row.seeds_needed):
        return "How many seeds would decide cannot be said without a smallest effect and a spread above zero."
    if math.isinf(row.seeds_needed):
        return f"At this spread not even {MOST_SEEDS} seeds would show an effect of {effect}."
    if row.seeds_needed <= row.n:
        return f"These seeds would have shown an effect of {effect} in {power} of studies: it is likely smaller."
    return f"At this spread about {row.seeds_needed:.0f} seeds would show an effect of {effect} with {power} power."


# The page


def render(study: Study, findings: Findings, charts: list[figures.Chart], folder: Path) -> str:
    """The HTML of a page; everything that came from a run is escaped."""
    return markup.render(
        "ablation.html.j2",
        study=study,
        confidence=CONFIDENCE,
        power=POWER,
        judge=UNIT_OF_JUDGE.get(study.tags["judge"], study.tags["judge"]),
        colours=style.colours(study.arms),
        verdicts=[
            (row.arm, "identical" if row.identical else row.verdict, sentence(row, study))
            for row in findings.verdicts.itertuples()
        ],
        warnings=warnings(study, findings),
        tally=findings.tally.to_dict("records"),
        predictions=findings.predictions.to_dict("records"),
        differences=difference_rows(study, findings),
        seeds=seed_table(study),
        charts=[picture(c.name, c.title, c.caption, folder) for c in charts if c not in checks.CHARTS],
        checks=[picture(c.name, c.title, c.caption, folder) for c in charts if c in checks.CHARTS],
        agreement=agreement(study),
        reward_models=reward_models(study),
        posts=posts(study),
        stages=shared_stages(study),
        seconds=seconds_table(study),
        ran=what_ran(study),
    )


def warnings(study: Study, findings: Findings) -> list[str]:
    """What a reader must know before the verdict: seeds without a result, changed plans, values that are not finite."""
    found = []
    for row in findings.tally.itertuples():
        lost = {word: seeds for word, seeds in row.outcomes.items() if word != "finished"}
        lost |= {"never run": row.absent} if row.absent else {}
        if lost or len(row.counted) < row.planned:
            told = "; ".join(f"{word}: seed {', '.join(map(str, seeds))}" for word, seeds in sorted(lost.items()))
            found.append(
                f"{row.arm}: {told or 'every seed finished'}. {len(row.counted)} of {row.planned} seeds have "
                f"{study.primary} here and in the reference, and the verdict is about those alone."
            )
    if study.amended:
        found.append(f"The plan was changed between runs ({', '.join(study.amended)}): what is shown is the newest.")
    counts = study.curves[study.curves["metric"].str.startswith("nonfinite/") & (study.curves["value"] > 0)]
    for (arm, metric), rows in counts.groupby(["arm", "metric"]):
        seeds = ", ".join(map(str, sorted(rows["seed"].unique())))
        found.append(f"{arm}: {metric.removeprefix('nonfinite/')} was not finite at times (seed {seeds}).")
    return found


def difference_rows(study: Study, findings: Findings) -> list[dict]:
    """Intervals of the final metrics, the primary first, one row per metric and arm."""
    order = list(dict.fromkeys((study.primary, *figures.tested(study))))
    rows = findings.intervals[findings.intervals["metric"].isin(order)]
    ranked = rows.sort_values(["metric", "arm"], key=lambda c: c.map(order.index) if c.name == "metric" else c)
    return ranked.to_dict("records")


def seed_table(study: Study) -> dict:
    """One row per arm and seed with its outcome and, per tested metric, (before PPO, after PPO)."""
    value = study.finals.set_index(["arm", "seed", "metric"])["value"].to_dict()
    metrics = [m for m in figures.tested(study) if m in figures.FINALS]
    rows = [
        {
            "arm": run.arm,
            "seed": run.seed,
            "outcome": run.outcome,
            "cells": [
                (value.get((run.arm, run.seed, f"sft_{m}"), math.nan), value.get((run.arm, run.seed, m), math.nan))
                for m in metrics
            ],
        }
        for run in study.runs.itertuples()
    ]
    return {"metrics": metrics, "rows": rows}


def reward_models(study: Study) -> dict:
    """One column per distinct reward model, headed by who used it, and a row per number of it; groups are figures."""
    own = study.finals["metric"].str.startswith("rm/") & ~study.finals["metric"].str.startswith(checks.FAMILIES)
    wide = study.finals[own].pivot(index=["arm", "seed"], columns="metric", values="value")
    columns = {}
    for members in _groups(study.runs, "stage.rm"):
        known = wide[wide.index.isin(members)].dropna(how="all")
        if not known.empty:
            columns[_described(members, study)] = known.iloc[0]
    listed = [m for m in style.LABELS if m in wide] + [m for m in wide if m not in style.LABELS]
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


def shared_stages(study: Study) -> list[dict]:
    """Per stage: how many results there are, and who shares them."""
    recorded = _in_order(name.removeprefix("stage.") for name in study.runs if name.startswith("stage."))
    groups = {stage: _groups(study.runs, f"stage.{stage}") for stage in recorded}
    return [
        {"stage": stage, "results": len(found), "sharing": _sharing(found, study)}
        for stage, found in groups.items()
        if found
    ]


def seconds_table(study: Study) -> dict:
    """Seconds that each run's stages took when they were computed, by it or by a run that shares them."""
    taken = [parsed(text) for text in study.runs["stage_seconds"]]
    stages = _in_order(stage for told in taken for stage in told)
    rows = [
        {
            "arm": run.arm,
            "seed": run.seed,
            "started": run.started,
            "cells": [t.get(stage, math.nan) for stage in stages],
            "total": sum(t.values()),
        }
        for run, t in zip(study.runs.itertuples(), taken, strict=True)
    ]
    return {"stages": stages, "rows": rows}


def what_ran(study: Study) -> dict[str, list[str]]:
    """Each kind of provenance with its distinct values over the runs: one value where everything agreed."""
    versions = [", ".join(f"{k} {v}" for k, v in sorted(parsed(t).items())) or t for t in study.runs["versions"]]
    told = study.runs.assign(versions=versions)
    return {kind: list(dict.fromkeys(told[kind])) for kind in ("commit", "machine", "versions", "command")}


def posts(study: Study) -> list[dict]:
    """The first test posts, each with its reference summary, and per seed what the SFT policy and each arm wrote."""
    if not study.samples:
        return []
    first = next(iter(study.samples.values())).head(POSTS)
    return [
        {
            "id": post.post_id,
            "query": post.query,
            "opening": shorten(post.query, OPENING, placeholder=" ..."),
            "reference": post.reference,
            "facts": _facts(gold=getattr(post, "reference_gold", math.nan)),
            "summaries": [said for seed in study.seeds for said in _summaries(place, post.post_id, seed, study)],
        }
        for place, post in enumerate(first.itertuples())
    ]


def _summaries(place: int, post_id: str, seed: int, study: Study) -> list[dict]:
    """What was written under the post at a place of the test set by one seed: its SFT policies, then its arms."""
    tables = {arm: study.samples[arm, seed] for arm in study.arms if (arm, seed) in study.samples}
    rows = {
        arm: table.iloc[place]
        for arm, table in tables.items()
        if place < len(table) and table["post_id"].iloc[place] == post_id
    }
    before: dict[tuple, list[str]] = {}
    for arm, row in rows.items():
        facts = _facts(score=row["sft_score"], gold=row.get("sft_gold", math.nan))
        before.setdefault((row["sft_summary"], facts), []).append(arm)
    sft = [
        {
            "seed": seed,
            "who": "SFT" if len(before) == 1 else f"SFT of {', '.join(arms)}",
            "arm": "",
            "text": text,
            "ended": True,
            "facts": facts,
        }
        for (text, facts), arms in before.items()
    ]
    return sft + [
        {
            "seed": seed,
            "who": arm,
            "arm": arm,
            "text": row["summary"],
            "ended": bool(row["ended"]),
            "facts": _facts(score=row["score"], gold=row.get("gold", math.nan), tokens=row["length"]),
        }
        for arm, row in rows.items()
    ]


def _facts(**values: float) -> str:
    """The numbers of one summary that exist, in one line."""
    return " \N{MIDDLE DOT} ".join(
        f"{key} {value if key == 'tokens' else number(value)}" for key, value in values.items() if not pd.isna(value)
    )


def _in_order(stages: Iterable[str]) -> list[str]:
    """Each stage once: those of today's pipeline in its order, then what else an older or newer one recorded."""
    recorded = dict.fromkeys(stages)
    return [stage for stage in STAGES if stage in recorded] + [stage for stage in recorded if stage not in STAGES]


def _groups(runs: pd.DataFrame, stage: str) -> list[list[tuple[str, int]]]:
    """The (arm, seed) of the runs that share each key of a stage."""
    known = runs.dropna(subset=stage) if stage in runs else runs.head(0)
    return [list(zip(group["arm"], group["seed"], strict=True)) for _, group in known.groupby(stage, sort=False)]


def _sharing(groups: list[list[tuple[str, int]]], study: Study) -> str:
    """Who shares the results of a stage, said as shortly as it can be said."""
    if len(groups) > 1 and all(len(members) == 1 for members in groups):
        return "each run its own"
    if len(groups) == len(study.seeds) > 1 and all(len({seed for _, seed in members}) == 1 for members in groups):
        return "the arms of a seed share one"
    return "; ".join(_described(members, study) for members in groups)


def _described(members: list[tuple[str, int]], study: Study) -> str:
    """Who shares a stage's result, in words."""
    arms = [arm for arm in study.arms if arm in {a for a, _ in members}]
    seeds = sorted({seed for _, seed in members})
    who = "all arms" if len(arms) == len(study.arms) > 1 else ", ".join(arms)
    which = "all seeds" if len(seeds) == len(study.seeds) > 1 else f"seed {', '.join(map(str, seeds))}"
    return f"{who} \N{MIDDLE DOT} {which}"
