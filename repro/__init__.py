"""The N+ implementation details of RLHF with PPO, as toggles that can be run.

From Python: `from repro import details, run_study`, as docs/python.md shows. Names are imported when they are first used, so
that `import repro` and the command line's `--help` wait for no library.
"""

from importlib import import_module as _import
from typing import TYPE_CHECKING as _CHECKED
from typing import Any as _Any

if _CHECKED:
    from repro.api.results import Policy, Results, read_results
    from repro.api.studies import load_policy, run_arm, run_study
    from repro.detail import Detail, Recipe
    from repro.errors import UserError
    from repro.study.scale import SCALES, Scale

_HOMES = {
    "Detail": "repro.detail",
    "Policy": "repro.api.results",
    "Recipe": "repro.detail",
    "Results": "repro.api.results",
    "SCALES": "repro.study.scale",
    "Scale": "repro.study.scale",
    "UserError": "repro.errors",
    "load_policy": "repro.api.studies",
    "read_results": "repro.api.results",
    "run_arm": "repro.api.studies",
    "run_study": "repro.api.studies",
}

__all__ = [
    "SCALES",
    "Detail",
    "Policy",
    "Recipe",
    "Results",
    "Scale",
    "UserError",
    "load_policy",
    "read_results",
    "run_arm",
    "run_study",
]


def __getattr__(name: str) -> _Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'repro' has no attribute {name!r}")
    return getattr(_import(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
