"""Programs timed in turn: the order, the ratios, which checkout runs, and what is refused; with scripts that only pretend."""

import json
import subprocess
import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import bench_peer, load, turns
from repro.errors import UserError
from tests.paths import ROOT

PRETEND = """
import json, sys
load, result = json.load(open(sys.argv[1])), sys.argv[2]
open("order.txt", "a").write(sys.argv[3] if len(sys.argv) > 3 else load["kind"][0])
json.dump({"seconds": [SECONDS, SECONDS, 9], "busy": [SECONDS] * 3, "peak_gib": 0.5, "threads": 1}, open(result, "w"))
"""
LOAD = {"kind": "updates", "threads": 1, "batch": 8}


def side(folder, name, seconds):
    script = folder / f"{name}.py"
    script.write_text(PRETEND.replace("SECONDS", str(seconds)).replace('load["kind"][0]', repr(name)))
    return turns.Side(name, (sys.executable, str(script)), folder)


@pytest.fixture
def found(tmp_path):
    told = []
    sides = [side(tmp_path, "A", 1.0), side(tmp_path, "B", 3.0)]
    runs = turns.take_turns(sides, LOAD, 2, told.append)
    assert (tmp_path / "order.txt").read_text() == "ABAB" and len(told) == 2 and "A 1.00 s, B 3.00 s" in told[1]
    return runs


def test_sides_take_turns_and_are_compared_round_by_round(found):
    assert turns.ratios(found["A"], found["B"]) == turns.Spread(3.0, 3.0, 3.0)
    assert all(run["process_seconds"] > 0 for run in found["A"])


def test_what_disturbed_them_is_the_most_that_others_took_of_the_machine(monkeypatch):
    monkeypatch.setattr(turns, "cores", lambda: 4)
    assert turns.disturbed({"A": [{"others_cores": 0.5}, {"others_cores": 1.0}], "B": [{"others_cores": 0.1}]}) == 0.25


def test_a_ratio_is_a_median_of_pairs_and_not_a_ratio_of_medians():
    ours, theirs = ([{"seconds": [value]} for value in values] for values in ([1, 2, 10], [3, 4, 10]))
    assert turns.ratios(ours, theirs) == turns.Spread(2.0, 1.0, 3.0)


def test_the_figures_have_everything_and_the_table_a_row_for_each_side(found):
    figures = bench_peer.figures(LOAD | {"cache": "x"}, found, 2)
    assert figures["load"] == LOAD and figures["rounds"] == 2 and "ratio" not in figures["sides"]["A"]
    assert figures["sides"]["B"]["ratio"]["median"] == figures["sides"]["B"]["ratio_busy"]["median"] == 3
    assert figures["sides"]["A"]["episodes_per_second"] == {"median": 8.0, "min": 8.0, "max": 8.0}
    assert len(figures["sides"]["B"]["runs"]) == 2 and json.dumps(figures)
    assert bench_peer.table_of({"ppo:S": figures}).row_count == 2


def test_a_side_that_fails_says_how_it_ended(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("import sys; sys.exit('no such luck')")
    with pytest.raises(UserError, match="(?s)B failed.*no such luck"):
        turns.Side("B", (sys.executable, str(script)), tmp_path).run(LOAD)


def test_a_checkout_that_is_not_the_one_that_is_imported_is_refused(tmp_path):
    for name, text in (("load.json", json.dumps(LOAD)), ("result.json", "")):
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "load.py"), "load.json", "result.json"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1 and "not the checkout" in done.stderr


def test_this_checkout_is_timed_as_a_script(tmp_path):
    shape = {"network": "gpt-neox:32/2/2/64", "vocabulary": 64, "query": 6, "response": 4}
    told = {"kind": "updates", "shape": shape, "batch": 4, "micro_batch": 2, "updates": 2, "epochs": 4, "threads": 1}
    command = (sys.executable, "-P", str(ROOT / "benchmarks" / "load.py"))
    run = turns.Side("ours", command, ROOT, {"PYTHONPATH": str(ROOT)}).run(told)
    assert len(run["seconds"]) == len(run["busy"]) == 2 and min(run["seconds"]) > 0
    assert run["threads"] == 1 and run["peak_gib"] > 0.1


def test_what_may_be_timed():
    arguments = bench_peer.parser().parse_args(["--set", "episodes=64"])
    ppo, rm, chain = (bench_peer.load_of(what, arguments) for what in ("ppo:14m", "rm:mini", "chain:smoke"))
    assert ppo["shape"]["vocabulary"] == 50_304 and (ppo["batch"], ppo["epochs"]) == (64, 4)
    assert (rm["kind"], rm["stage"], rm["changes"], rm["threads"]) == ("stage", "rm", {"episodes": "64"}, 1)
    assert chain["kind"] == "chain"
    quarter = bench_peer.load_of("ppo:S", bench_peer.parser().parse_args(["--micro-batch", "16"]))
    assert (
        quarter["micro_batch"] == 16
        and load.setting_of(load.Shape("gpt-neox:8/1/1/8", 9, 2, 2), 64, 16).micro_batch == 16
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--what", "ppo:XL"], "ppo:SHAPE (S, M, 14m)"),
        (["--what", "data:mini", "--no-peer", "--other", "."], "chain:SCALE"),
        (["--no-peer"], "nothing to compare with"),
        (["--no-peer", "--other", "no-such-commit"], "neither a folder nor a commit"),
        (["--no-peer", "--other", "docs"], "no checkout of this project"),
        (["--rounds", "0"], "at least 1"),
        (["--micro-batch", "48"], "must divide the 64 episodes"),
        (["--what", "rm:mini", "--set", "episodes"], "field=value"),
        (["--speed", "11"], "--speed"),
    ],
)
def test_what_it_cannot_do_is_one_line(words, told, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert bench_peer.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and told in error and error.count("\n") == 1


def test_a_checkout_runs_its_own_load(tmp_path, capsys):
    for name in ("repro/__init__.py", "benchmarks/load.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with ExitStack() as stack:
        asked = Namespace(ours=str(ROOT), other=str(tmp_path), no_peer=True)
        _, side = bench_peer.sides_of(asked, stack)
    assert side.command[-1] == str(tmp_path / "benchmarks" / "load.py") and side.environment["PYTHONPATH"] == str(
        tmp_path
    )
    (tmp_path / "benchmarks" / "load.py").unlink()
    assert bench_peer.main(["--no-peer", "--other", str(tmp_path)]) == 2
    assert "has no benchmarks/load.py" in capsys.readouterr().err


def test_without_the_peers_environment_it_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_peer, "PEER", tmp_path / "python")
    assert bench_peer.main(["--what", "ppo:S"]) == 2 and "make bench-peer sets it up" in capsys.readouterr().err


def test_trl_has_no_reward_model_of_ours(capsys, monkeypatch):
    monkeypatch.setattr(bench_peer, "PEER", Path(sys.executable))
    assert bench_peer.main(["--what", "rm:smoke"]) == 2 and "TRL has nothing like rm:smoke" in capsys.readouterr().err


def test_the_peers_script_imports_nothing_of_this_project():
    text = (ROOT / "benchmarks" / "peer.py").read_text()
    assert "import repro" not in text and "from repro" not in text and "benchmarks import" not in text
