"""A SLURM of one node on this machine, in a folder of its own: key, ports and daemons, which end with it.

It needs root, as slurmd does, and the packages slurmctld, slurmd, munge and slurm-client of Debian or Ubuntu.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.ports import free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
START_SECONDS, END_SECONDS = 60, 30
CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# No cgroups and no accounting: a container has neither.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=20
MinJobAge={remembered}
SlurmdTimeout=60
SchedulerParameters=sched_interval=2,bf_interval=2,requeue_delay=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=60 State=UP
"""


def missing() -> list[str]:
    """What this machine lacks to be a cluster."""
    lacks = [name for name in PROGRAMS if not _program(name)]
    return lacks if os.getuid() == 0 else [*lacks, "root"]


@contextmanager
def cluster(folder: Path, cpus: int = 2, remembered: int = 86_400):
    """A cluster whose programs are found through the environment that is yielded; it remembers jobs so many seconds."""
    host = socket.gethostname().split(".")[0]
    controller, daemon = free_ports(2)
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o700)
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**locals()).lstrip())
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    munged = [_program("munged"), "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munged += [f"--{name}-file={folder}/munge/{name}" for name in ("log", "pid", "seed")]
    with ExitStack() as daemons:
        daemons.callback(_end_rest, folder)
        for words in (
            munged,
            [_program("slurmctld"), "-D", "-f", str(configuration)],
            [_program("slurmd"), "-D", "-f", str(configuration), "-N", host],
        ):
            daemons.enter_context(_running(words, environment))
            time.sleep(1)
        _wait_for_node(environment, folder)
        daemons.callback(_cancel_all, environment)
        yield environment


@contextmanager
def _running(words: list[str], environment: dict[str, str]):
    daemon = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield daemon
    finally:
        daemon.terminate()
        try:
            daemon.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _wait_for_node(environment: dict[str, str], folder: Path) -> None:
    until = time.time() + START_SECONDS
    while time.time() < until:
        told = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
        if told.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join((folder / f"{name}.log").read_text()[-2_000:] for name in ("slurmctld", "slurmd"))
    raise RuntimeError(f"the node is not idle after {START_SECONDS} s: {told.stdout}{told.stderr}\n{logs}")


def _cancel_all(environment: dict[str, str]) -> None:
    subprocess.run(["scancel", "--user=root"], env=environment)
    until = time.time() + END_SECONDS
    while time.time() < until and subprocess.run(["squeue", "-h"], env=environment, capture_output=True).stdout:
        time.sleep(0.5)


def _end_rest(folder: Path) -> None:
    """Whatever of the cluster's is left has its configuration in its environment."""
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""
