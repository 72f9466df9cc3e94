"""Serves MLflow's own pages and opens them at a study."""

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from urllib.request import urlopen

from repro.errors import UserError
from repro.tracking import present
from repro.tracking.address import shown, store_uri, without_secrets
from repro.tracking.store import find_study

HOST = "127.0.0.1"
START_SECONDS = 90  # until MLflow's server has to answer; at a first start Python compiles it
# Runs MLflow and ends with the process that started it, however that ended: then nobody holds the other end of its standard
# input. The server is a child of MLflow's own command, so the whole group goes.
WITH_STARTER = """
import os, runpy, signal, sys, threading

def end_with_starter():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=end_with_starter, daemon=True).start()
runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
"""


def show(detail: str, scale: str, port: int, tell: Callable[[str], None]) -> None:
    """Open a study's page in a browser and print its address; serve it until Ctrl-C, unless the store is a server.

    UserError where there is no such study, the port is taken, or MLflow does not start.
    """
    page = present.study_address(find_study(detail, scale).experiment_id)
    if store_uri().startswith(("http://", "https://")):
        _open(f"{store_uri().rstrip('/')}/{page}", lambda address: tell(shown(address)))
        return
    signal.signal(signal.SIGHUP, signal.default_int_handler)  # a closed terminal ends the server too
    with server(store_uri(), port) as (address, process):
        _open(f"{address}/{page}", tell)
        tell("press Ctrl-C to stop the server")
        with suppress(KeyboardInterrupt):
            process.wait()


def _open(address: str, tell: Callable[[str], None]) -> None:
    tell(address)
    if sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        webbrowser.open(address)


@contextmanager
def server(store: str, port: int) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start MLflow's server on a store, for this machine only; (address, process) once it answers.

    UserError where the port is taken or it does not start.
    """
    address = f"http://{HOST}:{port}"
    with socket.socket() as tried:
        if tried.connect_ex((HOST, port)) == 0:
            raise UserError(
                f"port {port} is in use, perhaps by an earlier `make ui`; choose another one: make ui PORT={port + 1}"
            )
    words = ["server", "--host", HOST, "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    quiet = {"MLFLOW_LOGGING_LEVEL": "ERROR", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""}
    # Not among the words, which any user may read: it may have a password.
    quiet |= {"MLFLOW_BACKEND_STORE_URI": store}
    with TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", WITH_STARTER, *words],
            env=os.environ | quiet,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a group of its own, so that its child processes can be ended with it
        )
        try:
            if not _answers(f"{address}/health", process):
                output.seek(0)
                said = without_secrets(output.read()[-300:].strip(), store)
                raise UserError(f"MLflow's server does not answer at {address}; its output: {said}")
            yield address, process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it has nothing to save, and SIGTERM takes it long
            process.communicate()


def _answers(address: str, process: subprocess.Popen) -> bool:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), urlopen(address, timeout=2):
            return True
        time.sleep(0.2)
    return False
