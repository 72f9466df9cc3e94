"""The judge's answers: the stored ones, and asking for more."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repro.errors import SENTENCE, UserError, cut
from repro.models import strict_json
from repro.stages.judge.endpoint import Judge, model_name
from repro.stages.judge.prompt import PROMPT, Messages, characters, question

NEEDED = ("key", "answer", "time")  # texts without which a stored line is no answer
# What an answer may have beside them.
TEXTS, NUMBERS = ("answered_by", "host"), ("prompt_tokens", "completion_tokens", "characters")
FOLDER = "judge"  # of all answers, in the cache
TIMEOUT = 300.0  # seconds for one answer, as long since a local server may queue questions
RETRIES = 3  # by the client, with backoff, after status 408, 409, 429, 5xx or a lost connection
EMPTY_ANSWERS = 3  # in a row, after which a question has failed
PAUSE = 1.0  # seconds before asking again after an empty answer, doubled each time
CONNECT_TIMEOUT = 20.0  # seconds until an address is taken to be nobody's
MAX_FAILURES = 10  # failed questions, after which the endpoint has failed


class Answers:
    """Answers by `Judge.key`, stored in append-only files, one per process that adds answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock = folder, threading.Lock()
        self.known: dict[str, dict[str, Any]] = {}
        for file in sorted(folder.glob("*.jsonl")):
            self.known |= {record["key"]: record for record in _records(file)}
        self.file = folder / f"{time.time_ns()}-{os.getpid()}.jsonl"

    def add(self, record: dict[str, Any]) -> None:
        """Store an answer on disk at once, since it has been paid for."""
        with self.lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")
            self.known[record["key"]] = record


def _records(file: Path) -> list[dict]:
    """The answers in a file, without lines that are not whole, such as one that an interrupt cut off."""
    records = []
    for line in file.read_bytes().splitlines():
        with suppress(ValueError):
            record = strict_json.parse(line)
            records += [record] if _is_answer(record) else []
    return records


def _is_answer(record: Any) -> bool:
    """Whether a stored line is an answer, with a use of tokens that can be added up where it has one."""
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in NEEDED):
        return False
    if not all(isinstance(record.get(name, ""), str) for name in TEXTS):
        return False
    return all(type(record[name]) is int and record[name] >= 0 for name in NUMBERS if name in record)


class Unanswered(Exception):
    """A question failed; the message says why."""


def ask_all(
    judge: Judge,
    api_key: str,
    questions: Mapping[str, Messages],
    answers: Answers,
    threads: int,
    on_answer: Callable[[], None],
) -> list[str]:
    """Ask the judge all questions, `threads` at a time, and store the answers; returns the reasons of failed questions.

    UserError where the endpoint refuses, or where `MAX_FAILURES` questions or all of them fail; answers are stored anyway.
    """
    ask, failures = _ask_function(judge, api_key, answers), []
    pool = ThreadPoolExecutor(threads)
    futures = [pool.submit(ask, name, messages) for name, messages in questions.items()]
    try:
        for future in as_completed(futures):
            try:
                future.result()
            except Unanswered as error:
                failures.append(str(error))
                _require_few_failures(failures, len(futures), judge)
            on_answer()
    finally:  # cancel what is not asked yet, and wait for what is: it is paid for, and its answer gets stored
        pool.shutdown(cancel_futures=True)
    return failures


def require_answer(judge: Judge, api_key: str, answers: Answers) -> None:
    """UserError where the judge does not answer one short question: whether it can be had, before a study rests on it."""
    messages = question("The dog barks at everyone.", "a dog barks", "a cat")
    try:
        _ask_function(judge, api_key, answers)(judge.key(messages), messages)
    except Unanswered as error:
        raise UserError(
            f"the judge {judge.name} at {judge.host} does not answer: {cut(str(error), SENTENCE)}; start it, or name another"
        ) from None


def _require_few_failures(failures: list[str], questions: int, judge: Judge) -> None:
    if len(failures) >= min(MAX_FAILURES, questions):
        raise UserError(
            f"the judge {judge.name} at {judge.host} left {len(failures)} questions without an answer, the last: "
            f"{failures[-1]}; the answers so far are kept, and the same command goes on from there"
        )


def _ask_function(judge: Judge, api_key: str, answers: Answers) -> Callable[[str, Messages], None]:
    """A function that asks one question and stores the answer; it raises Unanswered, or UserError where the host refuses."""
    openai = _library()
    timeout = openai.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT)
    client = openai.OpenAI(api_key=api_key or "none", base_url=judge.base_url, max_retries=RETRIES, timeout=timeout)
    refusals = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)

    def ask(key: str, messages: Messages) -> None:
        try:
            answer = _answer(
                lambda: client.chat.completions.create(model=judge.model, messages=messages, **judge.sampling)
            )
        except refusals as error:
            reason = _one_line(error, api_key)
            needs_key = not api_key and not isinstance(error, openai.NotFoundError)
            hint = "; name the variable that holds its key with --key-env or judge_key_env" * needs_key
            raise UserError(f"the judge {judge.name} at {judge.host} refuses: {reason}{hint}") from None
        except (openai.OpenAIError, ValueError) as error:  # a ValueError where the reply is not JSON
            raise Unanswered(_one_line(error, api_key)) from None
        request = {"key": key, "model": judge.name, "host": judge.host, "prompt": PROMPT, "sampling": judge.sampling}
        answer |= {part: _without_key(answer[part], api_key) for part in ("answer", "answered_by")}
        answers.add(request | answer | {"characters": characters(messages)})

    return ask


def _answer(create: Callable[[], Any]) -> dict[str, Any]:
    """The endpoint's answer and its usage; asks again while the answer is empty, then raises Unanswered."""
    for attempt in range(EMPTY_ANSWERS):
        time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
        reply = create()
        content = _content(reply)
        if content.strip():
            when = datetime.now(UTC).isoformat(timespec="seconds")
            return {"answer": content, "answered_by": _model(reply), "time": when} | _usage(reply)
    raise Unanswered(
        f"its answer was empty {EMPTY_ANSWERS} times; a model that thinks first needs more --max-tokens (judge_max_tokens)"
    )


def _content(reply: Any) -> str:
    """The text of a reply, empty where it has none; Unanswered where it is not in OpenAI's protocol: nobody checks that."""
    try:
        content = (reply.choices[0].message.content or "") if reply.choices else ""
    except (AttributeError, TypeError, LookupError):
        content = None
    if not isinstance(content, str):
        raise Unanswered("it did not answer in OpenAI's protocol; its address often has to end in /v1")
    return content


def _model(reply: Any) -> str:
    name = getattr(reply, "model", "")
    return model_name(name) if isinstance(name, str) else ""


def _usage(reply: Any) -> dict[str, int]:
    """The tokens of question and answer, as far as the reply counts them."""
    counts = {
        name: getattr(getattr(reply, "usage", None), name, None) for name in ("prompt_tokens", "completion_tokens")
    }
    return {name: count for name, count in counts.items() if type(count) is int and count >= 0}


def _library() -> Any:
    try:
        import openai
    except ImportError:
        raise UserError("a judge is asked through the package openai; install it: pip install -e '.[judge]'") from None
    return openai


def _one_line(error: Exception, api_key: str) -> str:
    """An error in one line of 300 characters at most, without the API key, which some endpoints echo."""
    return _without_key(" ".join(str(error).split()), api_key)[:300]


def _without_key(text: str, api_key: str) -> str:
    return text.replace(api_key, "***") if api_key else text
