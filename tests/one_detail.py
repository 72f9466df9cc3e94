"""`--detail NAME`: of all tests those that are about this detail, what needs no run first, and a readable line for each."""

import ast
import difflib
import re
from pathlib import Path

import pytest

from repro.cli import catalogue
from repro.cli.source import ROOT
from repro.detail import Check, Clash, Detail
from repro.details import CHECKS, DETAILS

EVERY = "every_detail"  # marks a test that is about all details at once
PER_DETAIL = re.compile(rf"parametrize\([^@]*?(DETAILS|CLASHES)|mark\.{EVERY}")
PLACED = re.compile(r"[\w/.]+:\d+: ")
RUNS = {"tiny_run", "left_behind"}  # fixtures that run stages: what asks for one comes last


def place_of(detail, word=""):
    """file:line of a detail's declaration, or in it of a label or a metric."""
    place = catalogue.find(detail.name).place
    keys = [key for node in ast.walk(_declaration(place)) if isinstance(node, ast.Dict) for key in node.keys]
    lines = [key.lineno for key in keys if isinstance(key, ast.Constant) and key.value == word]
    return str(place._replace(line=lines[0]) if lines else place)


def labels_as_written(detail):
    """The labels of a detail's variants in the source, where one may stand twice."""
    declared = _declaration(catalogue.find(detail.name).place)
    words = {word.arg: word.value for word in declared.value.keywords}
    return [ast.literal_eval(key) for key in words["variants"].keys]


def _declaration(place):
    statements = ast.parse((ROOT / place.file).read_text()).body
    return next(each for each in statements if each.lineno == place.line)


def constant_of(detail):
    """The name that the module of a detail gives to it."""
    return _declaration(catalogue.find(detail.name).place).targets[0].id


def refusal(name):
    """Why there is nothing to check of that name, with the nearest names; empty where it is a detail."""
    if name in CHECKS:
        return f"{name} is a check, not a detail: every run makes it"
    close = difflib.get_close_matches(name, DETAILS, n=3, cutoff=0.0)
    return "" if name in DETAILS else f"there is no detail {name!r}; the nearest are {', '.join(close)}"


def is_about(parameters, name):
    """Whether a test with these parameters, by name, is about the detail of that name."""
    return any(name in _subjects(parameter, value) for parameter, value in parameters.items())


def _subjects(parameter, value):
    match value:
        case Detail() | Check() | catalogue.Entry():
            return {value.name}
        case Clash():
            return {value.one.name, value.other.name}
        case str() if parameter == "name":
            return {value}
    return set()


class OneDetail:
    """The plug-in behind the option: it leaves out what is not about the detail, and tells checks in words."""

    def __init__(self, name):
        if why := refusal(name):
            pytest.exit(why, returncode=2)
        self.name = name
        self._open, self._reports, self._told, self._in_a_line = "", [], set(), []

    def pytest_ignore_collect(self, collection_path):
        """Of the tests what has none of each detail, a file or a whole folder, need not be imported."""
        if Path(__file__).parent not in collection_path.parents:
            return None
        files = collection_path.rglob("test_*.py") if collection_path.is_dir() else [collection_path]
        kept = any(file.suffix == ".py" and PER_DETAIL.search(file.read_text()) for file in files)
        return None if kept else True

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        chosen, rest = [], []
        for item in items:
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            kept = is_about(parameters, self.name) or item.get_closest_marker(EVERY)
            (chosen if kept else rest).append(item)
        config.hook.pytest_deselected(items=rest)
        items[:] = sorted(chosen, key=lambda item: not RUNS.isdisjoint(item.fixturenames))

    def pytest_sessionstart(self, session):
        self._write = session.config.pluginmanager.get_plugin("terminalreporter").write_line

    def pytest_collection_finish(self):
        entry = catalogue.find(self.name)
        self._write(f"{self.name}: declared at {entry.place}; read at {', '.join(map(str, entry.calls)) or 'no place'}")

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self):
        category, _, _ = yield
        return category, "", ""  # counted, and no dot

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report):
        sentence = report.location[2].partition("[")[0].removeprefix("test_").replace("_", " ")
        if sentence != self._open:
            self._tell()
            self._open = sentence
        self._reports.append(report)
        if report.failed:
            # The first says what to change, and where; the second is of a fixture that fails for every test.
            if PLACED.match(_why(report)) or str(report.longrepr) in self._told:
                self._in_a_line.append(report)
            self._told.add(str(report.longrepr))

    def pytest_sessionfinish(self):
        self._tell()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter):
        """Tracebacks, of the failures that their lines above do not say in full; all are counted."""
        whole = {kind: reports for kind, reports in terminalreporter.stats.items() if kind in ("failed", "error")}
        for kind, reports in whole.items():
            terminalreporter.stats[kind] = [report for report in reports if report not in self._in_a_line]
        try:
            return (yield)
        finally:
            terminalreporter.stats.update(whole)

    def _tell(self):
        """The line of the check that has ended, and why it failed."""
        if not self._reports:
            return
        failed = [_why(report) for report in self._reports if report.failed]
        skipped = any(report.skipped for report in self._reports)
        self._write(f"  {'FAILED' if failed else 'left out' if skipped else 'ok':<8}  {self._open}")
        for why in dict.fromkeys(failed):
            self._write(f"{'':10}  {why}")
        self._reports = []


def _why(report):
    """The first line of what a failed test says."""
    crash = getattr(report.longrepr, "reprcrash", None)
    told = crash.message if crash else str(report.longrepr)
    return told.splitlines()[0].removeprefix("AssertionError: ")
