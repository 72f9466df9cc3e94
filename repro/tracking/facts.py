"""What a run says of itself before it begins: the study's plan, and what computes it."""

import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from repro.engine import fetch
from repro.study.ablation import Ablation

LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "mlflow", "pandas")


def shared_tags(study: Ablation, command: str) -> dict[str, str]:
    """The tags that all runs of a study share."""
    detail = study.detail
    return {
        "detail": detail.name,
        "scale": study.scale.name,
        "question": study.question,
        "hypothesis": detail.hypothesis,
        "moves": json.dumps(dict(detail.moves)),
        "paper": detail.paper,
        "primary": study.primary,
        "higher_is_better": str(study.higher_is_better).lower(),
        "smallest_effect": str(study.smallest_effect),
        **({"looks": " ".join(map(str, study.looks))} if study.looks else {}),
        "judge": "gold score" if study.scale.corpus == "embedded" else "reward model",
        "kl_cap": str(study.scale.kl_cap),
        "commit": _commit(),
        "lock": _lock(),
        "machine": _machine(study.scale.threads),
        "versions": json.dumps({name: version(name) for name in LIBRARIES}),
        "sources": json.dumps(fetch.commits(study.scale)),  # a branch moves, and a key holds its name alone
        "command": command,
    }


def _machine(threads: int) -> str:
    """What computed it, without a name that would tell whose it is."""
    accelerator = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    told = [
        platform.machine(),
        f"{os.cpu_count()} cores",
        *accelerator,
        f"{threads} thread{'s' * (threads > 1)} a worker",
    ]
    return ", ".join([*told, platform.system(), f"Python {platform.python_version()}"])


def _lock() -> str:
    """Digest of the pinned requirements; which of them are installed is said beside it."""
    file = Path(__file__).parents[2] / "requirements.lock"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else "absent"


def _commit() -> str:
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    return answer.stdout.strip() or "not a git checkout"


def short(value: Any) -> str:
    """A path by its last part: where it lies on this machine is nobody's business."""
    text = str(value)
    return Path(text).name if "/" in text and not text.startswith(("gpt-neox:", "hub:")) else text
