"""A language model as the judge: which of two summaries is better, asked of any endpoint that speaks OpenAI's protocol.

The paper's question in other words (it uses that of the DPO paper, Rafailov et al. 2023), of each policy's near-greedy
summaries against the reference summaries. Departures: each pair is asked about in both orders, and a judge that
contradicts itself has tied; an answer without a preference counts for nobody, where the paper's code tosses a coin; quotes
around the letter do not decide; retries end. Left out: answers in batches at half the price, which few endpoints have.
"""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from repro.errors import UserError
from repro.stages.evaluate import wins
from repro.types import Metrics

PROMPT = 1  # version of the words below, which a judgement tells
SYSTEM = "You are a helpful assistant."
QUESTION = """\
Below are a post from a forum and two summaries of it. Which summary is the better one: which of them covers the most \
important points of the post, without details that do not matter? A good summary is accurate, covers what is essential, \
and reads coherently.

Post:
{post}

Summary A:
{first}

Summary B:
{second}

Instructions: first compare the two summaries in one sentence that says which of them you prefer, and why. Then, on a \
line of its own, give your preference as the one letter "A" or "B". Your answer has this form:
Comparison: <one sentence>
Preferred: <"A" or "B">"""

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
TIMEOUT = 300.0  # seconds for one answer; a server of one's own answers one question after the other
RETRIES = 3  # of the client, after 408, 409, 429, 5xx and lost connections, later each time
EMPTY_ANSWERS = 3  # in a row to one question, after which it has failed
PAUSE = 1.0  # seconds before an empty answer is asked for again, doubled each time
MOST_FAILURES = 10  # questions without an answer, after which it is the endpoint that has failed
CHARACTERS_PER_TOKEN = 4.0  # of English, roughly, until answers have told
PREFERRED = re.compile(r"^\W*preferred\b\W*(?:summary\b\W*)?([AB])\W*$", re.IGNORECASE | re.MULTILINE)
BARE = re.compile(r"^[^\w:]*([AB])[^\w:\n]*$", re.IGNORECASE | re.MULTILINE)  # a line of one letter that is no heading
COMPARISON = re.compile(
    r"comparison\W*?:[\s*]*(.+?)\s*(?:^\W*preferred\b|\Z)", re.IGNORECASE | re.MULTILINE | re.DOTALL
)

Messages = tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Judge:
    """Who is asked, and what is sent beside the question; all else is the endpoint's own default."""

    model: str
    base_url: str
    sampling: Mapping[str, float]  # max_completion_tokens, and what else was asked for

    @property
    def name(self) -> str:
        """The model, as it is told: of a folder only its last part, the rest is of one machine."""
        return _named(self.model)

    @property
    def host(self) -> str:
        """Where it is, without what an address may hold beside that."""
        parts = urlsplit(self.base_url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def key(self, messages: Messages) -> str:
        """Names the answer: a hash of all that it is an answer to."""
        asked = json.dumps([self.model, messages, dict(self.sampling)], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()


def _named(model: str) -> str:
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


# The question and its answer


@dataclass(frozen=True)
class Duel:
    """A post with a policy's summary and the reference summary."""

    post: str
    summary: str
    reference: str

    @property
    def same(self) -> bool:
        """Whether there is nothing to choose between, and so nothing to ask."""
        return self.summary == self.reference

    @cached_property
    def questions(self) -> dict[str, Messages]:
        """Whose summary is shown first -> the question; none where both summaries are the same."""
        if self.same:
            return {}
        return {
            "policy": question(self.post, self.summary, self.reference),
            "reference": question(self.post, self.reference, self.summary),
        }


def question(post: str, first: str, second: str) -> Messages:
    """What is asked about a post and two summaries, in this order."""
    words = QUESTION.format(post=post, first=first, second=second)
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": words})


def duels(table: pd.DataFrame, column: str) -> list[Duel]:
    """One per post of a run's samples, of the summaries in `column`; none where the run did not record them."""
    if column not in table:
        return []
    return [
        Duel(_text(post).removesuffix("TL;DR:").strip(), _text(ours), _text(reference))
        for post, ours, reference in zip(table["query"], table[column], table["reference"])
    ]


def _text(written: Any) -> str:
    return "" if pd.isna(written) else str(written).strip()


def preference(answer: str) -> str:
    """The letter that a judge prefers, A or B; empty where the answer names none, or both."""
    last = answer.rstrip().rpartition("\n")[2]
    told = PREFERRED.findall(answer) or (BARE.findall(answer) if BARE.fullmatch(last) else [])
    found = {letter.upper() for letter in told}
    return found.pop() if len(found) == 1 else ""


def explanation(answer: str) -> str:
    """The sentence in which a judge compares; empty where it does not."""
    found = COMPARISON.search(answer)
    return found[1] if found else ""


# Answers that are there, and those that are asked for


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
            told = _gist(error, key)
            keyless = not key and not isinstance(error, openai.NotFoundError)
            hint = "; name the variable that holds its key with --key-env" * keyless
            raise UserError(f"the judge {judge.name} at {judge.host} refuses: {told}{hint}") from None
        except (openai.OpenAIError, ValueError) as error:  # a ValueError: what came back is no JSON
            raise Unanswered(_gist(error, key)) from None
        told = {"key": name, "model": judge.name, "host": judge.host, "prompt": PROMPT, "sampling": judge.sampling}
        said |= {part: _hidden(said[part], key) for part in ("answer", "answered_by")}
        answers.add(told | said | {"characters": _characters(messages)})

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
            return {"answer": told, "answered_by": _named(reply.model or ""), "time": when} | usage
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


def _characters(messages: Messages) -> int:
    return sum(len(message["content"]) for message in messages)


# What it costs


@dataclass(frozen=True)
class Cost:
    """What questions cost [tokens]; `at_most` where no answer of this judge has told yet how long they are."""

    questions: int
    prompt_tokens: int
    completion_tokens: int
    at_most: bool

    def words(self, *prices: float) -> str:
        """For whoever has to agree to it; `prices` are of a million tokens of questions and of answers, or not given."""
        bound = "at most" if self.at_most else "about"
        told = f"{self.questions} to ask: about {self.prompt_tokens:,} tokens of questions, "
        told += f"{bound} {self.completion_tokens:,} of answers"
        paid = (tokens * price / 1e6 for tokens, price in zip((self.prompt_tokens, self.completion_tokens), prices))
        return f"{told}; {bound} {sum(paid):.2f} by the prices given" if prices else told


def cost(judge: Judge, questions: Mapping[str, Messages], answers: Answers) -> Cost:
    """An estimate by what this judge's answers used so far; else by the length of English words and the limit."""
    told = [
        record
        for record in answers.known.values()
        if record.get("model") == judge.name and {"prompt_tokens", "completion_tokens", "characters"} <= record.keys()
    ]
    characters = sum(_characters(messages) for messages in questions.values())
    prompt = sum(record["prompt_tokens"] for record in told)
    rate = sum(record["characters"] for record in told) / prompt if prompt else CHARACTERS_PER_TOKEN
    longest = judge.sampling["max_completion_tokens"]
    completion = np.mean([record["completion_tokens"] for record in told]) if told else longest
    return Cost(len(questions), round(characters / rate), round(len(questions) * completion), at_most=not told)


# What it said


def questions_of(judge: Judge, tables: Mapping[Any, pd.DataFrame]) -> dict[str, Messages]:
    """Key -> question, each once, of all runs' samples: the policies' summaries, and the SFT policies' before them."""
    every = [
        duel for table in tables.values() for column in ("summary", "sft_summary") for duel in duels(table, column)
    ]
    return {judge.key(asked): asked for duel in every for asked in duel.questions.values()}


def judgement(judge: Judge, table: pd.DataFrame, answers: Answers) -> dict[str, Any]:
    """What the judge said of one run's samples, as JSON has it: who, when, the metrics, and each post's verdicts."""
    ours, before = (duels(table, column) for column in ("summary", "sft_summary"))
    own = [_verdict(judge, duel, answers) for duel in ours]
    sft = [_verdict(judge, duel, answers) for duel in before]
    keys = [judge.key(asked) for duel in ours + before for asked in duel.questions.values()]
    used = [answers.known[key] for key in keys if key in answers.known]
    told = [{"post_id": post, **verdict} for post, verdict in zip(table["post_id"], own)]
    return {
        "model": judge.name,
        "answered_by": sorted({record["answered_by"] for record in used}),
        "hosts": sorted({record["host"] for record in used}),
        "sampling": dict(judge.sampling),
        "prompt": PROMPT,
        "question": QUESTION,
        "first_answer": min((record["time"] for record in used), default=""),
        "last_answer": max((record["time"] for record in used), default=""),
        "unanswered": len(keys) - len(used),
        "metrics": metrics(table, own, sft),
        "verdicts": [row | {"sft": verdict} for row, verdict in zip(told, sft)] if sft else told,
    }


def _verdict(judge: Judge, duel: Duel, answers: Answers) -> dict[str, Any]:
    """`win` (1, 0.5, 0; null where an answer has no preference), and by whose summary came first what was said."""
    orders = {}
    for first, asked in duel.questions.items():
        answer = answers.known.get(judge.key(asked), {"answer": ""})["answer"]
        letters = {"A": first, "B": "reference" if first == "policy" else "policy", "": ""}
        orders[f"{first}_first"] = {"preferred": letters[preference(answer)], "because": explanation(answer)}
    chosen = [order["preferred"] for order in orders.values()]
    if "" in chosen:
        return {"win": None, **orders}
    return {"win": chosen.count("policy") / len(chosen) if chosen else 0.5, **orders}


def metrics(table: pd.DataFrame, own: list[dict], sft: list[dict]) -> Metrics:
    """The run's numbers as repro/study/metrics.py defines them; one whose denominator is empty is left out."""
    win = pd.Series([verdict["win"] for verdict in own], index=table.index, dtype=float)
    orders = [verdict[order] for verdict in own for order in ("policy_first", "reference_first") if order in verdict]
    readable = pd.Series([order["preferred"] != "" for order in orders], dtype=float)
    both = [v for v in own if v["win"] is not None and "policy_first" in v]
    flips = pd.Series([v["policy_first"]["preferred"] != v["reference_first"]["preferred"] for v in both], dtype=float)
    firsts = [v[f"{first}_first"]["preferred"] == first for v in both for first in ("policy", "reference")]
    means = {
        "judge/win_rate": win.mean(),
        "judge/tie_rate": win.dropna().eq(0.5).mean(),
        "judge/unparsable": 1 - readable.mean(),
        "judge/order_flips": flips.mean(),
        "judge/first_preferred": pd.Series(firsts, dtype=float).mean(),
        "judge/sft_win_rate": pd.Series([verdict["win"] for verdict in sft], dtype=float).mean(),
        "judge/reward_model_agreement": _agreement(table, win),
    }
    return {name: float(value) for name, value in means.items() if not np.isnan(value)}


def _agreement(table: pd.DataFrame, win: pd.Series) -> float:
    """How often the reward model orders a pair as the judge does, where neither ties (N+ detail 17); NaN of none."""
    if "reference_score" not in table:
        return np.nan
    scored = wins(table["score"], table["reference_score"])
    decided = win.isin((0.0, 1.0)) & scored.isin((0.0, 1.0)) & table[["score", "reference_score"]].notna().all(axis=1)
    return (win[decided] == scored[decided]).mean()
