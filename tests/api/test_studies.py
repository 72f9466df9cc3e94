"""docs/python.md does what it says, as one script; and what the interface refuses."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import repro
from repro import SCALES, UserError, details
from repro.engine import pipeline
from tests import blank
from tests.paths import ROOT
from tests.reports import made_up

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_page_runs_as_one_script_without_a_guard(tmp_path):
    script = tmp_path / "script.py"
    blocks = BLOCK.findall((ROOT / "docs" / "python.md").read_text())
    began = f"print('started')\nimport sys\nsys.path.append({str(ROOT)!r})\n{blank.BEGINNING}"
    script.write_text(began + "\n".join(blocks) + "\nprint('ended', page, sorted(folders))\n")
    ended = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("started") == 1, "no worker runs the script again"
    assert (
        "smallest effect of interest" in ended.stdout
        and (tmp_path / "reports/build/whiten_adv-tiny/index.html").is_file()
    )
    assert "\nended reports/build/whiten_adv-tiny/index.html ['base', 'baseline', 'data'," in ended.stdout
    assert not [line for line in ended.stderr.splitlines() if "mlflow" in line.lower()], "libraries stay quiet"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def test_a_scale_that_goes_by_anothers_name_is_refused(elsewhere):
    with pytest.raises(UserError, match='smoke.* differs from the one of that name; .*name="smoke-of-mine"'):
        repro.run_study("whiten_adv", scale=replace(SCALES["smoke"], episodes=64))
    with pytest.raises(UserError, match="episodes=1 is less than one batch"):
        repro.run_study("whiten_adv", scale=replace(SCALES["smoke"], name="own", episodes=1))
    with pytest.raises(UserError, match="changes are for a scale that is given by its name"):
        repro.run_study("whiten_adv", scale=SCALES["smoke"], changes={"episodes": 64})
    assert not list(elsewhere.iterdir()), "nothing was made"


@pytest.mark.parametrize(
    "asked, told",
    [
        ({"detail": "whiten_advv"}, "no detail 'whiten_advv'; did you mean 'whiten_adv'"),
        ({"arms": ["of"]}, "no variant 'of'; did you mean 'off'"),
        ({"scale": "mni"}, "no scale 'mni'; did you mean 'mini'"),
        ({"until": "bored"}, "'bored' is not known"),
        ({"shared": {"whiten_adv": "off"}}, "what the study varies"),
        ({"changes": {"episode": 64}}, "no field 'episode'; did you mean 'episodes'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(asked, told, elsewhere):
    with pytest.raises(UserError, match=told):
        repro.run_study(**({"detail": details.WHITEN_ADV} | asked))
    assert not list(elsewhere.iterdir())


def test_a_study_that_was_not_recorded_is_refused(elsewhere):
    with pytest.raises(UserError, match="no MLflow store"):
        repro.read_results("whiten_adv")


def test_an_arm_that_makes_no_sense_is_refused(elsewhere):
    clash = repro.Recipe().but(details.KL_PLACEMENT, "none").but(details.KL_COEF, "0")
    with pytest.raises(UserError, match="make no sense together"):
        repro.run_arm(clash, "smoke", seed=1)


def test_an_arm_is_made_on_the_threads_of_its_scale_as_a_worker_makes_it(elsewhere, monkeypatch):
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(pipeline, "run", lambda *_, **__: seen.append(torch.get_num_threads()))
    repro.run_arm(repro.Recipe(), replace(SCALES["smoke"], name="own", threads=before + 1), seed=1)
    assert seen == [before + 1] and torch.get_num_threads() == before


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'run_studies'"):
        _ = repro.run_studies


def test_results_are_summed_up_in_the_numbers_that_mlflow_shows(elsewhere):
    uri = f"sqlite:///{elsewhere}/mlflow.db"
    place, first = (
        made_up.experiment(uri, "whiten_adv-mini"),
        {("ref", 1): 0.5, ("ref", 2): 0.6, ("off", 1): 0.75, ("off", 2): 0.8},
    )
    for (arm, seed), value in first.items():
        run = made_up.Fake(
            arm, seed, tags={"detail": "whiten_adv", "scale": "mini", "reference": str(arm == "ref").lower()}
        )
        made_up.log_light(uri, place, run, {"test/win_rate": value, "sft_test/win_rate": 0.25})
    results = repro.read_results("whiten_adv")
    told = results.summary
    assert (told["difference/off"], told["n/off"]) == (pytest.approx(0.225), 2)
    assert told["low/off"] == results.verdicts.loc["off", "low"] < told["difference/off"] < told["high/off"]
    assert {name: told[name] for name in told if "ppo" in name} == pytest.approx(
        {"after_ppo/ref": 0.55, "after_ppo/off": 0.775, "before_ppo/ref": 0.25, "before_ppo/off": 0.25}
    )
