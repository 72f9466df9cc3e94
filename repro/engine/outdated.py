"""Which cached artefacts were made by other code than the one that is here, and what of it has changed."""

from collections.abc import Mapping
from pathlib import Path

from repro.engine import artefacts, fingerprint, pipeline
from repro.engine.job import Job

UNRECORDED = "unrecorded"  # the reason where an earlier version made the artefact, which did not note its code


def outdated(jobs: Mapping[str, Job], cache: Path) -> dict[str, tuple[str, ...]]:
    """Key -> what has changed since the artefact was made: files, chosen variants, and stages that it was made from.

    `jobs` are in the order of the pipeline, and their artefacts are in the cache.
    """
    found: dict[str, tuple[str, ...]] = {}
    for key, job in jobs.items():
        code, inputs = artefacts.made_with(cache / key)
        if not code:
            found[key] = (UNRECORDED,)
            continue
        stage = pipeline.BY_NAME[job.stage]
        changes = fingerprint.changed(code, fingerprint.code_of(stage, job.recipe))
        # An input that is gone says nothing; one that was made again since, or ought to be, is another.
        sources = {name: cache / key for name, key in job.inputs.items() if (cache / key).exists()}
        changes += [
            f"its {name}"
            for name, source in sources.items()
            if source.name in found or artefacts.lineage(source) != inputs.get(name)
        ]
        if changes:
            found[key] = tuple(changes)
    return found
