"""The jobs of a study as a graph without cycles: every distinct stage once, what each needs, and which are done."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from repro.engine import artefacts, outdated, pipeline
from repro.engine.job import DONE, FAILED, FAULT, Job
from repro.models import folders, starts
from repro.stages import stage
from repro.study.ablation import Ablation


@dataclass
class Dag:
    """A study's jobs by key, and where each stands. The launcher writes it; whoever shows or tracks progress reads it.

    An edge is `Job.needs`: from a stage to those whose artefacts it reads.
    """

    jobs: dict[str, Job]
    cache: Path
    done: set[str] = field(default_factory=set)
    corrupt: set[str] = field(default_factory=set)  # in the cache, but not as they were written
    outdated: dict[str, tuple[str, ...]] = field(default_factory=dict)  # in the cache -> code that has changed since
    failed: dict[str, str] = field(default_factory=dict)  # -> why
    faults: set[str] = field(default_factory=set)  # of those, the ones that failed by a fault in the code
    running: dict[str, float] = field(default_factory=dict)  # -> since when
    # In a cluster's queue -> why it is not started, if that is known.
    queued: dict[str, str] = field(default_factory=dict)
    suspect: set[str] = field(default_factory=set)  # jobs whose worker has died

    @property
    def over(self) -> bool:
        return len(self.done) + len(self.failed) == len(self.jobs)

    def ready(self) -> Iterator[Job]:
        """Jobs that can start: earlier stages first."""
        for job in self.jobs.values():
            waiting = job.key not in self.done | self.failed.keys() | self.running.keys()
            if waiting and all(need in self.done for need in job.needs):
                yield job

    def next(self, workers: int) -> list[Job]:
        """What to start now; a job whose worker died is tried again alone: if that dies too, the job is the reason."""
        suspects = self.suspect - self.done - self.failed.keys()
        if suspects:
            return [] if self.running else [job for job in self.ready() if job.key in suspects][:1]
        return list(self.ready())[: workers - len(self.running)]

    @property
    def exit_code(self) -> int:
        """What a command ends with that ran this DAG."""
        return FAULT if self.faults else FAILED if self.failed else DONE

    @property
    def broken(self) -> dict[str, str]:
        """Label -> reason of the jobs that failed themselves."""
        return {
            self.jobs[key].label: why
            for key, why in self.failed.items()
            if not self.failed.keys() & set(self.jobs[key].needs)
        }

    def journal(self, key: str) -> list[dict]:
        """The lines that a running job has logged so far."""
        try:
            return stage.read_journal(artefacts.partial_folder(self.cache / key))
        except FileNotFoundError:
            return []  # it ended, and its folder was renamed, just now

    def finish(self, key: str) -> None:
        """Mark a running job done."""
        self.running.pop(key, None)
        self.outdated.pop(key, None)
        self.done.add(key)

    def lose(self) -> None:
        """The workers have died: the jobs that they ran are tried once more, and fail where that was the second time."""
        for key in self.running.keys() & self.suspect:
            self.fail(key, "its worker process died twice; out of memory?")
        self.suspect |= self.running.keys()
        self.running.clear()

    def fail(self, key: str, why: str) -> None:
        """Mark a job failed, and all that rest on it and are not done."""
        self.failed[key] = why
        self.running.pop(key, None)
        for job in self.jobs.values():
            if key in job.needs and job.key not in self.done | self.failed.keys():
                self.fail(job.key, f"needs {self.jobs[key].label}, which failed")


def jobs_of(study: Ablation, arms: Collection[str] = ()) -> dict[str, Job]:
    """Every distinct stage of the study, or of some arms, by key, in the order of the pipeline."""
    jobs: dict[str, Job] = {}
    order: dict[str, tuple[int, int]] = {}
    for seed in study.seeds:
        for arm in arms or study.recipes:
            recipe = study.recipes[arm]
            for step, keys in pipeline.all_steps(recipe, study.scale, seed):
                name, key = step.stage.name, keys[step.stage.name]
                jobs.setdefault(key, Job(key, name, arm, recipe, study.scale, seed, keys, step.name, step.member))
                order[key] = min(order.get(key, step.order), step.order)
    return dict(sorted(jobs.items(), key=lambda item: order[item[0]]))


def dag_of(study: Ablation, cache: Path, fresh: bool = False) -> Dag:
    """The study's jobs, with those that the cache already holds marked done; `fresh` as `dag_for` has it."""
    return dag_for(jobs_of(study), cache, fresh)


def dag_for(jobs: dict[str, Job], cache: Path, fresh: bool = False) -> Dag:
    """These jobs, with those that the cache already holds marked done; if `fresh`, without those of other code."""
    # A finished stage counts even where what it was made from is gone.
    whole = {key for key in jobs if artefacts.cached(cache / key)}
    old = outdated.outdated({key: job for key, job in jobs.items() if key in whole}, cache)
    corrupt = {key for key in jobs if key not in whole and (cache / key).exists()}
    return Dag(jobs, cache, whole - old.keys() if fresh else whole, corrupt, old)


def set_aside(dag: Dag) -> None:
    """Free the places of the artefacts that are to be made again since their code has changed."""
    for key in dag.outdated.keys() - dag.done:
        artefacts.set_aside(dag.cache / key)


def check_starts(dag: Dag) -> None:
    """UserError where a remaining stage starts from a checkpoint that cannot be had.

    Checkpoints on the hub are downloaded, so that the workers find them.
    """
    fields = {name: field for field, name in starts.STARTS.items()}
    left = {(job.stage, job.stage_seed): job.scale for key, job in dag.jobs.items() if key not in dag.done}
    checked = [
        (getattr(scale, fields[name]), scale.model, seed, name)
        for (name, seed), scale in left.items()
        if name in fields and getattr(scale, fields[name])
    ]
    for start in checked:  # a seed that has none is told before gigabytes of the others come
        starts.start_source(*start)
    for value, model, seed, name in checked:
        folders.check_network(f"the start of {name}, seed {seed},", starts.start_of(value, model, seed, name))
