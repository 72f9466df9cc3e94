"""What SLURM says of jobs, by its commands squeue and sacct."""

import subprocess
from collections.abc import Collection, Iterator

# States of jobs that have not ended, and of jobs that the cluster ended and that can be submitted again.
LIVE = frozenset(
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING REQUEUED REQUEUE_HOLD "
    "REQUEUE_FED SPECIAL_EXIT RESV_DEL_HOLD".split()
)
NEVER = "DependencyNeverSatisfied"
ENDED_BY_CLUSTER = frozenset(["TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])


class Unanswered(Exception):
    """SLURM's commands fail or time out."""


def states(ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Id -> state and reason of the jobs that SLURM still knows; `Unanswered` if it cannot be queried."""
    found = in_queue(ids)
    rest = [number for number in ids if number not in found]
    if rest:  # squeue forgets a job minutes after its end; sacct, where accounting is on, does not
        words = [
            "sacct",
            "--noheader",
            "--allocations",
            "--parsable2",
            "--format=JobIDRaw,State",
            "--jobs",
            ",".join(rest),
        ]
        for line in _lines(words, check=False):
            number, _, state = line.partition("|")
            found[number] = (state.split()[0], "")
    return found


def in_queue(ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Id -> state and reason of the jobs that squeue lists; `Unanswered` if it cannot be queried."""
    if not ids:
        return {}
    # With a second id, since a single unknown one is an error for squeue.
    words = ["squeue", "--noheader", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join([*ids, '1'])}"]
    found = {number: (state, reason) for number, state, reason in (line.split("|", 2) for line in _lines(words))}
    return {number: found[number] for number in ids if number in found}


def _lines(words: list[str], check: bool = True) -> Iterator[str]:
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(str(error)) from None
    if answer.returncode and "Invalid job id" not in answer.stderr and check:
        raise Unanswered(answer.stderr.strip())
    return (line.strip() for line in answer.stdout.splitlines() if "|" in line)
