"""What nobody foresaw: one line that says whose fault it is, the traceback in a file, and exit code 70."""

import errno
import os
import tempfile

import pytest

from repro.__main__ import main
from repro.detail import Recipe
from repro.engine import artefacts, pipeline
from repro.study import ablation
from tests.faulty import break_base


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A working directory of one's own, with the default store and cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("REPRO_CACHE", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def raising(monkeypatch, error):
    """The verb `figures`, in which this error is raised; its exit code."""

    def broken(*_, **__):
        raise error

    monkeypatch.setattr("repro.tracking.store.recorded_studies", broken)
    return main(["figures"])


@pytest.mark.parametrize("has_cache", [True, False])
def test_a_fault_in_a_report_is_one_line_with_its_traceback_in_a_file(place, monkeypatch, capsys, has_cache):
    folder = place / "cache" if has_cache else place
    folder.mkdir(exist_ok=True)
    assert raising(monkeypatch, KeyError("primary\nand more")) == os.EX_SOFTWARE
    error = capsys.readouterr().err
    (file,) = folder.glob("error-*.txt")
    assert error.startswith("error: KeyError: 'primary") and error.count("\n") == 1
    assert f"a fault in the code, not in your input; please report it (the traceback is in {file})" in error
    assert "the same command continues" in error
    told = file.read_text()
    assert told.startswith("verb: figures\nPython ") and "torch " in told and "in broken" in told


def test_a_full_disk_is_no_fault_in_the_code(place, monkeypatch, capsys):
    assert raising(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "reports/build")) == 1
    error = capsys.readouterr().err
    assert (
        error.startswith("error: No space left on device: reports/build. Finished stages ")
        and "fault in the code" not in error
    )


def test_without_a_place_for_the_traceback_the_line_is_printed_all_the_same(place, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(place / "gone"))
    assert raising(monkeypatch, KeyError("primary")) == os.EX_SOFTWARE
    assert "please report it. Finished stages" in capsys.readouterr().err


def test_a_fault_in_a_stage_of_a_study_ends_it_with_70_and_its_other_jobs_are_done(place, tokenizer_file, capsys):
    changes = {"tokenizer": str(tokenizer_file), "model": "gpt-neox:32/2/2/64", "posts": "64", "comparisons": "32"}
    study = ablation.load("whiten_adv", "smoke", ["1"], changes)
    keys = pipeline.keys(Recipe(), study.scale, 1)
    for name in ("data", "base"):
        artefacts.run_or_reuse(
            pipeline.BY_NAME[name], Recipe(), study.scale, 1, keys, place / "cache", warn=pytest.fail
        )
    break_base(place / "cache")
    words = [
        "run",
        "whiten_adv",
        "--scale",
        "smoke",
        "--seeds",
        "1",
        "--set",
        *(f"{k}={v}" for k, v in changes.items()),
    ]
    assert main(words) == os.EX_SOFTWARE
    error = capsys.readouterr().err
    assert "failed: sft shift_and_scale seed 1: ZeroDivisionError" in error
    assert (
        "a fault in the code, not in your input; please report it with cache/sft-" in error and "Traceback" not in error
    )
