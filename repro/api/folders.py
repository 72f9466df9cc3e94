"""The folders that verbs write to, tested before anything is computed, and created where something is written next."""

import os
import tempfile
from pathlib import Path

from repro.errors import UserError

CACHE_REMEDY = "set REPRO_CACHE to a folder that is"
REPORTS, GALLERY = Path("reports") / "build", Path("reports") / "gallery"


def cache_folder() -> Path:
    """The folder of artefacts, created if need be; UserError where it is not writable."""
    return writable_folder(cache_path(), "cache", CACHE_REMEDY)


def usable_cache_folder() -> Path:
    """The path of the folder of artefacts, which may not exist yet; UserError where it is not writable."""
    _require_writable(cache_path(), "cache", CACHE_REMEDY)
    return cache_path()


def cache_path() -> Path:
    """The path of the folder of artefacts, which may not exist."""
    return Path(os.environ.get("REPRO_CACHE") or "cache")


def writable_folder(folder: Path, kind: str, remedy: str) -> Path:
    """The folder, created if need be; UserError, which ends with `remedy`, where it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _try(folder)
    except OSError as error:
        raise UserError(f"the {kind} folder {folder} is not writable ({error.strerror}); {remedy}") from None
    return folder


def require_report_folder(root: Path = REPORTS) -> None:
    """UserError where pages cannot be written."""
    _require_writable(root, "report", "run this in a folder where it is")


def _require_writable(folder: Path, kind: str, remedy: str) -> None:
    """UserError where a folder is not writable; it is not made, since a word typed wrong may yet end the command."""
    nearest = next((each for each in (folder, *folder.parents) if os.path.lexists(each)), Path("."))
    try:
        _try(nearest)
    except OSError as error:
        raise UserError(f"the {kind} folder {folder} is not writable ({error.strerror}); {remedy}") from None


def _try(folder: Path) -> None:
    """OSError where nothing can be written into a folder."""
    # A unique name, since studies that start together test the same folder.
    with tempfile.TemporaryFile(dir=folder):
        pass
