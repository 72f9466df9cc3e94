"""A stage handed over: the file that says which, the verb that runs it, and its ranks under accelerate's launcher."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from repro.__main__ import main
from repro.detail import Recipe
from repro.details import WHITEN_ADV
from repro.engine import artefacts, job, launch, pipeline
from repro.engine import dag as engine_dag
from repro.errors import UserError
from repro.stages import stage
from repro.study.ablation import Ablation
from repro.study.scale import SCALES
from tests.faulty import break_base
from tests.paths import ROOT

WAIT = 300  # seconds for a process that imports torch, on cores that others use too


def jobs_of(scale):
    study = Ablation(WHITEN_ADV, "", {"off": Recipe().but(WHITEN_ADV, "off")}, (1,), scale, "test/win_rate", True, 0.05)
    return {each.stage: each for each in engine_dag.jobs_of(study).values()}


def start(path, **environment):
    words = [sys.executable, "-m", "repro", "stage", str(path)]
    return subprocess.Popen(words, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True)


def end_of(process):
    """The exit code and what was said on standard error."""
    told = process.communicate(timeout=WAIT)[1]
    return process.returncode, told


@pytest.fixture
def end_here(capsys):
    """The same of the verb in this process, which has imported what another would have to."""
    on_term = signal.getsignal(signal.SIGTERM)
    yield lambda path: (main(["stage", str(path)]), capsys.readouterr().err)
    signal.signal(signal.SIGTERM, on_term)


# ----------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("name", pipeline.keys(Recipe(), SCALES["smoke"], 1))
def test_a_job_comes_back_from_its_file_as_it_was(tiny_scale, tmp_path, name):
    handed = jobs_of(replace(tiny_scale, tokenizer=str(tiny_scale.tokenizer), seeds=(4, 5), checkpoint_every=7))[name]
    back, cache = job.read_job(job.write_job(handed, tmp_path))
    assert back == handed and cache == tmp_path
    assert {type(value) for value in vars(back.scale).values()} == {
        type(value) for value in vars(handed.scale).values()
    }
    assert artefacts.key(pipeline.BY_NAME[name], back.recipe, back.scale, back.seed, back.keys) == handed.key


def test_a_file_that_is_no_job_is_told_of(tmp_path, tiny_scale):
    with pytest.raises(UserError, match="is no job of this version"):
        job.read_job(tmp_path / "none.json")
    path = job.write_job(jobs_of(tiny_scale)["sft"], tmp_path)
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"scale": told["scale"] | {"of_another_version": 1}}))
    with pytest.raises(UserError, match="of_another_version"):
        job.read_job(path)


def test_only_stages_that_compute_have_ranks(tiny_scale):
    ranks = {name: each.ranks for name, each in jobs_of(replace(tiny_scale, processes=3)).items()}
    assert ranks == {"data": 1, "base": 1, "sft": 3, "rm": 3, "baseline": 3, "ppo": 3, "evaluate": 3}


@pytest.fixture
def faulty(made, tiny_scale, tmp_path):
    """A cache in which SFT meets a fault, and SFT's job."""
    cache = shutil.copytree(made, tmp_path / "cache", ignore=shutil.ignore_patterns("sft-*"))
    break_base(cache)
    return cache, jobs_of(tiny_scale)["sft"]


# ----------------------------------------------------------------------------------------------------- the verb


def test_the_verb_makes_the_artefact(made, tiny_scale):
    sft = jobs_of(tiny_scale)["sft"]
    assert end_of(start(job.write_job(sft, made))) == (0, "")
    assert artefacts.cached(made / sft.key)


def test_a_stage_that_fails_ends_with_1_and_its_traceback_in_a_file(made, tiny_scale, end_here):
    sft = jobs_of(replace(tiny_scale, sft_learning_rate=0.5))["sft"]
    artefacts.partial_folder(made / sft.key).write_text("a file where the stage makes its folder")
    code, told = end_here(job.write_job(sft, made))
    assert code == 1 and told.startswith("FileExistsError")
    assert "Traceback" in (made / f"{sft.key}.error.txt").read_text()
    assert job.ending_of(sft, made).code == 1


def test_a_fault_in_the_code_ends_with_70_and_is_said_to_be_one(faulty, end_here):
    """In a stage's own process; in a rank and in a worker it is in the tests below, in a study in test_faults."""
    made, sft = faulty
    code, told = end_here(job.write_job(sft, made))
    assert code == os.EX_SOFTWARE and "a fault in the code, not in your input; please report it with" in told
    assert "Traceback" in (made / f"{sft.key}.error.txt").read_text()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_fault_in_a_worker_or_a_rank_is_one_of_the_study(faulty, processes):
    made, sft = faulty
    sft = replace(sft, scale=replace(sft.scale, processes=processes))
    ending = launch.work(sft, made)
    assert ending.code == job.FAULT and "a fault in the code" in ending.why


def test_input_to_correct_ends_with_2_and_one_line(tmp_path, end_here):
    code, told = end_here(tmp_path / "none.json")
    assert code == 2 and told.startswith("error: ") and len(told.splitlines()) == 1


def test_a_job_that_would_compute_something_else_here_is_refused(made, tiny_scale, end_here):
    sft = replace(jobs_of(tiny_scale)["sft"], key="sft-0123")
    code, told = end_here(job.write_job(sft, made))
    assert code == 2 and "sft-0123 where it was planned" in told


def test_a_stage_that_is_told_to_end_ends_with_75_and_goes_on_when_it_is_started_again(tmp_path, tiny_scale, end_here):
    jobs = jobs_of(replace(tiny_scale, posts=1_000, checkpoint_every=10))
    for name in ("data", "base"):
        assert launch.work(jobs[name], tmp_path) == job.Ending(job.DONE)
    sft, path = jobs["sft"], job.write_job(jobs["sft"], tmp_path)
    kept = artefacts.partial_folder(tmp_path / sft.key)
    process = start(path)
    until = time.time() + WAIT
    while len(stage.read_journal(kept)) < 4 and time.time() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, told = end_of(process)
    assert code == os.EX_TEMPFAIL and "the checkpoint is saved" in told
    before = stage.read_journal(kept)
    assert end_here(path) == (0, "")
    assert stage.read_journal(tmp_path / sft.key)[: len(before) - 1] == before[:-1]


def test_a_stage_without_checkpoints_that_is_told_to_end_ends_with_75_and_leaves_no_artefact(tmp_path, tiny_scale):
    jobs = jobs_of(replace(tiny_scale, posts=20_000, comparisons=20_000))
    process = start(job.write_job(jobs["data"], tmp_path))
    until = time.time() + WAIT
    while not artefacts.partial_folder(tmp_path / jobs["data"].key).exists() and time.time() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, told = end_of(process)
    assert code == os.EX_TEMPFAIL and "before there was a checkpoint" in told
    assert not (tmp_path / jobs["data"].key).exists()


def test_a_rank_ends_with_the_process_that_started_it(tmp_path, tiny_scale):
    jobs = jobs_of(replace(tiny_scale, posts=3_000))
    starter = subprocess.Popen(["sleep", "1000"])
    process = start(job.write_job(jobs["data"], tmp_path), **{job.STARTED_BY: str(starter.pid)})
    starter.kill()
    starter.wait()
    assert end_of(process)[0] == 1 and not (tmp_path / jobs["data"].key).exists()


# ------------------------------------------------------------------------------------------------------ its ranks


def files_of(folder):
    return json.loads((folder / stage.DONE).read_text())["files"]


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_ranks_under_accelerate_make_the_artefact_of_the_same_key(made, tiny_scale, sharding):
    rate = {"none": 0.011, "fsdp": 0.012}[sharding]
    alone, together = (
        jobs_of(replace(tiny_scale, sft_learning_rate=rate, processes=count, sharding=way))["sft"]
        for count, way in ((1, "none"), (2, sharding))
    )
    assert alone.key == together.key
    assert launch.work(together, made) == job.Ending(job.DONE), (made / f"{together.key}.log").read_text()
    assert artefacts.cached(made / together.key) and "model/model.safetensors" in files_of(made / together.key)
    losses = [line["metrics"]["sft/loss"] for line in stage.read_journal(made / together.key)]
    (made / together.key).rename(made / f"together-{sharding}")
    assert launch.work(alone, made) == job.Ending(job.DONE)
    expected = [line["metrics"]["sft/loss"] for line in stage.read_journal(made / alone.key)]
    assert losses == pytest.approx(expected, rel=1e-4)


def test_what_breaks_a_rank_is_the_reason_of_all_of_them(made, tiny_scale):
    sft = jobs_of(replace(tiny_scale, sft_learning_rate=0.71, processes=2))["sft"]
    artefacts.partial_folder(made / sft.key).write_text("a file where the first rank makes the stage's folder")
    ending = launch.work(sft, made)
    assert ending.code == job.FAILED
    assert ending.why.startswith("FileExistsError") and str(made / f"{sft.key}.log") in ending.why
    assert "FileExistsError" in (made / f"{sft.key}.error.txt").read_text()
    assert not [each for each in psutil.process_iter() if sft.key in " ".join(_words(each))]


def _words(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("file", sorted(job.CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerates_files_say_what_accelerate_knows_and_leave_precision_to_the_stages(file):
    known = load_config_from_file(str(file))
    assert known.mixed_precision == "no" and known.num_machines == 1
    sections = {"fsdp": "fsdp_config", "zero": "deepspeed_config"}
    told = yaml.safe_load(file.read_text())
    assert set(sections.values()) & told.keys() == {sections[each] for each in sections if file.stem.startswith(each)}


def test_there_is_a_file_for_every_way_to_share(monkeypatch):
    assert job.config("none").stem == "cpu" and job.config("fsdp").stem == "fsdp2"
    monkeypatch.setattr(job.torch.cuda, "is_available", lambda: True)
    assert {job.config(each).stem for each in job.SHARINGS} == {"ddp", "fsdp2", "zero2", "zero3_offload"}
    assert all(job.config(each).is_file() for each in job.SHARINGS)


@pytest.mark.parametrize(
    ("changes", "gpus", "message"),
    [
        ({"sharding": "fsdp"}, True, "set processes to 2 or more"),
        ({"sharding": "zero2", "processes": 2}, False, "needs GPUs"),
        ({"sharding": "zero3", "processes": 2}, True, "needs DeepSpeed"),
    ],
)
def test_ranks_that_cannot_share_are_refused_before_anything_runs(tiny_scale, changes, gpus, message, monkeypatch):
    monkeypatch.setattr(job, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        job.check_sharding(replace(tiny_scale, **changes), gpus)
    for fine in ({}, {"processes": 4}, {"processes": 2, "sharding": "fsdp"}):
        job.check_sharding(replace(tiny_scale, **fine), gpus)
