"""Recorded commands as a person types them in a checkout: `make` finds the environment that `python -m repro` needs."""

import re
import shlex

BEGINNING = ["python", "-m", "repro"]
# Verb -> target of the Makefile, and the variable of what it is about; option -> variable, and switch -> what is typed.
TARGETS = {"run": ("ablation", "DETAIL"), "atlas": ("atlas", "DETAIL"), "calibrate": ("calibration", "")}
OPTIONS = {f"--{name}": name.upper() for name in ("config", "scale", "until", "seeds", "looks", "arms", "with", "set")}
SWITCHES = {"--ceiling": "CEILING=gold", "--fresh": "FRESH=1", "--register": "REGISTER=1"}
PLAIN = re.compile(r"[\w\s.,:=@%+/-]*")  # what a shell takes as it is, between double quotes


def typed(command: str) -> str:
    """A recorded command by the Makefile; one that is no verb's, as of a study from Python, stays as it is."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    if words[:3] != BEGINNING or len(words) < 4 or words[3] not in TARGETS:
        return command
    target, about = TARGETS[words[3]]
    given, switches = _given(words[4:], about)
    known = all(
        name and values and not any(re.search(r"\s", each) for each in values) for name, values in given.items()
    )
    if not known:  # make parts its values at spaces
        return command
    return " ".join(["make", target, *(_variable(*each) for each in given.items()), *switches])


def _given(words: list[str], about: str) -> tuple[dict[str, list[str]], list[str]]:
    """Variable -> its words, the first ones being what the verb is about, and the switches; "" is an unknown option."""
    given: dict[str, list[str]] = {}
    switches, name = [], about
    for word in words:
        if word in SWITCHES:
            switches.append(SWITCHES[word])
        elif word.startswith("--"):
            name = OPTIONS.get(word, "")
            given[name] = []
        else:
            given.setdefault(name, []).append(word)
    return given, switches


def _variable(name: str, values: list[str]) -> str:
    """A variable as it is typed: in quotes where a shell would take it for several words, or for something else."""
    text = " ".join(values)
    if not PLAIN.fullmatch(text):
        return f"{name}={shlex.quote(text)}"
    return f'{name}="{text}"' if " " in text else f"{name}={text}"
