"""The command line, called as a function; whole studies are in test_end_to_end."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from tokenizers import Tokenizer, models

from repro.__main__ import main
from repro.api.execution import run_jobs
from repro.api.folders import writable_folder
from repro.cli import atlas_quotes, catalogue, docs, pages
from repro.details import GROUPS
from repro.engine import launch, pipeline, speed
from repro.engine.dag import Dag, jobs_of
from repro.engine.job import DONE
from repro.errors import UserError
from repro.stages import stage
from repro.study import ablation
from tests.paths import ROOT


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A working directory of one's own, with the default store and cache."""
    monkeypatch.chdir(tmp_path)
    for name in ("REPRO_CACHE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def tiny(tokenizer_file):
    """Words that make the smoke scale tiny."""
    return ["--scale", "smoke", "--set", f"tokenizer={tokenizer_file}", "model=gpt-neox:32/2/2/64", "posts=64"]


def error_of(capsys, words):
    """What a call with bad input says: one line, exit code 2, and nothing else."""
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


# ------------------------------------------------------------------------------------------------ what it shows


def test_details_as_json_are_the_registry(capsys):
    assert main(["details", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == [catalogue.record(entry) for entry in catalogue.entries().values()]
    assert main(["details", "whiten_adv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [catalogue.record(catalogue.find("whiten_adv"))]


def test_details_as_a_list_are_in_the_order_of_their_groups(capsys):
    assert main(["details"]) == 0
    first = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()]
    assert [word for word in first if word in catalogue.entries()] == [
        name for group in GROUPS.values() for name in group
    ]


@pytest.mark.parametrize("name", catalogue.entries())
def test_details_of_one_are_about_that_one(name, capsys):
    assert main(["details", name]) == 0
    assert capsys.readouterr().out.startswith(f"{name}  {catalogue.find(name).kind}\n")


def test_docs_are_written_and_checked(place, monkeypatch, capsys):
    monkeypatch.setattr(docs, "PAGE", place / "details.md")
    monkeypatch.setattr(atlas_quotes, "PAGES", ())
    assert main(["docs", "--check"]) == 1
    assert capsys.readouterr() == ("", f"stale: {docs.PAGE}; written again by: make docs\n")
    assert main(["docs"]) == 0
    assert capsys.readouterr().out == f"wrote {docs.PAGE}\n"
    assert main(["docs", "--check"]) == 0 and main(["docs"]) == 0
    assert capsys.readouterr() == ("every page is up to date\n", "")


def test_a_plan_tells_what_would_run_and_writes_no_more_than_how_fast_it_found_the_computer(tiny, place, capsys):
    assert main(["plan", "whiten_adv", *tiny, "--seeds", "4", "5"]) == 0
    told = capsys.readouterr().out
    assert "arms shift_and_scale, scale_only, off; seeds 4 5; primary metric test/sampled_win_rate" in told
    rows = [line.split() for line in told.splitlines()]
    assert {row[0]: row[1:4] for row in rows if row[:1] and row[0] in pipeline.BY_NAME} == {
        "data": ["1", "yes", "0/1"],
        "base": ["1", "yes", "0/1"],
        "sft": ["2", "yes", "0/2"],
        "rm": ["2", "yes", "0/2"],
        "baseline": ["2", "yes", "0/2"],
        "ppo": ["6", "no", "0/6"],
        "evaluate": ["6", "no", "0/6"],
    }
    assert "worker" in told.splitlines()[-1] and told.splitlines()[-1].startswith("about ")
    assert "data, base, sft, rm, baseline, ppo, evaluate: estimated from a " in told
    assert [path.name for path in place.rglob("*")] == ["cache", speed.FILE]


def test_a_machine_with_too_few_gpus_plans_and_does_not_run(tiny, place, monkeypatch, capsys):
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 1)
    refusal, words = "processes=2, and this machine has 1 GPUs; set it to at most that", [*tiny, "processes=2"]
    assert main(["plan", "whiten_adv", *words]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2].endswith("with 1 worker") and told[-1] == f"`run` would refuse this on this machine: {refusal}"
    assert refusal in error_of(capsys, ["run", "whiten_adv", *words])
    assert main(["plan", "whiten_adv", *tiny]) == 0
    assert "would refuse" not in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["run", "atlas"])
def test_a_starting_point_that_is_not_there_is_told_before_anything_is_recorded(verb, tiny, place, capsys):
    assert main([verb, "whiten_adv", *tiny, "rm_from=start-{seed}", "--seeds", "4", "5"]) == 2
    assert "'start-4', where rm of seed 4 starts, is no folder" in capsys.readouterr().err
    assert not list(place.glob("**/mlflow.db"))


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, UserError("the cluster is silent")])
def test_whatever_ends_the_watch_what_it_leaves_running_is_told(ended_by, capsys):
    class Elsewhere:
        workers = 1

        def run(self, dag, tick):
            raise ended_by

        def parting(self, dag):
            return "to end them: scancel 7\n"

    class Untracked:
        closed = False

        def close(self):
            self.closed = True

    tracker = Untracked()
    with pytest.raises((KeyboardInterrupt, UserError)):
        run_jobs(Dag({}, Path("cache")), Elsewhere(), tracker)
    assert capsys.readouterr().err == "to end them: scancel 7\n" and tracker.closed


def test_a_plan_knows_what_is_cached_and_what_is_corrupt(tiny, place, capsys):
    changes = dict(word.split("=", 1) for word in tiny[3:])
    study = ablation.load("whiten_adv", "smoke", changes=changes)
    job = next(iter(jobs_of(study).values()))
    assert launch.work(job, place / "cache").code == DONE
    made = place / "cache" / job.key
    assert main(["plan", "whiten_adv", *tiny]) == 0
    assert "data 1 yes 1/1" in " ".join(capsys.readouterr().out.split())
    (made / "result.json").write_text("{}")
    assert main(["plan", "whiten_adv", *tiny]) == 0
    told = capsys.readouterr()
    assert "data 1 yes 0/1" in " ".join(told.out.split())
    assert told.err == "warning: the cached data shift_and_scale seed 1 is corrupt; it is made again\n"


# ------------------------------------------------------------------------------------------- what it cannot use


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "VERB"),
        (["rum"], "invalid choice: 'rum'"),
        (["run"], "name a detail"),
        (["run", "whiten_avd"], "there is no detail 'whiten_avd'; did you mean 'whiten_adv'?"),
        (["details", "whiten_avd"], "there is no detail or check 'whiten_avd'; did you mean 'whiten_adv'?"),
        (["plan", "whiten_adv", "--scale", "smoek"], "there is no scale 'smoek'; did you mean 'smoke'?"),
        (["plan", "whiten_adv", "--set", "episodes"], "--set 'episodes' has no value; write FIELD=VALUE"),
        (["plan", "whiten_adv", "--set", "episode=3"], "a scale has no field 'episode'; did you mean 'episodes'?"),
        (["plan", "whiten_adv", "--set", "episodes=many"], "episodes='many' is not an integer"),
        (["plan", "whiten_adv", "--set", "seeds=1,2"], "--seeds 1 2 3"),
        (["plan", "whiten_adv", "--set", "posts=64", "posts=65"], "--set posts is given twice, as 64 and 65"),
        (["plan", "whiten_adv", "--with", "gamma"], "--with 'gamma' has no value; write DETAIL=LABEL"),
        (["plan", "whiten_adv", "--with", "gama=1"], "there is no detail 'gama'; did you mean 'gamma'?"),
        (["plan", "whiten_adv", "--with", "gamma=2"], "gamma has no variant '2'"),
        (["plan", "whiten_adv", "--arms", "of"], "whiten_adv has no variant 'of'; did you mean 'off'?"),
        (["plan", "calibration"], "calibration is a check, not a choice"),
        (["atlas", "--scale", "smoek", "--plan"], "there is no scale 'smoek'; did you mean 'smoke'?"),
        (["atlas", "whiten_avd", "--plan"], "there is no detail 'whiten_avd'"),
        (["plan", "whiten_adv", "--scale", "local"], "scale local needs tokenizer"),
        (
            ["plan", "whiten_adv", "--scale", "smoke", "--set", "tokenizer=nowhere"],
            "tokenizer 'nowhere' does not exist",
        ),
    ],
)
def test_wrong_words_are_told_in_one_line_and_leave_nothing(words, error, capsys, place):
    assert error in error_of(capsys, words)
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--seeds", "one"], "seeds 'one' are not all integers"),
        (["--seeds", "1", "2", "1"], "seeds 1 2 1 repeat"),
        (["--set", "model=neox"], "'neox' is neither a model's folder nor a shape"),
    ],
)
def test_wrong_values_are_told_in_one_line(words, error, tiny, capsys):
    if words[0] == "--set":
        name = words[1].partition("=")[0]
        words, tiny = [], [*(word for word in tiny if not word.startswith(f"{name}=")), *words[1:]]
    assert error in error_of(capsys, ["plan", "whiten_adv", *words, *tiny])


def test_a_wrong_study_file_is_named(tiny, place, capsys):
    Path("ablations").mkdir()
    Path("ablations/mine.toml").write_text('detail = "whiten_adv"\nseeds = 1 2\n')
    assert "ablations/mine.toml is not valid TOML" in error_of(capsys, ["run", "mine", *tiny])
    Path("ablations/mine.toml").write_text('detail = "whiten_adv"\narms = ["of"]\n')
    assert "did you mean 'off'?" in error_of(capsys, ["run", "mine", *tiny])
    assert [path.name for path in place.iterdir()] == ["ablations"]


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_cache_that_cannot_be_written_is_told(verb, tiny, place, monkeypatch, capsys):
    (place / "file").touch()
    monkeypatch.setenv("REPRO_CACHE", "file/cache")
    assert "the cache folder file/cache is not writable" in error_of(capsys, [verb, "whiten_adv", *tiny])
    assert [path.name for path in place.iterdir()] == ["file"]


def test_studies_that_start_together_do_not_refuse_each_others_folder(tmp_path):
    tried = [tmp_path / "cache"] * 400
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda folder: writable_folder(folder, "cache", "set another"), tried))
    assert list(tried[0].iterdir()) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["pretrain", "base", "--steps", "0"], "0 is not a whole number above 0"),
        (["pretrain", "base", "--width", "100"], "--width 100: it must be a multiple of 32"),
        (["judge", "whiten_adv", "--model", "m", "--price-in", "nan", "--price-out", "1"], "nan is not a price"),
        (["judge", "whiten_adv", "--model", "m", "--price-in", "1", "--price-out", "-2"], "-2 is not a price"),
        (["judge", "whiten_adv", "--model", "m", "--price-in", "1", "--price-out", "inf"], "inf is not a price"),
        (["judge", "whiten_adv", "--model", "m", "--price-in", "a", "--price-out", "1"], "a is not a price"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(words, problem, place, capsys):
    assert problem in error_of(capsys, words)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("verb", ["report", "run"])
def test_a_report_folder_that_cannot_be_written_is_told_before_anything_runs(verb, tiny, place, capsys):
    (place / "reports").touch()
    assert "the report folder reports/build is not writable" in error_of(capsys, [verb, "whiten_adv", *tiny])
    assert not (place / "mlflow.db").exists()


@pytest.mark.parametrize("verb", ["report", "run", "figures"])
@pytest.mark.parametrize("uri", ["nonsense", "spam://eggs"])
def test_a_store_that_cannot_be_used_is_told_before_anything_runs(uri, verb, tiny, place, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    words = [verb] if verb == "figures" else [verb, "whiten_adv", *tiny]
    assert f"the MLflow store {uri} cannot be used" in error_of(capsys, words)
    assert not any(path.is_file() for path in place.rglob("*") if path.suffix != ".lock")


def test_a_report_on_nothing_is_told(tiny, capsys):
    assert "there is no MLflow store" in error_of(capsys, ["report", "whiten_adv", *tiny])
    assert not os.path.exists("mlflow.db")


def test_input_that_only_a_stage_can_judge_is_told_the_same_way(place):
    """Completions end in a token that this tokenizer does not have."""
    Tokenizer(models.WordLevel({"?": 0}, unk_token="?")).save(str(place / "tokenizer.json"))
    words = [
        "run",
        "score_position",
        "--scale",
        "smoke",
        "--seeds",
        "1",
        "--set",
        "posts=64",
        "tokenizer=tokenizer.json",
        "model=gpt-neox:32/2/2/64",
    ]
    told = subprocess.run(
        [sys.executable, "-m", "repro", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert told.returncode == 2
    assert told.stderr.startswith("error: tokenizer.json: the tokenizer has no end-of-text token")
    assert told.stderr.count("\n") == 1 and "`eos_token` in tokenizer_config.json, is needed" in told.stderr
    assert not list((place / "reports").rglob("*.html")) and not list((place / "cache").glob(f"*/{stage.DONE}"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_told_in_one_line(number, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "load", lambda *_, **__: signal.raise_signal(number))
    assert main(["plan", "whiten_adv"]) == 130
    assert capsys.readouterr().err == "interrupted; the same command continues from here\n"


class Interrupted:
    """An object in whose destructor an interrupt arrives."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_python_drops_comes_again(number, monkeypatch, capsys):
    def load(*_, **__):
        Interrupted(number)
        time.sleep(20)

    monkeypatch.setattr(ablation, "load", load)
    began = time.monotonic()
    assert main(["plan", "whiten_adv"]) == 130 and time.monotonic() - began < 10
    assert capsys.readouterr().err == "interrupted; the same command continues from here\n"


@pytest.mark.parametrize(("scale", "warnings"), [("pythia-160m", 1), ("smoke", 0)])
def test_a_scale_for_gpus_is_told_of_where_there_is_none(scale, warnings, capsys, monkeypatch):
    def stop(*_):
        raise UserError("far enough")

    monkeypatch.setattr("repro.api.execution.check_data", lambda *_: None)
    monkeypatch.setattr("repro.api.execution.execute", stop)
    monkeypatch.setattr(launch, "visible_devices", lambda: ())
    assert main(["run", "whiten_adv", "--scale", scale]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "error: far enough" and len(told) == 1 + warnings
    assert all(line.startswith(f"warning: scale {scale} is made for GPUs") for line in told[:-1])
    monkeypatch.setattr(launch, "visible_devices", lambda: ("0",))
    assert main(["run", "whiten_adv", "--scale", scale]) == 2
    assert capsys.readouterr().err == "error: far enough\n"


# ------------------------------------------------------------------------------------------------ what the verdict is of


@pytest.mark.parametrize(
    ("arms", "seeds", "told"),
    [
        (("shift_and_scale", "off", "scale_only"), (1, 2), ""),
        (("shift_and_scale", "off"), (1,), ""),  # some failed: the verdict's warnings say that
        (
            ("shift_and_scale", "off", "scale_only"),
            (1, 2, 3),
            "the store also holds seed 3 of this study; it is counted",
        ),
        (
            ("shift_and_scale", "off", "scale_only", "another"),
            (1, 2, 3, 5),
            "the store also holds seeds 3, 5 and arm another of this study; they are counted",
        ),
    ],
)
def test_what_the_store_has_beyond_the_study_that_was_asked_for_is_told(arms, seeds, told):
    asked = ablation.load("whiten_adv", "smoke", ["1", "2"])
    assert pages.beyond(asked, argparse.Namespace(arms=arms, seeds=seeds)) == told


def test_it_is_told_in_a_line_before_the_verdict(tmp_path, monkeypatch, capsys):
    recorded = argparse.Namespace(arms=("shift_and_scale", "off", "scale_only"), seeds=(1, 2, 3))
    results = argparse.Namespace(recorded=recorded, verdicts=pd.DataFrame({"verdict": ["worse"]}), summary={})
    monkeypatch.setattr(pages, "_study_page", lambda *_: (tmp_path / "index.html", "the verdict", results))
    monkeypatch.setattr("repro.tracking.attach.publish_report", lambda *_: None)
    monkeypatch.setattr(pages, "_built_index", lambda *_: "index")
    asked = ablation.load("whiten_adv", "smoke", ["1", "2"], arms=["off"])
    pages.build_and_publish("whiten_adv", "smoke", False, asked)
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[:2] == [
        "the store also holds seed 3 and arm scale_only of this study; they are counted",
        "the verdict",
    ]
    pages.build_and_publish("whiten_adv", "smoke")  # a judgement asks for no study
    assert capsys.readouterr().out.strip().startswith("the verdict")


# ------------------------------------------------------------------------------------------------ until it is decided


class Grown:
    """What a study that grows has run, and a store that decides about arms look by look."""

    def __init__(self, monkeypatch, undecided, failed=None):
        self.parts, answers, others = [], iter(undecided), ("off", "scale_only")

        def execute(part, dag, *_):
            self.parts.append((list(part.arms), part.seeds))
            if len(self.parts) == failed:
                dag.fail(next(iter(dag.jobs)), "no")

        def compare(_):
            verdicts = dict.fromkeys(others, "better") | dict.fromkeys(next(answers), "undecided")
            return pd.DataFrame({"arm": verdicts.keys(), "verdict": verdicts.values()}), None

        monkeypatch.setattr("repro.api.execution.execute", execute)
        monkeypatch.setattr("repro.cli.run.build_and_publish", lambda *_: None)
        monkeypatch.setattr(
            "repro.reports.reading.studies.read_outline", lambda *_: argparse.Namespace(looks=(), seeds=())
        )
        monkeypatch.setattr("repro.reports.pages.entries.compare", compare)


def test_a_study_ends_at_the_first_look_that_decides_and_runs_no_arm_longer_than_it_has_to(tiny, monkeypatch, capsys):
    grown = Grown(monkeypatch, [["off"], []])
    assert main(["run", "whiten_adv", *tiny, "--until", "decided"]) == 0
    reference, *others = ("shift_and_scale", "off", "scale_only")
    assert {*grown.parts[0][0]} == {reference, *others} and grown.parts[0][1] == (1, 2, 3, 4)
    assert grown.parts[1:] == [([reference, "off"], (1, 2, 3, 4, 5, 6))]
    assert "look 2 of 4, at 6 seeds: off" in capsys.readouterr().out


def test_what_no_look_decides_ends_with_the_last_one(tiny, monkeypatch):
    grown = Grown(monkeypatch, [["off"]] * 9)
    assert main(["run", "whiten_adv", *tiny, "--until", "decided", "--looks", "3", "5"]) == 0
    assert [len(seeds) for _, seeds in grown.parts] == [3, 5]


def test_a_failed_run_ends_it_before_anything_is_judged(tiny, monkeypatch):
    grown = Grown(monkeypatch, [], failed=1)
    assert main(["run", "whiten_adv", *tiny, "--until", "decided"]) == 1 and len(grown.parts) == 1


@pytest.mark.parametrize(
    ("asked", "looks", "seeds", "says"),
    [
        ([], "4 6", 4, 'continue it with --until decided --looks 4 6 (with make: UNTIL=decided LOOKS="4 6")'),
        (["--until", "decided"], "4 6", 4, "this study was started with looks at 4 6 seeds"),
        (
            ["--until", "decided"],
            "",
            5,
            "a verdict at 5 seeds of this study has been seen, and its looks are at 4 6 8 12 seeds",
        ),
        (["--until", "decided"], "", 6, ""),
        (["--until", "decided"], "", 3, ""),
        (["--until", "decided", "--looks", "4", "6"], "4 6", 5, ""),
        ([], "", 3, ""),
    ],
)
def test_a_study_goes_on_by_the_schedule_that_it_began_with(asked, looks, seeds, says, tiny, monkeypatch, capsys):
    Grown(monkeypatch, [[]])
    recorded = argparse.Namespace(looks=tuple(map(int, looks.split())), seeds=tuple(range(1, seeds + 1)))
    monkeypatch.setattr("repro.reports.reading.studies.read_outline", lambda *_: recorded)
    words = ["run", "whiten_adv", *tiny, *asked]
    if says:
        assert says in error_of(capsys, words)
    else:
        assert main(words) == 0


def test_a_store_that_is_not_there_yet_is_named_and_one_that_is_there_is_not(
    tiny, empty_store, place, monkeypatch, capsys
):
    Grown(monkeypatch, [])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///lfmow.db")
    assert main(["run", "whiten_adv", *tiny]) == 0
    assert "a new MLflow store is made: sqlite:///lfmow.db\n" in capsys.readouterr().out
    shutil.copy(empty_store, place / "lfmow.db")
    assert main(["run", "whiten_adv", *tiny]) == 0
    assert "a new MLflow store" not in capsys.readouterr().out


def test_a_plan_says_what_the_first_look_takes(tiny, capsys):
    assert main(["plan", "whiten_adv", *tiny, "--until", "decided"]) == 0
    assert (
        "that is for all looks, at 4 6 8 12 seeds; the study ends at the first look"
        in capsys.readouterr().out.replace("\n", " ")
    )
