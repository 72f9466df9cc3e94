"""A case of bad input: what is typed, what lies in the folder, and the sentence that it gets."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LONG, ESC = "a" * 300, "\x1b[31m"
MARKS = {"<long>": LONG, "<esc>": ESC, "<rtl>": "\u202e", "<half>": "\udcff", "<digits>": "9" * 5_000}
WIDEST = 200  # characters of a line, without the paths in it
FOLDER = object()  # in the place of a file's content: a folder


@dataclass(frozen=True)
class Link:
    """In the place of a file's content: a link."""

    to: str


@dataclass(frozen=True)
class Case:
    """`call` is split as a shell splits it, with MARKS for what is awkward to write; `says` is a pattern of the sentence."""

    call: str
    says: str
    files: Mapping[str, object] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        return [marked(word) for word in shlex.split(self.call)]

    def __str__(self) -> str:
        return " ".join([*(f"{name}={value}" for name, value in self.env.items()), self.call, *self.files])[:120]


def marked(word: str) -> str:
    for mark, meant in MARKS.items():
        word = word.replace(mark, meant)
    return word


def fill(folder: Path, files: Mapping[str, object]) -> None:
    """Put files into a folder: text or bytes, links, and folders."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is FOLDER:
            path.mkdir()
        elif isinstance(content, Link):
            path.symlink_to(content.to)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def tree(folder: Path) -> set[str]:
    """All that lies in a folder."""
    return {os.path.join(place, name) for place, folders, names in os.walk(folder) for name in (*folders, *names)}


def check_sentence(told: str, says: str, folder: Path) -> None:
    """Of what is told on standard error: one line or two, not long, no traceback, nothing for the terminal to obey."""
    lines = told.removesuffix("\n").split("\n")
    assert told.startswith("error: ") and len(lines) <= 2, told
    assert "Traceback" not in told
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", told), ascii(told)
    assert re.search(says, told), told
    for line in lines:
        short = re.sub(r"[^\s'(]*/[^\s':;,)]{30,}", "PATH", line.replace(str(folder), ".").replace(LONG, "PATH"))
        assert len(short) <= WIDEST, f"{len(short)}: {short}"
