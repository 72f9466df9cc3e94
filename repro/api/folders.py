"""The folders that verbs write to, made and tried before anything is spent."""

import os
import tempfile
from pathlib import Path

from repro.errors import UserError

REPORTS, GALLERY = Path("reports") / "build", Path("reports") / "gallery"


def cache_folder() -> Path:
    """The folder of artefacts, made if need be and found writable."""
    return writable_folder(cache_path(), "cache", "set REPRO_CACHE to one that is")


def cache_path() -> Path:
    """Where the folder of artefacts is, whether or not it exists."""
    return Path(os.environ.get("REPRO_CACHE") or "cache")


def writable_folder(folder: Path, kind: str, remedy: str) -> Path:
    """The folder, made if need be; UserError, which ends with the remedy, where nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a name of its own: studies that start together try the same folder
            pass
    except OSError as error:
        raise UserError(f"the {kind} folder {folder} is not writable ({error.strerror}); {remedy}") from None
    return folder


def require_report_folder(root: Path = REPORTS) -> None:
    """UserError where pages cannot be written."""
    writable_folder(root, "report", "run where it is")
