"""What the container's image is made of: the files that its context lets through are enough, and its commands exist."""

import os
import re
import shutil
import subprocess
import sys

from tests.paths import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def context(folder):
    """What `.dockerignore` lets through, copied there."""
    named = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in named:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
        _ = shutil.copytree(source, folder / name, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
    return folder


def test_a_study_needs_no_file_that_the_image_has_not(tmp_path):
    image = context(tmp_path)
    own = {"PYTHONPATH": str(image), "MLFLOW_TRACKING_URI": "", "REPRO_CACHE": ""}
    words = [sys.executable, "-m", "repro", "plan", "reward_normalisation", "--scale", "smoke"]
    ended = subprocess.run(words, cwd=image, env=os.environ | own, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "centre" in ended.stdout


def test_its_commands_are_targets_of_the_makefile_that_is_in_it(tmp_path):
    image = context(tmp_path)
    commands = re.findall(r"^RUN (make .+)$", DOCKERFILE, re.MULTILINE)
    commands += [
        " ".join(re.findall(r'"([^"]+)"', words)) for words in re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)
    ]
    page = (ROOT / "docs" / "commands.md").read_text()
    commands += re.findall(r"^docker run .* nplus (make .+)$", page, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        tried = ["make", "--dry-run", *command.split()[1:]]
        ended = subprocess.run(tried, cwd=image, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr


def test_the_image_runs_as_another_user_than_root():
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("\nRUN make")
