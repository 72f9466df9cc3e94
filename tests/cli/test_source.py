"""Where the source declares, reads and logs, on a small made-up tree."""

import pytest

from repro.cli.source import Place, Source

DETAILS, MORE, FIRST = "repro/details/__init__.py", "repro/data/more.py", "repro/a.py"


@pytest.fixture
def source(tmp_path):
    """A registry, and two modules that read and log."""
    for folder in ("data", "details"):
        (tmp_path / "repro" / folder).mkdir(parents=True)
    (tmp_path / DETAILS).write_text(
        'ONE = Detail(\n    stages=("sft",),\n    name="first",\n)\n\nTWO = Detail(name="second")\n'
        'WATCH = Check(name="third", metrics=("rm/bins/*",))\nOTHER = Variant(name="fourth")\n'
    )
    (tmp_path / MORE).write_text(
        "a = pick(ONE)(pick(\n    TWO), 3)\nb = work.pick(details.ONE)\nONE.pick(3), pick(b, ONE), choose(TWO), TWO\n"
    )
    (tmp_path / FIRST).write_text(
        "f(work.pick(ONE).get(1), pick(ONE))\n"
        'def bins(n):\n    return {f"rm/bins/{n}": 1, f"{n}/bins/{n}": 2, "rm/binned": 3}\n'
        'def share(n):\n    return {"share": 1}\n'
        'def renamed(n):\n    return {f"test/{n}": 1, "bins": 2}\n'
    )
    return Source(tmp_path)


def test_declarations_are_those_of_details_and_checks(source):
    assert source.declarations() == {
        "first": ("ONE", Place(DETAILS, 1)),
        "second": ("TWO", Place(DETAILS, 6)),
        "third": ("WATCH", Place(DETAILS, 7)),
    }


def test_reads_are_found_however_a_stage_writes_them(source):
    read = source.reads()
    assert read["ONE"] == (Place(FIRST, 1), Place(MORE, 1), Place(MORE, 3))
    assert read["TWO"] == (Place(MORE, 1),)
    assert read.keys() == {"ONE", "TWO"}


@pytest.mark.parametrize(
    ("metric", "lines"),
    [
        ("rm/bins/*", [2]),
        ("rm/bins/0.5", [2]),
        ("rm/binned", [2]),
        ("test/share", [4, 6]),
        ("sft_test/share", [4]),
        ("rm/other", []),
        ("test/bins", [6]),
    ],
)
def test_loggers_are_the_functions_that_write_a_name(metric, lines, source):
    assert source.loggers([metric]) == tuple(Place(FIRST, line) for line in lines)


def test_a_place_is_shown_as_tools_read_it():
    assert str(Place("repro/stages/ppo.py", 12)) == "repro/stages/ppo.py:12"
