"""The steps by which CONTRIBUTING.md adds a detail, taken as they stand there in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from textwrap import dedent
from typing import NamedTuple

import pytest

from tests.paths import ROOT

NEEDED = ("repro", "tests", "docs", "ablations", "Makefile", "pyproject.toml", "requirements.lock")
FENCED = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"In\s+`([\w/]+\.py)`")


class Block(NamedTuple):
    """Code of a step: `file` is the one that the words before it name last."""

    kind: str
    file: str
    code: str


def steps():
    """The blocks of the section, in order."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition("\n## Add a detail\n")[2].partition("\n## ")[0]
    for found in FENCED.finditer(section):
        named = NAMED.findall(section[: found.start()])
        yield Block(found[1], named[-1], dedent(found[2]))


@pytest.fixture
def copied(tmp_path):
    """A copy of what the steps change and run; only the reports are the repository's own."""
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tmp_path / name, **{"ignore": leave_compiled} if copy is shutil.copytree else {})
    (tmp_path / "reports").symlink_to(ROOT / "reports")
    return tmp_path


def leave_compiled(_, names):
    return {"__pycache__"} & set(names)


def edit(folder, block):
    """What a person does with a block: append it, or replace the lines that it takes out, which stand there once."""
    path = folder / block.file
    text = path.read_text()
    if block.kind == "python":
        path.write_text(f"{text}\n\n{block.code}")
        return
    marked = block.code.splitlines(keepends=True)
    old, new = ("".join(line[1:] for line in marked if line[0] != other) for other in "+-")
    assert text.count(old) == 1, f"CONTRIBUTING.md replaces what does not stand once in {block.file}: {old}"
    path.write_text(text.replace(old, new))


def make(folder, command, *options):
    """Run a command of make in the copy, with this Python in the place of its environment."""
    words = command.split()
    assert words[0] == "make"
    place = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
    return subprocess.run(
        [*words, f"PY={sys.executable}", "--old-file=.venv/.ready"],
        cwd=folder,
        env=place | {"PYTHONPATH": str(folder), "PYTEST_ADDOPTS": " ".join(options)},
        capture_output=True,
        text=True,
    )


def shapes(text):
    """Lines without the numbers of lines, which move with whatever is written above."""
    return [re.sub(r"\.py:\d+", ".py:N", line).strip() for line in text.splitlines()]


def test_the_steps_add_a_detail_whose_checks_fail_before_the_call_site_and_pass_after(copied):
    ran, known = [], (copied / "repro/details/advantages.py").read_text().count("\n")
    for block in steps():
        if block.kind in ("python", "diff"):
            edit(copied, block)
        elif block.kind == "sh":
            for command in block.code.splitlines():
                # What needs no run comes first: it is enough to know that the call site is missing.
                ran.append((command, make(copied, command, *([] if ran else ["-x"]))))
        else:
            assert set(shapes(block.code)) <= set(shapes(ran[-1][1].stdout)), ran[-1][1].stdout
    (check, missing), (docs, written), (again, passed) = ran
    assert check == again == "make test-detail DETAIL=advantage_clip" and docs == "make docs"
    assert missing.returncode == 2 and "Traceback" not in missing.stdout
    # Two blank lines after the last, as between all declarations.
    assert missing.stdout.count(f"repro/details/advantages.py:{known + 3}: advantage_clip is declared for ppo") == 1
    assert written.returncode == 0, written.stderr
    assert passed.returncode == 0, passed.stdout
    assert "FAILED" not in passed.stdout and passed.stdout.count("  ok  ") > 20
    assert "`advantage_clip`" in (copied / "docs" / "details.md").read_text()
    by_hand = "import test_advantage as t; t.test_an_advantage_is_clipped_on_both_sides_and_at_no_limit_stays()"
    place = os.environ | {"PYTHONPATH": f"{copied}:{copied / 'tests' / 'ops'}"}
    subprocess.run([sys.executable, "-c", by_hand], cwd=copied, env=place, check=True)
