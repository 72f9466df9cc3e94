"""Artefacts: a stage's key, its artefact's folder, and run-or-reuse.

A key is the stage's name and a hash of everything that the stage may read. An artefact is a folder of that name, whose
`done.json` is written last, by rename: a killed stage is never a hit. It records the fingerprint of the code that made it:
the key decides whether an artefact is used, and where the code has changed since, whoever uses it is told.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from repro import details as d
from repro.detail import Pick, Recipe
from repro.details import DETAILS, RANK_DEPENDENT, keyed_label
from repro.engine import fingerprint
from repro.models import hub, ranks
from repro.stages.checkpoint import complete_checkpoints
from repro.stages.stage import CHECKPOINTS, DONE, JOURNAL, RESULT, Budget, Stage, StageContext, digest
from repro.study import annotator
from repro.study.scale import SOURCES, Scale

# Fields that came later: at their default a key does without them, so that what was made before is still found.
DEFAULTS = {each.name: each.default for each in fields(Scale)}
LATER = ("frozen_weights", "sampler", "sft_from", "rm_from", "policy_from", "annotator", "judge_max_tokens")
LARGE = 256 * 2**20  # bytes of a file


def key(stage: Stage, recipe: Recipe, scale: Scale, seed: int, upstream: Mapping[str, str]) -> str:
    """`name-` and a hash of all that the stage may read: a detail at its reference is not part of it.

    A variant's constants are part of it where its label does not say them: another constant is another key.
    """
    choices = {
        each.name: recipe.label(each)
        for each in DETAILS.values()
        if stage.name in each.stages and recipe.label(each) != each.reference
    }
    chosen = {name: DETAILS[name].variants[label].value for name, label in choices.items()}
    constants = {
        name: fingerprint.constants(value)
        for name, value in chosen.items()
        if not fingerprint.pinned(choices[name], value)
    }
    # How many ranks there are changes nothing but what these choices do.
    split = scale.processes > 1 and bool(RANK_DEPENDENT & choices.items())
    read: dict[str, Any] = {"processes": scale.processes} if split else {}
    read |= {"constants": constants} if constants else {}
    read |= {
        "stage": stage.name,
        "version": stage.version,
        "choices": {name: keyed_label(DETAILS[name], label) for name, label in choices.items()},
        "seed": seed if stage.seeded else 0,
        "scale": _budget(stage, scale, seed) | _mixed(stage, recipe, scale),
        "upstream": stage.inputs(upstream),
    }
    return f"{stage.name}-{digest(read)[:16]}"


def _budget(stage: Stage, scale: Scale, seed: int) -> dict[str, Any]:
    values = {name: getattr(scale, name) for name in stage.fields}
    return {
        name: _content(name, value, seed)
        for name, value in values.items()
        if not (name in LATER and value == DEFAULTS[name])
    }


def _mixed(stage: Stage, recipe: Recipe, scale: Scale) -> dict[str, str]:
    """The precision that the stage computes in on this device, if it computes: machines may share a cache."""
    mixed = d.PRECISION.variants[recipe.label(d.PRECISION)].value(scale.precision)
    return {"precision": mixed} if stage.name in d.PRECISION.stages else {}


def _content(name: str, value: Any, seed: int) -> Any:
    """What a field of Scale stands for: of a path what lies there, so that a moved file is still a hit.

    A reference to the hub stands for itself: a key needs neither the hub nor what comes from there.
    """
    if name not in SOURCES or not value:
        return value
    source = str(value).replace("{seed}", str(seed))
    is_word = source == "released" or (name == "annotator" and annotator.is_judge(source))
    is_word |= name == "model" and not Path(source).exists()
    return source if is_word or hub.is_reference(source) else tree_digest(Path(source))


@cache
def tree_digest(path: Path) -> str:
    """A digest of a file, or of all files in a folder and their paths; remembered until `tree_digest.cache_clear()`."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return digest([[str(file.relative_to(path)), file_digest(file)] for file in files])


def file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached(folder: Path) -> bool:
    """Whether the artefact is finished and its files are as they were written."""
    if not (folder / DONE).exists():
        return False
    try:
        done = read_done(folder)
        return all(_as_written(folder, name, done) for name in done["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_result(folder: Path) -> dict[str, Any]:
    """The outcome and the final metrics of a finished stage, as `StageContext.finish` wrote them."""
    return json.loads((folder / RESULT).read_text())


def read_done(folder: Path) -> dict[str, Any]:
    """The record of a finished stage, as `_complete` wrote it: its seconds, files, seed and code."""
    return json.loads((folder / DONE).read_text())


def _as_written(folder: Path, name: str, done: Mapping[str, Any]) -> bool:
    """Whether a file is what the stage wrote; a large one is known by its size, since reading it takes minutes."""
    size = done.get("sizes", {}).get(name, 0)
    if size > LARGE:
        return (folder / name).stat().st_size == size
    return file_digest(folder / name) == done["files"][name]


def run_or_reuse(
    stage: Stage,
    recipe: Recipe,
    scale: Scale,
    seed: int,
    keys: Mapping[str, str],
    folder: Path,
    warn: Callable[[str], None],
) -> Path:
    """The stage's artefact under `folder`, made now unless it is there; two processes never make the same one.

    Ranks of one run call it together.
    """
    target = folder / keys[stage.name]
    folder.mkdir(parents=True, exist_ok=True)
    ranks.initialise()
    with _lock(target) if ranks.is_main() else nullcontext():
        if ranks.broadcast(ranks.is_main() and cached(target)):
            return target
        if ranks.is_main():
            _clear(target, warn)
        ranks.barrier()
        _make(stage, recipe, scale, seed, keys, target)
        ranks.barrier()
    return target


def _lock(target: Path, timeout: float = -1) -> FileLock:
    """The lock that a process holds while it makes or removes an artefact."""
    return FileLock(target.with_name(f"{target.name}.lock"), timeout=timeout)


def _clear(target: Path, warn: Callable[[str], None]) -> None:
    """Remove what is in the artefact's way; a stage that was interrupted keeps its checkpoint and its journal's whole lines."""
    if target.exists():
        warn(f"cached artefact {target.name} is corrupt; making it again")
        shutil.rmtree(target)
    partial = partial_folder(target)
    if not complete_checkpoints(partial / CHECKPOINTS):
        if any((partial / CHECKPOINTS).glob(f"*/{DONE}")):
            warn(f"the checkpoint of {target.name} is of another version; the stage starts from its beginning")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    elif (partial / JOURNAL).exists():
        complete = (partial / JOURNAL).read_text().rpartition("\n")
        whole = partial / CHECKPOINTS / "journal.tmp"  # renamed, so that a kill now loses no line
        whole.write_text("".join(complete[:2]))
        os.replace(whole, partial / JOURNAL)


def _make(stage: Stage, recipe: Recipe, scale: Scale, seed: int, keys: Mapping[str, str], target: Path) -> None:
    partial = partial_folder(target)
    began, code = time.time(), _code_at_start(partial, fingerprint.code_of(stage, recipe))
    inputs = {name: target.parent / key for name, key in stage.inputs(keys).items()}
    lineages = {name: lineage(folder) for name, folder in inputs.items()}
    context = StageContext(
        stage.name,
        Pick(recipe, stage.name),
        Budget(scale, stage.fields),
        scale.precision,
        seed if stage.seeded else 0,
        inputs,
        partial,
        scale.model,
    )
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        stage.run(context)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_term)
        context.close()
    ranks.barrier()
    if ranks.is_main():
        _complete(context, partial, target, scale.name, began, {"code": code, "inputs": lineages})


def _complete(
    context: StageContext, partial: Path, target: Path, scale: str, began: float, made_with: dict[str, dict[str, str]]
) -> None:
    """Write the list of the artefact's files, give the folder its name, and remove the checkpoints last."""
    unnamed = partial / f"{DONE}.tmp"
    unnamed.unlink(missing_ok=True)  # of an attempt that found the disk full here, and is none of the stage's files
    made = [p for p in sorted(partial.rglob("*")) if p.is_file() and p.relative_to(partial).parts[0] != CHECKPOINTS]
    files = {str(p.relative_to(partial)): file_digest(p) for p in made}
    done = {
        "key": target.name,
        "seconds": context.seconds_before + time.time() - began,
        "finished": time.time(),
        "files": files,
        "sizes": {str(p.relative_to(partial)): p.stat().st_size for p in made},
        "read": sorted(context.pick.read),
        "seed": context.seed,
        "scale": scale,
        "edition": edition(target),
        **made_with,
    }
    unnamed.write_text(json.dumps(done, indent=1))
    os.replace(unnamed, partial / DONE)
    os.replace(partial, target)
    shutil.rmtree(target / CHECKPOINTS, ignore_errors=True)
    shutil.rmtree(_earlier(target), ignore_errors=True)


# ------------------------------------------------------------------------------------------------ code that changes


def _code_at_start(partial: Path, code: dict[str, str]) -> dict[str, str]:
    """The fingerprint of the code that a stage began with: an earlier one where it goes on from a checkpoint."""
    noted = partial / CHECKPOINTS / "code.json"
    if not noted.exists() and ranks.is_main():
        noted.parent.mkdir(exist_ok=True)
        noted.write_text(json.dumps(code))
    return json.loads(noted.read_text()) if ranks.is_main() else code


def made_with(target: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The fingerprint of the code that made an artefact, and the lineage of each input; empty where none was recorded."""
    done = _record(target)
    return done.get("code", {}), done.get("inputs", {})


def lineage(target: Path) -> str:
    """A digest of all code that an artefact rests on: its stage's, and that of the stages before; empty if not recorded."""
    code, inputs = made_with(target)
    return digest([code, inputs])[:16] if code else ""


def set_aside(target: Path) -> None:
    """Free an artefact's place, so that it is made again; it stays beside its place until it has been."""
    with suppress(Timeout), _lock(target, timeout=0):  # whoever holds it makes the artefact just now
        if target.exists():
            shutil.rmtree(_earlier(target), ignore_errors=True)
            os.replace(target, _earlier(target))


def edition(target: Path) -> int:
    """How many times an artefact of this key was made again after its code had changed, the one on its way included."""
    if "edition" in (done := _record(target)):
        return done["edition"]
    return _record(_earlier(target)).get("edition", 0) + 1 if _earlier(target).exists() else 0


def _earlier(target: Path) -> Path:
    return target.with_name(f"{target.name}.earlier")


def _record(target: Path) -> dict[str, Any]:
    """What `done.json` says; nothing where there is none that can be read."""
    try:
        return read_done(target)
    except (OSError, ValueError):
        return {}


def partial_folder(target: Path) -> Path:
    """Where an artefact stands while it is made: progress is read from its journal."""
    return target.with_name(f"{target.name}.partial")
