"""Follows the jobs of a study that are in SLURM's queue, and submits those that are not."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from filelock import FileLock

from repro.engine import artefacts
from repro.engine.dag import Dag
from repro.engine.job import FAULT, PREEMPTED, WRONG, Job, ending_of
from repro.engine.slurm.states import ENDED_BY_CLUSTER, LIVE, NEVER, Unanswered, states
from repro.engine.slurm.submission import TRIES, Options, Ticket, logs, read_ticket, submit, write_ticket
from repro.errors import UserError
from repro.stages import stage

ASK_SECONDS = 10.0  # between polls of the cluster
SILENT_SECONDS = 600  # without an answer of the cluster, after which the launcher gives up
LAG_SECONDS = 120  # until a file written on a node has to be visible here
TAIL = 5  # lines of a log in an error message


@dataclass
class Watch:
    """Updates the DAG from the cache and the cluster, and submits jobs that are not submitted yet."""

    dag: Dag
    options: Options
    gpus: bool
    tickets: dict[str, Ticket] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # -> why the cluster has not started it
    absent: dict[str, float] = field(default_factory=dict)  # -> since when an artefact is expected
    queried: float = 0.0
    answered: float = field(default_factory=time.time)

    def poll(self) -> None:
        """See which jobs have ended; now and then ask the cluster how the others stand, and submit what is not submitted."""
        self._poll()
        waiting = self.tickets.keys() - self.dag.running.keys()
        self.dag.queued = {key: self.reasons.get(key, "") for key in self.dag.jobs if key in waiting}

    def _poll(self) -> None:
        for key in [key for key in self.tickets if self._is_done(key)]:
            self._finish(key)
        if time.time() - self.queried < ASK_SECONDS:
            return
        try:
            self._update_all(states([ticket.id for ticket in self.tickets.values()]))
            self._submit_rest()
            self.answered = time.time()
        except Unanswered as silence:
            if time.time() - self.answered > SILENT_SECONDS:
                raise UserError(
                    f"SLURM has not answered for {SILENT_SECONDS // 60} minutes ({silence}); its jobs continue, and the same "
                    "command finds them again"
                ) from None
        self.queried = time.time()

    def _is_done(self, key: str) -> bool:
        folder = self.dag.cache / key
        return (folder / stage.DONE).exists() and (key not in self.dag.corrupt or artefacts.cached(folder))

    def _finish(self, key: str) -> None:
        del self.tickets[key]
        self.dag.finish(key)

    def _update_all(self, found: Mapping[str, tuple[str, str]]) -> None:
        """Update each job from its state, in the DAG's order: a job's needs come before it."""
        for key in [key for key in self.dag.jobs if key in self.tickets]:
            if key in self.dag.failed:  # one of its needs has failed
                del self.tickets[key]
                continue
            state, reason = found.get(self.tickets[key].id, ("FORGOTTEN", ""))
            self.reasons[key] = reason if state == "PENDING" and reason != "None" else ""
            if state == "RUNNING":
                self.dag.running.setdefault(key, time.time())
            else:
                self.dag.running.pop(key, None)
            if state not in LIVE:
                self._update(key, state, reason)

    def _update(self, key: str, state: str, reason: str) -> None:
        """Update a job that has ended and whose artefact was not there at the poll before."""
        job = self.dag.jobs[key]
        ending = ending_of(job, self.dag.cache)
        if self._is_done(key):
            self._finish(key)
        elif state == "CANCELLED" and reason in (NEVER, "") and not self.dag.done.issuperset(job.needs):
            del self.tickets[key]  # since one of its needs was ended, and is submitted again
        elif state == "TIMEOUT" and not job.scale.checkpoint_every:
            self._fail(
                job,
                f"it reached its time limit (job {self.tickets[key].id}); raise it with --slurm time=MINUTES, or write "
                "checkpoints with --set checkpoint_every=100",
            )
        elif state in ENDED_BY_CLUSTER or (ending.code == PREEMPTED and state == "FAILED"):
            self._retry(key, state)
        elif state in ("COMPLETED", "FORGOTTEN") and self._lags(key):
            return
        else:
            self._fail(job, self._why(job, state, reason))

    def _lags(self, key: str) -> bool:
        return time.time() - self.absent.setdefault(key, time.time()) < LAG_SECONDS

    def _retry(self, key: str, state: str) -> None:
        ticket = self.tickets.pop(key)
        self.tries[key] = ticket.tries + 1
        if self.tries[key] >= TRIES:
            self.dag.fail(key, f"the cluster ended its job {TRIES} times ({state}, {ticket.id} is the last)")

    def _why(self, job: Job, state: str, reason: str) -> str:
        """Why a job failed: the stage's own message, or SLURM's state and the end of the log."""
        ticket, ending = self.tickets[job.key], ending_of(job, self.dag.cache)
        files = sorted(logs(self.dag.cache).glob(f"{ticket.id}_*_log.*"))
        where = f"job {ticket.id}; its logs are {logs(self.dag.cache)}/{ticket.id}_*"
        if state == "CANCELLED":
            return f"cancelled ({where}); the same command submits it again"
        if ending.trace or ending.code == WRONG:
            return f"{ending.why} ({where})"
        tail = [
            line for file in files for line in file.read_text(errors="replace").splitlines()[-TAIL:] if line.strip()
        ]
        words = [state.lower(), *(word for word in [reason] if word not in ("", "None"))]
        return "\n  ".join([f"{', '.join(words)} ({where})", *tail])

    def _fail(self, job: Job, why: str) -> None:
        del self.tickets[job.key]
        self.dag.fail(job.key, why)
        code = ending_of(job, self.dag.cache).code
        if code == FAULT:
            self.dag.faults.add(job.key)
        if code == WRONG:
            raise UserError(why)

    def _submit_rest(self) -> None:
        """Submit the jobs that have no live SLURM job, under a lock: another launcher of this cache may have submitted them."""
        dag, cache = self.dag, self.dag.cache
        rest = [job for key, job in dag.jobs.items() if key not in dag.done | dag.failed.keys() | self.tickets.keys()]
        if not rest:
            return
        logs(cache).mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "slurm" / "lock"):
            recorded = {job.key: read_ticket(cache, job.key) for job in rest}
            found = states([ticket.id for ticket in recorded.values() if ticket.id])
            for job in rest:
                if self._is_done(job.key):
                    dag.finish(job.key)
                elif found.get(recorded[job.key].id, ("", ""))[0] in LIVE:
                    self.tickets[job.key] = recorded[job.key]
                else:
                    self._submit(job)

    def _submit(self, job: Job) -> None:
        after = [self.tickets[need].id for need in job.needs if need not in self.dag.done]
        ticket = Ticket(submit(job, self.dag.cache, self.options, self.gpus, after), self.tries.get(job.key, 0))
        write_ticket(self.dag.cache, job.key, ticket)
        self.tickets[job.key] = ticket
        self.absent.pop(job.key, None)
