"""Whole studies through the command line: run, run again, rebuilt, interrupted, and taken up."""

import contextlib
import fcntl
import io
import itertools
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from repro.__main__ import main
from repro.engine import pipeline
from repro.engine.dag import dag_of
from repro.stages import stage
from repro.study import ablation, scale
from tests import blank
from tests import recorded as published
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, and /proc to find the workers")


def start(folder, *words, program=("-m", "repro")):
    """`python -m repro ...` in a folder, as a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *program, *words],
        cwd=folder,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "", "REPRO_CACHE": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def call(*words):
    """The same in this process and its working directory: (exit code, standard output)."""
    with contextlib.redirect_stdout(io.StringIO()) as told:
        code = main(words)
    return code, told.getvalue()


def recorded(folder, file="mlflow.db"):
    """(arm, seed) -> the run in the folder's store."""
    store = MlflowClient(tracking_uri=f"sqlite:///{folder}/{file}")
    found = [run for e in store.search_experiments() for run in store.search_runs([e.experiment_id])]
    runs = {(run.data.tags["arm"], int(run.data.tags["seed"])): run for run in found if "arm" in run.data.tags}
    assert len(runs) == sum("role" not in run.data.tags for run in found)
    return runs


def points(folder, file="mlflow.db"):
    """Every point of every run of the folder's store, repeated ones too."""
    store = MlflowClient(tracking_uri=f"sqlite:///{folder}/{file}")
    return sorted(
        (name, *key, *point)
        for key, run in recorded(folder, file).items()
        for name, *point in published.points(store, run)
    )


def verdict_of(report):
    """What `verdict.json` says, but for the index's facts, which have the times of the runs."""
    return json.loads((report / "verdict.json").read_text()) | {"index": None}


# ------------------------------------------------------------------------------------------ two arms, two seeds

LESS = {"posts": "64", "comparisons": "64", "validation_posts": "8", "test_posts": "8", "episodes": "64"}
SCALE = scale.full_name("smoke", LESS)
REPORT = Path(f"reports/build/score_position-{SCALE}")
WORDS = ("score_position", "--scale", "smoke", "--set", *(f"{field}={value}" for field, value in LESS.items()))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The working directory of a finished study at scale smoke with fewer texts, with what its process said."""
    folder = tmp_path_factory.mktemp("study")
    began = time.time()
    process = start(folder, "run", *WORDS, program=blank.COMMAND_LINE)  # what a terminal sees is drawn
    out, err = process.communicate(timeout=400)
    (folder / "out").write_text(out)
    (folder / "err").write_text(err)
    assert process.returncode == 0, err
    (folder / "seconds").write_text(str(time.time() - began))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.setenv("REPRO_CACHE", "")
        yield folder


def test_a_study_ends_with_its_verdict_and_the_reports_path_and_no_noise(place):
    lines = (place / "out").read_text().splitlines()
    assert lines[-2:] == [f"report: {REPORT}/index.html", "index: reports/build/index.html"]
    assert (place / REPORT / "index.html").exists() and (place / "reports/build/index.html").exists()
    assert "at_eos" in lines[-3] and "after_eos" in lines[-3] and "paired seeds" in lines[-3]
    assert sum(line.startswith("done ") for line in lines) == 16
    assert (place / "err").read_text() == ""


def test_the_verdict_is_for_machines_too(place):
    verdict = json.loads((place / REPORT / "verdict.json").read_text())
    assert verdict.keys() >= {"detail", "scale", "primary", "arms", "seeds", "report"}
    assert (verdict["detail"], verdict["scale"], verdict["primary"]) == (
        "score_position",
        SCALE,
        "test/sampled_win_rate",
    )
    assert verdict["seeds"] == [1, 2] and (place / verdict["report"]).exists()
    arm = verdict["arms"]["at_eos"]
    assert verdict["arms"].keys() == {"at_eos"}
    assert arm.keys() == {"n", "mean_difference", "ci95", "verdict", "sentence", "does"}
    wins = {key: run.data.metrics["test/sampled_win_rate"] for key, run in recorded(place).items()}
    differences = [wins["at_eos", seed] - wins["after_eos", seed] for seed in (1, 2)]
    assert arm["n"] == 2 and arm["mean_difference"] == pytest.approx(sum(differences) / 2)
    if differences[0] == pytest.approx(differences[1], abs=1e-12):  # of few texts they can be equal: there is no spread
        assert arm["ci95"] == [None, None]
    else:
        low, high = arm["ci95"]
        assert low <= arm["mean_difference"] <= high


def test_each_arm_and_seed_is_a_finished_run(place):
    runs = recorded(place)
    assert runs.keys() == {(arm, seed) for arm in ("after_eos", "at_eos") for seed in (1, 2)}
    for (arm, _), run in runs.items():
        assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "finished")
        assert run.data.params["score_position"] == arm and run.data.params["whiten_adv"] == "shift_and_scale"
        assert run.data.metrics.keys() >= {
            "objective/kl",
            "eval/win_rate",
            "sft/loss",
            "rm/validation_accuracy",
            "test/sampled_win_rate",
            "test/win_rate",
            "sft_test/win_rate",
        }
    assert len({run.data.tags["stage.rm"] for run in runs.values()}) == 2
    assert len({run.data.tags["stage.ppo"] for run in runs.values()}) == 4


def test_a_second_run_computes_nothing_and_adds_nothing(place, undrawn):
    before, files = points(place), sorted(path for path in (place / "cache").rglob("*"))
    ids = {key: run.info.run_id for key, run in recorded(place).items()}
    began = time.time()
    code, told = call("run", *WORDS)
    assert code == 0 and "16 of 16 stages are cached" in told and "done " not in told
    assert time.time() - began < float((place / "seconds").read_text())
    assert points(place) == before and sorted((place / "cache").rglob("*")) == files
    assert {key: run.info.run_id for key, run in recorded(place).items()} == ids


def test_a_lost_store_is_filled_again_from_the_cache(place, undrawn, monkeypatch):
    before, verdict = points(place), verdict_of(place / REPORT)
    shutil.rmtree(place / "reports")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///second.db")
    assert call("run", *WORDS)[0] == 0
    assert points(place, "second.db") == before
    assert verdict_of(place / REPORT) == verdict


def test_a_report_needs_the_store_alone(place, unrendered):
    verdict = verdict_of(place / REPORT)
    shutil.rmtree(place / "reports")
    (place / "cache").rename(place / "hidden")
    try:
        code, told = call("report", *WORDS)
        assert not (place / "cache").exists()
    finally:
        (place / "hidden").rename(place / "cache")
    assert code == 0 and f"report: {REPORT}/index.html" in told.splitlines()
    assert verdict_of(place / REPORT) == verdict


def test_a_copy_of_the_store_in_another_folder_makes_all_figures_again(place, unrendered, tmp_path, monkeypatch):
    shutil.copy(place / "mlflow.db", tmp_path)
    shutil.copytree(place / "mlartifacts", tmp_path / "mlartifacts")
    (place / "mlartifacts").rename(place / "gone")
    monkeypatch.chdir(tmp_path)
    try:
        assert call("figures")[0] == 0
    finally:
        (place / "gone").rename(place / "mlartifacts")
    built = tmp_path / REPORT
    assert verdict_of(built) == verdict_of(place / REPORT)
    ours, theirs = ({path.name for path in (folder / "figures").iterdir()} for folder in (built, place / REPORT))
    assert ours == theirs and len(ours) > 20
    assert [path.name for path in sorted((built / "episodes").iterdir())] == ["seed1.html", "seed2.html"]
    assert "No samples were recorded" not in (built / "index.html").read_text()
    for page in ("index.html", "paper/index.html"):
        assert (tmp_path / "reports/build" / page).exists()
    assert not (tmp_path / "cache").exists()


def test_the_report_is_kept_with_the_study_in_the_store(place):
    store = MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")
    experiment = store.get_experiment_by_name(f"score_position-{SCALE}")
    (parent,) = store.search_runs([experiment.experiment_id], "tags.role = 'study'")
    names = {each.path for each in store.list_artifacts(parent.info.run_id, "report")}
    assert {"report/index.html", "report/verdict.json", "report/figures", "report/episodes"} <= names
    sentence = json.loads((place / REPORT / "verdict.json").read_text())["arms"]["at_eos"]["sentence"]
    assert sentence in parent.data.tags["mlflow.note.content"]


def test_a_terminal_is_never_silent_for_five_seconds_and_no_line_is_wider_than_it(place):
    """A new store, a stage to run, everything to publish and to build: each phase shows itself, and takes itself back."""
    shutil.rmtree(max((place / "cache").glob("evaluate-*[0-9a-f]")))
    code, written = in_terminal(80, place, {"MLFLOW_TRACKING_URI": "sqlite:///terminal.db"}, "run", *WORDS)
    assert code == 0, written
    times = [0.0, *(at for at, _ in written)]
    assert max(later - at for at, later in itertools.pairwise(times)) < 5
    told = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "".join(text for _, text in written))
    assert told.count("done    evaluate") == 1 and "15 of 16 stages are done" in told
    for phase in ("reading the study", "opening the MLflow store", "publishing to MLflow", "building the report"):
        assert f"{phase} 0:00:0" in told, phase
    path = f"report: {REPORT}/index.html"
    assert max(len(line.rstrip()) for line in re.split(r"[\r\n]+", told) if line != path) <= 80
    assert told.splitlines()[-2:] == [path, "index: reports/build/index.html"], (
        "what a person copies stays in one piece"
    )


def in_terminal(columns, folder, variables, *words):
    """`python -m repro ...` in a terminal of so many columns: its exit code, and what it wrote, each with its seconds."""
    child, terminal = pty.fork()
    if not child:
        os.chdir(folder)
        unset = {"COLUMNS": "", "LINES": "", "REPRO_CACHE": "", "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, "-m", "repro", *words], os.environ | unset | variables)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    began, written = time.monotonic(), []
    with contextlib.suppress(OSError):  # the end of a terminal that nobody writes to any more
        while text := os.read(terminal, 65_536):
            written.append((time.monotonic() - began, text.decode(errors="replace")))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), written


# -------------------------------------------------------------------------------------------------- interrupted


class Rough:
    """A study that is interrupted again and again, in one working directory."""

    def __init__(self, folder, tokenizer):
        self.folder, self.cache = folder, folder / "cache"
        changes = {
            "tokenizer": str(tokenizer),
            "model": "gpt-neox:32/1/2/64",
            "posts": "64",
            "comparisons": "32",
            "episodes": "64",
            "ppo_batch": "8",
            "sft_batch": "16",
            "validation_posts": "8",
            "test_posts": "8",
            "response_tokens": "12",
        }
        self.words = ["score_position", "--scale", "smoke", "--set", *(f"{k}={v}" for k, v in changes.items())]
        self.study = ablation.load("score_position", "smoke", changes=changes, folder=folder)

    def start(self, **how):
        """The study, started; it returns when a PPO stage has made its first steps."""
        began, process = time.time(), start(self.folder, "run", *self.words, **how)
        while not any(path.stat().st_mtime > began for path in self.cache.glob(f"ppo-*.partial/{stage.JOURNAL}")):
            assert process.poll() is None and time.time() < began + 120, process.communicate()
            time.sleep(0.05)
        return process

    def key(self, name, arm, seed):
        return pipeline.keys(self.study.arms[arm], self.study.scale, seed)[name]

    def done(self):
        """The stages of the study that are whole."""
        return {key.split("-")[0] for key in dag_of(self.study, self.cache).done}


def ended(process):
    """(exit code, standard error) of a study of which no process is left soon after."""
    _, err = process.communicate(timeout=200)
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return process.returncode, err
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError("the study has left workers behind")


def children(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def worker_of(process):
    """The id of one of a study's worker processes, which are forked from a server of its own."""
    for child in children(process.pid):
        if "forkserver" in Path(f"/proc/{child}/cmdline").read_text():
            return children(child)[0]
    raise AssertionError("the study has no workers")


@pytest.fixture(scope="module")
def rough(tmp_path_factory, tokenizer_file):
    return Rough(tmp_path_factory.mktemp("rough"), tokenizer_file)


@pytest.fixture(scope="module")
def straight(rough, tmp_path_factory):
    """(arm, seed) -> the final numbers of the same study when nothing interrupts it."""
    finals, cache = {}, tmp_path_factory.mktemp("straight")
    for arm, recipe in rough.study.arms.items():
        for seed in rough.study.seeds:
            folders = pipeline.run(recipe, rough.study.scale, seed, cache, warn=pytest.fail)
            finals[arm, seed] = json.loads((folders["evaluate"] / stage.RESULT).read_text())["metrics"]
    return finals


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted; the same command continues from here\n"),  # SIGTERM too, says test_cli
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_an_interrupted_study_leaves_no_worker_and_no_half_artefact(number, code, said, rough):
    process = rough.start()
    process.send_signal(number)
    assert ended(process) == (code, said)
    assert {"data", "base", "sft", "rm"} <= rough.done()
    statuses = {run.info.status for run in recorded(rough.folder).values()}
    assert statuses == {"RUNNING" if number == signal.SIGKILL else "KILLED"}


def test_a_study_outlives_a_worker_and_a_failed_seed(rough):
    """A file in the place where a stage wants its folder makes that stage fail."""
    obstacle = rough.cache / f"{rough.key('ppo', 'at_eos', 2)}.partial"
    shutil.rmtree(obstacle, ignore_errors=True)
    obstacle.touch()
    process = rough.start(program=blank.COMMAND_LINE)
    os.kill(worker_of(process), signal.SIGKILL)
    code, err = ended(process)
    obstacle.unlink()
    assert code == 1
    assert err.startswith("failed: ppo at_eos seed 2: FileExistsError") and err.count("\n") == 1
    runs = recorded(rough.folder)
    assert {key: run.info.status for key, run in runs.items()} == {
        ("after_eos", 1): "FINISHED",
        ("after_eos", 2): "FINISHED",
        ("at_eos", 1): "FINISHED",
        ("at_eos", 2): "FAILED",
    }
    assert "FileExistsError" in runs["at_eos", 2].data.tags["error"]
    page = next((rough.folder / "reports" / "build").glob("*/index.html"))
    assert json.loads(page.with_name("verdict.json").read_text())["arms"]["at_eos"]["n"] == 1
    assert "failed: seed 2" in page.read_text()


def test_a_study_that_was_interrupted_ends_with_the_numbers_of_one_that_was_not(rough, straight):
    dag = dag_of(rough.study, rough.cache)
    left = {job.label for key, job in dag.jobs.items() if key not in dag.done}
    process = start(rough.folder, "run", *rough.words, program=blank.COMMAND_LINE)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    assert {line[4:].split("  (")[0].strip() for line in out.splitlines() if line.startswith("done ")} == left
    runs = recorded(rough.folder)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for key, finals in straight.items():
        assert {name: runs[key].data.metrics[name] for name in finals} == finals


def test_the_points_of_a_study_that_was_interrupted_are_those_of_its_journals(rough):
    """After a Ctrl-C, a SIGKILL, a killed worker and a failed stage: each once, in every run that is not deleted."""
    store = MlflowClient(tracking_uri=f"sqlite:///{rough.folder}/mlflow.db")
    for (arm, seed), run in recorded(rough.folder).items():
        assert published.points(store, run) == published.journalled(run, rough.cache), (arm, seed)
