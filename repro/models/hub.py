"""Models and data from the Hugging Face hub, offline first: a source in a field of Scale becomes a path on this machine.

A source is a path, or `hub:OWNER/NAME@REVISION` for a model, or `hub:datasets/OWNER/NAME@REVISION` for data; `/FILE` or
`/FOLDER` after the revision selects a part. The library's environment variables hold: HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT.
Of weights, safetensors are preferred; weights-only pickles are taken where a repository has nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.errors import UserError, quoted, reason
from repro.models import folders, strict_json

if TYPE_CHECKING:  # imported where it is used, since a Scale is parsed without these libraries
    from huggingface_hub import DryRunFileInfo

PREFIX = "hub:"
FORM = "hub:OWNER/NAME@REVISION for a model, hub:datasets/OWNER/NAME@REVISION for data"
# Only revisions that the hub creates have a slash, such as refs/convert/parquet.
REFERENCE = re.compile(
    r"hub:(?P<datasets>datasets/)?(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})"
    r"@(?P<revision>refs/(?:convert/[\w.-]+|pr/\d+)|[\w.+-]{1,96})(?:/(?P<part>[\w.+=/-]{1,400}))?",
    re.ASCII,
)
OUTSIDE = re.compile(r"(^|[:/@])\.{1,2}([/@]|$)|//|\.\.")  # a name that would lead out of the library's cache
TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")  # configuration, vocabulary and merges, sentencepiece, chat template
ROWS = ("*.parquet", "*.jsonl", "*.json")  # in order of preference
ESSENTIAL = {
    "model": folders.WEIGHTS,
    "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.*", "spiece.model"),
    "data": ROWS,
}
NOT_ROWS = ("dataset_infos.json", "dataset_info.json", "state.json")  # metadata that `datasets` writes beside the rows


@dataclass(frozen=True)
class Reference:
    """A repository of the hub at a revision, or a file or folder `part` of it; `kind` is "model" or "dataset"."""

    kind: str
    repo: str
    revision: str
    part: str = ""

    def __str__(self) -> str:
        owner = f"datasets/{self.repo}" if self.kind == "dataset" else self.repo
        return f"{PREFIX}{owner}@{self.revision}{'/' * bool(self.part)}{self.part}"


def is_reference(source: str | Path) -> bool:
    return str(source).startswith(PREFIX)


def parse(source: str | Path) -> Reference:
    """The reference in a source; UserError where the source is malformed."""
    match = REFERENCE.fullmatch(str(source))
    if not match or OUTSIDE.search(str(source)):
        raise UserError(f"{quoted(source)} is no reference to the hub; write {FORM}")
    kind = "dataset" if match["datasets"] else "model"
    return Reference(kind, match["repo"], match["revision"], (match["part"] or "").rstrip("/"))


def resolve(source: str | Path, what: str) -> Path:
    """The path of a source, a "model", "tokenizer" or "data"; a reference is downloaded if the library's cache lacks it."""
    if not is_reference(source):
        return Path(source)
    from huggingface_hub.errors import LocalEntryNotFoundError

    reference = parse(source)
    try:
        return _at(reference, cached_folder(reference, what))
    except LocalEntryNotFoundError:
        return _at(reference, download(reference, what))


def is_local(source: str | Path, what: str) -> bool:
    """Whether `resolve` needs no network."""
    if not is_reference(source):
        return os.path.exists(source)
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return cached_folder(parse(source), what).is_dir()
    except LocalEntryNotFoundError:
        return False


def cached_folder(reference: Reference, what: str) -> Path:
    """The folder in the library's cache; LocalEntryNotFoundError where a needed file is missing."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder = Path(_snapshot(reference, [], local_files_only=True))
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    files = needed(names, what, reference.part)
    missing = _missing_shards(folder, files)
    if missing or not _essential(files, what, reference.part):
        raise LocalEntryNotFoundError(f"{', '.join(missing) or what} is missing in {folder}")
    # Where the library has listed the repository before, it checks that the copy is complete.
    _snapshot(reference, _patterns(names, what, reference.part), local_files_only=True)
    return folder


def list_files(reference: Reference, what: str) -> list[str]:
    """The needed files, as the hub lists them now; UserError where the hub does not answer, or lists none."""
    from huggingface_hub import HfApi

    try:
        # Not `list_repo_files`, which retries for half a minute without a network.
        info = HfApi().repo_info(reference.repo, repo_type=reference.kind, revision=reference.revision)
        names = [each.rfilename for each in info.siblings]
    except Exception as error:  # errors of the library, its HTTP client and the system share no narrower class
        raise _hub_error(reference, error) from error
    files = needed(names, what, reference.part)
    if not _essential(files, what, reference.part):
        raise UserError(f"{reference} has none of {', '.join(ESSENTIAL[what])}; it is no {what} that can be read here")
    return files


def download(reference: Reference, what: str) -> Path:
    """The folder in the library's cache, completed from the hub; UserError where that fails."""
    files = list_files(reference, what)
    try:
        return Path(_snapshot(reference, files))
    except Exception as error:  # as above
        raise _hub_error(reference, error) from error


def plan_download(reference: Reference, what: str) -> list[DryRunFileInfo]:
    """The needed files, each with its size and whether it is cached already; UserError as `download`."""
    files = list_files(reference, what)
    try:
        return _snapshot(reference, files, dry_run=True)
    except Exception as error:  # as above
        raise _hub_error(reference, error) from error


def needed(names: Iterable[str], what: str, part: str = "") -> list[str]:
    """The names among a repository's files that a "model", "tokenizer" or "data" needs; safetensors before pickles."""
    names = sorted(names)
    if part in names:
        return [part]
    patterns = _patterns(names, what, part)
    return [name for name in _candidates(names, what, part) if any(fnmatch(name, pattern) for pattern in patterns)]


def _candidates(names: Sequence[str], what: str, part: str) -> list[str]:
    """The files inside `part`; of a model without subfolders, which hold other formats."""
    prefix = f"{part}/" if part else ""
    inside = [name for name in names if name.startswith(prefix) and Path(name).name not in NOT_ROWS]
    return inside if what == "data" else [name for name in inside if "/" not in name.removeprefix(prefix)]


def _patterns(names: Sequence[str], what: str, part: str) -> list[str]:
    """Glob patterns of the needed files, for a repository with these files."""
    if part in names:
        return [part]
    prefix = f"{part}/" if part else ""
    kinds = {"model": folders.WEIGHTS, "tokenizer": (), "data": ROWS}[what]
    texts = () if what == "data" else TEXTS
    return [f"{prefix}{each}" for each in (*texts, *first_kind(_candidates(names, what, part), kinds))]


def first_kind(names: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """The first pattern that matches a file, as a list; empty where none does."""
    return next(([kind] for kind in kinds if any(fnmatch(Path(name).name, kind) for name in names)), [])


def _essential(files: Sequence[str], what: str, part: str) -> bool:
    """Whether an essential file is among them; a part that is a file needs no other."""
    return bool(files) and (files == [part] or bool(first_kind(files, ESSENTIAL[what])))


def _missing_shards(folder: Path, files: Sequence[str]) -> list[str]:
    """The files named in an index of the weights that are absent."""
    suffixes = tuple(f"{Path(kind).suffix}.index.json" for kind in first_kind(files, folders.WEIGHTS))
    indices = [file for file in files if file.endswith(suffixes)]
    named = {name for index in indices for name in _shards(folder / index)}
    return sorted(named - {Path(file).name for file in files})


def _shards(index: Path) -> set[str]:
    """The files that an index of weights names; UserError where it is damaged."""
    try:
        return {str(name) for name in strict_json.parse(index.read_bytes())["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: the index of weights is damaged ({reason(error)}); download it again") from None


def _snapshot(reference: Reference, patterns: Sequence[str], **options: bool) -> Any:
    """The library's `snapshot_download`: a path, or with `dry_run` what it would download."""
    from huggingface_hub import snapshot_download

    subfolders = f"{reference.part}/*/*" if reference.part else "*/*"
    return snapshot_download(
        reference.repo,
        repo_type=reference.kind,
        revision=reference.revision,
        allow_patterns=list(patterns),
        ignore_patterns=[subfolders] if reference.kind == "model" else list(NOT_ROWS),
        **options,
    )


def _at(reference: Reference, folder: Path) -> Path:
    return folder / reference.part if reference.part else folder


def _hub_error(reference: Reference, error: Exception) -> UserError:
    """The error as one line for a person, with what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return UserError(f"{reference} is behind a form on the hub; fill it in there and run `hf auth login`")
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return UserError(f"the hub has no {reference.kind} {reference.repo}, or not for you; write {FORM}")
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"{reference.repo} has no revision {reference.revision}; give one that the hub lists")
    return UserError(
        f"{reference} is not complete in {constants.HF_HUB_CACHE}, and the hub cannot be asked for it "
        f"({type(error).__name__}: {reason(error)}); run `python -m repro fetch SCALE` on a machine with a network, bring its "
        f"cache here with `rsync -a THERE:.cache/huggingface/ {constants.HF_HOME}/`, and set HF_HUB_OFFLINE=1"
    )
