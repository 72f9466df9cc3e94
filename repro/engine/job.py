"""One stage of one arm and seed, as something to hand over: a file that says which, and the processes that do it.

`python -m repro stage FILE` ends with 0 where the artefact is there, with 1 where the machine failed the stage, 2 for input
that a person must correct, 70 where the code has a fault (EX_SOFTWARE), and 75 where it was told to end (EX_TEMPFAIL: whoever
schedules it may start it again).
"""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch

from repro import details as d
from repro.detail import Recipe
from repro.engine import artefacts, pipeline
from repro.errors import UserError, is_of_machine
from repro.stages.stage import Preempted
from repro.study.scale import Scale

DONE, FAILED, WRONG, FAULT, PREEMPTED = 0, 1, 2, os.EX_SOFTWARE, os.EX_TEMPFAIL
CONFIGS = Path(__file__).parents[1] / "configs"
SHARINGS = {"none": "ddp", "fsdp": "fsdp2", "zero2": "zero2", "zero3": "zero3_offload"}  # -> accelerate's file for GPUs
ENDING_SECONDS = 300  # that ranks have for a checkpoint once they are told to end
# What a stage may need: brought before one begins, since its seconds are measured and the first would have waited for all.
LIBRARIES = (
    "accelerate",
    "datasets",
    "pandas",
    "pyarrow.parquet",
    "repro.models.kv_cache",
    "torch.distributed.fsdp",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
)
STARTED_BY = "REPRO_STARTED_BY"  # the process that a job ends with


@dataclass(frozen=True)
class Job:
    """One step of one arm and seed; the first arm that needs it names it.

    `keys` are those of the artefacts that its stage reads, by the stage's names for them, and its own.
    """

    key: str
    stage: str
    arm: str
    recipe: Recipe
    scale: Scale
    seed: int
    keys: dict[str, str]
    step: str = ""  # its name where an arm has several steps of the stage
    member: int = 1  # of an ensemble

    @property
    def needs(self) -> list[str]:
        return list(self.inputs.values())

    @property
    def inputs(self) -> dict[str, str]:
        return pipeline.BY_NAME[self.stage].inputs(self.keys)

    @property
    def stage_seed(self) -> int:
        """The seed that the stage is handed."""
        return pipeline.seed_of(self.seed, self.member)

    @property
    def name(self) -> str:
        return self.step or self.stage

    @property
    def label(self) -> str:
        return f"{self.name} {self.arm} seed {self.seed}"

    @property
    def computes(self) -> bool:
        """Whether the stage runs a model, on a GPU if there is one: the others read and write files."""
        return self.stage in d.PRECISION.stages

    @property
    def ranks(self) -> int:
        return ranks_of(self.stage, self.scale)


def ranks_of(stage: str, scale: Scale) -> int:
    """The ranks that run a stage: those of the scale where it runs a model, else one."""
    return scale.processes if stage in d.PRECISION.stages else 1


@dataclass(frozen=True)
class Ending:
    """How a job ended: an exit code, and why in words."""

    code: int
    why: str = ""
    trace: str = ""


def check_sharding(scale: Scale, gpus: bool) -> None:
    """UserError where the scale's ranks cannot share their work in its way, with or without GPUs."""
    if scale.sharding == "none":
        return
    if scale.processes == 1:
        raise UserError(
            f"sharding={scale.sharding} is among several ranks; set processes to 2 or more, or sharding=none"
        )
    if scale.sharding.startswith("zero") and not gpus:
        raise UserError(f"sharding={scale.sharding} needs GPUs; on a CPU there are none and fsdp")
    if scale.sharding.startswith("zero") and not find_spec("deepspeed"):
        raise UserError(
            f"sharding={scale.sharding} needs DeepSpeed; install it with pip install deepspeed, or use fsdp"
        )


# ----------------------------------------------------------------------------------------------------- the file


def write_job(job: Job, cache: Path) -> Path:
    """The file that says which job it is; `read_job` gives it back, in any process that sees the cache."""
    content = asdict(job) | {"recipe": job.recipe.choices, "cache": str(cache.absolute())}
    path = cache.absolute() / "jobs" / f"{job.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1, default=str))
    os.replace(partial, path)
    return path


def read_job(path: Path) -> tuple[Job, Path]:
    """A job and its cache; UserError where the file is none, or another version's."""
    try:
        content = json.loads(path.read_text())
        cache, recipe = (
            Path(content.pop("cache")),
            Recipe(tuple((name, label) for name, label in content.pop("recipe"))),
        )
        # JSON knows no tuples.
        budget: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.pop("scale").items()
        }
        scale = Scale(**budget)
        return Job(recipe=recipe, scale=scale, **content), cache
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is no job of this version ({type(error).__name__}: {error}); run the study again, which writes it"
        ) from None


# ------------------------------------------------------------------------------------------------- in its process


def perform(path: Path) -> Ending:
    """Make the artefact of the job in the file, alone or as one of its ranks."""
    signal.signal(signal.SIGTERM, _preempt)
    try:
        job, cache = read_job(path)
    except UserError as wrong:
        return Ending(WRONG, str(wrong))
    _end_with_starter()
    prepare_process(job.scale.threads)
    ending = attempt(job, cache, _check_key)
    return _write_ending(job, cache, ending) if ending.code else ending


def attempt(job: Job, cache: Path, check_job: Callable[[Job], None] = lambda _: None) -> Ending:
    """Make the job's artefact in this process, unless it is there; how that ended."""
    try:
        check_job(job)
        # Whoever shows the DAG has told of corrupt artefacts: it knows them.
        artefacts.run_or_reuse(
            pipeline.BY_NAME[job.stage], job.recipe, job.scale, job.stage_seed, job.keys, cache, warn=lambda _: None
        )
        return Ending(DONE)
    except Preempted as ended:
        return Ending(PREEMPTED, str(ended))
    except UserError as wrong:
        return Ending(WRONG, str(wrong))
    except Exception as error:
        return _failure(job, cache, error)


def _failure(job: Job, cache: Path, error: Exception) -> Ending:
    """A stage's exception in words; its traceback is in a file beside the artefact's place."""
    log, trace = cache / f"{job.key}.error.txt", traceback.format_exc()
    with suppress(OSError):  # a full disk has no room for it
        log.write_text(trace)
    what = f"{type(error).__name__}: {error}"
    if is_of_machine(error):
        return Ending(FAILED, f"{what} (the traceback is in {log})", trace)
    return Ending(FAULT, f"{what} (a fault in the code, not in your input; please report it with {log})", trace)


def prepare_process(threads: int) -> None:
    """Prepare a process that runs stages: import what they need, set its threads, and silence libraries."""
    for library in LIBRARIES:
        import_module(library)
    gc.freeze()  # what they made stays: the search for circles at each stage's end passes it over
    from datasets import disable_progress_bars
    from transformers.utils import logging

    torch.set_num_threads(threads)
    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")


def _preempt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Preempted("told to end before there was a checkpoint")


def _check_key(job: Job) -> None:
    """UserError where this process would compute something else than the key says."""
    key = artefacts.key(pipeline.BY_NAME[job.stage], job.recipe, job.scale, job.stage_seed, job.keys)
    if key != job.key:
        raise UserError(
            f"{job.label} is {job.key} where it was planned and {key} here: the code, the data or the device's "
            "precision differ; plan where it runs, or set precision=float32 or precision=bfloat16"
        )


def _end_with_starter() -> None:
    """No rank outlives the process that started them all, however that one ended."""
    if STARTED_BY in os.environ:
        threading.Thread(target=_end_after, args=(int(os.environ[STARTED_BY]),), daemon=True).start()


def _end_after(starter: int) -> None:
    while True:
        try:
            os.kill(starter, 0)
        except ProcessLookupError:
            os._exit(FAILED)
        time.sleep(1)


def endings_folder(cache: Path, key: str) -> Path:
    """Where each rank of a job writes how it ended, in a file of its own."""
    return cache / "jobs" / f"{key}.endings"


def _write_ending(job: Job, cache: Path, ending: Ending) -> Ending:
    """Kept for whoever started the ranks: their launcher has one exit code for all that can happen to them."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends anyway
    folder = endings_folder(cache, job.key)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.environ.get('RANK', '0')}.json"
    path.with_suffix(".partial").write_text(json.dumps(asdict(ending) | {"time": time.time()}))
    os.replace(path.with_suffix(".partial"), path)
    return ending


# --------------------------------------------------------------------------------------------- in another process


def run_in_subprocesses(path: Path, log: IO) -> Ending:
    """Do the job of the file in new processes, one for each rank; a SIGTERM to this process ends them."""
    job, cache = read_job(path)
    clear_endings(job, cache)
    environment = os.environ | {STARTED_BY: str(os.getpid()), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(ENDING_SECONDS)}
    process = subprocess.Popen(_command(job, path), stdout=log, stderr=subprocess.STDOUT, env=environment)
    with _sigterm_passed_on(process) as terminated:
        process.wait()
    if process.returncode == 0:
        return Ending(DONE)
    return Ending(PREEMPTED, "told to end") if terminated.is_set() else ending_of(job, cache)


def _command(job: Job, path: Path) -> list[str]:
    if job.ranks == 1:
        return [sys.executable, "-m", "repro", "stage", str(path)]
    options = ["--config_file", str(config(job.scale.sharding)), "--num_processes", str(job.ranks)]
    return [sys.executable, "-m", "accelerate.commands.launch", *options, "--module", "repro", "stage", str(path)]


def config(sharding: str) -> Path:
    """Accelerate's file for ranks that share their work in that way, on this machine's GPUs or its CPU."""
    on_cpu = sharding == "none" and not torch.cuda.is_available()
    return CONFIGS / f"{'cpu' if on_cpu else SHARINGS[sharding]}.yaml"


@contextmanager
def _sigterm_passed_on(process: subprocess.Popen):
    """Within the context a SIGTERM to this process ends the other one too; the event says whether one has come."""
    terminated = threading.Event()

    def pass_on(*_: object) -> None:
        if not terminated.is_set():
            terminated.set()
            process.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def clear_endings(job: Job, cache: Path) -> None:
    """Remove what an earlier attempt at the job left of how it ended."""
    shutil.rmtree(endings_folder(cache, job.key), ignore_errors=True)


def ending_of(job: Job, cache: Path) -> Ending:
    """How a job ended, by its ranks: the earliest failure, since the others fail or are ended because of it."""
    found = [json.loads(file.read_text()) for file in endings_folder(cache, job.key).glob("*.json")]
    found.sort(key=lambda each: (each["code"] == PREEMPTED, each.pop("time")))
    if not found:
        return Ending(FAILED, "its processes ended without a word; out of memory?")
    ending = Ending(**found[0])
    if ending.trace:
        (cache / f"{job.key}.error.txt").write_text(ending.trace)
    return ending
