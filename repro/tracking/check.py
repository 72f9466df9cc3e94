"""Whether the MLflow store and the cache are whole: it says what is damaged, doubled, half published or left over."""

import fcntl
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache as cache_of_calls
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, Metric, Run

from repro import record
from repro.engine import artefacts
from repro.errors import few
from repro.stages import stage
from repro.stages.checkpoint import complete_checkpoints
from repro.tracking import points, transfer
from repro.tracking.address import shown, store_uri
from repro.tracking.opening import Unusable, explained, parsed, require_open
from repro.tracking.runs import label
from repro.tracking.sqlite_file import damage, is_sqlite, is_unfinished, require_schema
from repro.tracking.store import runs_of, studies, usable_store

FRESH = "to have each once, import this store into a new one (MLFLOW_TRACKING_URI=sqlite:///new.db python -m repro import ...)"
AGAIN = "its study's command, repeated, publishes the rest"


@dataclass(frozen=True)
class Found:
    """The store or the cache in words, and its faults, a sentence each."""

    what: str
    troubles: list[str]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.what}: {'not whole' if self.troubles else 'whole'}", *self.troubles])


def check_store(cache: Path) -> Found:
    """The store in use, its runs beside the artefacts that they are copies of. Unusable where it cannot be opened."""
    name = f"store {shown(store_uri())}"
    if is_sqlite(store_uri()):
        with explained(store_uri()):
            file = Path(parsed(store_uri()).database or "").resolve()
        if file.is_file() and (troubles := [*_of_file(file)]):
            return Found(name, troubles)
    require_open(store_uri())
    if is_sqlite(store_uri()) and not file.is_file():
        return Found(f"{name}, which is not there yet", [])
    with usable_store():
        store = MlflowClient(tracking_uri=store_uri())
        found = {each.name: runs_of(store, each.experiment_id) for each in studies(store)}
        troubles = [each for study, recorded in found.items() for each in _of_study(store, study, recorded, cache)]
    count = sum(record.ARM in run.data.tags for recorded in found.values() for run in recorded)
    return Found(f"{name} (studies: {len(found)}, runs: {count})", troubles)


def check_cache(cache: Path) -> Found:
    """The artefacts in the cache, and what was left there by processes that were killed."""
    if not cache.is_dir():
        return Found(f"cache {cache}, which is not there yet", [])
    made = sorted(file.parent for file in cache.glob(f"*/{stage.DONE}") if not _is_left(file.parent))
    troubles = [trouble for folder in made for trouble in _of_artefact(folder)]
    return Found(f"cache {cache} (artefacts: {len(made)})", [*troubles, *_left_over(cache)])


# ------------------------------------------------------------------------------------------------- the store


def _of_file(file: Path) -> Iterator[str]:
    """Of a SQLite file: whether it is whole and MLflow's; and what was left beside it."""
    with explained(store_uri()):
        if is_unfinished(file):
            yield f"{file}-journal has what a killed process had not finished; the next study rolls it back"
            return
        if found := damage(file, mode="ro"):
            yield f"{file} is damaged: {found}; put a copy in its place, or let the studies fill a new one from the cache"
            return
        try:
            require_schema(file, mode="ro")
        except Unusable as error:  # it can be read, and is another version's or somebody else's
            yield str(error)
    for left in sorted(file.parent.glob(f"{file.name}.*.partial*")):
        yield f"{left} is left over from a process that was killed; the next study in a new store removes it"


def _of_study(store: MlflowClient, study: str, recorded: list[Run], cache: Path) -> Iterator[str]:
    """Of each run of a study: whether it is published to its end, once, and with the points of its journals."""
    named = Counter(run.data.tags[record.RECORD] for run in recorded if record.RECORD in run.data.tags)
    for run in recorded:
        if record.ARM not in run.data.tags:
            continue
        for trouble in (*_of_run(store, run), *_of_points(store, run, cache)):
            yield f"run {label(run)} of {study} {trouble}"
        if named[run.data.tags.get(record.RECORD, "")] > 1:
            yield f"run {label(run)} of {study} is recorded twice ({run.info.run_id}); delete the one that began earlier"


def _of_run(store: MlflowClient, run: Run) -> Iterator[str]:
    """What a run lacks that a published one has."""
    tags = run.data.tags
    if transfer.IMPORTING in tags:
        yield "is half imported; the same import, repeated, completes it"
    elif tags.get(record.OUTCOME) == record.FAILED:
        return
    elif not record.is_set(tags, record.COMPLETE) or run.info.status != "FINISHED":
        yield f"is half published ({run.info.status.lower()}); {AGAIN}, unless it runs now"
    elif record.SAMPLES not in {file.path for file in store.list_artifacts(run.info.run_id)}:
        yield f"has no {record.SAMPLES}; its files are elsewhere or were removed"
    else:
        for output in run.outputs.model_outputs:
            if store.get_logged_model(output.model_id).status != LoggedModelStatus.READY:
                yield f"has a policy that was not written to its end; {AGAIN}"


def _of_points(store: MlflowClient, run: Run, cache: Path) -> Iterator[str]:
    """How a run's points differ from the journals and results in the cache, as far as the cache has them."""
    expected = _expected(run, cache)
    complete = record.is_set(run.data.tags, record.COMPLETE)
    doubled, lacking, other = [], [], []
    for name, wanted in expected.items():
        history = store.get_metric_history(run.info.run_id, name) if name in run.data.metrics else []
        stored = [(p.step, p.value) for p in sorted(history, key=lambda p: (p.timestamp, p.step))]
        if len(set(step for step, _ in stored)) < len(stored):
            doubled.append(name)
        elif complete and len(stored) < len(wanted):
            lacking.append(name)
        elif stored != wanted[: len(stored)]:
            other.append(name)
    if doubled:
        yield f"has points of {few(doubled)} twice, of an attempt that was killed; reports read the last; {FRESH}"
    if lacking:
        yield f"lacks points of {few(lacking)} that its journal has; delete it, and repeat its study's command"
    if other:
        yield f"has other points of {few(other)} than its journal in the cache, which was made again since"


def _expected(run: Run, cache: Path) -> dict[str, list[tuple[int, float]]]:
    """Metric -> its points (step, value), of the run's stages whose artefacts are in the cache, in order."""
    expected: dict[str, list[tuple[int, float]]] = {}
    for name in record.STAGES:
        for point in _points_of(cache / run.data.tags.get(record.stage_tag(name), "none")):
            expected.setdefault(point.key, []).append((point.step, point.value))
    return expected


@cache_of_calls
def _points_of(folder: Path) -> list[Metric]:
    """The points of an artefact; runs share most of theirs."""
    return [*points.of_lines(stage.read_journal(folder)), *points.of_result(folder)] if artefacts.cached(folder) else []


# ------------------------------------------------------------------------------------------------- the cache


def _of_artefact(folder: Path) -> Iterator[str]:
    """How an artefact's files differ from the list in its `done.json`."""
    remedy = "the next study that needs it makes it again"
    try:
        listed = artefacts.read_done(folder)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        yield f"{folder / stage.DONE} cannot be read; {remedy}"
        return
    present = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    both = sorted(listed.keys() & present)
    changed = [name for name in both if artefacts.file_digest(folder / name) != listed[name]]
    differ = {"missing": sorted(listed.keys() - present), "changed": changed}
    if any(differ.values()):
        words = [f"{len(names)} {what} ({few(names)})" for what, names in differ.items() if names]
        yield f"{folder} is not as it was written: {' and '.join(words)}; {remedy}"


def _is_left(folder: Path) -> bool:
    return folder.suffix in (".partial", ".earlier")


def _left_over(cache: Path) -> Iterator[str]:
    """What processes left that were killed; what a process has in its hands now is not left over."""
    for folder in sorted(folder for folder in cache.iterdir() if _is_left(folder)):
        if _in_hand(folder.with_suffix(".lock")):
            continue
        goes_on = complete_checkpoints(folder / stage.CHECKPOINTS)
        what = "goes on from its checkpoint" if goes_on else "makes it anew"
        yield f"{folder} is left over from a stage that was killed; its study's command, repeated, {what}"
    for file in sorted((cache / "jobs").glob("*.partial")):
        yield f"{file} is left over from a process that was killed; remove it"


def _in_hand(lock: Path) -> bool:
    """Whether a process holds a lock file; it is opened for reading only, and held for no time."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def check(cache: Path) -> list[Found]:
    """The store in use and the cache."""
    _points_of.cache_clear()
    return [check_store(cache), check_cache(cache)]
