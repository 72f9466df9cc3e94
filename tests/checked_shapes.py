"""Switches on the shapes and dtypes that `repro/ops/` and the records of `repro/types.py` state: a call that breaks one fails.

Imported before any of them is. Processes that a test starts run without it, as studies do.
"""

import sys

from jaxtyping import install_import_hook

CHECKED = ("repro.ops", "repro.types")

too_early = [name for name in sys.modules if name.startswith(CHECKED)]
assert not too_early, f"imported before their annotations could be checked: {too_early}"
install_import_hook(CHECKED, "beartype.beartype")
