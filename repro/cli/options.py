"""Options that several verbs share, and the study, scale changes and engine that they ask for."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from repro.cli.parser import pairs_of
from repro.errors import UserError, nearest, quoted

if TYPE_CHECKING:  # it brings torch
    from repro.engine.launch import Engine


def add_study_options(verb: argparse.ArgumentParser) -> None:
    """Add the options that define a study; `load_study` reads them."""
    what = "a detail, or a file in ablations/ without its .toml"
    verb.add_argument("study", nargs="?", default=None, metavar="DETAIL", help=what)
    verb.add_argument("--config", type=Path, metavar="FILE", help="the config.json of a run: its study, as it was")
    verb.add_argument("--scale", default="", help="mini (the default), smoke, local, or pythia-160m to pythia-6.9b")
    verb.add_argument("--seeds", nargs="+", default=[], metavar="N", help="training seeds, shared by all arms")
    verb.add_argument(
        "--until", default="", metavar="WORD", help="`decided`: add seeds, look by look, until every arm is decided"
    )
    verb.add_argument("--looks", nargs="+", default=[], metavar="N", help="numbers of seeds at the looks (4 6 8 12)")
    verb.add_argument("--arms", nargs="+", default=[], metavar="LABEL", help="variants to run beside the reference")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the scale")
    verb.add_argument(
        "--ceiling", action="store_true", help="run the reference with the gold score as reward too, beside the arms"
    )
    verb.add_argument("--with", nargs="+", default=[], metavar="DETAIL=LABEL", help="choices that all arms share")


def add_fresh_option(verb: argparse.ArgumentParser) -> None:
    """The option which says that stages of older code are made again."""
    verb.add_argument(
        "--fresh", action="store_true", help="make stages again whose code has changed since they were made"
    )


def add_engine_options(verb: argparse.ArgumentParser) -> None:
    """Add the options that say where jobs run; `choose_engine` reads them."""
    verb.add_argument("--engine", default="local", metavar="WHERE", help="local (this machine, the default) or slurm")
    verb.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="SLURM's options for each job")


def load_study(arguments: argparse.Namespace):
    """The study that the options of `add_study_options` ask for."""
    from repro.study import ablation, config

    if arguments.config:
        _require_alone(arguments)
        return config.read_config(arguments.config)
    if arguments.study is None:
        raise UserError("name a detail, such as whiten_adv, or give --config FILE")
    return ablation.load(
        arguments.study,
        arguments.scale,
        arguments.seeds,
        scale_changes(arguments),
        common_choices(arguments),
        arguments.arms,
        until=arguments.until,
        looks=arguments.looks,
        with_ceiling=arguments.ceiling,
    )


def _require_alone(arguments: argparse.Namespace) -> None:
    """UserError where an option is given beside --config, which says all that they say."""
    named = ["DETAIL"] if arguments.study is not None else []
    options = ("scale", "seeds", "until", "looks", "arms", "ceiling", "set", "with")
    given = [f"--{name}" for name in options if getattr(arguments, name)]
    for name in named + given:
        raise UserError(f"--config says the whole study; leave {name} out, or leave --config out")


def scale_changes(arguments: argparse.Namespace) -> dict[str, str]:
    """The values of --set: field of the scale -> new value."""
    return pairs_of("--set", arguments.set, "FIELD=VALUE, such as episodes=512")


def common_choices(arguments: argparse.Namespace) -> dict[str, str]:
    """The values of --with: detail -> variant that all arms share."""
    return pairs_of("--with", getattr(arguments, "with"), "DETAIL=LABEL, such as kl_estimator=k3")


def choose_engine(arguments: argparse.Namespace, studies) -> Engine:
    """The engine that runs the jobs of the studies: this machine or SLURM."""
    from repro.engine import launch
    from repro.engine.slurm import engine as slurm
    from repro.engine.slurm.options import FORM

    requested = pairs_of("--slurm", arguments.slurm, FORM)
    if arguments.engine == "slurm":
        return slurm.engine(
            studies[0].scale, requested, sum(len(study.recipes) * len(study.seeds) for study in studies)
        )
    if arguments.engine != "local":
        raise UserError(
            f"there is no engine {quoted(arguments.engine)}; {nearest(arguments.engine, ('local', 'slurm'))}"
        )
    if requested:
        raise UserError("--slurm needs --engine slurm; add that, or leave --slurm out")
    return launch.local(studies[0].scale)


def command_of(arguments: argparse.Namespace, *what: str) -> str:
    """The command as it was typed, for the record of a run."""
    words = ["python", "-m", "repro", *what]
    words += ["--config", arguments.config.name] if getattr(arguments, "config", None) else []
    scale = getattr(arguments, "scale", "")
    words += ["--scale", scale] if scale else []
    words += ["--until", arguments.until] if getattr(arguments, "until", "") else []
    for option in ("seeds", "looks", "arms", "with"):
        given = getattr(arguments, option, [])
        words += [f"--{option}", *given] if given else []
    words += [f"--{option}" for option in ("ceiling", "fresh", "register") if getattr(arguments, option, False)]
    return shlex.join(words + _set_words(arguments))


def _set_words(arguments: argparse.Namespace) -> list[str]:
    """The words of --set, for a record."""
    from repro.study.scale import without_folders

    pairs = [word.partition("=") for word in getattr(arguments, "set", [])]
    recorded = [f"{field}={without_folders(value)}" for field, _, value in pairs]
    return ["--set", *recorded] if recorded else []
