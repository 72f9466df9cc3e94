"""What a person is told where the code itself is at fault: one line, a file with the traceback, and exit code 70."""

import os
import platform
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from repro.api.folders import cache_path
from repro.api.terminal import complain
from repro.errors import is_of_machine

LIBRARIES = ("torch", "transformers", "mlflow", "pandas")
SAFE = "Finished stages and recorded runs are kept, and the same command continues from them"


def tell_of(error: Exception, words: Sequence[str]) -> int:
    """Print one line about an exception that no verb foresaw; the exit code: 1 for the machine's trouble, 70 for a fault."""
    what, where = str(error).strip().partition("\n")[0], _kept(error, words)
    if is_of_machine(error):
        complain(f"error: {_in_words(error) or what}. {SAFE}{where}")
        return 1
    whose = f"This is a fault in the code, not in your input; please report it{where}"
    complain(f"error: {type(error).__name__}: {what}. {whose}. {SAFE}")
    return os.EX_SOFTWARE


def _in_words(error: Exception) -> str:
    """What the system says of a file or disk, with the file's name; empty where it is another error."""
    if not isinstance(error, OSError) or not error.strerror:
        return ""
    return error.strerror + (f": {error.filename}" if error.filename else "")


def _kept(error: Exception, words: Sequence[str]) -> str:
    """Write the traceback to a file in the cache, or in the folder for temporary files; where it is, in words."""
    text = "\n".join([*_circumstances(words), "", "".join(traceback.format_exception(error))])
    for folder in (cache_path(), Path(tempfile.gettempdir())):
        file = folder.absolute() / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        try:
            file.write_text(text)
            return f" (the traceback is in {file})"
        except OSError:  # there is no such folder, or a full disk
            with suppress(OSError):
                file.unlink()
    return ""


def _circumstances(words: Sequence[str]) -> list[str]:
    """The verb, and the versions of what it runs on; not its options, which may hold a password."""
    versions = [f"{name} {metadata.version(name)}" for name in ("nplus-repro", *LIBRARIES)]
    return [f"verb: {' '.join(words[:1])}", f"Python {platform.python_version()} on {platform.platform()}", *versions]
