"""The URI of the MLflow store in use, and how it is shown; a module of its own, since importing MLflow takes seconds."""

import os
import re
from urllib.parse import unquote

DEFAULT_STORE = "sqlite:///mlflow.db"
HIDDEN = "***"
# user:PASSWORD@ up to the last @, since a password may hold / and @ as they stand; one that is a server's token; ?password=...
USER_AND_PASSWORD = re.compile(r"^([^:/]+://[^:/@]*):(.*)@")
TOKEN = re.compile(r"^(https?://)([^:/@]+)@")
PARAMETER = re.compile(r"([?&][^=&]*(?:pass|pwd|token|secret)[^=&]*=)([^&]+)", re.IGNORECASE)
SECRETS = (USER_AND_PASSWORD, TOKEN, PARAMETER)


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the sqlite file of the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


def shown(uri: str) -> str:
    """A URI as people may read it: without its password."""
    uri = USER_AND_PASSWORD.sub(rf"\1:{HIDDEN}@", uri)
    return PARAMETER.sub(rf"\1{HIDDEN}", TOKEN.sub(rf"\1{HIDDEN}@", uri))


def without_secrets(text: str, uri: str) -> str:
    """A text, such as a library's error, without the passwords of a URI."""
    text = text.replace(uri, shown(uri))
    for secret in [found[1] for pattern in SECRETS for found in pattern.findall(uri) if found[1]]:
        for spelling in (secret, unquote(secret)):
            text = text.replace(spelling, HIDDEN)
    return text
