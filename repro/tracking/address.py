"""The URI of the MLflow store in use, and how it is shown; a module of its own, since importing MLflow takes seconds."""

import os
import re
from urllib.parse import unquote

FILE = "sqlite:///"  # and a path, which is relative unless a fourth slash begins it
DEFAULT_STORE = f"{FILE}mlflow.db"
HIDDEN = "***"
# user:PASSWORD@ up to the last @, since a password may hold / and @ as they stand; one that is a server's token; ?password=...
USER_AND_PASSWORD = re.compile(r"^([^:/]+://[^:/@]*):(.*)@")
TOKEN = re.compile(r"^(https?://)([^:/@]+)@")
PARAMETER = re.compile(r"([?&][^=&]*(?:pass|pwd|token|secret)[^=&]*=)([^&]+)", re.IGNORECASE)
SECRETS = (USER_AND_PASSWORD, TOKEN, PARAMETER)


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or `mlflow.db` of the working directory; a relative path of a sqlite file is made absolute.

    MLflow keeps a connection for each URI as long as a process lives: after a change of the working directory the same
    relative URI would still mean the file of the directory before.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE
    path = uri.removeprefix(FILE)
    if path == uri or not path or path.startswith(("/", ":memory:", "file:")) or "?" in _here():
        return uri
    return _here() + path


def _here() -> str:
    """The URI of the working directory as a sqlite file, up to the file's own name."""
    return FILE + os.path.join(os.getcwd(), "")


def shown(uri: str) -> str:
    """A URI as people may read it: relative to the working directory where it is in it, and without its password."""
    uri = uri.replace(_here(), FILE)
    uri = USER_AND_PASSWORD.sub(rf"\1:{HIDDEN}@", uri)
    return PARAMETER.sub(rf"\1{HIDDEN}", TOKEN.sub(rf"\1{HIDDEN}@", uri))


def without_secrets(text: str, uri: str) -> str:
    """A text, such as a library's error, without the passwords of a URI."""
    text = text.replace(uri, shown(uri))
    for secret in [found[1] for pattern in SECRETS for found in pattern.findall(uri) if found[1]]:
        for spelling in (secret, unquote(secret)):
            text = text.replace(spelling, HIDDEN)
    return text
