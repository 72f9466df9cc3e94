"""The Makefile in a folder of its own, where no target does anything."""

import json
import shutil
import subprocess

from tests.paths import ROOT

SHOW = "import json, sys; print(json.dumps(sys.argv[1:]))"


def in_folder(folder):
    """Runs a target there; the program only says with which words it was called."""
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "show.py").write_text(SHOW)

    def run(*words):
        command = ["make", "--silent", "--assume-old=.venv/.ready", "PY=python3 show.py", *words]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert not list(folder.rglob("ran")), f"{words} was run"
        return ended

    return run


def called(ended):
    """The words with which the program was called."""
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])
