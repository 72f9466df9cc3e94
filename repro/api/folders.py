"""The folders that verbs write to, created and tested before anything is computed."""

import os
import tempfile
from pathlib import Path

from repro.errors import UserError

REPORTS, GALLERY = Path("reports") / "build", Path("reports") / "gallery"


def cache_folder() -> Path:
    """The folder of artefacts, created if need be; UserError where it is not writable."""
    return writable_folder(cache_path(), "cache", "set REPRO_CACHE to a folder that is")


def cache_path() -> Path:
    """The path of the folder of artefacts, which may not exist."""
    return Path(os.environ.get("REPRO_CACHE") or "cache")


def writable_folder(folder: Path, kind: str, remedy: str) -> Path:
    """The folder, created if need be; UserError, which ends with `remedy`, where it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A unique name, since studies that start together test the same folder.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"the {kind} folder {folder} is not writable ({error.strerror}); {remedy}") from None
    return folder


def require_report_folder(root: Path = REPORTS) -> None:
    """UserError where pages cannot be written."""
    writable_folder(root, "report", "run this in a folder where it is")
