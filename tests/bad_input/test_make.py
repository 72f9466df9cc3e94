"""Bad input in the variables of make: what is missing is said before anything is installed, the rest by the program."""

import subprocess

import pytest

from repro.__main__ import main
from tests.bad_input.case import check_sentence, tree
from tests.bad_input.make_words import MISSING, WRONG
from tests.stub_make import called, in_folder


@pytest.mark.parametrize(("target", "words", "says"), MISSING)
def test_what_is_missing_is_said_before_anything_is_installed(target, words, says, tmp_path):
    folder = tmp_path / "fresh"
    in_folder(folder)
    for name in ("requirements.lock", "pyproject.toml"):
        (folder / name).touch()
    (folder / "install").write_text("#!/bin/sh\ntouch installed\nexit 1\n")
    (folder / "install").chmod(0o755)
    command = ["make", "--silent", "PYTHON=./install", target, *words]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    said = [line for line in ended.stderr.splitlines(keepends=True) if not line.startswith("make: ")]
    check_sentence("".join(said), says, tmp_path)
    assert not (folder / "installed").exists()


@pytest.mark.parametrize(("target", "words", "says"), WRONG)
def test_what_is_wrong_is_said_by_the_program(target, words, says, place, tmp_path, capsys):
    program = called(in_folder(tmp_path / "make")(target, *words))
    before = tree(place)
    assert program[:2] == ["-m", "repro"] and main(program[2:]) == 2
    check_sentence(capsys.readouterr().err, says, place)
    assert tree(place) == before
