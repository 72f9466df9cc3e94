"""What a measured speed depends on: the processor, the cores that this process may use, and the commit of the code."""

import os
import platform
import subprocess
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch


def processor() -> str:
    """The processor's name, as the system has it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use; macOS cannot say which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit(folder: Path) -> str:
    """The commit checked out in the folder, with a + if files differ from it; empty without git."""
    try:
        git = ["git", "-C", str(folder)]
        options: dict[str, Any] = {"check": True, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        named = subprocess.run([*git, "rev-parse", "--short", "HEAD"], **options).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], **options).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return named + "+" * bool(changed)


def described(folder: Path) -> dict[str, str | int]:
    """Processor, cores, versions, date and commit, for a file of measurements."""
    return {
        "processor": processor(),
        "cores": cores(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "commit": commit(folder),
    }
