"""A store that is a SQLite file: who may open it, whether it is whole, whether it is MLflow's, and how it is made.

A file that another process has locked is waited for, and the wait is told. MLflow itself would try for minutes, in silence.
"""

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from mlflow import MlflowClient
from sqlalchemy.engine import make_url

from repro.tracking.schema import Unusable, require_this_schema

LOCK_SECONDS = 30  # that another process's lock is waited for
TELL_SECONDS = 1  # of them, before the wait is told
LARGE = 2**26  # bytes; of a larger file the indexes are not compared with their tables, which takes long
REFILL = "set MLFLOW_TRACKING_URI to a new one, which the same command fills from the cache"
Answer = TypeVar("Answer")


class Fault(Exception):
    """Why a store cannot be opened and what to do, as the end of a sentence about the store."""


def is_sqlite(uri: str) -> bool:
    """Whether the store is a sqlite file on this machine rather than a server."""
    return uri.startswith("sqlite:")


def sqlite_path(uri: str) -> Path:
    """The path of a sqlite store's file."""
    return Path(make_url(uri).database or "")


# ------------------------------------------------------------------------------------------------- opened


def ask(file: Path, question: Callable[[sqlite3.Connection], Answer], mode: str = "rw") -> Answer:
    """A file's answer to a question, once it is not locked; Fault where it stays locked, sqlite3.Error where it has none.

    The file is opened for writing unless `mode` is "ro", so that sqlite rolls back the transaction of a killed process.
    """
    until, tell_at = time.monotonic() + LOCK_SECONDS, time.monotonic() + TELL_SECONDS
    while True:
        try:
            with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode={mode}", uri=True, timeout=0)) as tables:
                return question(tables)
        except sqlite3.OperationalError as error:
            if code_of(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
        if time.monotonic() > until:
            raise Fault(
                f"another process has kept it locked for {LOCK_SECONDS} s; end what has it open, or wait for it, "
                "and repeat the command"
            )
        if time.monotonic() > tell_at:
            print(f"waiting up to {LOCK_SECONDS} s: another process has locked {file}", file=sys.stderr, flush=True)
            tell_at = until + 1
        time.sleep(0.1)


def require_openable(file: Path, writing: bool) -> None:
    """Fault where a file cannot be read or, if `writing`, can be neither written nor created."""
    if file.is_dir():
        raise Fault(f"it is a folder; give the file in it, such as sqlite:///{file}/mlflow.db")
    if writing:
        _require_place(file)
    if not file.exists():
        return
    try:
        ask(file, _write_nothing if writing else _read)
    except sqlite3.Error as error:
        raise fault_of(error) from None
    if writing:
        require_whole(file)
        if not is_incomplete(file):
            require_schema(file)


def _read(tables: sqlite3.Connection) -> None:
    tables.execute("select 1 from sqlite_master limit 1").fetchone()


def _write_nothing(tables: sqlite3.Connection) -> None:
    """Begin to write and take it back: that a file is read-only shows at its first change."""
    tables.execute("begin immediate")
    (number,) = tables.execute("pragma user_version").fetchone()
    tables.execute(f"pragma user_version = {number}")
    tables.rollback()


def _require_place(file: Path) -> None:
    """Fault unless files can be made where a store lies: SQLite writes a journal beside it, and MLflow makes its folders."""
    place = next(folder for folder in file.resolve().parents if folder.exists())
    if not place.is_dir():
        raise Fault(f"{place} is a file; give a path in a folder, such as sqlite:///mlflow.db")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise Fault(f"its folder {place} is not writable ({error.strerror}); make it so, or {REFILL}") from None


def code_of(error: object) -> int:
    """SQLite's primary result code of an error; 0 where it is no error of SQLite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def fault_of(error: object) -> Fault:
    """An error of SQLite in words."""
    known = {
        sqlite3.SQLITE_BUSY: "another process keeps it locked; end what has it open, or wait, and repeat the command",
        sqlite3.SQLITE_NOTADB: "it is no SQLite database; give a file that MLflow wrote, such as mlflow.db",
        sqlite3.SQLITE_CORRUPT: f"it is damaged ({error}); put a copy in its place, or {REFILL}",
        sqlite3.SQLITE_READONLY: f"it is not writable; make it so, or {REFILL}",
        sqlite3.SQLITE_CANTOPEN: "this user may not read it; change its permissions",
        sqlite3.SQLITE_FULL: "its disk is full; make room and repeat the command",
    }
    return Fault(known.get(code_of(error), f"{error}; repair its disk or its permissions, or {REFILL}"))


# ------------------------------------------------------------------------------------------------- whole


def damage(file: Path, mode: str = "rw") -> str:
    """What SQLite's own check finds wrong with a file; empty where it is whole.

    It knows pages, rows and indexes. A flipped byte in a text that no index holds is nothing that it can know.
    """
    check = "quick_check" if file.stat().st_size > LARGE else "integrity_check"
    try:
        (found,) = ask(file, lambda tables: tables.execute(f"pragma {check}(1)").fetchone(), mode)
    except sqlite3.DatabaseError as error:
        found = str(error)
    return "" if found == "ok" else found.strip().splitlines()[-1]


@cache
def require_whole(file: Path) -> None:
    """Fault where a file is damaged; looked at once by each process."""
    if found := damage(file):
        raise Fault(f"it is damaged ({found}); put a copy in its place, or {REFILL}")


def is_unfinished(file: Path) -> bool:
    """Whether a process was killed while it wrote: what it had not finished is rolled back by whoever opens the file next."""
    if not file.with_name(f"{file.name}-journal").exists():
        return False
    try:
        ask(file, _read, mode="ro")
    except sqlite3.OperationalError as error:
        return code_of(error) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
    return False


# ------------------------------------------------------------------------------------------------ MLflow's


@cache
def require_schema(file: Path, mode: str = "rw") -> None:
    """Unusable unless a sqlite file is an MLflow store of the installed version."""

    def schema(tables: sqlite3.Connection) -> str:
        tables.execute("select experiment_id from experiments limit 1")
        return tables.execute("select version_num from alembic_version").fetchone()[0]

    try:
        found = ask(file, schema, mode)
    except (sqlite3.Error, TypeError) as error:
        if code_of(error) == sqlite3.SQLITE_CORRUPT:
            raise Unusable(f"the MLflow store {file} cannot be used: {fault_of(error)}") from None
        raise Unusable(f"{file} is not an MLflow store; give a file that MLflow wrote, such as mlflow.db") from None
    require_this_schema(str(file), found)


def make_tables(file: Path, uri: str) -> None:
    """Create a sqlite store under a temporary name and rename it, so that a killed process leaves no incomplete store.

    The caller holds `store_lock`; so files with such a temporary name are left over from killed processes.
    """
    for left in file.parent.glob(f"{file.name}.*.partial*"):
        left.unlink()
    partial = file.with_name(f"{file.name}.{uuid4().hex[:8]}.partial")
    made = make_url(uri).set(database=str(partial)).render_as_string(hide_password=False)
    MlflowClient(tracking_uri=made).search_experiments(max_results=1)
    partial.replace(file)


def is_incomplete(file: Path) -> bool:
    """Whether a sqlite file is empty, or left by a process that was killed while MLflow created its tables.

    Such a file has only tables of MLflow, no run and no experiment: MLflow adds the first experiment after all tables.
    """
    try:
        names = ask(file, _tables_without_rows)
    except (sqlite3.Error, Fault):
        return False
    import mlflow.store.db.utils  # noqa: F401  it imports every module that declares tables
    from mlflow.store.db.base_sql_model import Base

    known = Base.metadata.tables.keys() | {"alembic_version"}
    return all(name in known or name.startswith("_alembic_tmp") for name in names)


def _tables_without_rows(tables: sqlite3.Connection) -> set[str]:
    """The names of a file's tables; a sqlite3.Error where it holds an experiment or a run."""
    names = {name for (name,) in tables.execute("select name from sqlite_master where type = 'table'")}
    for table in {"experiments", "runs"} & names:
        if tables.execute(f"select 1 from {table} limit 1").fetchone():
            raise sqlite3.DataError(f"{table} has rows")
    return names
