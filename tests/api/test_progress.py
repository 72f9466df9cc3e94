"""What a terminal shows of a study that runs, at several widths, and what a pipe is told."""

import io
import json
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from repro.api import terminal
from repro.api.progress import Progress
from repro.engine.artefacts import partial_folder
from repro.engine.dag import dag_for, jobs_of
from repro.stages import stage
from repro.study import ablation

NUMBERS = {
    "objective/score": -12.34,
    "objective/kl": 101.56,
    "objective/gold": -3.21,
    "objective/length": 23.38,
    "objective/eos_rate": 0.25,
}


def console(width, terminal=True):
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, height=40)


@pytest.fixture
def dag(tmp_path):
    """Two PPO runs of the longest label: one has evaluated twice and is at 55 % of its episodes, one has just begun."""
    study = ablation.load("loss_aggregation", "mini", ["12"])
    dag = dag_for(jobs_of(study), tmp_path)
    runs = [key for key, job in dag.jobs.items() if job.stage == "ppo"]
    runs.sort(key=lambda key: len(dag.jobs[key].arm))
    for key in runs[-2:]:
        dag.running[key] = time.time() - 20
    lines = [(0, {"eval/win_rate": 0.25}), (256, {"eval/win_rate": 0.375} | NUMBERS), (640, NUMBERS)]
    folder = partial_folder(tmp_path / runs[-1])
    folder.mkdir(parents=True)
    lines = [{"step": step, "time": time.time() - 20 + step / 40, "metrics": numbers} for step, numbers in lines]
    (folder / stage.JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return dag


def shown(dag, width):
    progress = Progress(dag, 2, console(width))
    progress._look()
    with progress.console.capture() as told:
        progress.console.print(progress._shown())
    return told.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_row_has_stage_seed_arm_percent_time_left_and_win_rate_at_every_width(width, dag):
    lines = shown(dag, width)
    assert max(map(len, lines)) <= width
    words = lines[0].split("  ")
    assert [word.strip() for word in words if word.strip()][:6] == ["stage", "seed", "arm", "done", "left", "win rate"]
    (row,) = [line for line in lines if "0.38" in line]
    assert row.split()[:2] == ["ppo", "12"] and "55%" in row and " s" in row, (
        "704 of 1,280 episodes, and the last evaluation"
    )
    assert any("~" in line for line in lines), "one that has logged nothing is told by time"
    assert any(line.startswith("0 of ") and "so far" in line for line in lines)
    numbers = {f"{value:.2f}" for value in NUMBERS.values()}
    found = set(row.split()) & numbers
    headers = [name for name in ("score", "KL", "gold", "length", "EOS") if name in lines[0].split()]
    assert len(found) == len(headers), "a number is shown whole under its name, or not at all"
    assert {60: 0, 80: 2, 120: 5, 200: 5}[width] == len(headers)


def test_at_eighty_columns_every_arm_is_on_one_line(dag):
    lines = shown(dag, 80)
    labels = {dag.jobs[key].arm for key in dag.running}
    assert all(any(label in line for line in lines) for label in labels)


def test_what_waits_in_a_clusters_queue_is_told_with_its_reason(dag):
    waiting = [key for key in dag.jobs if key not in dag.running]
    dag.queued = {key: "Resources" if place == 0 else "Dependency" for place, key in enumerate(waiting)}
    lines = shown(dag, 100)
    assert sum("queued" in line for line in lines) == 3
    assert any("queued" in line and "Resources" in line for line in lines)
    assert f"{len(waiting)} in the queue" in "\n".join(lines)


def test_a_pipe_gets_a_line_for_each_stage_that_ends_and_no_table(dag, tmp_path):
    key = next(iter(dag.jobs))
    (tmp_path / key).mkdir()
    (tmp_path / key / stage.DONE).write_text('{"seconds": 3.2}')
    (tmp_path / key / stage.RESULT).write_text('{"metrics": {}}')
    out = console(80, terminal=False)
    with Progress(dag, 1, out) as progress:
        dag.finish(key)
        progress.update()
        progress.update()
    assert progress.live is None
    assert out.file.getvalue() == f"done    {dag.jobs[key].label}  (3 s)  \n"


def test_numbers_of_a_stage_that_ended_never_go_over_a_terminals_edge(dag, tmp_path):
    key = next(key for key, job in dag.jobs.items() if job.stage == "evaluate")
    (tmp_path / key).mkdir()
    (tmp_path / key / stage.DONE).write_text('{"seconds": 3.2}')
    metrics = {"test/sampled_win_rate": 0.1234, "test/win_rate": 0.56, "test/sampled_gold": -0.7, "test/kl": 1.25}
    (tmp_path / key / stage.RESULT).write_text(json.dumps({"metrics": metrics}))
    dag.done.add(key)
    line = Progress(dag, 1, console(80))._ended(dag.jobs[key])
    assert "win rate 0.123" in line and "KL" not in line
    assert "KL 1.25" in Progress(dag, 1, console(80, terminal=False))._ended(dag.jobs[key])


def test_a_pipe_is_told_of_a_phase_that_takes_long_and_of_no_other(monkeypatch):
    out = console(80, terminal=False)
    with terminal.phase("opening the store", out):
        pass
    assert out.file.getvalue() == ""
    monkeypatch.setattr(terminal, "SILENT_SECONDS", 0.01)
    with terminal.phase("opening the [bold]store", out):
        until = time.monotonic() + 10
        while not out.file.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
    assert out.file.getvalue() == "opening the [bold]store ...\n"


def test_a_terminal_shows_a_phase_with_its_seconds_and_takes_it_back():
    out = console(80)
    with terminal.phase("opening the store", out):
        time.sleep(0.6)
    told = out.file.getvalue()
    assert told.count("opening the store 0:00:00") > 1, "it is drawn anew while nothing else happens"
    assert told.endswith("\x1b[2K"), "and gone at its end"


def test_a_dumb_terminal_is_told_what_a_pipe_is(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.is_live(Console(file=io.StringIO(), force_terminal=True))
    assert Progress(SimpleNamespace(done=set()), 1, Console(file=io.StringIO(), force_terminal=True)).live is None
