"""How sharply the embedded study sees: planted contrasts, each with the direction that was written down before it was run.

`python -m benchmarks.sensitivity --seeds 1 2 3 4 5 6 7 8 --cache FOLDER`. A contrast is a change of recipe or budget that
must show; it counts as seen where the mean of its paired differences is as far from 0 as two standard deviations of the
control, which is the reference with other random numbers in PPO. Interrupted, the same command goes on where it stopped.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from repro import details
from repro.api.folders import cache_path
from repro.cli.parser import Parser, pairs_of
from repro.detail import Recipe
from repro.engine import artefacts, pipeline
from repro.engine.launch import prepare_worker, worker_context
from repro.engine.machine import cores
from repro.errors import UserError
from repro.stages import stage
from repro.study import scale
from repro.study.ablation import PRIMARY

SHOWN = (PRIMARY, "test/win_rate", "test/sampled_gold", "test/kl", "test/sampled_length")
AS_FAR = 2.0  # standard deviations of the control that the mean of a contrast has to reach


@dataclass(frozen=True)
class Contrast:
    """What an arm changes, and where its primary metric is expected to go (-1: down, 1: up, 0: nowhere)."""

    name: str
    expected: int
    details: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)  # a budget's field -> what it is multiplied by

    def recipe(self) -> Recipe:
        recipe = Recipe()
        for name, label in self.details.items():
            recipe = recipe.but(details.find(name), label)
        return recipe

    def scale(self, base: scale.Scale) -> scale.Scale:
        fields = {name: getattr(base, name) * factor for name, factor in self.factors.items()}
        return replace(base, **{name: type(getattr(base, name))(value) for name, value in fields.items()})


REFERENCE, CONTROL = Contrast("reference", 0), Contrast("control: other draws", 0, {"draws": "again"})
# Every one makes PPO learn less, or from less; without a KL price and with three times the episodes it over-optimises a reward
# model that has something to be exploited.
PLANTED = (
    Contrast("a third of the learning rate", -1, factors={"ppo_learning_rate": 1 / 3}),
    Contrast("one PPO epoch instead of four", -1, {"ppo_epochs": "1"}),
    Contrast("half the episodes", -1, factors={"episodes": 1 / 2}),
    Contrast("lambda 0", -1, {"gae_lambda": "0"}),
    Contrast("no critic", -1, {"advantage": "whole_return"}),
    Contrast("critic's head from random numbers", -1, {"critic_init": "sft_trunk_random_head"}),
    Contrast(
        "no whitening, rewards eight times as large",
        -1,
        {"whiten_adv": "off", "reward_normalisation": "centre_times_8"},
    ),
    Contrast(
        "KL price 0, three times the episodes, annotators with a blind spot",
        -1,
        {"kl_coef": "0", "blind_spot": "inventions"},
        {"episodes": 3},
    ),
    Contrast("no end of text", -1, {"eos": "not_appended"}),
    Contrast("a tenth of the comparisons", -1, factors={"comparisons": 1 / 10}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.sensitivity", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6, 7, 8])
    parser.add_argument("--control-seeds", type=int, nargs="+", default=[], help="more seeds of reference and control")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORDS", help="contrasts whose names contain these")
    parser.add_argument("--scale", default="mini")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    parser.add_argument(
        "--cache", type=Path, default=cache_path(), help="stages' artefacts; those of studies are found"
    )
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--json", type=Path)
    try:
        given = parser.parse_args(arguments)
        base = scale.find(given.scale, pairs_of("--set", given.set, "field=value, as test_posts=1024"))
        chosen = [c for c in PLANTED if not given.only or any(words in c.name for words in given.only)]
        pairs = dict.fromkeys((*given.seeds, *given.control_seeds))
        if len(pairs) < 2:
            raise UserError("the control's spread needs two seeds or more; give them as --seeds 1 2 3")
        wanted = [(arm, seed) for seed in pairs for arm in (REFERENCE, CONTROL)]
        wanted += [(contrast, seed) for contrast in chosen for seed in given.seeds]
        found = _all_of(wanted, base, given.cache, given.workers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = judged(found, chosen)
    print(rendered(table))
    if given.json:
        given.json.write_text(json.dumps({"contrasts": table, "runs": found}, indent=1))
    return 0


def _all_of(wanted: Sequence[tuple[Contrast, int]], base: scale.Scale, cache: Path, workers: int) -> list[dict]:
    """What each arm of each seed ended with, as they are told; stages that arms share are made once."""
    with ProcessPoolExecutor(workers, worker_context(), prepare_worker, (base.threads,)) as pool:
        futures = [pool.submit(run, arm, seed, base, cache) for arm, seed in wanted]
        found = []
        for future in futures:
            found.append(future.result())
            shown = "  ".join(f"{name} {found[-1][name]:.3f}" for name in SHOWN)
            print(f"seed {found[-1]['seed']}  {found[-1]['arm']}: {shown}", flush=True)
    return found


def run(arm: Contrast, seed: int, base: scale.Scale, cache: Path) -> dict:
    """The whole chain of an arm: its metrics, and the learning curve of the policy on validation posts."""
    folders, metrics = pipeline.run(arm.recipe(), arm.scale(base), seed, cache), {}
    for folder in folders.values():
        metrics |= artefacts.read_result(folder)["metrics"]
    journal = [line["metrics"] for line in stage.read_journal(folders["ppo"])]
    curves = {
        name: [line[name] for line in journal if name in line]
        for name in ("eval/win_rate", "eval/gold", "eval/score", "objective/gold", "objective/score", "objective/kl")
    }
    return {"arm": arm.name, "seed": seed} | metrics | {"curves": curves}


def judged(found: Sequence[Mapping], chosen: Sequence[Contrast]) -> list[dict]:
    """A row per arm: mean and spread of its paired differences, and whether it is as far off as the control allows."""
    values = {(run["arm"], run["seed"]): run[PRIMARY] for run in found}

    def differences(arm: Contrast) -> list[float]:
        seeds = [seed for name, seed in values if name == arm.name]
        return [values[arm.name, seed] - values[REFERENCE.name, seed] for seed in seeds]

    spread = statistics.stdev(differences(CONTROL))
    rows = []
    for arm in (CONTROL, *chosen):
        own = differences(arm)
        mean = statistics.mean(own)
        rows.append(
            {
                "arm": arm.name,
                "expected": arm.expected,
                "seeds": len(own),
                "mean": mean,
                "sd": statistics.stdev(own) if len(own) > 1 else float("nan"),
                "in_control_sds": mean / spread,
                "seen": bool(arm.expected) and mean * arm.expected >= AS_FAR * spread,
            }
        )
    return rows


def rendered(table: Sequence[Mapping]) -> str:
    """The table as Markdown."""
    lines = [
        "| arm | expected | seeds | mean difference | sd | in the control's sds | seen |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table:
        expected = {-1: "down", 0: "same", 1: "up"}[row["expected"]]
        seen = ("yes" if row["seen"] else "no") if row["expected"] else ""
        lines.append(
            f"| {row['arm']} | {expected} | {row['seeds']} | {row['mean']:+.3f} | {row['sd']:.3f} | "
            f"{row['in_control_sds']:+.1f} | {seen} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
