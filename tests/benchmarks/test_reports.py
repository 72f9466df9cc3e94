"""The benchmark of the reports: its store is one that they can read, and a missed target is an error."""

from functools import cache

import pytest

from benchmarks import reports, store
from repro.reports.reading import episodes
from repro.reports.reading.studies import read_store, read_study

STUDIES = {"first": ["ref", "off"], "second": ["ref", "off", "on"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> str:
    return store.make(tmp_path_factory.mktemp("made"), STUDIES, runs=12)


def test_the_made_up_store_reads_like_a_real_one(made):
    studies, left_out = read_store(made)
    assert {study.detail: study.arms for study in studies} == {"first": ("ref", "off"), "second": ("ref", "off", "on")}
    assert not left_out and sum(len(study.runs) for study in studies) == 12
    assert {study.seeds for study in studies} == {(1, 2, 3), (1, 2)}
    first = read_study("first", store.SCALE, made)
    assert first.troubles == () and len(episodes.read_traces(first)) == len(first.samples) == 6
    assert {len(table) for table in first.samples.values()} == {store.POSTS}
    lengths = first.curves.groupby(["metric", "arm", "seed"]).size().groupby("metric").unique()
    assert {metric: list(values) for metric, values in lengths.items()} == {
        metric: [count]
        for metric, count in (
            dict.fromkeys((*store.PER_UPDATE, *store.COUNTERS), store.UPDATES) | store.PER_STEP
        ).items()
    }
    assert first.finals.groupby(["arm", "seed"]).size().eq(len(store.FINALS)).all()


def test_it_has_as_many_variants_as_it_says():
    assert sum(len(arms) - 1 for arms in reports.studies().values()) == reports.VARIANTS
    assert len(reports.studies()) == reports.STUDIES == len(reports.registered())


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory):
    """Measures a page once: what it takes is not what the targets change."""
    return cache(lambda name: reports.measure(name, made, tmp_path_factory.mktemp("pages")))


@pytest.mark.parametrize(("seconds", "code", "word"), [(0.0, 1, "missed"), (1e6, 0, "")])
def test_a_missed_target_is_an_error(made, measured, monkeypatch, capsys, seconds, code, word):
    monkeypatch.setattr(reports, "TARGETS", {"index": reports.Target(seconds, memory=64)})
    monkeypatch.setattr(reports, "make_store", lambda folder, runs: (folder / "mlflow.db").touch() or made)
    found = measured("index")
    monkeypatch.setattr(reports, "measure", lambda *_: found)
    monkeypatch.setattr("sys.argv", ["reports", "--runs", "12"])
    assert reports.main() == code and word in capsys.readouterr().out
