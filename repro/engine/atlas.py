"""The atlas: the studies of many details as one set of jobs, so that shared stages run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from repro.detail import Recipe
from repro.details import DETAILS
from repro.engine import artefacts, cost, pipeline
from repro.engine.dag import Dag, dag_for, jobs_of
from repro.engine.job import Job
from repro.study import ablation
from repro.study.ablation import Ablation


def studies(
    names: Sequence[str], scale: str, seeds: Sequence[str], changes: Mapping[str, str], cache: Path
) -> list[Ablation]:
    """The studies of the named details, or of all; those with the least remaining time come first."""
    found = [ablation.in_atlas(name, scale, seeds, changes) for name in dict.fromkeys(names or DETAILS)]
    return sorted(found, key=lambda study: _remaining(study, cache))


def _remaining(study: Ablation, cache: Path) -> float:
    """Seconds that the study's own remaining stages take; the reference arm's stages are shared by all studies."""
    shared = reference_jobs(study)
    own = {key: job for key, job in jobs_of(study).items() if key not in shared}
    return cost.seconds([job for key, job in own.items() if not artefacts.cached(cache / key)], cache)


def reference_jobs(study: Ablation) -> dict[str, Job]:
    """The jobs of the reference arm, which are the same in every study."""
    return jobs_of(study, arms=[study.detail.reference])


def recipes(found: Sequence[Ablation]) -> list[Recipe]:
    """One recipe for each different data artefact."""
    by_key = {
        pipeline.keys(recipe, study.scale, 0)["data"]: recipe for study in found for recipe in study.arms.values()
    }
    return list(by_key.values())


def dag_of(found: Sequence[Ablation], cache: Path, fresh: bool = False) -> Dag:
    """The DAG with the jobs of all studies, the reference arm's first; `fresh` as `dag_for` has it."""
    jobs = reference_jobs(found[0])
    for study in found:
        jobs |= {key: job for key, job in jobs_of(study).items() if key not in jobs}
    return dag_for(jobs, cache, fresh)
