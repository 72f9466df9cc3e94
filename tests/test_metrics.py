"""Every number that a stage logs has one definition, and every name that is declared to be watched exists."""

import json

from repro.details import DETAILS
from repro.stages import stage
from repro.study import ablation, metrics


def logged(folder):
    result = json.loads((folder / stage.RESULT).read_text())["metrics"]
    return set(result) | {name for line in stage.read_journal(folder) for name in line["metrics"]}


def test_every_logged_metric_is_defined(tiny_run):
    names = set().union(*(logged(folder) for folder in tiny_run.values()))
    assert len(names) > 60
    assert [name for name in names if not metrics.known(name)] == []


def test_every_prediction_is_about_a_metric_that_is_logged(tiny_run):
    names = set().union(*(logged(folder) for folder in tiny_run.values()))
    for detail in DETAILS.values():
        assert set(detail.expected) <= names, detail.name


def test_every_study_file_declares_a_study_of_its_name():
    files = sorted(path.stem for path in ablation.FOLDER.glob("*.toml"))
    assert files == sorted(DETAILS)
    for name in files:
        study = ablation.load(name)
        assert study.detail.name == name
        assert list(study.arms)[0] == study.detail.reference
