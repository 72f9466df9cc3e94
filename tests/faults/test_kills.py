"""Studies that are killed and continued leave what an undisturbed one leaves; `make faults` kills more, at random."""

import subprocess
import sys
from collections import Counter

import pytest

from repro.__main__ import main
from tests import blank
from tests.faults import study
from tests.faults.kills import FULL, PHASES, Kill
from tests.faults.lives import differences, live, plan
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts, signals, and /proc to find the workers")


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """What nothing disturbed, in this process, since only those that are killed need one of their own.

    No kill here strikes while figures are drawn, and no difference would be seen in them.
    """
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "COMMAND_LINE", blank.COMMAND_LINE)
        blank.instead(patch.setattr)
        for name in ("MLFLOW_TRACKING_URI", "REPRO_CACHE"):
            patch.setenv(name, "")
        patch.chdir(folder)
        assert main(list(study.WORDS)) == 0
        yield study.remains(folder)


def test_what_was_killed_while_it_published_and_found_the_disk_full_ends_as_if_nothing_had_happened(wanted, tmp_path):
    kills = [Kill("publishing", "SIGKILL to all", 4.0), Kill("ppo", FULL, 0.1)]
    life = live(0, kills, tmp_path / "study", wanted)
    assert life.outcomes[0].struck, life
    assert life.differences == []


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_fifty_random_kills_change_nothing():
    words = [sys.executable, "-m", "tests.faults", "--kills", "50"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


def test_what_is_lost_or_doubled_would_be_found():
    whole = {
        "files": {"ppo-1": {"model": "a"}},
        "journals": {"ppo-1": [(0, {"kl": 1.0})]},
        "points": Counter({("off", "kl", 0, 1.0): 1, ("off", "kl", 1, 2.0): 1}),
    }
    assert differences(whole, whole) == []
    doubled = whole | {"points": whole["points"] + Counter({("off", "kl", 0, 1.0): 1})}
    assert differences(whole, doubled) == ["0 points are lost, 1 are doubled or others"]
    lost = whole | {"points": Counter({("off", "kl", 0, 1.0): 1, ("off", "kl", 1, 3.0): 1})}
    assert differences(whole, lost) == ["1 points are lost, 1 are doubled or others"]
    (sentence,) = differences(whole, whole | {"files": {"ppo-1": {"model": "b"}}})
    assert sentence == "files: ppo-1: model: b in the place of a"


def test_a_seed_names_its_kills():
    assert plan(7, 4) == plan(7, 4) != plan(8, 4)
    order = list(PHASES)
    places = [order.index(kill.phase) for kill in plan(7, 4)]
    assert places == sorted(places)
    drawn = [kill for seed in range(200) for kill in plan(seed, 4)]
    assert {kill.phase for kill in drawn} == set(PHASES) and all(0 <= kill.delay <= 8 for kill in drawn)
