"""Answers that are there, and those that are asked for."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.stages.judge.endpoint import Judge, named
from repro.stages.judge.prompt import PROMPT, Messages, characters

TIMEOUT = 300.0  # seconds for one answer; a server of one's own answers one question after the other
RETRIES = 3  # of the client, after 408, 409, 429, 5xx and lost connections, later each time
EMPTY_ANSWERS = 3  # in a row to one question, after which it has failed
PAUSE = 1.0  # seconds before an empty answer is asked for again, doubled each time
MOST_FAILURES = 10  # questions without an answer, after which it is the endpoint that has failed


class Answers:
    """Answers by their key, kept in files that are only appended to; each process that adds some has its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.known, self.lock = folder, {}, threading.Lock()
        for file in sorted(folder.glob("*.jsonl")):
            self.known |= {record["key"]: record for record in _records(file)}
        self.file = folder / f"{time.time_ns()}-{os.getpid()}.jsonl"

    def add(self, record: dict[str, Any]) -> None:
        """Keep an answer, on the disk at once: it has been paid for."""
        with self.lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")
            self.known[record["key"]] = record


def _records(file: Path) -> list[dict]:
    """The answers in a file, but for a last line that an interrupt cut off."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            found += [record] if {"key", "answer", "time"} <= record.keys() else []
        except (ValueError, AttributeError):
            continue
    return found


class Unanswered(Exception):
    """A question that got no answer, and why."""


def gather(
    judge: Judge,
    key: str,
    questions: Mapping[str, Messages],
    answers: Answers,
    threads: int,
    tick: Callable[[], None],
) -> list[str]:
    """Ask every question of the judge, `threads` at a time; why those failed that have no answer.

    UserError where the endpoint refuses, or `MOST_FAILURES` questions (or all) fail; what was answered is kept.
    """
    ask, failures = _asker(judge, key, answers), []
    pool = ThreadPoolExecutor(threads)
    asked = [pool.submit(ask, name, messages) for name, messages in questions.items()]
    try:
        for done in as_completed(asked):
            try:
                done.result()
            except Unanswered as error:
                failures.append(str(error))
                _require_some(failures, len(asked), judge)
            tick()
    finally:  # what is not yet asked is not asked any more; what is, has been paid for, and its answer is kept
        pool.shutdown(cancel_futures=True)
    return failures


def _require_some(failures: list[str], asked: int, judge: Judge) -> None:
    if len(failures) >= min(MOST_FAILURES, asked):
        raise UserError(
            f"the judge {judge.name} at {judge.host} left {len(failures)} questions without an answer, the last: "
            f"{failures[-1]}; the answers so far are kept, and the same command goes on from there"
        )


def _asker(judge: Judge, key: str, answers: Answers) -> Callable[[str, Messages], None]:
    """A function that asks one question and keeps the answer; Unanswered or UserError where there is none."""
    openai = _library()
    client = openai.OpenAI(api_key=key or "none", base_url=judge.base_url, max_retries=RETRIES, timeout=TIMEOUT)
    refusals = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)

    def ask(name: str, messages: Messages) -> None:
        try:
            said = _answer(
                lambda: client.chat.completions.create(model=judge.model, messages=messages, **judge.sampling)
            )
        except refusals as error:
            gist = _gist(error, key)
            keyless = not key and not isinstance(error, openai.NotFoundError)
            hint = "; name the variable that holds its key with --key-env" * keyless
            raise UserError(f"the judge {judge.name} at {judge.host} refuses: {gist}{hint}") from None
        except (openai.OpenAIError, ValueError) as error:  # a ValueError: what came back is no JSON
            raise Unanswered(_gist(error, key)) from None
        told = {"key": name, "model": judge.name, "host": judge.host, "prompt": PROMPT, "sampling": judge.sampling}
        said |= {part: _hidden(said[part], key) for part in ("answer", "answered_by")}
        answers.add(told | said | {"characters": characters(messages)})

    return ask


def _answer(create: Callable[[], Any]) -> dict[str, Any]:
    """What the endpoint says, asked again while that is empty; Unanswered where it stays so, or is no answer at all."""
    for attempt in range(EMPTY_ANSWERS):
        time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
        reply = create()
        if not hasattr(reply, "choices"):
            raise Unanswered("it did not answer in OpenAI's protocol; its address often has to end in /v1")
        told = reply.choices[0].message.content if reply.choices else ""
        if told and told.strip():
            usage = reply.usage.model_dump(include={"prompt_tokens", "completion_tokens"}) if reply.usage else {}
            when = datetime.now(UTC).isoformat(timespec="seconds")
            return {"answer": told, "answered_by": named(reply.model or ""), "time": when} | usage
    raise Unanswered(f"its answer was empty {EMPTY_ANSWERS} times; a model that thinks first needs more --max-tokens")


def _library() -> Any:
    try:
        import openai
    except ImportError:
        raise UserError("a judge is asked through the package openai; install it: pip install -e '.[judge]'") from None
    return openai


def _gist(error: Exception, key: str) -> str:
    """An error in one line of bearable length, without the key, which some endpoints repeat."""
    return _hidden(" ".join(str(error).split()), key)[:300]


def _hidden(text: str, key: str) -> str:
    return text.replace(key, "***") if key else text
