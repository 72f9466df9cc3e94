"""The tags of a run that are known before it starts: the study's plan, and the code and machine that compute it."""

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from repro import record
from repro.engine import fetch
from repro.study.ablation import Ablation

ROOT = Path(__file__).parents[2]
# Of the checkout: what runs, and what shows it.
CODE = ("repro", "ablations", "pyproject.toml", "requirements.lock")
DIRTY = "-dirty"  # of a commit that the working tree differs from
LARGEST_PATCH = 2**20
LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "mlflow", "pandas")


def shared_tags(study: Ablation, command: str) -> dict[str, str]:
    """The tags that all runs of a study share."""
    detail = study.detail
    plan = record.Plan(
        question=study.question,
        hypothesis=detail.hypothesis,
        expected=detail.expected,
        paper=detail.paper,
        primary=study.primary,
        higher_is_better=study.higher_is_better,
        smallest_effect=study.smallest_effect,
        looks=study.looks,
        judge=record.GOLD_SCORE if study.scale.corpus == "embedded" else record.REWARD_MODEL,
        kl_cap=study.scale.kl_cap,
    )
    return {
        record.DETAIL: detail.name,
        record.SCALE: study.scale.name,
        **plan.tags(),
        record.COMMIT: commit(),
        record.LOCK: _lock(),
        record.MACHINE: _machine(study.scale.threads),
        record.VERSIONS: json.dumps({name: version(name) for name in LIBRARIES}),
        record.SOURCES: json.dumps(fetch.commits(study.scale)),  # a branch may point elsewhere later
        record.COMMAND: command,
    }


def _machine(threads: int) -> str:
    """The machine's hardware and system, without its name."""
    accelerator = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    parts = [
        platform.machine(),
        f"{os.cpu_count()} cores",
        *accelerator,
        f"{threads} thread{'s' * (threads > 1)} a worker",
    ]
    return ", ".join([*parts, platform.system(), f"Python {platform.python_version()}"])


def _lock() -> str:
    """Digest of the pinned requirements; the installed versions are in a tag of their own."""
    file = ROOT / "requirements.lock"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else "absent"


def commit() -> str:
    """The commit of this checkout, `-dirty` where its code differs from it."""
    name = _git("describe", "--always", "--abbrev=12").strip()
    return f"{name}{DIRTY if changes_since_commit() else ''}" if name else "not a git checkout"


@cache
def changes_since_commit() -> str:
    """How the code of this checkout differs from its commit, as a patch that `git apply` takes; new files included."""
    changed = _git("diff", "HEAD", "--binary", "--", *CODE)
    new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE).split("\0")
    added = [_git("diff", "--no-index", "--binary", "/dev/null", name) for name in new if name]
    patch = changed + "".join(added)
    return patch if len(patch) < LARGEST_PATCH else f"{len(patch):,} characters differ from the commit: not recorded\n"


def _git(*words: str) -> str:
    """What git prints of this checkout; nothing where it is none, such as a wheel inside another project, or without git."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        answer = subprocess.run(["git", *words], capture_output=True, text=True, errors="replace", cwd=ROOT)
    except OSError:
        return ""
    return answer.stdout
