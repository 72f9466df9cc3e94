"""Which version of MLflow a database was written by, told from its schema: MLflow itself would migrate an older one."""

from functools import cache
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory

from repro.errors import UserError


class Unusable(UserError):
    """The MLflow store cannot be opened."""


COPY = "sqlite:////PATH/OF/THE/COPY"


@cache
def _revisions() -> tuple[str, frozenset[str]]:
    """The installed MLflow's schema, and all that lead to it."""
    script = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return script.get_current_head() or "", frozenset(each.revision for each in script.walk_revisions())


def require_this_schema(name: str, found: str, copy: str = COPY) -> None:
    """Unusable unless a database's schema is the installed MLflow's; `copy` is how its copy would be named to MLflow."""
    wanted, known = _revisions()
    if found == wanted:
        return
    if found in known:
        remedy = f"it is older: copy it and upgrade the copy: mlflow db upgrade {copy}"
    else:
        remedy = "it is newer: install that version of MLflow, or set MLFLOW_TRACKING_URI to another store"
    raise Unusable(
        f"{name} was written by another version of MLflow (schema {found}; {mlflow.__version__} reads {wanted}); {remedy}"
    )
