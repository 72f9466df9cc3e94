"""The options that several verbs share, and what they ask for: a study, changes of its scale, an engine."""

import argparse
import shlex
from pathlib import Path

from repro.cli.parser import pairs_of
from repro.errors import UserError


def add_study_options(verb: argparse.ArgumentParser) -> None:
    """The options which say what a study is; `load_study` reads them."""
    verb.add_argument("study", metavar="DETAIL", help="a detail, or a file of ablations/ without .toml")
    verb.add_argument("--scale", default="", help="mini (the default), smoke, local, or pythia-160m to pythia-6.9b")
    verb.add_argument("--seeds", nargs="+", default=[], metavar="N", help="training seeds, shared by all arms")
    verb.add_argument("--until", default="", metavar="WORD", help="decided: more seeds, look by look, until all is")
    verb.add_argument("--looks", nargs="+", default=[], metavar="N", help="seeds at each look (4 6 8 12)")
    verb.add_argument("--arms", nargs="+", default=[], metavar="LABEL", help="variants to run beside the reference")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the scale")
    verb.add_argument("--with", nargs="+", default=[], metavar="DETAIL=LABEL", help="choices that all arms make")


def add_fresh_option(verb: argparse.ArgumentParser) -> None:
    """The option which says that stages of older code are made again."""
    verb.add_argument(
        "--fresh", action="store_true", help="make stages again whose code has changed since they were made"
    )


def add_engine_options(verb: argparse.ArgumentParser) -> None:
    """The options which say where jobs run; `choose_engine` reads them."""
    verb.add_argument("--engine", default="local", metavar="WHERE", help="local (this machine, the default) or slurm")
    verb.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="what is asked of SLURM for each job")


def load_study(arguments: argparse.Namespace):
    """The study that the options of `add_study_options` ask for."""
    from repro.study import ablation

    return ablation.load(
        arguments.study,
        arguments.scale,
        arguments.seeds,
        scale_changes(arguments),
        common_choices(arguments),
        arguments.arms,
        until=arguments.until,
        looks=arguments.looks,
    )


def scale_changes(arguments: argparse.Namespace) -> dict[str, str]:
    """What --set says: the fields of the scale that have another value."""
    return pairs_of("--set", arguments.set, "FIELD=VALUE, as episodes=512")


def common_choices(arguments: argparse.Namespace) -> dict[str, str]:
    """What --with says: the variants that all arms of a study use."""
    return pairs_of("--with", getattr(arguments, "with"), "DETAIL=LABEL, as kl_estimator=k3")


def choose_engine(arguments: argparse.Namespace, studies):
    """The engine that runs the jobs of the studies: this machine or SLURM."""
    from repro.detail import nearest
    from repro.engine import launch, slurm

    asked = pairs_of("--slurm", arguments.slurm, slurm.FORM)
    if arguments.engine == "slurm":
        return slurm.engine(studies[0].scale, asked, sum(len(study.arms) * len(study.seeds) for study in studies))
    if arguments.engine != "local":
        raise UserError(f"there is no engine {arguments.engine!r}; {nearest(arguments.engine, ('local', 'slurm'))}")
    if asked:
        raise UserError("--slurm is for --engine slurm; leave it out, or add that")
    return launch.local(studies[0].scale)


def command_of(arguments: argparse.Namespace, *what: str) -> str:
    """The command that was given, with the options that it has."""
    words = ["python", "-m", "repro", *what]
    scale = getattr(arguments, "scale", "")
    words += ["--scale", scale] if scale else []
    for option in ("seeds", "arms", "with"):
        given = getattr(arguments, option, [])
        words += [f"--{option}", *given] if given else []
    words += ["--fresh"] if getattr(arguments, "fresh", False) else []
    return shlex.join(words + _set_words(arguments))


def _set_words(arguments: argparse.Namespace) -> list[str]:
    """The words of --set; of a path only its last part: the rest is of this machine."""
    pairs = [word.partition("=") for word in getattr(arguments, "set", [])]
    short = [f"{f}={Path(v).name if '/' in v and not v.startswith(('gpt-neox:', 'hub:')) else v}" for f, _, v in pairs]
    return ["--set", *short] if short else []
