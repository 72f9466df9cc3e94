"""The options of --slurm: which there are, what each may say, and whether they give a job what its ranks need."""

import re
from collections.abc import Mapping

from repro.errors import UserError, nearest, quoted
from repro.study.scale import Scale

MINUTES = 1_440  # default time limit of a job
NUMBERS = ("time", "gpus_per_node")
WORDS = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "gres", "mem", "setup", "reservation")
LONGEST, MOST_GPUS = 525_600, 1_024  # minutes of a job, a year, and GPUs of a node
RESOURCE = r"(gres/)?\w+(:[A-Za-z_][\w.-]*)?(:\d{1,4})?(\([\w:,-]*\))?"  # gpu, gpu:2, gpu:a100:2(S:0-1)
FORMS = {"gres": (f"{RESOURCE}(,{RESOURCE})*", "gpu:1"), "mem": (r"\d{1,9}[KMGT]?", "64G")}  # -> syntax, example
FORM = 'KEY=VALUE, such as partition=gpu time=1440 (with make: SLURM="partition=gpu time=1440")'


def read_options(options: Mapping[str, str]) -> dict[str, str | int]:
    """The options of --slurm, numbers as numbers; UserError where SLURM cannot know one, or not what it says."""
    for name in options:
        if name not in NUMBERS + WORDS:
            raise UserError(f"--slurm has no {quoted(name)}; {nearest(name, NUMBERS + WORDS)}")
    return {name: _number(name, value) if name in NUMBERS else _word(name, value) for name, value in options.items()}


def _number(name: str, value: str) -> int:
    least, most = (1, LONGEST) if name == "time" else (0, MOST_GPUS)
    plain = value.isascii() and value.isdigit() and len(value) <= len(str(most))
    if not plain or not least <= int(value) <= most:
        unit, example = (" of minutes", MINUTES) if name == "time" else ("", 1)
        raise UserError(
            f"--slurm {name}={quoted(value)} is not a number{unit} from {least} to {most}; write it as {name}={example}"
        )
    return int(value)


def _word(name: str, value: str) -> str:
    """A word for a job's script, in which a line break would begin another option."""
    if not value.strip() or not value.isprintable():
        raise UserError(f"--slurm {name}={quoted(value)} is no line of text; write {FORM}")
    if name in FORMS and not re.fullmatch(FORMS[name][0], value, re.ASCII):
        raise UserError(f"--slurm {name}={quoted(value)} is not what SLURM reads; write it as {name}={FORMS[name][1]}")
    return value


def check_gpus(scale: Scale, options: Mapping[str, str | int]) -> None:
    """UserError where a job would have GPUs, but fewer than ranks."""
    name = "gres" if "gres" in options else "gpus_per_node"
    value = options.get(name, 0)
    given = value if isinstance(value, int) else _gpus_of(value)
    if 0 < given < scale.processes:
        raise UserError(
            f"--slurm {name}={value} gives a job {given} GPU{'s' * (given > 1)}, and processes={scale.processes} needs "
            f"one each; request {scale.processes}, or set processes to at most {given}"
        )


def _gpus_of(gres: str) -> int:
    """The number of GPUs in a list of resources, each gpu[:TYPE][:COUNT] or another kind."""
    requested = [entry.partition("(")[0].removeprefix("gres/").split(":") for entry in gres.split(",")]
    return sum(int(words[-1]) if words[-1].isdigit() else 1 for words in requested if words[0] == "gpu")
