"""Over-optimisation in the way of Gao et al. 2022: gold score and reward model's score over the square root of the KL.

`python -m benchmarks.over_optimisation --seeds 1 2 3 4 5 --cache FOLDER --posts 256 --n 256` takes the best of n = 1, 2, 4, ...
samples of the SFT policy, and PPO at several KL coefficients, of the same seeds, and fits Gao's two curves. It writes the
points and fits as JSON, a figure, and with --render the page docs/over-optimisation.md. Interrupted, the same command goes on
where it stopped; `--with blind_spot=inventions` gives PPO a reward model that has something to be exploited.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks import over_optimisation_figure, over_optimisation_page
from benchmarks.over_optimisation_figure import BY_REWARD, BY_SCORE, PPO
from benchmarks.over_optimisation_fits import BEST_OF_N, RL, Fit, fit
from benchmarks.over_optimisation_samples import curve_of, distinct, ppo_run, rewarded, sampled
from repro import details
from repro.api.folders import cache_folder
from repro.cli.parser import Parser, pairs_of, positive_integer
from repro.detail import Recipe
from repro.engine.launch import prepare_worker, worker_context
from repro.engine.machine import cores, described
from repro.errors import UserError
from repro.study import ablation
from repro.study.scale import Scale

ROOT = Path(__file__).parents[1]
ARMS = ("0", "0.02", "0.2")  # KL coefficients beside the reference's
NAME = "over-optimisation"


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        given = _parser().parse_args(arguments)
        study = _study(given)
        if given.n & (given.n - 1):
            raise UserError(f"--n {given.n} is no power of two; 256 is")
        base = study.arms[study.detail.reference]
        wanted = [(seed, label) for seed in study.seeds for label in ("", *study.arms)]
        runs = {label: (recipe, True) for label, recipe in study.arms.items()} | {"": (base, False)}
        given.cache = given.cache or cache_folder()
        found = _all_of(wanted, runs, study.scale, given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    asked = {name: getattr(given, name) for name in ("posts", "n", "set", "with")} | {"scale": study.scale.name}
    asked |= {"seeds": list(study.seeds), "arms": list(study.arms), "test_posts": study.scale.test_posts}
    found = {"kind": NAME, "about": described(ROOT), "asked": asked, **found}
    fits = fitted(found)
    found["fits"] = {name: _told(each, study.seeds) for name, each in fits.items()}
    _write(found, fits, given.out / NAME)
    if given.render:
        page = ROOT / "docs" / f"{NAME}.md"
        over_optimisation_figure.save(found, fits, page.parent / "images" / NAME)
        page.write_text(over_optimisation_page.page(found, fits), encoding="utf-8")
        print(f"wrote {page}")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.over_optimisation", description=__doc__)
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3", "4", "5"])
    parser.add_argument("--posts", type=positive_integer, default=256, help="test posts of best-of-n, the first ones")
    parser.add_argument("--n", type=positive_integer, default=256, help="samples of each post, a power of two")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), metavar="LABEL", help="labels of kl_coef beside 0.05")
    parser.add_argument("--scale", default="mini")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--with", nargs="+", default=[], metavar="DETAIL=LABEL", help="choices that all share")
    parser.add_argument("--cache", type=Path, help="stages' artefacts; those of studies are found")
    parser.add_argument("--workers", type=positive_integer, default=cores())
    parser.add_argument("--out", type=Path, default=Path("reports/build") / NAME, help="folder of the JSON and figure")
    parser.add_argument("--render", action="store_true", help="write docs/over-optimisation.md and its figure too")
    return parser


def _study(given) -> ablation.Ablation:
    """The arms, seeds and budget, as `run kl_coef` reads them, but at the scale's own episodes."""
    return ablation.load(
        details.KL_COEF.name,
        given.scale,
        given.seeds,
        pairs_of("--set", given.set, "field=value, as episodes=3840"),
        pairs_of("--with", getattr(given, "with"), "detail=label, as blind_spot=inventions"),
        given.arms,
        folder=Path(__file__).parent,  # that of no declared study: kl_coef's own trains three times as long
    )


def _all_of(wanted, runs, base: Scale, given) -> dict[str, list[dict]]:
    """The points of best-of-n and of PPO, each seed and arm by one worker; stages that they share are made once."""
    found: dict[str, list[dict]] = {"best_of_n": [], "ppo": []}
    with ProcessPoolExecutor(given.workers, worker_context(), prepare_worker, (base.threads,)) as pool:
        futures = [
            (seed, label, pool.submit(run, *runs[label], base, seed, given.posts, given.n, given.cache))
            for seed, label in wanted
        ]
        for seed, label, future in futures:
            points = future.result()
            if label:
                found["ppo"].append({"seed": seed, "arm": label, **points})
                told = f"PPO at {label}: KL {points['kl']:.2f}"
            else:
                found["best_of_n"].append({"seed": seed, **points})
                points = points["points"][-1]
                told = f"best of {given.n}:"
            print(f"seed {seed}  {told}  gold {points['gold']:.3f}  score {points['score']:.3f}", flush=True)
    return found


def run(recipe: Recipe, is_ppo: bool, base: Scale, seed: int, posts: int, n: int, cache: Path) -> dict:
    """What one worker does: an arm of PPO, or the samples of the SFT policy and the best of them."""
    if is_ppo:
        return ppo_run(recipe, base, seed, cache)
    samples = sampled(recipe, base, seed, posts, n, cache)
    by_score, by_reward = (curve_of(samples, each) for each in (samples.score, rewarded(recipe, samples)))
    return {"distinct": distinct(samples), "points": by_score, "points_by_reward": by_reward}


def fitted(found: Mapping) -> dict[str, Fit]:
    """Gao's two curves, each through the points of all seeds: best-of-n's at every n, PPO's along the training and at its end.

    The ends of arms alone can lie too near to each other to tell alpha from beta.
    """
    data = over_optimisation_figure.frame(found)
    gold = data[data["metric"] == "gold"]
    return {
        method: fit(
            curve, [(own["d"].to_numpy(), own["gain"].to_numpy()) for _, own in rows.groupby("seed", sort=False)]
        )
        for method, curve in {BY_SCORE: BEST_OF_N, BY_REWARD: BEST_OF_N, PPO: RL}.items()
        for rows in [gold[gold["method"] == method]]
    }


def _told(each: Fit, seeds: Sequence[int]) -> dict:
    """A fit for the JSON: NaN as null."""
    numbers = {"alpha": each.alpha, "beta": each.beta}
    told = {name: [_or_none(end) for end in each.interval(place)] for place, name in enumerate(numbers)}
    alone = {str(seed): [_or_none(number) for number in row] for seed, row in zip(seeds, each.each.tolist())}
    return {
        "curve": each.curve.formula,
        **{name: _or_none(number) for name, number in numbers.items()},
        "intervals": told,
        "of_each_seed": alone,
        "peak": _or_none(each.peak),
    }


def _or_none(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _write(found: dict, fits: dict[str, Fit], stem: Path) -> None:
    """Points and fits as JSON, and the figure beside it."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1, ensure_ascii=False))
    over_optimisation_figure.save(found, fits, stem)
    print(f"wrote {stem}.json, .svg and .png")


if __name__ == "__main__":
    sys.exit(main())
