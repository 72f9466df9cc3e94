"""What is asked of SLURM, and what is made of its answers; a real one is in tests/slurm."""

import json
from dataclasses import replace

import pytest

from repro.detail import Recipe
from repro.details import WHITEN_ADV
from repro.engine import dag as engine_dag
from repro.engine import job
from repro.engine.slurm import engine as slurm
from repro.engine.slurm import options, states, submission
from repro.engine.slurm import watch as watching
from repro.errors import UserError
from repro.stages import stage
from repro.study.ablation import Ablation

pytest.importorskip("submitit")
SFT, RM = "sft shift_and_scale seed 1", "rm shift_and_scale seed 1"


@pytest.fixture(autouse=True)
def somewhere(monkeypatch):
    monkeypatch.setattr(slurm, "which", lambda name: f"/usr/bin/{name}")


def jobs_of(scale):
    study = Ablation(WHITEN_ADV, "", {"shift_and_scale": Recipe()}, (1,), scale, "test/win_rate", True, 0.05)
    return {each.stage: each for each in engine_dag.jobs_of(study).values()}


class Cluster:
    """In the place of SLURM: ids that count up, and the states that a test says."""

    def __init__(self, monkeypatch):
        self.states, self.submitted = {}, {}
        monkeypatch.setattr(watching, "submit", self.submit)
        monkeypatch.setattr(watching, "states", lambda ids: {i: self.states[i] for i in ids if i in self.states})

    def submit(self, each, cache, options, gpus, after):
        number = str(len(self.submitted) + 1)
        job.clear_endings(each, cache)
        self.submitted[number] = (each.label, sorted(after))
        self.states[number] = ("PENDING", "Dependency")
        return number


@pytest.fixture
def cluster(monkeypatch):
    return Cluster(monkeypatch)


@pytest.fixture
def dag(tiny_scale, tmp_path):
    """sft and rm of one arm, on data and a base that are there."""
    jobs = {each.key: each for each in jobs_of(tiny_scale).values() if each.stage in ("data", "base", "sft", "rm")}
    for each in jobs.values():
        if each.stage in ("data", "base"):
            finish(tmp_path, each)
    return engine_dag.dag_for(jobs, tmp_path)


def finish(cache, each):
    (cache / each.key).mkdir()
    (cache / each.key / stage.DONE).write_text(json.dumps({"files": {}}))


def watch(dag):
    found = watching.Watch(dag, {}, False)
    look(found)
    return found


def look(watched):
    watched.queried = 0.0
    watched.poll()


def of(dag, label):
    return next(each for each in dag.jobs.values() if each.label == label)


# --------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partion": "gpu"}, "did you mean 'partition'"),
        ({"time": "1-00:00"}, "not a number of minutes"),
        ({"time": "0"}, "not a number of minutes"),
        ({"gpus_per_node": "all"}, "is not a number"),
        ({"gpus_per_node": "1"}, "precision=bfloat16"),
        ({"gres": "gpu:1"}, "precision=bfloat16"),
    ],
)
def test_options_are_checked_before_anything_is_submitted(tiny_scale, options, message):
    with pytest.raises(UserError, match=message):
        slurm.engine(tiny_scale, options, 1)


@pytest.mark.parametrize(
    ("options", "enough"),
    [
        ({"gpus_per_node": "3"}, False),
        ({"gpus_per_node": "4"}, True),
        ({"gpus_per_node": "0"}, True),
        ({"gres": "gpu"}, False),
        ({"gres": "gpu:a100"}, False),
        ({"gres": "disk:9,gpu:a100:3(S:0-1)"}, False),
        ({"gres": "gpu:a100:2,gpu:h100:2"}, True),
        ({"gres": "shard:1"}, True),
    ],
)
def test_fewer_gpus_than_ranks_are_refused_before_anything_is_submitted(tiny_scale, options, enough):
    scale = replace(tiny_scale, precision="bfloat16", processes=4)
    if enough:
        slurm.engine(scale, options, 1)
        return
    with pytest.raises(UserError, match="and processes=4 needs one each; request 4, or set processes to at most [13]$"):
        slurm.engine(scale, options, 1)


def test_a_machine_without_slurm_is_told_so(tiny_scale, monkeypatch):
    monkeypatch.setattr(slurm, "which", lambda name: None)
    with pytest.raises(UserError, match="no sbatch on this machine"):
        slurm.engine(tiny_scale, {}, 1)


def parameters(scale, name, **options):
    chosen = slurm.engine(scale, options, 1)
    return submission.parameters(jobs_of(scale)[name], chosen.options, chosen.gpus, ["7", "9"])


def test_a_job_asks_for_what_its_ranks_need(tiny_scale):
    gpu = replace(tiny_scale, corpus="local", precision="bfloat16", processes=4, threads=3)
    asked = parameters(gpu, "ppo")
    assert (asked["gpus_per_node"], asked["cpus_per_task"], asked["time"]) == (4, 12, options.MINUTES)
    assert asked["srun_args"] == ["--cpus-per-task=12"]
    assert asked["additional_parameters"]["dependency"] == "afterok:7:9"
    assert asked["additional_parameters"]["kill-on-invalid-dep"] == "yes"


def test_a_stage_that_runs_no_model_asks_for_no_gpu(tiny_scale):
    gpu = replace(tiny_scale, precision="bfloat16", processes=4)
    asked = {name: parameters(gpu, name, gpus_per_node="4") for name in ("data", "base", "sft")}
    assert {name: each.get("gpus_per_node") for name, each in asked.items()} == {"data": None, "base": None, "sft": 4}
    assert {name: each["cpus_per_task"] for name, each in asked.items()} == {"data": 1, "base": 1, "sft": 4}
    kind = {name: parameters(gpu, name, gres="gpu:a100:4") for name in ("data", "sft")}
    assert "gres" not in kind["data"] and kind["sft"]["gres"] == "gpu:a100:4" and "gpus_per_node" not in kind["sft"]


def test_the_embedded_study_asks_for_no_gpu(tiny_scale):
    assert "gpus_per_node" not in parameters(tiny_scale, "ppo")


@pytest.mark.parametrize(("minutes", "signal"), [("1440", "TERM@300"), ("10", "TERM@150")])
def test_a_job_is_told_to_end_in_time_for_a_checkpoint(tiny_scale, minutes, signal):
    assert parameters(tiny_scale, "ppo", time=minutes)["additional_parameters"]["signal"] == signal


def test_submitit_takes_all_that_can_be_asked(tiny_scale, tmp_path, monkeypatch):
    from submitit import SlurmExecutor

    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    asked = {name: "x" for name in options.WORDS} | {name: "3" for name in options.NUMBERS} | {"mem": "8G"}
    executor = SlurmExecutor(tmp_path)
    executor.update_parameters(**parameters(replace(tiny_scale, precision="float32"), "ppo", **asked))
    text = executor._make_submission_file_text("command", "1")
    for name in set(options.WORDS) - {"setup"}:
        assert f"#SBATCH --{name}={asked[name]}" in text, text
    assert "#SBATCH --requeue\n" in text and "#SBATCH --time=3\n" in text and "\nx\n" in text


# ------------------------------------------------------------------------------------------- what is made of answers


def test_each_job_is_submitted_once_after_what_it_needs(dag, cluster):
    watched = watch(dag)
    look(watched)
    assert cluster.submitted == {"1": (SFT, []), "2": (RM, ["1"])}
    assert dag.queued == {of(dag, SFT).key: "Dependency", of(dag, RM).key: "Dependency"}
    cluster.states["1"] = ("RUNNING", "None")
    look(watched)
    assert list(dag.running) == [of(dag, SFT).key] and list(dag.queued) == [of(dag, RM).key]
    finish(dag.cache, of(dag, SFT))
    look(watched)
    assert of(dag, SFT).key in dag.done and not dag.running


def test_another_launcher_watches_what_is_in_the_queue(dag, cluster):
    watch(dag)
    again = watch(engine_dag.dag_for(dag.jobs, dag.cache))
    assert len(cluster.submitted) == 2 and {ticket.id for ticket in again.tickets.values()} == {"1", "2"}


def test_a_failed_job_is_told_with_the_end_of_its_log_and_submitted_again_by_the_next_launcher(dag, cluster):
    watched = watch(dag)
    submission.logs(dag.cache).mkdir(parents=True, exist_ok=True)
    (submission.logs(dag.cache) / "1_0_log.err").write_text("first\nslurmstepd: error: Detected 1 oom_kill event\n")
    cluster.states |= {"1": ("OUT_OF_MEMORY", "OutOfMemory"), "2": ("CANCELLED", states.NEVER)}
    look(watched)
    assert "out_of_memory" in dag.failed[of(dag, SFT).key] and "oom_kill" in dag.failed[of(dag, SFT).key]
    assert dag.over and list(dag.broken) == [SFT]
    again = engine_dag.dag_for(dag.jobs, dag.cache)
    watch(again)
    assert list(cluster.submitted.values())[2:] == [(SFT, []), (RM, ["3"])]


@pytest.mark.parametrize("state", sorted(states.ENDED_BY_CLUSTER - {"TIMEOUT"}))
def test_what_the_cluster_ended_is_submitted_again_with_what_waited_for_it_but_not_for_ever(dag, cluster, state):
    watched = watch(dag)
    for _ in range(submission.TRIES - 1):
        sft, rm = (watched.tickets[of(dag, label).key].id for label in (SFT, RM))
        cluster.states |= {sft: (state, ""), rm: ("CANCELLED", states.NEVER)}
        look(watched)
        assert not dag.failed and watched.tickets[of(dag, SFT).key].id not in (sft, rm)
    cluster.states[watched.tickets[of(dag, SFT).key].id] = (state, "")
    look(watched)
    assert f"ended its job {submission.TRIES} times" in dag.broken[SFT]


@pytest.mark.parametrize(("every", "again"), [(0, False), (10, True)])
def test_a_job_whose_time_was_up_goes_on_where_it_keeps_checkpoints(dag, cluster, every, again):
    jobs = {key: replace(each, scale=replace(each.scale, checkpoint_every=every)) for key, each in dag.jobs.items()}
    dag = engine_dag.dag_for(jobs, dag.cache)
    watched = watch(dag)
    cluster.states |= {"1": ("TIMEOUT", ""), "2": ("CANCELLED", states.NEVER)}
    look(watched)
    assert (len(cluster.submitted) == 4) == again
    assert again or "it reached its time limit" in dag.broken[SFT]


def test_a_job_that_a_person_cancels_is_not_submitted_again(dag, cluster):
    watched = watch(dag)
    cluster.states |= {"1": ("RUNNING", "None"), "2": ("CANCELLED", "None")}
    look(watched)
    assert "the same command submits it again" in dag.broken[RM] and len(cluster.submitted) == 2


def test_input_to_correct_ends_the_study(dag, cluster):
    watched = watch(dag)
    told = job.endings_folder(dag.cache, of(dag, SFT).key) / "0.json"
    told.parent.mkdir(parents=True)
    told.write_text(json.dumps({"code": job.WRONG, "why": "no such model; give one", "trace": "", "time": 0.0}))
    cluster.states["1"] = ("FAILED", "NonZeroExitCode")
    with pytest.raises(UserError, match="no such model; give one"):
        look(watched)


@pytest.mark.parametrize("state", [("COMPLETED", "None"), None])
def test_a_file_system_may_take_a_while_to_show_an_artefact(dag, cluster, state, monkeypatch):
    watched = watch(dag)
    cluster.states |= {"1": state} if state else {}
    cluster.states = {number: told for number, told in cluster.states.items() if state or number != "1"}
    look(watched)
    assert not dag.failed
    monkeypatch.setattr(watching, "LAG_SECONDS", 0)
    look(watched)
    assert ("completed" if state else "forgotten") in dag.broken[SFT]


def test_a_corrupt_artefact_is_made_again(dag, cluster):
    folder = dag.cache / of(dag, SFT).key
    finish(dag.cache, of(dag, SFT))
    (folder / stage.DONE).write_text(json.dumps({"files": {"model": "0123"}}))
    dag = engine_dag.dag_for(dag.jobs, dag.cache)
    look(watch(dag))
    assert of(dag, SFT).key not in dag.done and cluster.submitted["1"] == (SFT, [])


def test_a_silent_cluster_is_waited_for_and_not_for_ever(dag, cluster, monkeypatch):
    watched = watch(dag)

    def silent(ids):
        raise states.Unanswered("Unable to contact slurm controller")

    monkeypatch.setattr(watching, "states", silent)
    look(watched)
    assert not dag.failed
    watched.answered -= 2 * watching.SILENT_SECONDS
    with pytest.raises(UserError, match="Unable to contact slurm controller"):
        look(watched)
