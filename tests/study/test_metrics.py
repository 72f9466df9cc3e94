"""Every number that a stage logs has one definition, and every name that is declared to be watched exists."""

import json

import pytest

from repro.cli.source import ROOT
from repro.details import DETAILS
from repro.stages import stage
from repro.study import ablation, metrics
from tests.one_detail import place_of

each_detail = pytest.mark.parametrize("detail", DETAILS.values(), ids=DETAILS)


def logged(folder):
    result = json.loads((folder / stage.RESULT).read_text())["metrics"]
    return set(result) | {name for line in stage.read_journal(folder) for name in line["metrics"]}


def test_every_logged_metric_is_defined(tiny_run):
    names = set().union(*(logged(folder) for folder in tiny_run.values()))
    assert len(names) > 60
    assert [name for name in names if not metrics.known(name)] == []


@pytest.fixture(scope="session")
def logged_somewhere(tiny_run):
    return set().union(*(logged(folder) for folder in tiny_run.values()))


@each_detail
def test_every_prediction_is_about_a_metric_that_is_logged(detail, logged_somewhere):
    for metric in detail.expected:
        assert metric in logged_somewhere, f"{place_of(detail, metric)}: no stage logs {metric!r}"


@each_detail
def test_a_study_file_is_about_the_detail_of_its_name_and_says_more_than_its_declaration(detail, tmp_path):
    file, name = ablation.FOLDER / f"{detail.name}.toml", detail.name
    study, implied = ablation.load(name, folder=ROOT / ablation.FOLDER), ablation.load(name, folder=tmp_path)
    assert study.detail is detail, f"{file}:1: it is about {study.detail.name}"
    assert (study != implied) == (ROOT / file).exists(), f"{file}:1: the declaration implies all of it; remove it"
