"""Kill studies at random, let them end, and compare: `python -m tests.faults --kills 50 --seed 1`, or `make faults`."""

import argparse
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.kills import PHASES
from tests.faults.lives import Life, live, plan, undisturbed

KILLS_IN_A_LIFE = 4


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how many kills have to strike")
    parser.add_argument("--seed", type=int, default=1, help="of the first study; each further one has the next")
    parser.add_argument("--at-once", type=int, default=2, help="studies that run beside one another")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as place, ThreadPoolExecutor(given.at_once) as pool:
        wanted, lives, seed = undisturbed(Path(place) / "undisturbed"), [], given.seed
        while sum(len(life.kills) for life in lives) < given.kills:
            seeds = range(seed, seed + given.at_once)
            jobs = [
                pool.submit(live, each, plan(each, KILLS_IN_A_LIFE), Path(place) / str(each), wanted) for each in seeds
            ]
            for job in jobs:
                lives.append(job.result())
                _tell(lives[-1])
            seed += given.at_once
    _table(lives)
    return int(any(life.differences for life in lives))


def _tell(life: Life) -> None:
    for outcome in life.outcomes:
        print(
            f"seed {life.seed}: {outcome.kill}: {'exit code ' + str(outcome.code) if outcome.struck else 'came too late'}"
        )
    for sentence in life.differences or ["as if nothing had happened"]:
        print(f"seed {life.seed}: {sentence}", flush=True)


def _table(lives: list[Life]) -> None:
    """Kills that struck, by phase and means; those of studies that did not survive them are counted too."""
    struck = Counter((kill.phase, kill.means) for life in lives for kill in life.kills)
    means = sorted({means for _, means in struck})
    print("", "| phase | " + " | ".join(means) + " |", "|---" * (len(means) + 1) + "|", sep="\n")
    for phase in PHASES:
        print(f"| {phase} | " + " | ".join(str(struck[phase, each]) for each in means) + " |")
    spoilt = sum(bool(life.differences) for life in lives)
    print(
        f"\n{sum(struck.values())} kills of {len(lives)} studies; {len(lives) - spoilt} ended as if nothing had happened"
    )


if __name__ == "__main__":
    sys.exit(main())
