"""The DAG of a study and the launcher, with jobs that cost nothing; real workers are in test_end_to_end."""

import errno
import json
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest
import torch

from repro.detail import Recipe
from repro.details import PAD_TOKEN, WHITEN_ADV
from repro.engine import artefacts, launch
from repro.engine.dag import dag_for, dag_of, jobs_of
from repro.engine.job import DONE, FAILED, FAULT, PREEMPTED, WRONG, Ending
from repro.errors import UserError
from repro.stages import stage
from repro.study.ablation import Ablation
from tests.fresh_python import printed


@pytest.fixture(scope="module")
def study(tiny_scale):
    """Three arms of whiten_adv, two seeds."""
    arms = {label: Recipe().but(WHITEN_ADV, label) for label in WHITEN_ADV.variants}
    return Ablation(WHITEN_ADV, WHITEN_ADV.question, arms, (1, 2), tiny_scale, "test/win_rate", True, 0.05)


@pytest.fixture
def dag(study, tmp_path):
    return dag_of(study, tmp_path)


def key_of(dag, label):
    return next(key for key, job in dag.jobs.items() if job.label == label)


def labels(dag, keys):
    return {dag.jobs[key].label for key in keys}


def start(dag, workers):
    """Mark what comes next as running; the jobs."""
    jobs = dag.next(workers)
    dag.running |= {job.key: 0.0 for job in jobs}
    return jobs


# --------------------------------------------------------------------------------------------------- the DAG


def test_stages_shared_by_arms_or_seeds_appear_once(dag):
    assert Counter(job.stage for job in dag.jobs.values()) == {
        "data": 1,
        "base": 1,
        "sft": 2,
        "rm": 2,
        "baseline": 2,
        "ppo": 6,
        "evaluate": 6,
    }


def test_an_arm_that_differs_in_the_data_shares_nothing(tiny_scale):
    arms = {label: Recipe().but(PAD_TOKEN, label) for label in PAD_TOKEN.variants}
    jobs = jobs_of(Ablation(PAD_TOKEN, "", arms, (1,), tiny_scale, "test/win_rate", True, 0.05))
    assert set(Counter(job.stage for job in jobs.values()).values()) == {2}


def test_jobs_run_after_what_they_need_until_all_are_done(dag):
    order = []
    while not dag.over:
        job = start(dag, 1)[0]
        assert set(job.needs) <= dag.done
        dag.finish(job.key)
        order.append(job.stage)
    assert len(order) == 20 and order[:2] == ["data", "base"]


@pytest.mark.parametrize(("workers", "busy"), [(1, 1), (2, 2), (5, 5), (100, 8)])  # 8: all PPO runs, both baselines
def test_no_more_run_than_there_are_workers(dag, workers, busy):
    most = 0
    while not dag.over:
        start(dag, workers)
        most = max(most, len(dag.running))
        dag.finish(next(iter(dag.running)))
    assert most == busy


def test_a_failed_job_takes_down_what_rests_on_it_and_no_more(dag):
    dag.fail(key_of(dag, "ppo off seed 1"), "it broke")
    assert labels(dag, dag.failed) == {"ppo off seed 1", "evaluate off seed 1"}
    assert dag.broken == {"ppo off seed 1": "it broke"}
    while not dag.over:
        dag.finish(start(dag, 1)[0].key)
    assert len(dag.done) == 18


def test_a_failed_shared_stage_fails_its_seed_in_all_arms(dag):
    dag.fail(key_of(dag, "sft shift_and_scale seed 2"), "it broke")
    assert {dag.jobs[key].seed for key in dag.failed} == {2}
    assert Counter(dag.jobs[key].stage for key in dag.failed) == {
        "sft": 1,
        "rm": 1,
        "baseline": 1,
        "ppo": 3,
        "evaluate": 3,
    }
    assert list(dag.broken) == ["sft shift_and_scale seed 2"]


def test_a_cached_stage_stays_done_when_what_it_was_made_from_cannot_be_made_again(dag):
    dag.done = {key for key, job in dag.jobs.items() if job.stage != "data"}
    dag.fail(key_of(dag, "data shift_and_scale seed 1"), "it broke")
    assert dag.over and len(dag.failed) == 1


def test_after_a_workers_death_its_jobs_are_tried_alone_and_only_the_deadly_one_fails(dag):
    dag.done |= {key for key, job in dag.jobs.items() if job.stage not in ("ppo", "evaluate")}
    innocent, deadly = start(dag, 2)
    dag.lose()
    assert not dag.failed
    assert start(dag, 2) == [innocent] and start(dag, 2) == []
    dag.finish(innocent.key)
    assert start(dag, 2) == [deadly]
    dag.lose()
    assert list(dag.broken) == [deadly.label] and "died twice" in dag.broken[deadly.label]
    assert len(start(dag, 2)) == 2


def test_the_cache_decides_what_is_done_and_what_is_corrupt(study, dag, tmp_path):
    whole, torn = list(dag.jobs)[:2]
    for key, digests in ((whole, {}), (torn, {"model": "0123"})):
        (tmp_path / key).mkdir()
        (tmp_path / key / stage.DONE).write_text(json.dumps({"files": digests}))
    dag = dag_of(study, tmp_path)
    assert dag.done == {whole} and dag.corrupt == {torn}


def test_a_journal_that_is_renamed_while_it_is_read_has_no_lines(dag, monkeypatch):
    def gone(folder):
        raise FileNotFoundError(folder)

    monkeypatch.setattr(stage, "read_journal", gone)
    assert dag.journal(next(iter(dag.jobs))) == []


def test_workers_have_their_threads_to_themselves(tiny_scale):
    assert launch.workers_for(replace(tiny_scale, threads=10_000)) == 1
    assert launch.workers_for(replace(tiny_scale, threads=1)) >= 1
    assert launch.workers_for(replace(tiny_scale, processes=10_000)) == 1


@pytest.mark.parametrize(
    ("processes", "slices"),
    [(1, ("0", "1", "2", "3", "4")), (2, ("0,1", "2,3")), (5, ("0,1,2,3,4",))],
)
def test_each_worker_has_as_many_gpus_as_a_stage_has_ranks(tiny_scale, processes, slices):
    assert launch.devices_for(replace(tiny_scale, processes=processes), tuple("01234")) == slices


def test_more_ranks_than_gpus_are_refused_and_without_a_gpu_they_share_the_cores(tiny_scale):
    with pytest.raises(UserError, match="processes=3, and this machine has 2 GPUs"):
        launch.devices_for(replace(tiny_scale, processes=3), ("0", "1"))
    assert launch.devices_for(replace(tiny_scale, processes=3), ()) == ()


def test_the_gpus_of_a_launcher_are_those_that_it_may_see(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert launch.visible_devices() == ("0", "1", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-7a,2")
    assert launch.visible_devices() == ("5", "GPU-7a", "2")


def test_there_are_as_many_workers_as_slices_of_gpus(tiny_scale, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    engine = launch.local(replace(tiny_scale, processes=2))
    assert (engine.workers, engine.devices, str(engine)) == (2, ("0,1", "2,3"), "2 workers")


# ------------------------------------------------------------------------------------------------ the launcher


class Workshop:
    """Threads in the place of worker processes, and made-up work: label -> how a job ends that does not end well."""

    def __init__(self, monkeypatch, outcomes=()):
        self.outcomes, self.lock, self.now, self.most = dict(outcomes), threading.Lock(), 0, 0
        self.worked = []
        monkeypatch.setattr(launch, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(16))
        monkeypatch.setattr(launch, "work", self.work)

    def work(self, job, cache):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.worked.append(job.label)
        time.sleep(0.01)
        with self.lock:
            self.now -= 1
        return self.outcomes.get(job.label, Ending(DONE))


def test_the_launcher_does_each_job_once_with_no_more_workers_than_it_may(dag, monkeypatch):
    workshop, ticks = Workshop(monkeypatch), []
    launch.run(dag, 3, 1, lambda b: ticks.append(len(b.done)))
    assert sorted(workshop.worked) == sorted(job.label for job in dag.jobs.values())
    assert workshop.most == 3
    assert ticks[-1] == 20 and not dag.running


def test_the_launcher_goes_on_after_a_failure(dag, monkeypatch):
    workshop = Workshop(monkeypatch, {"rm shift_and_scale seed 1": Ending(FAILED, "OSError: no")})
    launch.run(dag, 2, 1, lambda _: None)
    assert dag.broken == {"rm shift_and_scale seed 1": "OSError: no"} and dag.exit_code == FAILED
    assert "evaluate off seed 2" in workshop.worked and "ppo off seed 1" not in workshop.worked


def test_a_fault_in_the_code_is_the_studys_exit_code(dag, monkeypatch):
    Workshop(
        monkeypatch,
        {"rm off seed 1": Ending(FAILED, "no"), "rm shift_and_scale seed 1": Ending(FAULT, "KeyError: 'x'")},
    )
    launch.run(dag, 2, 1, lambda _: None)
    assert dag.exit_code == FAULT


def test_input_to_correct_ends_the_study_at_once(dag, monkeypatch):
    workshop = Workshop(monkeypatch, {"base shift_and_scale seed 1": Ending(WRONG, "no such model; give one")})
    with pytest.raises(UserError, match="no such model"):
        launch.run(dag, 2, 1, lambda _: None)
    assert workshop.worked == ["data shift_and_scale seed 1", "base shift_and_scale seed 1"]
    assert dag.broken == {"base shift_and_scale seed 1": "no such model; give one"}


def test_a_stage_that_raises_is_told_in_words_with_its_traceback_in_a_file(dag, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(artefacts, "run_or_reuse", broken)
    job = next(iter(dag.jobs.values()))
    log = tmp_path / f"{job.key}.error.txt"
    ending = launch.work(job, tmp_path)
    assert ending.code == FAULT and "in broken" in log.read_text()
    assert (
        ending.why
        == f"ZeroDivisionError: by zero (a fault in the code, not in your input; please report it with {log})"
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_what_the_machine_lacks_is_no_fault_in_the_code(dag, monkeypatch, tmp_path, error):
    def lacking(*_, **__):
        raise error

    monkeypatch.setattr(artefacts, "run_or_reuse", lacking)
    ending = launch.work(next(iter(dag.jobs.values())), tmp_path)
    assert ending.code == FAILED and "a fault in the code" not in ending.why


def test_a_worker_that_was_told_to_end_ends_the_launcher_and_its_job_is_neither_done_nor_failed(dag, monkeypatch):
    Workshop(
        monkeypatch,
        {"base shift_and_scale seed 1": Ending(PREEMPTED, "ended by SIGTERM after step 3; the checkpoint is saved")},
    )
    with pytest.raises(KeyboardInterrupt):
        launch.run(dag, 2, 1, lambda _: None)
    assert labels(dag, dag.done) == {"data shift_and_scale seed 1"}
    assert not dag.failed and key_of(dag, "base shift_and_scale seed 1") not in dag.running


# --------------------------------------------------------------------------------------------- real processes


def told_to_end(dag, enough, engine=None):
    """The launcher, interrupted as soon as `enough` says so; the processes that it had then."""
    had = []

    def tick(now):
        if enough(now):
            own = psutil.Process().children()  # Python's resource tracker, and the server that workers are forked from
            had.extend(each for each in psutil.Process().children(recursive=True) if each not in own)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        (engine or launch.local(next(iter(dag.jobs.values())).scale)).run(dag, tick)
    return had


def running_lines(dag, name):
    return [line for key in dag.running if dag.jobs[key].stage == name for line in dag.journal(key)]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupted_study_keeps_where_its_stages_stand_and_leaves_no_process(study, tmp_path, processes):
    long = replace(study.scale, posts=1_000, checkpoint_every=10, processes=processes)
    jobs = jobs_of(replace(study, scale=long, seeds=(1,), arms={"shift_and_scale": Recipe()}))
    jobs = {key: job for key, job in jobs.items() if job.stage in ("data", "base", "sft")}
    dag = dag_for(jobs, tmp_path)
    had = told_to_end(dag, lambda now: len(running_lines(now, "sft")) > 3)
    sft = key_of(dag, "sft shift_and_scale seed 1")
    kept = artefacts.partial_folder(tmp_path / sft)
    before = stage.read_journal(kept)
    assert len(list((kept / stage.CHECKPOINTS).glob(f"*/{stage.DONE}"))) == 1
    assert had and not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in had)
    again = dag_for(jobs, tmp_path)
    launch.local(long).run(again, lambda _: None)
    lines = stage.read_journal(tmp_path / sft)
    assert again.over and not again.failed, again.failed
    assert lines[: len(before) - 1] == before[:-1]  # the last one may be of a step after the checkpoint
    steps = [line["step"] for line in lines]
    assert len(lines) > len(before) and steps == sorted(set(steps))


def test_a_worker_that_ends_while_it_waits_for_work_keeps_no_other_from_ending(study, tmp_path):
    """It holds the lock of the queue, on which the other one waits once it has kept its stage."""
    long = replace(study.scale, comparisons=4_000, rm_batch=256, checkpoint_every=10)
    jobs = jobs_of(replace(study, scale=long, arms={"shift_and_scale": Recipe()}))
    one_rm = {
        key: job
        for key, job in jobs.items()
        if job.stage in ("data", "base", "sft") or (job.stage, job.seed) == ("rm", 1)
    }
    dag, interrupted = dag_for(one_rm, tmp_path), []

    def enough(now):
        if len(now.done) == len(one_rm) - 1 and len(running_lines(now, "rm")) > 3:
            interrupted.append(time.monotonic())
        return interrupted

    had = told_to_end(dag, enough, launch.Local(2, 1))
    assert len(had) == 2 and time.monotonic() - interrupted[0] < 30


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_process_that_workers_are_forked_from_never_sees_an_interrupt():
    """It imports libraries for seconds, in which Ctrl-C would end it with a traceback."""
    told = printed(
        "import signal\n"
        "from multiprocessing import forkserver\n"
        "from repro.engine import launch\n"
        "launch.worker_context()\n"
        "status = open(f'/proc/{forkserver._forkserver._forkserver_pid}/status').read()\n"
        "blocked = int(status.partition('SigBlk:')[2].split()[0], 16)\n"
        "print(all(blocked >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM)))"
    )
    assert told.strip() == "True"
