"""A store that cannot be opened: which fault it has and what to do, in a sentence, soon, and without its password."""

import os
import shutil
import socket
import sqlite3
import sys
import threading
import time
from contextlib import closing, contextmanager

import pytest
from mlflow import MlflowClient

from repro.__main__ import main
from repro.errors import UserError
from repro.tracking import locks, opening, sqlite_file, store
from repro.tracking.address import shown, store_uri, without_secrets
from repro.tracking.opening import Unusable, require_open
from tests.ports import free_port

SECRET = "s3cretword"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nobody waits for long here."""
    monkeypatch.setattr(opening, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(sqlite_file, "LOCK_SECONDS", 1.0)
    monkeypatch.setattr(sqlite_file, "TELL_SECONDS", 0.2)


def fault_of(uri, writing=False):
    """What is said of a store; one line, which names the store and none of its secrets."""
    began = time.monotonic()
    with pytest.raises(UserError) as told:
        require_open(uri, writing)
    assert time.monotonic() - began < 5
    said = str(told.value)
    assert "\n" not in said and SECRET not in said and shown(uri) in said and "; " in said
    return said


# ----------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("nonsense", "it is no address of a store; give sqlite:///mlflow.db"),
        ("sqlite:nonsense", "it is no address of a database"),
        ("sqlite://mlflow.db", "a path follows three slashes; give sqlite:///mlflow.db"),
        ("sqlite://", "it names no file, and memory ends with the command"),
        ("sqlite:///:memory:", "it names no file"),
        (f"ftp://user:{SECRET}@host/store", "ftp:// is no kind of store; give"),
        ("http://127.0.0.1:port", "it is no address of a server"),
        ("http://", "it is no address of a server"),
        (f"mysql+eggs://user:{SECRET}@host/runs", "mysql+eggs is no driver of a database"),
    ],
)
def test_what_is_no_address_is_told_with_one_that_is(uri, fault):
    assert fault in fault_of(uri)


def test_a_driver_that_is_not_installed_is_told_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    uri = f"mysql+pymysql://user:{SECRET}@127.0.0.1/runs"
    assert "its driver pymysql is not installed; install it: pip install pymysql" in fault_of(uri)


@pytest.mark.parametrize(
    ("uri", "seen"),
    [
        (f"postgresql://u:{SECRET}@h/db", "postgresql://u:***@h/db"),
        (f"postgresql://u:{SECRET}@/w@h/db", "postgresql://u:***@h/db"),
        (f"https://{SECRET}@h:5000", "https://***@h:5000"),
        (f"mysql://h/db?user=u&password={SECRET}&x=1", "mysql://h/db?user=u&password=***&x=1"),
        ("http://h:5000/x", "http://h:5000/x"),
        ("sqlite:////a:b@c/mlflow.db", "sqlite:////a:b@c/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_secrets(uri, seen):
    assert shown(uri) == seen
    assert without_secrets(f"no {uri}", uri) == f"no {seen}"


def test_a_password_is_hidden_wherever_a_text_has_it():
    assert without_secrets("p@ss, p%40ss; h", "postgresql://u:p%40ss@h/db") == "***, ***; h"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///a/b.db", "sqlite:///{here}/a/b.db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:///", "sqlite:///"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://b.db", "sqlite://b.db"),
        ("nonsense", "nonsense"),
        ("http://h:5000", "http://h:5000"),
    ],
)
def test_the_path_of_a_file_is_absolute_and_shown_from_the_working_directory(given, used, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert store_uri() == used.format(here=tmp_path)
    assert shown(store_uri()) == (given or "sqlite:///mlflow.db")


def test_a_process_that_changes_its_working_directory_finds_the_store_of_the_new_one(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        _, made = store.open_experiment(name, "tiny")
        assert made.artifact_location == (tmp_path / name / "mlartifacts").as_uri()
    for name in ("first", "second"):
        monkeypatch.chdir(tmp_path / name)
        assert store.recorded_studies() == [(name, "tiny")]


def test_artifacts_go_beside_the_file_wherever_it_is(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere/a.db")
    _, made = store.open_experiment("first", "tiny")
    assert made.artifact_location == (tmp_path / "elsewhere" / "mlartifacts").as_uri()


# ----------------------------------------------------------------------------------------------------- files


@pytest.fixture
def file(own_store, tmp_path):
    """A store with its tables, the one in use."""
    return tmp_path / "mlflow.db"


def uri_of(file):
    return f"sqlite:///{file}"


def test_a_good_store_is_opened_and_not_changed(file):
    before = file.read_bytes()
    require_open(uri_of(file)), require_open(uri_of(file), writing=True)
    require_open(uri_of(file.with_name("none.db"))), require_open(uri_of(file.parent / "a/b/none.db"), writing=True)
    assert file.read_bytes() == before and not (file.parent / "a").exists()


def test_a_folder_a_file_for_a_folder_and_a_place_that_is_none(file, tmp_path):
    assert f"it is a folder; give the file in it, such as sqlite:///{tmp_path}/mlflow.db" in fault_of(uri_of(tmp_path))
    assert "mlflow.db is a file; give a path in a folder" in fault_of(uri_of(file / "x.db"), writing=True)
    assert "its folder /proc is not writable" in fault_of("sqlite:////proc/none/mlflow.db", writing=True)


def test_what_is_no_database_is_told(tmp_path):
    letter = tmp_path / "letter.db"
    letter.write_text("Dear Sir or Madam\n" * 300)
    assert "it is no SQLite database; give a file that MLflow wrote" in fault_of(uri_of(letter))


def test_a_store_that_may_not_be_written_is_read_and_no_study_is_begun(file, monkeypatch):
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name, **how: real(name.replace("mode=rw", "mode=ro"), **how))
    require_open(uri_of(file))
    assert "it is not writable; make it so, or set MLFLOW_TRACKING_URI" in fault_of(uri_of(file), writing=True)


@contextmanager
def locked(file, seconds=60.0):
    """A file that another process has locked, for as long as the block takes, or for fewer seconds."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("begin exclusive")
        timer = threading.Timer(seconds, other.rollback)
        timer.start()
        yield
        timer.cancel()


def test_a_lock_is_waited_for_and_the_wait_is_told(file, capsys):
    with locked(file, seconds=0.6):
        require_open(uri_of(file), writing=True)
    assert capsys.readouterr().err == f"waiting up to 1.0 s: another process has locked {file}\n"


def test_a_lock_that_stays_is_told(file, capsys):
    with locked(file):
        for writing in (False, True):
            assert "another process has kept it locked for 1.0 s; end what has it open" in fault_of(
                uri_of(file), writing
            )
    assert capsys.readouterr().err.count("waiting up to") == 2


def test_a_lock_that_comes_later_is_told_as_one(file):
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    with pytest.raises(Unusable, match="another process keeps it locked"), store.usable_store():
        raise OSError("no") from error


def flip(file, row=b"whiten_adv-mini", offset=0):
    """Change one byte of the last place where a text stands in a file."""
    content = bytearray(file.read_bytes())
    content[content.rfind(row) + offset] ^= 0x55
    file.write_bytes(content)


def test_flipped_bytes_are_told_before_a_study_begins_and_left_as_they_are(own_store, file):
    own_store.create_experiment("whiten_adv-mini")
    flip(file)  # in the table or in its index: they differ now
    before = file.read_bytes()
    assert "it is damaged (" in fault_of(uri_of(file), writing=True)
    assert file.read_bytes() == before


def test_of_a_large_store_the_pages_are_checked_and_not_each_index(own_store, file, monkeypatch):
    own_store.create_experiment("whiten_adv-mini")
    whole = file.read_bytes()
    flip(file)
    monkeypatch.setattr(sqlite_file, "LARGE", 0)
    assert sqlite_file.damage(file) == ""
    file.write_bytes(whole[: len(whole) // 2])
    assert "it is damaged (" in fault_of(uri_of(file), writing=True)


def test_a_newer_store_is_told_to_be_newer_and_an_older_one_how_to_upgrade_its_copy(file):
    for schema, remedy in (
        ("451aebb31d03", "older: copy it and upgrade the copy"),
        ("fff1", "newer: install that version"),
    ):
        with closing(sqlite3.connect(file)) as tables, tables:
            tables.execute("update alembic_version set version_num = ?", [schema])
        sqlite_file.require_schema.cache_clear()
        with pytest.raises(UserError, match=f"schema {schema}; .* it is {remedy}"):
            store.client()


# ----------------------------------------------------------------------------------------------------- servers


@contextmanager
def listening(answer=b""):
    """The address of somebody who takes connections, and answers or does not."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        held = []

        def serve():
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return
                if answer:
                    held[-1].recv(65_536)
                    held[-1].sendall(answer)
                    held[-1].close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def http(status, kind="text/html", body=b"{}"):
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"", "it takes a connection and does not answer within"),
        (b"\r\n", "it breaks the connection off"),
        (http("200 OK"), "what answers there is no MLflow server (200); correct the address"),
        (http("404 NOT FOUND"), "what answers there is no MLflow server (404)"),
        (http("401 UNAUTHORIZED"), "it does not let this user in; set MLFLOW_TRACKING_USERNAME"),
        (http("503 UNAVAILABLE"), "it answers with an error (503); look into its log"),
    ],
)
def test_a_server_that_is_none_is_told(answer, fault):
    with listening(answer) as address:
        assert fault in fault_of(address)


def test_a_server_that_answers_as_mlflow_does_is_opened():
    with listening(http("200 OK", "application/json")) as address:
        require_open(address, writing=True)


def test_nobody_and_no_host_are_told(monkeypatch):
    uri = f"http://user:{SECRET}@127.0.0.1:{free_port()}"
    assert "nobody listens at 127.0.0.1 on port" in fault_of(uri)

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "there is no host nowhere; correct the address" in fault_of("http://nowhere:5000")


def test_a_name_that_is_looked_for_without_end_is_told(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    assert "it does not answer within" in fault_of("http://nowhere:5000")


# ------------------------------------------------------------------------------------------- by the command line


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "place"


VERBS = [
    ["run", "whiten_adv", "--scale", "smoke"],
    ["atlas", "whiten_adv", "--scale", "smoke"],
    ["report", "whiten_adv"],
    ["figures"],
    ["gallery"],
    ["inspect", "whiten_adv/off/1"],
    ["ui"],
    ["import", "other.db"],
    ["check"],
]


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_every_verb_that_needs_the_store_tells_it_in_one_line(words, place, empty_store, monkeypatch, capsys):
    shutil.copy(empty_store, place / "other.db")
    uri = f"http://user:{SECRET}@127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: the MLflow store {shown(uri)} cannot be used: nobody listens at 127.0.0.1")
    assert told.err.count("\n") == 1 and SECRET not in told.out + told.err
    assert not (place / "cache").exists() or not list((place / "cache").glob("*/done.json"))


@pytest.mark.parametrize("words", [["figures"], ["ui"], ["run", "whiten_adv", "--scale", "smoke"]], ids=lambda w: w[0])
def test_a_locked_store_is_told_as_one(words, file, capsys):
    with locked(file):
        assert main(words) == 2
    assert "another process has kept it locked for 1.0 s" in capsys.readouterr().err.splitlines()[-1]


def test_a_store_to_import_from_is_told_to_be_unreadable(own_store, tmp_path, capsys):
    other = shutil.copy(tmp_path / "mlflow.db", tmp_path / "other.db")
    MlflowClient(tracking_uri=uri_of(other)).create_experiment("whiten_adv-mini")
    flip(tmp_path / "other.db")
    for source, fault in (
        (other, "other.db cannot be read: it is damaged ("),
        (f"http://u:{SECRET}@127.0.0.1:{free_port()}", "cannot be read: nobody listens"),
        ("sqlite:nonsense", "it is no address of a database"),
        ("ftp://host/x", "ftp:// is no kind of store"),
    ):
        assert main(["import", str(source)]) == 2
        told = capsys.readouterr().err
        assert fault in told and told.count("\n") == 1 and SECRET not in told


def test_a_lock_of_another_study_is_waited_for_and_told(own_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "TELL_SECONDS", 0.1)
    held, free = threading.Event(), threading.Event()

    def hold():
        with store.store_lock(tmp_path):
            held.set()
            free.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(20)
    with pytest.raises(OSError, match="another study has held .*mlflow.db.lock for 1 s"):
        with store.store_lock(tmp_path, 0.6):
            pass
    threading.Timer(0.5, free.set).start()
    with store.store_lock(tmp_path, 20):
        pass
    other.join()
    assert capsys.readouterr().err.endswith("waiting up to 20 s for another study, which writes to the store\n")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_file_that_this_user_may_not_read_is_told(file):
    pid = os.fork()
    if pid == 0:  # as nobody, who sees none of it
        os.chmod(file, 0o600), os.chmod(file.parent, 0o755)
        os.setgid(65534), os.setuid(65534)
        try:
            sqlite_file.ask(file, lambda tables: tables.execute("select 1 from sqlite_master").fetchone())
        except sqlite3.Error as error:
            os._exit(sqlite_file.code_of(error))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
