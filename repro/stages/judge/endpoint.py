"""The judge's endpoint: address, model and API key."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from repro.errors import UserError, cut, quoted
from repro.stages.judge.prompt import Messages

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Judge:
    """A model behind an endpoint, with its sampling parameters; other parameters have the endpoint's defaults."""

    model: str
    base_url: str
    sampling: Mapping[str, float]  # max_completion_tokens, and others that a person set

    @property
    def name(self) -> str:
        """The model's name as it is recorded: of a path only the last part, since the rest is of one machine."""
        return model_name(self.model)

    @property
    def host(self) -> str:
        """Host and port of the address, without credentials or path."""
        parts = urlsplit(self.base_url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def key(self, messages: Messages) -> str:
        """The key of an answer: a hash of model, question and sampling parameters."""
        request = json.dumps([self.model, messages, dict(self.sampling)], sort_keys=True)
        return hashlib.sha256(request.encode()).hexdigest()


def model_name(model: str) -> str:
    """The model without the folders of a path."""
    return Path(model).name if model.startswith(("/", ".", "~")) else model


def judge(model: str, base_url: str, **sampling: float) -> Judge:
    """The judge at an address, OpenAI's where it is empty; UserError for a malformed address."""
    if not model.strip() or not model.isprintable():
        raise UserError(f"the judge's model {quoted(model)} is no name; give the one that its endpoint knows")
    address = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and address.isprintable()
    except ValueError:  # the port is not a number
        usable = False
    if not usable or "@" in parts.netloc or parts.query:
        raise UserError(
            "the judge's address is not of the form http://HOST:PORT/v1; a key belongs into an environment variable, "
            "named by --key-env or judge_key_env"
        )
    return Judge(model, address, sampling)


def api_key(base_url: str, key_env: str) -> str:
    """The API key in the environment variable `key_env`, or OPENAI_API_KEY where no `base_url` is given, else empty.

    So OPENAI_API_KEY goes to OpenAI or to OPENAI_BASE_URL only, which is set together with it.
    """
    name = key_env or ("" if base_url else OPENAI_KEY)
    if name and not os.environ.get(name, "").strip():
        raise UserError(
            f"the environment has no {cut(name)}; set it to the judge's key, or name another with --key-env or judge_key_env"
        )
    key = os.environ[name].strip() if name else ""
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in {cut(name)} has characters that no key has; set it to the judge's key again")
    return key
