"""A Python process of its own, in which nothing of the tests is imported."""

import os
import subprocess
import sys

from tests.paths import ROOT


def printed(code: str) -> str:
    """What the code prints, with the project on the path; it has to end without an error."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
