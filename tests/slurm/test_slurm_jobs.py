"""Stages as jobs of a real SLURM: of one node, on this machine, which needs root and its packages (`make slurm`)."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from repro.detail import Recipe
from repro.details import WHITEN_ADV
from repro.engine import artefacts
from repro.engine.dag import dag_for, jobs_of
from repro.engine.job import read_job
from repro.engine.slurm import engine as slurm
from repro.engine.slurm import watch as watching
from repro.errors import UserError
from repro.stages import stage
from repro.study.ablation import Ablation
from tests.paths import ROOT
from tests.slurm.cluster import cluster, missing

LACKS = missing()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(bool(LACKS), reason=f"no SLURM can be started here: there is no {', '.join(LACKS)}"),
]
BOUND = 600  # seconds that anything is waited for: a job imports torch, on cores that others use too
TINY = (
    "posts=64 validation_posts=4 test_posts=8 comparisons=64 validation_comparisons=8 normalisation_posts=8 sft_batch=16 "
    "rm_batch=8 episodes=32 ppo_batch=16 micro_batch=8 rollout_batch=8 response_tokens=6 model=gpt-neox:32/1/2/64"
).split()
pytest.importorskip("submitit")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """The cluster; its programs find it through the environment of this process too, while the module's tests run."""
    with cluster(tmp_path_factory.mktemp("slurm")) as environment, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setattr(watching, "ASK_SECONDS", 2.0)
        yield environment


@pytest.fixture
def dag_of(made, tmp_path, tiny_scale):
    """Dags of the first stages of one arm, in a cache where the data and the base are made."""
    cache = tmp_path / "cache"
    subprocess.run(["cp", "-r", str(made), str(cache)], check=True)

    def build(names=("data", "base", "sft", "rm"), **changes):
        scale = replace(tiny_scale, **changes)
        arms = {WHITEN_ADV.reference: Recipe()}
        jobs = jobs_of(Ablation(WHITEN_ADV, "", arms, (1,), scale, "test/win_rate", True, 0.05))
        return dag_for({key: job for key, job in jobs.items() if job.stage in names}, cache)

    return build


def engine(scale, **options):
    return slurm.engine(scale, {"time": "20"} | options, workers=1)


def key_of(dag, name):
    return next(key for key, job in dag.jobs.items() if job.stage == name)


def queue():
    """Id -> state of all jobs that the cluster knows."""
    told = subprocess.run(["squeue", "-h", "--states=all", "-o", "%i %T"], capture_output=True, text=True, check=True)
    return dict(line.split() for line in told.stdout.splitlines())


def wait_until(true, what):
    until = time.time() + BOUND
    while not true():
        assert time.time() < until, f"{what}, not in {BOUND} s: {queue()}"
        time.sleep(0.5)


def run(dag, tick=lambda _: None):
    engine(next(iter(dag.jobs.values())).scale).run(dag, tick)
    return dag


class Enough(Exception):
    """The launcher is ended here."""


def run_until(dag, enough):
    """The launcher, ended as soon as `enough` says so."""

    def tick(now):
        if enough(now):
            raise Enough

    with pytest.raises(Enough):
        run(dag, tick)


def id_of(dag, name):
    return json.loads((dag.cache / "slurm" / f"{key_of(dag, name)}.json").read_text())["id"]


def finished_run(words, environment, folder):
    return subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, timeout=1_500)


def test_a_study_that_is_started_twice_goes_through_slurm_once_and_nothing_is_left_to_submit(nodes, tmp_path):
    environment = nodes | {
        "REPRO_CACHE": str(tmp_path / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "PYTHONPATH": str(ROOT),
    }
    (tmp_path / "reports").mkdir()
    words = (
        "-m repro run whiten_adv --scale smoke --seeds 1 --arms off --engine slurm --slurm time=20 partition=all --set"
    )
    words = [sys.executable, *words.split(), *TINY]
    before = queue()
    with ThreadPoolExecutor(2) as launchers:
        runs = [launchers.submit(finished_run, words, environment, tmp_path) for _ in range(2)]
    for told in (run.result() for run in runs):
        assert told.returncode == 0, told.stdout + told.stderr
        assert "report:" in told.stdout and "as jobs of SLURM" in told.stdout
    folders = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "cache").glob("*/done.json")}
    finished = {name: done["finished"] for name, done in folders.items()}
    jobs = [read_job(path)[0] for path in (tmp_path / "cache" / "jobs").glob("*.json")]
    assert len(jobs) == len(finished) == len(queue().keys() - before.keys()) == 9
    for job in jobs:
        began = finished[job.key] - folders[job.key]["seconds"]
        assert all(finished[need] < began for need in job.needs), job.label
    again = finished_run(words, environment, tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(queue().keys() - before.keys()) == 9


def test_a_failing_job_is_reported_its_dependents_are_cancelled_and_the_same_command_submits_them_again(nodes, dag_of):
    dag = dag_of()
    obstacle = artefacts.partial_folder(dag.cache / key_of(dag, "sft"))
    obstacle.write_text("a file where the stage makes its folder")
    before = queue()
    run(dag)
    assert list(dag.broken) == ["sft shift_and_scale seed 1"]
    why = next(iter(dag.broken.values()))
    assert "FileExistsError" in why and f"job {id_of(dag, 'sft')}" in why
    assert "FileExistsError" in (dag.cache / f"{key_of(dag, 'sft')}.error.txt").read_text()
    assert dag.failed[key_of(dag, "rm")] == "needs sft shift_and_scale seed 1, which failed"
    wait_until(lambda: queue()[id_of(dag, "rm")] == "CANCELLED", "the dependent is cancelled")
    obstacle.unlink()
    again = run(dag_of())
    assert again.over and not again.failed
    assert len(queue().keys() - before.keys()) == 4


def test_what_is_in_the_queue_is_not_submitted_again_by_a_launcher_that_is_started_again(nodes, dag_of):
    before = queue()
    dag = dag_of()
    run_until(dag, lambda now: (now.cache / "slurm" / f"{key_of(now, 'rm')}.json").exists())
    ids = {name: id_of(dag, name) for name in ("sft", "rm")}
    assert f"scancel {ids['sft']} {ids['rm']}" in engine(dag.jobs[key_of(dag, "sft")].scale).parting(dag)
    again = run(dag_of())
    assert again.over and not again.failed
    assert {name: id_of(again, name) for name in ids} == ids
    assert queue().keys() - before.keys() == set(ids.values())


def test_a_job_that_is_told_to_end_goes_back_into_the_queue_and_on_from_where_it_stood(nodes, dag_of):
    # A stage of many seconds: it is told to end in its middle.
    dag = dag_of(("data", "base", "sft"), checkpoint_every=10, posts=2_500)
    key, told = key_of(dag, "sft"), {}

    def tick(now):
        lines = now.journal(key) if key in now.running else []
        if len(lines) > 3 and not told:
            told.update(step=lines[-1]["step"], time=time.time())
            subprocess.run(["scancel", "--signal=TERM", id_of(now, "sft")], check=True)
        if told and queue()[id_of(now, "sft")] == "PENDING":
            told["requeued"] = True
            subprocess.run(["scontrol", "update", f"jobid={id_of(now, 'sft')}", "starttime=now"], check=True)

    run(dag, tick)
    assert dag.over and not dag.failed
    lines = stage.read_journal(dag.cache / key)
    assert told["requeued"] and [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    assert lines[0]["time"] < told["time"] < lines[-1]["time"]
    assert len([line for line in lines if line["time"] < told["time"]]) > 3


def test_a_job_that_a_person_cancels_stays_cancelled_until_the_command_is_given_again(nodes, dag_of):
    dag = dag_of(("data", "base", "sft"), sft_learning_rate=0.012)
    cancelled = []

    def tick(now):
        if key_of(now, "sft") in now.running and not cancelled:
            cancelled.append(id_of(now, "sft"))
            subprocess.run(["scancel", *cancelled], check=True)

    run(dag, tick)
    assert "cancelled" in dag.broken["sft shift_and_scale seed 1"]
    assert queue()[cancelled[0]] == "CANCELLED"
    again = run(dag_of(("data", "base", "sft"), sft_learning_rate=0.012))
    assert again.over and not again.failed and id_of(again, "sft") != cancelled[0]


def test_two_ranks_of_a_job_make_one_artefact(nodes, dag_of):
    dag = run(dag_of(("data", "base", "sft"), processes=2, sft_learning_rate=0.013))
    assert dag.over and not dag.failed, dag.failed


def test_what_slurm_refuses_is_told_in_its_words(nodes, dag_of, capfd):
    dag = dag_of(sft_learning_rate=0.014)
    scale = next(iter(dag.jobs.values())).scale
    with pytest.raises(UserError, match="SLURM refuses sft .* with these options"):
        engine(scale, partition="none_such").run(dag, lambda _: None)
    assert "invalid partition specified: none_such" in capfd.readouterr().err
