"""Studies that start at the same moment, on a store that is not there yet and one cache: all is made once, and nothing lost."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from repro import record
from repro.stages import stage
from tests import blank
from tests.paths import ROOT
from tests.recorded import journalled, points

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="as test_end_to_end.py")

SMALL = {
    "model": "gpt-neox:32/1/2/64",
    "posts": "16",
    "comparisons": "24",
    "validation_posts": "4",
    "test_posts": "4",
    "validation_comparisons": "8",
    "sft_batch": "4",
    "rm_batch": "8",
    "episodes": "48",
    "ppo_batch": "16",
    "micro_batch": "8",
    "rollout_batch": "8",
    "response_tokens": "6",
}
FOUR = (["score_position"], ["score_position"], ["gradient_clip", "--arms", "1"], ["gae_lambda", "--arms", "0"])
EIGHT = (
    *FOUR,
    ["score_position"],
    ["gradient_clip", "--arms", "1"],
    ["gae_lambda", "--arms", "0", "1"],
    ["kl_coef", "--arms", "0"],
)


def start(folder, words):
    place = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "", "REPRO_CACHE": ""}
    return subprocess.Popen(
        [sys.executable, *blank.COMMAND_LINE, "run", *words],
        cwd=folder,
        env=place,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("studies", [FOUR, pytest.param(EIGHT, marks=pytest.mark.nightly)], ids=["four", "eight"])
def test_studies_that_start_together_share_their_stages_and_lose_nothing(studies, tokenizer_file, tmp_path):
    changes = [f"{field}={value}" for field, value in {**SMALL, "tokenizer": tokenizer_file}.items()]
    common = ["--scale", "smoke", "--seeds", "1", "--set", *changes]
    processes = [start(tmp_path, [study[0], *common, *study[1:]]) for study in studies]
    told = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(studies), [err for _, err in told]
    for out, err in told:
        assert "Traceback" not in out + err and not [line for line in err.splitlines() if "waiting" not in line], err
        assert out.splitlines()[-1].startswith("index: ")
    made_once(tmp_path / "cache")
    recorded_once(tmp_path, {study[0] for study in studies})


def made_once(cache):
    """Every artefact was made by one process, and nothing is left over."""
    done = [json.loads(file.read_text()) for file in cache.glob(f"*/{stage.DONE}")]
    assert all(each["edition"] == 0 for each in done)
    assert not [path for path in cache.iterdir() if path.suffix in (".partial", ".earlier", ".txt")]


def recorded_once(folder, details):
    """One experiment for each detail, one run for each arm and seed, and its points are those of its journals."""
    store = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiments = {each.name.partition("-")[0]: each for each in store.search_experiments() if each.name != "Default"}
    assert experiments.keys() == details and len(store.search_experiments()) == len(details) + 1
    for experiment in experiments.values():
        found = store.search_runs([experiment.experiment_id], run_view_type=3)  # deleted ones too
        assert (
            Counter(run.data.tags.get(record.ROLE, run.data.tags.get(record.ARM)) for run in found).most_common(1)[0][1]
            == 1
        )
        for run in (run for run in found if record.ARM in run.data.tags):
            assert (run.info.status, run.data.tags[record.COMPLETE]) == ("FINISHED", "true")
            assert points(store, run) == journalled(run, folder / "cache")
            assert len(run.outputs.model_outputs) == 1 and len(run.inputs.dataset_inputs) == 6
            samples = Path(store.download_artifacts(run.info.run_id, record.SAMPLES))
            assert len(json.loads(samples.read_text())["data"]) == 4
        models = store.search_logged_models([experiment.experiment_id])
        assert len(models) == sum(record.ARM in run.data.tags for run in found)
