"""Over-optimisation: fits of curves that are known, samples that are kept, and what the page says of made-up numbers."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from benchmarks import over_optimisation, over_optimisation_samples
from benchmarks.over_optimisation_figure import frame, means, save
from benchmarks.over_optimisation_fits import BEST_OF_N, RL, fit
from benchmarks.over_optimisation_page import beside_best_of_n, page, sentences, way_of
from benchmarks.over_optimisation_samples import Samples, curve_of, distinct, powers_of_two, rewarded
from repro import details
from repro.detail import Recipe
from repro.ops.reward import best_of_n_kl
from tests.paths import ROOT
from tests.stub_make import called, in_folder

D = np.sqrt([best_of_n_kl(2**power) for power in range(9)])
CURVES = pytest.mark.parametrize("curve", [BEST_OF_N, RL], ids=["best of n", "RL"])

# ----------------------------------------------------------------------------- the fits


def noisy(curve, seeds, generator, spread=0.1):
    """Points of seeds that each have their own alpha and beta about 1 and 0.3, without further noise."""
    each = np.array([1.0, 0.3]) + spread * generator.standard_normal((seeds, 2))
    return [(D, curve.at(D, alpha, beta)) for alpha, beta in each]


@CURVES
@given(st.floats(-3, 3), st.floats(-2, 2))
def test_noiseless_points_give_the_parameters_back(curve, alpha, beta):
    found = fit(curve, [(D, curve.at(D, alpha, beta))] * 2, resamples=10)
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta), abs=1e-9)
    assert found.resampled == pytest.approx(np.tile([alpha, beta], (10, 1)), abs=1e-9)
    assert found.at(D) == pytest.approx(curve.at(D, alpha, beta), abs=1e-9)


@CURVES
def test_the_closed_form_is_what_an_iterative_least_squares_finds(curve):
    generator = np.random.default_rng(3)
    seeds = [(D[1:], curve.at(D[1:], 0.8, 0.2) + generator.normal(0, 0.2, len(D) - 1)) for _ in range(3)]
    iterative, _ = curve_fit(curve.at, *(np.concatenate(each) for each in zip(*seeds)), p0=(1.0, 0.0))
    found = fit(curve, seeds)
    assert (found.alpha, found.beta) == pytest.approx(iterative, abs=1e-6)


@CURVES
def test_the_bootstrap_over_seeds_covers_what_seeds_scatter_about(curve):
    generator, covered, studies = np.random.default_rng(5), 0, 100
    for _ in range(studies):
        low, high = fit(curve, noisy(curve, 12, generator), resamples=200).interval(1)
        covered += low <= 0.3 <= high
    assert 0.85 <= covered / studies <= 0.99  # a percentile bootstrap of twelve falls a little short of 0.95


@CURVES
def test_the_peak_is_where_the_curve_is_highest(curve):
    found = fit(curve, [(D, curve.at(D, 0.5, 0.4))] * 2, resamples=10)
    near = found.at(found.peak + np.array([-1e-3, 0.0, 1e-3]))
    assert near[1] == near.max() and near[1] > near[0] and near[1] > near[2]


def test_a_curve_that_does_not_bend_down_has_no_peak():
    assert fit(BEST_OF_N, [(D, D)] * 2, resamples=10).peak > 1e6
    assert fit(BEST_OF_N, [(D, D + D**2)] * 2, resamples=10).peak == np.inf


def test_one_seed_has_no_interval_and_one_point_no_curve():
    assert np.isnan(fit(RL, [(D, D)]).interval(0)).all()
    lonely = fit(RL, [(D[3:4], D[3:4]), (D, D)])
    assert np.isnan(lonely.each[0]).all() and np.isfinite(lonely.each[1]).all() and np.isfinite(lonely.alpha)
    assert np.isfinite(lonely.interval(0)).all()


# ----------------------------------------------------------------------------- the samples


def samples(posts=3, n=8, seed=0):
    generator = np.random.default_rng(seed)
    score, gold = (generator.standard_normal((posts, n)).astype(np.float32) for _ in range(2))
    ended, text = np.ones((posts, n), dtype=bool), np.arange(posts * n).reshape(posts, n)
    return Samples(score, gold.astype(float), ended, np.full((posts, n), -50.0), text)


def test_the_curve_begins_at_the_plain_mean_and_ends_at_the_highest_of_all():
    drawn = samples()
    first, *_, last = rows = curve_of(drawn, drawn.score)
    best = drawn.score.argmax(1)
    assert (first["n"], first["kl"], last["n"]) == (1, 0.0, 8)
    assert first["gold"] == pytest.approx(drawn.gold.mean())
    assert last["gold"] == pytest.approx(drawn.gold[np.arange(3), best].mean())
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)
    assert last["kl_at_most"] == pytest.approx(best_of_n_kl(8))
    assert distinct(drawn) == 8 and powers_of_two(8) == [1, 2, 4, 8]


def test_by_ppos_reward_a_summary_that_does_not_end_is_chosen_only_where_all_others_are_worse_than_minus_one():
    drawn = samples()
    drawn.ended[:, 0], drawn.score[:, 0], drawn.score[:, 1:] = False, 9.0, np.abs(drawn.score[:, 1:])
    by_score, by_reward = (curve_of(drawn, each)[-1] for each in (drawn.score, rewarded(Recipe(), drawn)))
    assert (by_score["ended"], by_reward["ended"], by_score["score"]) == (0, 1, 9)
    kept = Recipe().but(details.find("no_eos_score"), "keep")
    assert (rewarded(kept, drawn) == drawn.score).all()


def test_draws_are_kept_and_read_again_and_a_longer_run_uses_them(tiny_run, tiny_scale, tmp_path, monkeypatch):
    for name in over_optimisation_samples.UPSTREAM:
        (tmp_path / tiny_run[name].name).symlink_to(tiny_run[name])

    def sampled(n):
        return over_optimisation_samples.sampled(Recipe(), tiny_scale, 1, posts=4, n=n, cache=tmp_path)

    made = sampled(16)
    assert made.score.shape == made.gold.shape == (4, 16) and np.isfinite(made.score).all()
    assert (made.logprob <= 0).all() and distinct(made) > 1
    asked = []
    draw = over_optimisation_samples.Sampler.draw
    monkeypatch.setattr(
        over_optimisation_samples.Sampler, "draw", lambda self, numbers: asked.append(numbers) or draw(self, numbers)
    )
    again = sampled(8)
    assert asked == [] and (again.score == made.score[:, :8]).all() and (again.text == made.text[:, :8]).all()
    (folder,) = (tmp_path / over_optimisation_samples.FOLDER).glob("*")
    (folder / "00000.npz").write_bytes(b"half a file")
    longer = sampled(32)
    assert asked == [range(16), range(16, 32)] and (longer.score[:, :16] == made.score).all()


# ----------------------------------------------------------------------------- figure and page


def found(best=(0.0, 0.5, 0.8), arms={"0.2": (0.5, 0.6), "0.05": (1.0, 0.9), "0": (2.0, 0.2)}, seeds=(1, 2, 3)):
    """A file as the command writes it: gains in gold score of best of 1, 2 and 4, and (KL, gain) of each arm."""
    asked = {"seeds": list(seeds), "posts": 8, "test_posts": 16, "n": 4, "set": [], "with": [], "scale": "smoke"}
    asked["arms"] = list(arms)
    about = {"processor": "a processor", "cores": 2, "torch": "2", "commit": "abc1234", "date": "2026-01-01T00:00"}

    def points(shift):
        shared = [{"n": n, "kl": best_of_n_kl(n), "kl_at_most": best_of_n_kl(n), "score": n / 4} for n in (1, 2, 4)]
        return [each | {"gold": 3 + (1 + shift) * gain, "ended": 0.8} for each, gain in zip(shared, best)]

    best_of_n = [
        {"seed": seed, "distinct": 3.0, "points": points(seed / 100), "points_by_reward": points(seed / 100)}
        for seed in seeds
    ]
    way = [{"step": step, "kl": step / 10, "gold": 3 + step / 10, "score": step / 10} for step in range(12)]
    ppo = [
        {"seed": seed, "arm": arm, "kl": kl, "gold": 3 + gain + seed / 100, "score": kl + seed / 1000, "way": way}
        | {"sft_gold": 3.0, "sft_score": 0.0}
        for seed in seeds
        for arm, (kl, gain) in arms.items()
    ]
    return {"about": about, "asked": asked, "best_of_n": best_of_n, "ppo": ppo}


def told(**changed):
    made = found(**changed)
    return " ".join(sentences(made, over_optimisation.fitted(made), frame(made)))


def test_a_gold_score_that_falls_while_the_score_rises_is_said_to_be_over_optimisation():
    assert "PPO: the gold score is highest at KL coefficient 0.05" in told()
    assert "it falls" in told() and "That is over-optimisation." in told()
    rising = told(arms={"0.2": (0.5, 0.6), "0.05": (1.0, 0.9), "0": (2.0, 1.2)})
    assert "No over-optimisation up to that KL" in rising and "That is over-optimisation" not in rising


def test_the_best_n_is_said_and_whether_more_samples_hurt():
    assert "the gold score is highest at the largest n, 4" in told()
    assert "highest at n = 2" in told(best=(0.0, 0.8, 0.2)) and "to n = 4 it falls" in told(best=(0.0, 0.8, 0.2))


def test_the_same_gain_at_more_kl_is_below_best_of_n_at_that_kl():
    data = frame(found())
    assert beside_best_of_n(data, "0").isna().all()  # past the largest n
    assert "KL coefficient 0 went farther than the largest n" in told()
    near = beside_best_of_n(data, "0.2")
    expected = np.interp(np.sqrt(0.5), np.sqrt([0, best_of_n_kl(2), best_of_n_kl(4)]), [0, 0.5 * 1.01, 0.8 * 1.01])
    assert near[1] == pytest.approx(0.61 - expected) and way_of(near) == "down"


def test_one_seed_is_told_without_an_interval():
    made = found(seeds=(1,))
    text = page(made, over_optimisation.fitted(made))
    assert "One seed has no interval." in text and "nan" not in text


def test_the_page_has_every_point_and_the_command_that_gives_it_again():
    made = found()
    text = page(made, over_optimisation.fitted(made))
    assert 'make over-optimisation SEEDS="1 2 3" POSTS=8 N=4 ARMS="0.2 0.05 0" SCALE=smoke' in text
    assert "a processor, 2 cores" in text and "commit abc1234" in text
    assert (
        text.count("\n| ") == 4 * (3 + 2) and "nan" not in text
    )  # of each table its rows, its head and the line below


def test_the_figure_shows_the_means_over_seeds(tmp_path):
    made = found()
    save(made, over_optimisation.fitted(made), tmp_path / "figure")
    assert {file.suffix for file in tmp_path.iterdir()} == {".png", ".svg", ".csv"}
    ends = means(frame(made), "PPO", "gold")
    assert ends["at"].tolist() == ["0.2", "0.05", "0"] and ends["gain"].tolist() == pytest.approx([0.62, 0.92, 0.22])


# ----------------------------------------------------------------------------- the command


def test_the_command_runs_each_seed_and_arm_and_writes_points_and_fits(tmp_path, monkeypatch, capsys):
    made, asked = found(seeds=(1, 2)), []

    def made_up(recipe, is_ppo, base, seed, posts, n, cache):
        asked.append((seed, recipe.choices, is_ppo, posts, n, base.episodes))
        if not is_ppo:
            return {name: value for name, value in made["best_of_n"][seed - 1].items() if name != "seed"}
        arm = dict(recipe.choices).get("kl_coef", "0.05")
        (row,) = (row for row in made["ppo"] if (row["seed"], row["arm"]) == (seed, arm))
        return {name: value for name, value in row.items() if name not in ("seed", "arm")}

    monkeypatch.setattr(over_optimisation, "run", made_up)
    monkeypatch.setattr(over_optimisation, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(over_optimisation, "worker_context", lambda: None)
    words = ["--seeds", "1", "2", "--arms", "0", "0.2", "--posts", "8", "--n", "4", "--out", str(tmp_path)]
    assert over_optimisation.main([*words, "--with", "blind_spot=inventions", "--set", "episodes=640"]) == 0
    assert len(asked) == 2 * (1 + 3) and {each[-1] for each in asked} == {640}
    assert all(("blind_spot", "inventions") in each[1] for each in asked)
    file = json.loads((tmp_path / "over-optimisation.json").read_text())
    assert file["fits"]["best of n by score"]["alpha"] > 0 and list(file["fits"]["PPO"]["of_each_seed"]) == ["1", "2"]
    assert "seed 2  PPO at 0.2: KL 0.50" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--n", "100"], "no power of two"),
        (["--seeds", "one"], "seed"),
        (["--arms", "0.3"], "kl_coef"),
        (["--set", "episodes"], "field=value"),
        (["--with", "kl_coef=0"], "kl_coef"),
        (["--posts", "0"], "above 0"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(words, problem, capsys):
    assert over_optimisation.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and problem in err and "Traceback" not in err


def test_make_passes_on_what_is_typed(tmp_path):
    make = in_folder(tmp_path / "a folder")
    words = ["SEEDS=1 2", "POSTS=8", "N=4", "ARMS=0 0.2", "WITH=blind_spot=inventions", "SET=episodes=640"]
    expected = (
        "-m benchmarks.over_optimisation --seeds 1 2 --set episodes=640 --with blind_spot=inventions --arms 0 0.2"
    )
    assert called(make("over-optimisation", *words)) == [*expected.split(), "--posts", "8", "--n", "4", "--render"]


def test_the_page_in_docs_is_one_of_this_command():
    assert (ROOT / "docs" / "over-optimisation.md").read_text().startswith("# Over-optimisation\n")
