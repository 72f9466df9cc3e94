"""The life of a study that is killed a few times and ends at last, held against one that nobody disturbed."""

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.kills import PHASES, Kill, Outcome, draw, strike
from tests.faults.study import check, end, remains, start

DISK = "64m"  # a study leaves 17 MB
STOPPED = {0, 1, 2, 130, -9, -15, -2}  # exit codes of a study that was ended or found the disk full: never 70


@dataclass(frozen=True)
class Life:
    """What happened to a study, and how what it left differs from the undisturbed one's; empty where it does not."""

    seed: int
    outcomes: list[Outcome]
    differences: list[str]

    @property
    def kills(self) -> list[Kill]:
        return [each.kill for each in self.outcomes if each.struck]


def plan(seed: int, count: int) -> list[Kill]:
    """Kills in the order of a study's phases; the same seed gives the same ones."""
    numbers = random.Random(seed)
    places = sorted(numbers.choices(range(len(PHASES)), k=count))
    return [draw(numbers, list(PHASES)[place]) for place in places]


def live(seed: int, kills: list[Kill], folder: Path, undisturbed: dict[str, Any]) -> Life:
    """A study that these kills strike, one start each, and that then goes on to its end."""
    with small_disk(folder):
        outcomes = []
        for kill in kills:
            outcomes.append(strike(kill, folder))
            if not outcomes[-1].struck and outcomes[-1].code == 0:
                break  # the study is over
        odd = [f"{each.kill}: ended with {each.code}" for each in outcomes if each.code not in STOPPED]
        code = end(start(folder))
        if code:
            return Life(seed, outcomes, [*odd, f"the last start ended with {code}: {_last_words(folder)}"])
        # Where nothing is half made, half published or doubled, the project's own check says so too.
        checked = ["make check finds faults"] if check(folder) else []
        _, trace, what = (folder / "out").read_text().partition("Traceback (most recent")
        traces = [f"a traceback was printed: {trace}{what[:4_000]}"] if trace else []
        return Life(seed, outcomes, odd + checked + traces + differences(undisturbed, remains(folder)))


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What of a study's remains is not as it should be, a sentence for each kind."""
    lost, more = (sum((a["points"] - b["points"]).values()) for a, b in ((wanted, found), (found, wanted)))
    said = [f"{lost} points are lost, {more} are doubled or others"] if lost or more else []
    for kind in wanted.keys() - {"points"}:
        if found[kind] != wanted[kind]:
            said.append(f"{kind}: {_first_difference(wanted[kind], found[kind])}")
    return said


def _first_difference(wanted: Any, found: Any) -> str:
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                return f"{name}: {_first_difference(wanted.get(name), found.get(name))}"
    return f"{str(found)[:200]} in the place of {str(wanted)[:200]}"


def _last_words(folder: Path) -> str:
    return " / ".join((folder / "out").read_text().splitlines()[-3:])


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A folder on a small disk of its own, which can be filled, where this user may mount one; else a folder."""
    folder.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(words, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def undisturbed(folder: Path) -> dict[str, Any]:
    """What the study leaves that nothing disturbs."""
    folder.mkdir(parents=True)
    code = end(start(folder))
    assert code == 0, _last_words(folder)
    return remains(folder)
