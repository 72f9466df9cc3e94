"""docs/your-own-data.md, walked as it stands there: its files, its commands, its report, and each error that it quotes."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from repro.__main__ import main
from repro.data.local import read_distinct_comparisons, read_posts, split_comparisons, split_posts
from tests import blank
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "your-own-data.md").read_text()
SAMPLE = ROOT / "docs" / "your-own-data"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ERRORS = {
    what: said.replace(r"\|", "|")
    for what, _, said in re.findall(r"^\| ([^|]+) \| (`+)(error: .*)\2 \|$", PAGE, re.MULTILINE)
}


def blocks(kind):
    return [text for each, text in BLOCKS if each == kind]


def clone(folder):
    """A folder with what a clone has for these commands; its environment is the one that runs the tests, without pictures."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(SAMPLE, folder / "docs" / "your-own-data")
    (folder / ".venv/bin").mkdir(parents=True)
    python = folder / ".venv/bin/python"
    unrendered = (
        f'case "$1 $2" in "-m repro") shift 2; exec {shlex.join((sys.executable, *blank.COMMAND_LINE))} "$@";; esac'
    )
    python.write_text(f'#!/bin/sh\n{unrendered}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / ".venv/.ready").touch()
    return folder


@pytest.fixture(scope="module")
def walked(tmp_path_factory, empty_store):
    """The folder at the end of the walk, and what each command said; its store has its tables, which take seconds to make."""
    folder, told = clone(tmp_path_factory.mktemp("walk")), []
    shutil.copy(empty_store, folder / "mlflow.db")
    for kind, text in BLOCKS:
        if kind == "toml":
            (folder / "ablations").mkdir()
            (folder / text.splitlines()[0].removeprefix("# ")).write_text(text)
        if kind == "sh":
            unset = {"MLFLOW_TRACKING_URI": "", "REPRO_CACHE": "", "PYTHONPATH": str(ROOT)}
            ended = subprocess.run(text, shell=True, cwd=folder, capture_output=True, text=True, env=os.environ | unset)
            assert ended.returncode == 0, f"{text}\n{ended.stdout}\n{ended.stderr}"
            told.append(ended.stdout)
    return folder, told


def test_the_walk_ends_with_its_report(walked):
    folder, (_, planned, ran, again) = walked
    assert "2 arms" in ran and "0 of 16 stages are cached" in ran and "about " in planned
    (verdict,) = blocks("text")
    for out in (ran, again):
        assert verdict.strip() in out
        report = next(line.removeprefix("report: ") for line in out.splitlines() if line.startswith("report: "))
    page = (folder / report).read_text()
    assert "Does whitening the advantages matter on my posts?" in page
    result = json.loads((folder / report).with_name("verdict.json").read_text())
    assert result["seeds"] == [1, 2] and result["arms"].keys() == {"off"}


def test_the_sample_is_valid_fills_each_split_and_is_what_the_page_shows():
    posts, pairs = read_posts(SAMPLE / "posts.jsonl"), read_distinct_comparisons(SAMPLE / "comparisons.jsonl")
    assert (len(posts), len(pairs)) == (48, 64) and {pair["info"]["id"] for pair in pairs} == {p["id"] for p in posts}
    assert len({post["post"] for post in posts}) == 48
    assert {pair["choice"] for pair in pairs} == {0, 1}
    assert all(split_posts(posts, 20261120, 0.1).values())
    split = split_comparisons(pairs, 20261120, 0.1)
    assert split["train"] and split["validation"]
    for shown, row in zip(map(json.loads, blocks("json")), (posts[0], pairs[0])):
        assert shown.keys() == row.keys()
    assert sum(file.stat().st_size for file in SAMPLE.iterdir()) < 100_000


def lines(name, edit):
    """Edits a file of the folder, given as its rows: a list of objects, or of lines that are none."""

    def spoil(folder):
        file = folder / name
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        edit(rows)
        file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))

    return spoil


SPOILED = {
    "a field is missing": lines("posts.jsonl", lambda rows: rows[2].pop("summary")),
    "a line is broken": lines("posts.jsonl", lambda rows: rows.__setitem__(2, '{"id": "post-003"; "title": "x"}')),
    "an id is there twice": lines("posts.jsonl", lambda rows: rows.append(rows[0])),
    "a summary is blank": lines("posts.jsonl", lambda rows: rows[1].update(summary=" ")),
    "the file is not there": lambda folder: (folder / "posts.jsonl").unlink(),
    "there are too few posts": lines("posts.jsonl", lambda rows: rows.__delitem__(slice(3, None))),
    "a choice is neither 0 nor 1": lines("comparisons.jsonl", lambda rows: rows[1].update(choice=2)),
    "a comparison of three": lines("comparisons.jsonl", lambda rows: rows[0]["summaries"].append({})),
    "the tokenizer has no end of text": lambda folder: (folder / "tokenizer.json").write_text(
        (folder / "tokenizer.json").read_text().replace("<|endoftext|>", "<|nothing|>")
    ),
}


def test_every_error_of_the_page_is_tried():
    assert ERRORS.keys() == SPOILED.keys()


@pytest.mark.parametrize("what", SPOILED)
def test_what_is_wrong_is_told_in_the_words_of_the_page(what, walked, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "REPRO_CACHE"):
        monkeypatch.setenv(name, "")
    for file in ("posts.jsonl", "comparisons.jsonl"):
        shutil.copy(SAMPLE / file, tmp_path)
    shutil.copy(walked[0] / "tokenizer.json", tmp_path)
    (tmp_path / "ablations").mkdir()
    (study,) = blocks("toml")
    (tmp_path / "ablations" / "my_posts.toml").write_text(study.replace("docs/your-own-data/", ""))
    SPOILED[what](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", "my_posts"]) == 2
    told = capsys.readouterr().err
    assert told == f"{ERRORS[what]}\n"
    assert sorted(tmp_path.rglob("*")) == before
