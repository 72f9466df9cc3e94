"""Who is asked: the endpoint, the model behind it, and the key that it wants."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from repro.errors import UserError
from repro.stages.judge.prompt import Messages

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Judge:
    """Who is asked, and what is sent beside the question; all else is the endpoint's own default."""

    model: str
    base_url: str
    sampling: Mapping[str, float]  # max_completion_tokens, and what else was asked for

    @property
    def name(self) -> str:
        """The model, as it is told: of a folder only its last part, the rest is of one machine."""
        return named(self.model)

    @property
    def host(self) -> str:
        """Where it is, without what an address may hold beside that."""
        parts = urlsplit(self.base_url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def key(self, messages: Messages) -> str:
        """Names the answer: a hash of all that it is an answer to."""
        asked = json.dumps([self.model, messages, dict(self.sampling)], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()


def named(model: str) -> str:
    return Path(model).name if model.startswith(("/", ".", "~")) else model


def judge(model: str, base_url: str, **sampling: float) -> Judge:
    """The judge behind an endpoint, OpenAI's where none is named; UserError for an address that cannot be one."""
    address = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable or "@" in parts.netloc or parts.query:
        raise UserError(
            "the judge's address is not of the form http://HOST:PORT/v1; a key belongs into an environment variable, "
            "named by --key-env"
        )
    return Judge(model, address, sampling)


def secret(base_url: str, key_env: str) -> str:
    """The endpoint's key, from the environment; empty for another endpoint than OpenAI's unless its variable is named.

    A key is sent only where it was meant to go: OPENAI_API_KEY to OpenAI, or OPENAI_BASE_URL, which are set together.
    """
    name = key_env or ("" if base_url else OPENAI_KEY)
    if name and not os.environ.get(name):
        raise UserError(f"the environment has no {name}; set it to the judge's key, or name another with --key-env")
    return os.environ[name].strip() if name else ""
