"""What each command brings in before its first word: libraries that take seconds are imported by those who use them.

Counted in a process of its own for each verb, since seconds depend on who else uses the machine.
"""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from repro.cli import catalogue
from repro.cli.source import Source
from repro.engine import speed
from repro.study.scale import SCALES
from tests.paths import ROOT

# What stages need; what a tracker or a report needs; what is drawn while a study runs.
STAGES = {"transformers", "accelerate", "datasets", "peft", "pyarrow", "tokenizers", "huggingface_hub"}
STORE = {"mlflow", "sqlalchemy", "pandas", "scipy", "statsmodels", "matplotlib"}
DRAWN = {"rich.live", "rich.progress"}
HEAVY = STAGES | STORE | DRAWN | {"torch", "numpy", "repro.details"}
# After each `main(words)` prints a line that says which modules it has by then.
PROBE = """
import json, sys
from repro.__main__ import main
for words in json.loads(sys.argv[1]):
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    print()
    print(json.dumps({"code": code, "modules": sorted(sys.modules)}))
"""
TOLD = re.compile(r'(.*?)\n(\{"code": .*?\})\n', re.DOTALL)  # what a command prints, and the line after it


def brought(folder, *words):
    """Exit code, which of `HEAVY` a command has imported by its end in a folder without a store, and what it printed."""
    (told,) = brought_by(folder, [words])
    return told


def brought_by(folder, commands):
    """The same of several commands, one after the other in one process."""
    hidden = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "REPRO_CACHE")}
    told = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(commands)],
        cwd=folder,
        env=hidden | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [(json.loads(line), printed) for printed, line in TOLD.findall(told.stdout)]
    return [(each["code"], HEAVY & set(each["modules"]), printed) for each, printed in found]


def test_help_needs_no_library(tmp_path):
    for words in (["--help"], ["plan", "--help"]):
        began = time.monotonic()
        code, modules, shown = brought(tmp_path, *words)
        assert (code, modules) == (0, set()) and shown.startswith("usage: python -m repro")
        assert time.monotonic() - began < 5  # half a second where nobody else is there


@pytest.mark.parametrize("words", [["nonsense"], ["run", "whiten_adv", "--fast"]], ids=" ".join)
def test_what_is_no_command_is_told_without_a_library(words, tmp_path):
    assert brought(tmp_path, *words)[:2] == (2, set())


PLANNING = ("details whiten_adv", "docs --check", "plan whiten_adv", "atlas whiten_adv --plan")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Command -> what it brought, each after those before it, which may bring no more either."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "cache").mkdir()  # where the machine's speed is known: measuring it takes what a stage takes
    speed.remember(folder / "cache", SCALES["mini"], speed.Speeds({"rm": 1e10}, 4.0, "2026-11-28"))
    return dict(zip(PLANNING, brought_by(folder, [words.split() for words in PLANNING]), strict=True))


@pytest.mark.parametrize("words", PLANNING)
def test_the_registry_and_what_is_planned_bring_torch_and_no_more(words, planned):
    code, modules, _ = planned[words]
    assert code in (0, 1)  # whether the page of the details is stale is another test's
    assert modules == {"torch", "numpy", "repro.details"}


def test_a_report_reads_the_store_without_what_trains(tmp_path):
    code, modules, shown = brought(tmp_path, "report", "whiten_adv")
    assert code == 2  # there is no store
    assert shown.startswith("reading whiten_adv at scale mini from sqlite:///mlflow.db ...\n")
    assert "mlflow" in modules
    assert not modules & ({"torch", "repro.details"} | STAGES - {"pyarrow"} | DRAWN)


def test_the_index_has_the_registrys_names_and_groups_without_its_functions():
    entries = catalogue.entries().values()
    assert Source(catalogue.ROOT).outline() == [
        {"name": entry.name, "group": entry.group} for entry in entries if entry.kind == "detail"
    ]
