"""Whether the MLflow store in use can be opened; if not, which fault it has and what to do, within seconds.

MLflow itself tries a database or a server that does not answer for minutes, and says of what went wrong what the last
library said. So each kind of store is asked here first, in steps that each have one reason to fail: the address, the host, the
port, an answer, the user.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TypeVar
from urllib.parse import urlsplit

import requests
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from repro.tracking.address import shown, without_secrets
from repro.tracking.schema import Unusable, require_this_schema
from repro.tracking.sqlite_file import Fault, require_openable, sqlite_path

ANSWER_SECONDS = 3  # for each step: the two that wait end before a person gives up
SERVERS, DATABASES = ("http", "https"), ("postgresql", "mysql", "mssql")
DRIVERS = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # what pip calls these modules
OTHERS = ("databricks", "databricks-uc", "uc")  # MLflow's own, with credentials of their own
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
ADDRESSES = (
    "give sqlite:///mlflow.db, a server such as http://HOST:5000, or a database such as postgresql://USER@HOST/NAME"
)
Answer = TypeVar("Answer")
ANSWERING = "start it, correct the address, or set MLFLOW_TRACKING_URI to another store"


def require_open(uri: str, writing: bool = False, used: str = "used") -> None:
    """Unusable where a store cannot be opened or, if `writing`, cannot be written; a sqlite file may be missing."""
    with explained(uri, used):
        scheme = uri.partition(":")[0].lower() if ":" in uri else ""
        kind = scheme.partition("+")[0]
        if kind == "sqlite":
            _require_file(uri, writing)
        elif kind in DATABASES:
            _require_database(parsed(uri), kind, writing)
        elif scheme in SERVERS:
            _require_server(uri)
        elif not {scheme, uri} & {*OTHERS, *(each.name for each in entry_points(group="mlflow.tracking_store"))}:
            what = f"{scheme}:// is no kind of store" if "://" in uri else "it is no address of a store"
            raise Fault(f"{what}; {ADDRESSES}")


@contextmanager
def explained(uri: str, used: str = "used") -> Iterator[None]:
    """A Fault inside the block becomes an Unusable, a sentence that names the store."""
    try:
        yield
    except Fault as fault:
        raise Unusable(f"the MLflow store {shown(uri)} cannot be {used}: {without_secrets(str(fault), uri)}") from None


def parsed(uri: str) -> URL:
    """The parts of a database's address; Fault where it has none."""
    try:
        return make_url(uri)
    except (ArgumentError, ValueError):
        raise Fault(f"it is no address of a database; {ADDRESSES}") from None


def _require_file(uri: str, writing: bool) -> None:
    url = parsed(uri)
    if url.host:
        raise Fault(
            f"a path follows three slashes; give sqlite:///{url.host}{'/' if url.database else ''}{url.database or ''}"
        )
    if not url.database or url.database == ":memory:":
        raise Fault("it names no file, and memory ends with the command; give one, such as sqlite:///mlflow.db")
    require_openable(sqlite_path(uri), writing)


# ------------------------------------------------------------------------------------------------- over a network


def _require_database(url: URL, kind: str, writing: bool) -> None:
    """Fault unless a database server answers, lets this user in, and holds MLflow's tables, or none yet if `writing`."""
    try:
        engine = sqlalchemy.create_engine(url)
    except ImportError as error:
        package = DRIVERS.get(error.name or "", error.name)
        raise Fault(f"its driver {error.name} is not installed; install it: pip install {package}") from None
    except NoSuchModuleError:
        raise Fault(f"{url.drivername} is no driver of a database; give {kind}, or another driver") from None
    if url.host:
        _require_host(url.host, url.port or PORTS[kind])
    try:
        found = _within(2 * ANSWER_SECONDS, lambda: _revision_of(engine))
    except SQLAlchemyError as error:
        why = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise Fault(f"the database refuses ({why}); correct user, password or name in the address") from None
    finally:
        engine.dispose()
    if found:
        require_this_schema(f"the MLflow store {url}", found, str(url))
    elif not writing:
        raise Fault("it has no tables of MLflow yet; run a study, which makes them")


def _revision_of(engine: sqlalchemy.Engine) -> str:
    """The schema of MLflow's tables in a database; empty where it has none yet."""
    with engine.connect() as connection:
        if not sqlalchemy.inspect(connection).has_table("alembic_version"):
            return ""
        return connection.execute(sqlalchemy.text("select version_num from alembic_version")).scalar() or ""


def _require_server(uri: str) -> None:
    """Fault unless an MLflow server answers and lets this user in."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    except ValueError:
        host, port = "", 0
    if not host or any(letter.isspace() for letter in uri):
        raise Fault(f"it is no address of a server; {ADDRESSES}")
    if not requests.utils.get_environ_proxies(uri):  # else the proxy finds the host
        _require_host(host, port)
    answer = _within(2 * ANSWER_SECONDS, lambda: _server_answer(uri))
    if answer.status_code in (401, 403):
        raise Fault(
            "it does not let this user in; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token"
        )
    if answer.status_code >= 500:
        raise Fault(f"it answers with an error ({answer.status_code}); look into its log, or {ANSWERING}")
    if answer.status_code != 200 or "json" not in answer.headers.get("Content-Type", ""):
        raise Fault(f"what answers there is no MLflow server ({answer.status_code}); correct the address")


def _server_answer(uri: str) -> requests.Response:
    """What a server answers to MLflow's smallest question."""
    page = "/api/2.0/mlflow/experiments/search"
    question = {"params": {"max_results": 1}, "timeout": ANSWER_SECONDS, "max_retries": 0, "raise_on_status": False}
    try:
        return http_request(get_default_host_creds(uri), page, "GET", **question)
    except MlflowException as error:
        if "timed out" in str(error):
            raise Fault(f"it takes a connection and does not answer within {ANSWER_SECONDS} s; {ANSWERING}") from None
        certificate = "certificate" in str(error).lower()
        remedy = (
            "install the server's certificate, or set MLFLOW_TRACKING_SERVER_CERT_PATH" if certificate else ANSWERING
        )
        raise Fault(f"it breaks the connection off ({str(error).splitlines()[0][-200:]}); {remedy}") from None


def _require_host(host: str, port: int) -> None:
    """Fault unless somebody listens on a host's port."""
    try:
        _within(ANSWER_SECONDS, lambda: socket.getaddrinfo(host, port))
        _within(ANSWER_SECONDS, lambda: socket.create_connection((host, port)).close())
    except (socket.gaierror, UnicodeError):
        raise Fault(f"there is no host {host}; correct the address, or the network") from None
    except OSError as error:
        raise Fault(f"nobody listens at {host} on port {port} ({error.strerror}); {ANSWERING}") from None


def _within(seconds: float, question: Callable[[], Answer]) -> Answer:
    """A question's answer; Fault where there is none within these seconds, whatever a library waits for."""
    answer: Future[Answer] = Future()

    def ask() -> None:
        try:
            answer.set_result(question())
        except Exception as error:  # raised again below
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    wait([answer], seconds)
    if not answer.done():
        raise Fault(f"it does not answer within {seconds:.0f} s; {ANSWERING}")
    return answer.result()
