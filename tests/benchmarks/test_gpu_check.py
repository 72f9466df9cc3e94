"""The check of the GPU paths, rehearsed on a CPU: one real run, and parts that are made up where only the record matters."""

import json
import os
import subprocess
import sys
import time
import zipfile

import pytest
import torch

from benchmarks import gpu, gpu_check, gpu_parts, gpu_table, peer_gpu
from tests.paths import ROOT

REHEARSAL = ["--device", "cpu", "--shapes", "tiny"]
ABSENT = ("mlflow", "hypothesis", "statsmodels", "seaborn", "matplotlib", "rouge_score", "sqlalchemy")
MARKED = f"# Performance\n\nbefore\n\n<!-- {gpu_table.MARKER} -->\nold\n<!-- /{gpu_table.MARKER} -->\n\nafter\n"


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """The command as on a machine with little installed, and with a TRL that does not work: what ended, and the record."""
    folder = tmp_path_factory.mktemp("rehearsed")
    for name in ABSENT:
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is not here')")
    with zipfile.ZipFile(folder / "trl-0.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("trl/__init__.py", "raise RuntimeError('this TRL is broken')")
    out = folder / "check.json"
    # hypothesis' plugin of pytest is there, and would import it.
    env = os.environ | {"PYTHONPATH": str(folder), "TRL_WHEEL": str(folder), "PYTEST_ADDOPTS": "-p no:hypothesispytest"}
    command = [sys.executable, "-m", "benchmarks.gpu_check", *REHEARSAL, "--out", str(out)]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    return ended, json.loads(out.read_text()), out


def test_its_record_is_complete_and_a_part_that_fails_is_in_it(rehearsed):
    ended, record, _ = rehearsed
    assert ended.returncode == 1 and not ended.stderr, ended.stderr
    assert {name: part["status"] for name, part in record["parts"].items()} == {
        "tests": "passed",
        "ppo tiny": "passed",
        "trl tiny": "failed",
    }, record["parts"]
    assert record["parts"]["trl tiny"]["why"] == "RuntimeError: this TRL is broken"
    assert "Traceback" in " ".join(record["parts"]["trl tiny"]["log"])
    assert {"device", "versions", "shapes", "commit", "changed", "sources"} == record["about"].keys()
    assert {"python", "torch", "transformers", "accelerate"} <= record["about"]["versions"].keys()
    # What fails at once takes no time to speak of.
    assert all(part["seconds"] > 0 for part in record["parts"].values() if part["status"] == "passed")


def test_its_tests_all_pass_on_a_cpu_but_those_that_say_something_on_cuda_only(rehearsed):
    found = rehearsed[1]["parts"]["tests"]["result"]["tests"]
    skipped = {test["name"] for test in found if test["outcome"] == "skipped"}
    assert len(found) > 15 and {test["outcome"] for test in found} == {"passed", "skipped"}
    assert skipped == {
        "test_an_updates_peak_of_memory_is_what_was_forecast",
        "test_on_cuda_a_decoding_step_is_a_graph_that_is_captured_once_a_batch",
    }
    assert all("CUDA only" in test["why"] for test in found if test["outcome"] == "skipped")


def test_its_figures_are_those_of_the_benchmark_and_a_cpu_meets_no_target(rehearsed):
    record = rehearsed[1]
    result = record["parts"]["ppo tiny"]["result"]
    assert result["episodes_per_second"] > 0 and result["utilisation"] is None and result["out_of_memory_at"] == []
    assert set(result["seconds"]) == {*gpu.PHASES, "update", "whole"}
    assert [(each["at_least"], each["met"]) for each in record["targets"]] == [(0.4, None), (3.0, None)]


def test_the_table_is_rendered_from_it_and_names_what_was_not_run(rehearsed, tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(MARKED)
    assert gpu_check.main(["--table", "--page", str(page), "--out", str(rehearsed[2])]) == 0
    text = page.read_text()
    assert text.startswith("# Performance\n\nbefore\n") and text.endswith("\n\nafter\n") and "old" not in text
    assert "no figure says anything about a GPU" in text and "| tiny |" in text and "`trl tiny`: failed" in text
    assert gpu_check.main(["--table", "--page", str(page), "--out", str(rehearsed[2])]) == 0
    assert page.read_text() == text


# ----------------------------------------------------------------------------- the record, with parts that are made up

OURS = {
    "batch": 512,
    "micro_batch": 32,
    "gpu": True,
    "episodes_per_second": 40.0,
    "utilisation": 0.29,
    "update_utilisation": 0.45,
    "peak_gib": 50.0,
    "expected_gib": 53.0,
    "seconds": {"sample": 1.0, "reference": 1.0, "critic": 1.0, "reward model": 1.0, "update": 8.0, "whole": 12.8},
}
THEIRS = {"batch": 256, "episodes_per_second": 10.0}


class MadeUp:
    """A worker whose parts take no time; it notes which it ran, and may be cut at one of them."""

    ran, cut, answers = [], "", {}

    def __init__(self, kind, device, folder):
        pass

    def run(self, job, limit):
        name = f"{job['part']} {job['shape']}".strip()
        if name == self.cut:
            raise KeyboardInterrupt
        self.ran.append(name)
        return dict(self.answers.get(name) or self.answers.get(job["part"]) or {"status": "passed", "result": {}})

    def end(self):
        pass


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """-> the class, and a function that runs the command on 410m and gives its exit code and record."""
    for name, value in {"ran": [], "cut": "", "answers": {}}.items():
        monkeypatch.setattr(MadeUp, name, value)
    MadeUp.answers |= {"ppo": {"status": "passed", "result": OURS}, "trl": {"status": "passed", "result": THEIRS}}
    monkeypatch.setattr(gpu_check, "Worker", MadeUp)
    monkeypatch.setattr(peer_gpu, "missing", lambda: "")
    out = tmp_path / "check.json"

    def run(*words):
        code = gpu_check.main(["--device", "cpu", "--shapes", "410m", "--out", str(out), *words])
        return code, json.loads(out.read_text())

    return MadeUp, run, out


def test_started_again_it_goes_on_where_it_was_cut_off(made_up):
    worker, run, out = made_up
    worker.cut = "ppo 410m"
    with pytest.raises(KeyboardInterrupt):
        run()
    assert list(json.loads(out.read_text())["parts"]) == ["tests"]
    worker.cut = ""
    assert run()[0] == 0 and worker.ran == ["tests", "ppo 410m", "trl 410m"]
    assert run()[0] == 0 and len(worker.ran) == 3  # nothing is left
    assert run("--fresh")[0] == 0 and len(worker.ran) == 6


def test_of_other_code_or_another_device_nothing_is_taken_over(made_up, monkeypatch):
    worker, run, _ = made_up
    run()
    monkeypatch.setattr(gpu_check, "device_of", lambda kind: {"kind": "cpu", "name": "another"})
    run()
    monkeypatch.setattr(gpu_check, "code_of", lambda named: {"commit": "other", "changed": False, "sources": "other"})
    run()
    assert worker.ran == ["tests", "ppo 410m", "trl 410m"] * 3


def test_a_part_that_fails_stops_no_other_and_is_not_repeated(made_up):
    worker, run, _ = made_up
    worker.answers["tests"] = {"status": "failed", "why": "failed: test_one"}
    for _ in range(2):
        code, record = run()
        assert code == 1 and worker.ran == ["tests", "ppo 410m", "trl 410m"]
        assert record["parts"]["tests"]["why"] == "failed: test_one"


def test_what_does_not_fit_is_not_run_and_is_the_first_thing_next_time(made_up):
    worker, run, _ = made_up
    code, record = run("--limit-s", "1")
    assert code == 1 and not worker.ran
    assert {part["why"] for part in record["parts"].values()} == {gpu_check.OUT_OF_TIME}
    assert run()[0] == 0 and len(worker.ran) == 3


def test_a_part_that_is_late_failed_unless_the_whole_ran_out_of_time_or_it_had_an_answer(made_up):
    worker, run, _ = made_up
    worker.answers |= {"ppo": {"status": "failed", "why": "ended", "late": True}}
    worker.answers["trl"] = {"status": "passed", "result": THEIRS, "late": True}
    parts = run()[1]["parts"]
    assert parts["ppo 410m"]["status"] == "failed" and "its limit of 120 s" in parts["ppo 410m"]["why"]
    assert parts["trl 410m"]["status"] == "passed"
    assert run("--fresh", "--limit-s", "60")[1]["parts"]["ppo 410m"]["why"] == gpu_check.OUT_OF_TIME


def test_targets_are_met_or_not_and_the_table_shows_them(made_up, monkeypatch):
    _, run, _ = made_up
    assert [each["met"] for each in run()[1]["targets"]] == [None] * 3  # of a rehearsal nothing is judged
    h100 = {"kind": "cuda", "name": "NVIDIA H100 80GB HBM3", "driver": "570", "cuda": "12.8"}
    monkeypatch.setattr(gpu_check, "device_of", lambda kind: h100)
    record = run()[1]
    assert [each["met"] for each in record["targets"]] == ["yes", "no", "yes"]
    text = gpu_table.table(record)
    assert "On NVIDIA H100 80GB HBM3 (driver 570, CUDA 12.8)" in text and "Not run" not in text
    assert "| 410m | 40.00 | 45% | 29% | 1.00 | 1.00 | 1.00 | 1.00 | 8.00 | 512, 32 | 50.0, 53.0 |" in text
    assert "| 10.00 (256 an update) | 4.0 |" in text
    assert "| share of the peak over a whole PPO step | 410m | 30% | 29% | no |" in text


def test_where_trl_is_not_the_record_says_so_and_nothing_has_failed(made_up, monkeypatch):
    worker, run, _ = made_up
    monkeypatch.setattr(peer_gpu, "missing", lambda: "trl is not installed")
    code, record = run()
    assert code == 0 and worker.ran == ["tests", "ppo 410m"]
    assert record["parts"]["trl 410m"] == {"status": "not run", "why": "trl is not installed", "seconds": 0.0}


def test_the_shapes_are_those_of_the_benchmark():
    assert gpu_check.SHAPES == gpu.SHAPES


# ----------------------------------------------------------------------------- memory, and what TRL is given


def test_where_the_memory_runs_out_half_the_rows_are_tried_once(monkeypatch):
    tried, told = [], []

    def measure(shape, scale, updates, until):
        tried.append(scale.micro_batch)
        if len(tried) <= fail:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return gpu.Measured(**dict.fromkeys(gpu.Measured.__dataclass_fields__, 1))

    monkeypatch.setattr(gpu, "measure", measure)
    for fail, status in ((1, "passed"), (2, "failed")):  # noqa: B007, measure reads it
        tried.clear()
        gpu_parts.ppo({"shape": "410m", "ends": time.time() + 40}, lambda status, **said: told.append((status, said)))
        assert tried == [32, 16] and told[-1][0] == status
    assert [said["result"]["out_of_memory_at"] for _, said in told] == [[32], [32, 16]]
    assert told[1][1]["why"] == "out of memory at micro-batches of 32 and 16"


@pytest.mark.parametrize(
    ("batch", "most", "least", "expected"), [(512, 600, 32, 512), (512, 140, 32, 128), (512, 1, 32, 32)]
)
def test_trls_batch_is_halved_until_two_updates_should_fit(batch, most, least, expected):
    assert gpu_parts.halved_to(batch, most, at_least=least) == expected


# ----------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--shapes", "huge"], "invalid choice: 'huge'"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--limit-s", "0"], "must be above 0"),
        (["--out", "nowhere/check.json"], "the folder does not exist"),
        (["--device", "cpu"], "must not replace what a GPU said"),
        (["--quickly"], "unrecognized arguments: --quickly"),
        ([*REHEARSAL, "--out", "{notes}"], "is not a record of this command"),
        (["--table", "--page", "{notes}"], "does not have the lines"),
        (["--table", "--page", "{page}", "--out", "{notes}"], "not a complete record"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, says, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("[1]")
    (tmp_path / "page.md").write_text(MARKED)
    named = [word.format(notes=tmp_path / "notes.txt", page=tmp_path / "page.md") for word in words]
    assert gpu_check.main(named) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and told.err.startswith("error: ") and says in told.err and not told.out


def test_without_a_gpu_it_says_where_it_can_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu_check.main(["--out", str(tmp_path / "check.json")]) == 2
    assert "no CUDA device here" in capsys.readouterr().err


def test_without_a_record_the_page_says_what_to_run(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(MARKED)
    gpu_table.write_into(page, tmp_path / "none.json")
    assert "No GPU was at hand" in page.read_text() and "make gpu-check" in page.read_text()


def test_make_installs_nothing_where_it_is_told_of_a_python():
    # A `make` above this one, which started the tests, would be told in the environment and add lines of its own.
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", "-n", "gpu-check", "PY=python3", "FRESH=1"]
    said = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert said.stdout.strip() == "python3 -m benchmarks.gpu_check --fresh"
